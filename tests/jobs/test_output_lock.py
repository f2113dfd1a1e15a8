"""One run at a time on an output."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from prism_hf.jobs.output_lock import FOLDER_LOCK, output_lock

HOLD = """
import os, sys, time
from prism_hf.jobs.output_lock import output_lock
with output_lock(sys.argv[1], is_folder=sys.argv[2] == "folder"):
    child = os.fork()  # as the workers of a DataLoader are
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_is_held_until_its_holder_dies(tmp_path, kind):
    path, is_folder = tmp_path / "outputs" / "mine", kind == "folder"
    carrier = path / FOLDER_LOCK if is_folder else path.with_name("mine.lock")
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path), kind], stdout=subprocess.PIPE, text=True)
    orphan = int(holder.stdout.readline())
    try:
        said = rf"Another run works on .*mine: process {holder.pid} on .*, since 20"
        with pytest.raises(ValueError, match=said), output_lock(path, is_folder):
            pytest.fail("the output is held twice")
        assert str(holder.pid) in carrier.read_text()
        holder.kill()
        holder.wait()
        with output_lock(path, is_folder):  # though its child lives
            assert str(os.getpid()) in carrier.read_text()
            with output_lock(path, is_folder):  # by a function that this one calls
                pass
            assert carrier.exists()
        assert not carrier.exists()
    finally:
        os.kill(orphan, signal.SIGKILL)
        holder.stdout.close()


def test_it_ends_with_its_block_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), output_lock(tmp_path / "out"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with output_lock(tmp_path / "out"):
        pass


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    said = r"The output .*file/out cannot be written: .*Name another"
    with pytest.raises(ValueError, match=said), output_lock(tmp_path / "file" / "out", is_folder=True):
        pass
    folder = tmp_path / "read_only"
    folder.mkdir(mode=0o555)
    read_only = folder if os.geteuid() else Path("/proc/self").resolve()  # root may write into a read-only folder
    said = f"The output {read_only}.* cannot be written"
    with pytest.raises(ValueError, match=said), output_lock(read_only, is_folder=True):
        pass


def count_up(path):
    turns = 0
    while turns < 20:
        with suppress(ValueError), output_lock(path):
            before = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(before + 1))
            turns += 1
        time.sleep(0.001)


def test_runs_that_take_turns_are_never_two_at_once(tmp_path):
    """Each takes the lock, and removes its file, again and again."""
    path = tmp_path / "count"
    path.write_text("0")
    fork = multiprocessing.get_context("fork")
    runs = [fork.Process(target=count_up, args=(path,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert path.read_text() == "60"
