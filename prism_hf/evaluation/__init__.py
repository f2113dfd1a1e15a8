"""How good the samples are, and whether the quality head knows it."""

from .calibration import auroc, expected_calibration_error, plot_reliability, reliability_bins
from .comparison import GridPoint, compare, expand_grid, weights_digest
from .comparison_report import comparison_table, plot_comparison
from .evaluate_settings import evaluate_settings
from .statistics import bootstrap_interval, mcnemar_test, paired_bootstrap, wilson_interval
from .sudoku import evaluate_sudoku, is_solved, markdown_table, sudoku_metrics
from .sudoku_plots import plot_corrections, plot_success, quality_samples
from .tasks import TASKS, Task, load_task

__all__ = [
    "TASKS",
    "GridPoint",
    "Task",
    "auroc",
    "bootstrap_interval",
    "compare",
    "comparison_table",
    "evaluate_settings",
    "evaluate_sudoku",
    "expand_grid",
    "expected_calibration_error",
    "is_solved",
    "load_task",
    "markdown_table",
    "mcnemar_test",
    "paired_bootstrap",
    "plot_comparison",
    "plot_corrections",
    "plot_reliability",
    "plot_success",
    "quality_samples",
    "reliability_bins",
    "sudoku_metrics",
    "weights_digest",
    "wilson_interval",
]
