"""Processes end with their launcher."""

import os
import signal
import subprocess
import sys
import time

import pytest

# A store that nobody serves is given up after 3 seconds here, and after 7 days by PartialState.
RANK = """
import os, sys, time
from datetime import timedelta
from pathlib import Path
from prism_hf.jobs.launching import end_with_launcher, wait_for_slowest
from accelerate import PartialState
folder, moment = Path(sys.argv[1]), sys.argv[2]
def here():
    (folder / os.environ["RANK"]).write_text(str(os.getpid()))
    while moment == "before" and not (folder / "go").exists():
        time.sleep(0.05)
if moment == "before":
    here()
end_with_launcher(timedelta(seconds=3))
state = PartialState(cpu=True, timeout=timedelta(days=7))
wait_for_slowest()
here()
if state.process_index == 0:
    time.sleep(600)
wait_for_slowest()
"""


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # nobody may be there to bury it
    except FileNotFoundError:
        return False


def wait_until(true, seconds=120):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_two_processes_end_when_their_launcher_is_killed(tmp_path, moment):
    """While they start, before they know their launcher, and while one waits for the other."""
    (tmp_path / "rank.py").write_text(RANK)
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--num_processes",
        "2",
        "--main_process_port",
        "0",
        str(tmp_path / "rank.py"),
        str(tmp_path),
        moment,
    ]
    launcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    pids = []
    try:
        files = [tmp_path / "0", tmp_path / "1"]
        wait_until(lambda: all(file.exists() and file.read_text() for file in files) or launcher.poll() is not None)
        pids = [int(file.read_text()) for file in files]
        assert all(map(is_running, pids))
        launcher.kill()
        launcher.wait()
        (tmp_path / "go").write_text("")
        wait_until(lambda: not any(map(is_running, pids)), seconds=30)
    finally:
        for pid in filter(is_running, pids):
            os.kill(pid, signal.SIGKILL)
