"""Where things stand in the pictures."""

import pytest
import torch

from prism_hf.evaluation import plot_reliability
from prism_hf.evaluation.comparison.plots import legible_ticks, spread


def test_labels_are_kept_apart_and_below_the_top():
    assert spread([0.1, 0.2, 0.9], 0.05, 1.0) == [0.1, 0.2, 0.9]
    placed = spread([0.97, 0.98, 0.99], 0.05, 1.0)
    assert placed == pytest.approx([0.9, 0.95, 1.0])


def test_numbers_of_passes_are_written_where_they_can_be_read():
    assert legible_ticks({31, 51, 101, 102, 202, 204}) == [31, 51, 102, 204]
    assert legible_ticks({7}) == [7] and legible_ticks(set()) == []
    assert legible_ticks({1, 10.7, 12.8, 17.3}) == [1, 12.8, 17.3]


def test_reliability_is_an_image(tmp_path):
    probabilities = torch.rand(50, generator=torch.Generator().manual_seed(0))
    plot_reliability(tmp_path / "reliability.png", probabilities, probabilities > 0.4)
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
