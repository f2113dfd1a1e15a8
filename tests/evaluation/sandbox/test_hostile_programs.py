"""A hundred programs that do harm (tests/fixtures/hostile_programs.py), against an evaluator with something to lose."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import tqdm

import prism_hf
from prism_hf.evaluation import isolation_problem
from prism_hf.evaluation.sandbox import sandbox

RUNNER = Path(__file__).parents[2] / "fixtures" / "hostile_programs.py"
MEMORY = 192 * 2**20
# Another user than root, with an interpreter that it may run; where there is none, root without its rights.
OTHERS = [
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable],
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3"],
    ["unshare", "--user", "--map-user=1000", "--map-group=1000", sys.executable],
]


def interpreter(user, environment):
    if user == "the user":
        return [sys.executable]
    for command in OTHERS:
        # That it starts tells nothing: setpriv itself still has root's rights.
        check = "import subprocess, sys, tqdm\nassert sys.version_info >= (3, 11)\n"
        check += "subprocess.run([sys.executable, '-c', ''], check=True)"
        probe = subprocess.run([*command, "-c", check], env=environment, capture_output=True)
        if probe.returncode == 0:
            return command
    raise AssertionError(f"none of {OTHERS} runs")


@pytest.mark.parametrize("user", ["the user", "another user"] if os.geteuid() == 0 else ["the user"])
def test_no_program_ends_the_evaluator_reads_or_passes_or_takes_twice_its_memory(user):
    if problem := isolation_problem():
        pytest.skip(problem)
    # What sandbox.py itself imports, also of a Python that this environment is not for.
    packages = [str(Path(module.__file__).parent.parent) for module in (tqdm, prism_hf)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(packages)}
    command = interpreter(user, environment)
    with tempfile.TemporaryDirectory(prefix="theirs-") as folder:
        Path(folder).chmod(0o777)  # whoever runs it
        run = subprocess.run(
            [*command, str(RUNNER), str(Path(sandbox.__file__).parent), folder],
            capture_output=True,
            text=True,
            env=environment,
            cwd="/",
        )
    assert run.returncode == 0, run.stderr
    answer = json.loads(run.stdout)
    assert answer["programs"] >= 73 and answer["still_right"]
    assert answer["read"] == [] and answer["passed"] == [] and answer["left"] == []
    assert {name: number for name, number in answer["took"].items() if number > MEMORY} == {}
    assert answer["most_memory"] < 2 * MEMORY
    assert set(answer["reasons"].values()) == {"failed", "crashed", "timed out", "out of memory"}
