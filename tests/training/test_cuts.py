"""Training and evaluation are the same numbers, however rows are cut into batches and shared by processes."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

CASES = 5  # in the last, rows are packed
KINDS = ["masked_diffusion", "prism", "token_critic"]
SCRIPT = str(Path(__file__).with_name("cut_run.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory, on_two):
    """By (cut, kind, number of the case), what `cut_run.py` says of it."""
    folder = tmp_path_factory.mktemp("cuts")
    on_two(SCRIPT, folder / "two", CASES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [SCRIPT, str(folder / "one"), str(CASES)])
        runpy.run_path(SCRIPT, run_name="__main__")
    return torch.load(folder / "one", weights_only=False) | torch.load(folder / "two", weights_only=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", ["accumulated", "shared"])
def test_cuts_are_one_large_batch(results, kind, cut):
    for number in range(CASES):
        whole, found = results["whole", kind, number], results[cut, kind, number]
        torch.testing.assert_close(found["gradients"], whole["gradients"], atol=1e-5, rtol=1e-5, msg=whole["settings"])
        for expected, logged in zip(whole["logs"], found["logs"], strict=True):
            assert logged == pytest.approx(expected, abs=1e-5, rel=1e-5, nan_ok=True), whole["settings"]
        assert ("eval_perplexity" in whole["logs"][-1]) == (kind != "token_critic")
        assert found["tested"] == pytest.approx(whole["tested"], abs=1e-5, rel=1e-5, nan_ok=True), whole["settings"]
        if whole["labels"] is None:
            continue
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
