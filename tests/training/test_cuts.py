"""Training and evaluation are the same numbers, however rows are cut into batches and shared by processes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

CASES = 4
KINDS = ["masked_diffusion", "prism", "token_critic"]
SCRIPT = str(Path(__file__).with_name("cut_run.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """By (cut, kind, number of the case), what `cut_run.py` says of it."""
    folder = tmp_path_factory.mktemp("cuts")
    commands = {"one": [], "two": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}
    runs = [
        subprocess.Popen([sys.executable, *launcher, SCRIPT, folder / name, str(CASES)], stdout=subprocess.DEVNULL)
        for name, launcher in commands.items()
    ]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    one, two = (torch.load(folder / name, weights_only=False) for name in commands)
    return one | two


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", ["accumulated", "shared"])
def test_cuts_are_one_large_batch(results, kind, cut):
    for number in range(CASES):
        whole, found = results["whole", kind, number], results[cut, kind, number]
        torch.testing.assert_close(found["gradients"], whole["gradients"], atol=1e-5, rtol=1e-5, msg=whole["settings"])
        for expected, logged in zip(whole["logs"], found["logs"], strict=True):
            assert logged == pytest.approx(expected, abs=1e-5, rel=1e-5, nan_ok=True), whole["settings"]
        assert found["tested"] == pytest.approx(whole["tested"], abs=1e-5, rel=1e-5, nan_ok=True), whole["settings"]
        assert (found["labels"] == whole["labels"]).all()
        np.testing.assert_allclose(found["predictions"], whole["predictions"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_logged_loss_is_the_sum_of_its_parts(results, kind):
    parts = {
        "masked_diffusion": {"unmasking_loss": 1.0},
        "prism": {"quality_loss": 1.0, "unmasking_loss": 0.7},
        "token_critic": {"critic_loss": 1.0},
    }[kind]
    compared = 0
    for (_, kind_of_run, _), found in results.items():
        for entry in found["logs"] if kind_of_run == kind else ():
            for prefix in ("", "eval_"):
                if f"{prefix}loss" in entry:
                    expected = sum(weight * entry[prefix + name] for name, weight in parts.items())
                    assert entry[f"{prefix}loss"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
                    compared += 1
    assert compared > 3 * CASES
