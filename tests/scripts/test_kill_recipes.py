"""scripts/kill_recipes.py: recipes that are killed and started again make what they make undisturbed."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_recipes.py"


def rows_of(*arguments):
    run = subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    lines = [line for line in run.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_a_generation_that_is_killed_once_makes_the_same_lines():
    ((name, kills, differences, restarts, changes),) = rows_of("--kills", "1", "--only", "generate")
    assert (name, kills, differences, changes) == ("generate", "1", "0", "0") and int(restarts) >= 1


@pytest.mark.slow
def test_all_recipes_that_are_killed_make_the_same_files():
    rows = rows_of("--kills", "2", "--seed", "1")
    assert len(rows) == 13 and all(row[1:3] + row[4:] == ["2", "0", "0"] for row in rows)
