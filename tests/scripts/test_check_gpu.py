"""scripts/check_gpu.py on a CPU: every check runs, at a tiny shape, so that it is ready when there is a GPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_gpu.py"


def run(folder, *arguments):
    command = [sys.executable, str(SCRIPT), "--out", str(folder), *arguments]
    finished = subprocess.run(command, capture_output=True, text=True)
    return finished, json.loads((folder / "check_gpu.json").read_text())


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return run(tmp_path_factory.mktemp("check_gpu"))


def test_every_check_runs_and_holds_its_bounds(everything):
    finished, written = everything
    assert finished.returncode == 0, finished.stdout + finished.stderr
    names = (
        "golden",
        "liger",
        "synchronisation",
        "literal",
        "training",
        "generation",
        "sudoku",
        "fsdp2",
        "cross_entropy",
        "4bit",
        "compile",
    )
    assert tuple(written["checks"]) == names
    for name, rows in written["checks"].items():
        assert rows, name
        assert not {"cut off", "died", "not begun"} & {row["case"] for row in rows}, (name, rows)
        assert all(row["ok"] is not False for row in rows), (name, rows)


def test_the_table_has_what_the_file_has(everything):
    finished, written = everything
    for name, rows in written["checks"].items():
        for row in rows:
            assert f"| {name} | {row['case']} | {row['figure']} |" in finished.stdout
    assert "nothing here is a measurement" in finished.stdout


def test_what_takes_too_long_is_cut_off_and_what_came_before_is_kept(tmp_path):
    finished, written = run(tmp_path, "--only", "golden", "compile", "--minutes", "0.1")
    assert written["checks"]["golden"][0]["figure"] and written["checks"]["compile"][-1]["case"] in (
        "cut off",
        "not begun",
    )
    assert finished.returncode == 0
