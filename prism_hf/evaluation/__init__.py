"""How good the samples are, and whether the quality head knows it."""

from .calibration import auroc, expected_calibration_error, plot_reliability, reliability_bins
from .sudoku import is_solved, sudoku_metrics

__all__ = [
    "auroc",
    "expected_calibration_error",
    "is_solved",
    "plot_reliability",
    "reliability_bins",
    "sudoku_metrics",
]
