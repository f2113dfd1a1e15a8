"""scripts/step_8b.py at a tiny shape; at the full one a person runs it."""

import re
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "step_8b.py"
TINY = ["--layers", "2", "--width", "64", "--heads", "4", "--mlp-width", "96", "--vocabulary", "512", "--rank", "4"]


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *TINY, *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_it_plans_and_takes_a_step(monkeypatch, capsys):
    run(monkeypatch)
    printed = capsys.readouterr().out
    backbone = 2 * 512 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64) + 64
    trained = 2 * 3 * 2 * 4 * 64 + (2 * 64 + 64 * 64 + 64 + 64 + 1)
    assert f"{backbone:,} weights and {trained:,} trained" in printed
    step = re.search(r"peak (\S+) GiB; loss (\S+) \(unmasking (\S+), quality ([^)]+)\), gradient norm (\S+)", printed)
    peak, loss, unmasking, quality, norm = map(float, step.groups())
    assert loss == pytest.approx(quality + 0.5 * unmasking, abs=2e-3) and norm > 0 and peak > 0


def test_it_refuses_what_does_not_fit_before_it_builds(monkeypatch):
    with pytest.raises(SystemExit, match="GiB available and the step needs .*fewer --layers"):
        run(monkeypatch, "--width", str(2**19))
