"""How good the samples are, and whether the quality head knows it."""

from .calibration import auroc, expected_calibration_error, plot_reliability, reliability_bins
from .sudoku import evaluate_sudoku, is_solved, markdown_table, sudoku_metrics
from .sudoku_plots import plot_corrections, plot_success, quality_samples

__all__ = [
    "auroc",
    "evaluate_sudoku",
    "expected_calibration_error",
    "is_solved",
    "markdown_table",
    "plot_corrections",
    "plot_reliability",
    "plot_success",
    "quality_samples",
    "reliability_bins",
    "sudoku_metrics",
]
