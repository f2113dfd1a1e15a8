"""Training that is killed, or whose disk is full, in the middle of a save."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RUN = Path(__file__).with_name("peft_run.py")


@pytest.fixture(scope="module")
def run():
    """Runs `peft_run.py` in a process of its own. Its exit status, and what it wrote."""
    command = [sys.executable, str(RUN.with_name("forking.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forking:

        def ask(*arguments, fails=False):
            forking.stdin.write(json.dumps([str(RUN), *map(str, arguments)]) + "\n")
            forking.stdin.flush()
            answer = json.loads(forking.stdout.readline())
            assert fails or answer["status"] == 0, answer["output"][-3000:]
            return answer["status"], answer["output"]

        yield ask
        forking.stdin.close()


def assert_same_adapter(one, two):
    left, right = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert left.keys() == right.keys() and any("quality_head" in name for name in left)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder)
    return folder


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_killed_while_saving_it_resumes_bit_for_bit(unbroken, run, tmp_path, file):
    """SIGKILL when half of a file of the second checkpoint is on the disk."""
    status, _ = run(tmp_path, "--kill-while-writing", file, fails=True)
    assert status == -9
    assert (tmp_path / "checkpoint-2" / "adapter_model.safetensors").exists()
    assert "resuming from checkpoint-2" in run(tmp_path)[1]
    assert_same_adapter(tmp_path, unbroken)


def test_a_full_disk_leaves_no_half_written_adapter(unbroken, run, tmp_path):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, written = run(tmp_path, "--largest-file", 4000, "--save-only", fails=True)
    assert status != 0 and "File too large" in written
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert not list(tmp_path.glob(".saving-*"))
    assert_same_adapter(tmp_path, unbroken)


def test_a_full_disk_leaves_no_half_written_checkpoint(run, tmp_path):
    status, written = run(tmp_path, "--largest-file", 4000, fails=True)
    assert status != 0 and "File too large" in written
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_state_that_was_cut_off_is_no_checkpoint(unbroken, tmp_path):
    from prism_hf.training import last_checkpoint

    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert last_checkpoint(tmp_path).endswith("checkpoint-4")
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path).endswith("checkpoint-2")
