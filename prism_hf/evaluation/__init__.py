"""How good the samples are, and whether the quality head knows it."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from prism_hf.data.sudoku.grids import is_solved
    from prism_hf.jobs.digests import weights_digest

    from .comparison.comparison import compare, evaluate
    from .comparison.grid import GridPoint, expand_grid
    from .comparison.matching import Match
    from .comparison.plots import plot_reliability
    from .comparison.report import comparison_table, plot_comparison
    from .comparison.settings import evaluate_settings
    from .metrics.calibration import auroc, expected_calibration_error, reliability_bins
    from .metrics.code import pass_at_k
    from .metrics.likelihood import Continuation, log_likelihood_bound
    from .metrics.loading import load_metric, metric_path
    from .metrics.parallelism import accuracy_under_parallelism
    from .metrics.statistics import (
        bootstrap_interval,
        bootstrap_ratio,
        mcnemar_test,
        paired_bootstrap,
        paired_bootstrap_ratio,
        wilson_interval,
    )
    from .metrics.text import (
        count_scored_tokens,
        distinct_n,
        generative_perplexity,
        last_states,
        mauve,
        mauve_of_states,
        negative_log_likelihood,
        repetition,
        unigram_entropy,
    )
    from .samples.files import Samples, read_samples
    from .samples.report import plot_samples, samples_table
    from .samples.scoring import SampleScores, score_samples
    from .sandbox.sandbox import ProgramResult, check_isolation, isolation_problem, run_program, run_programs
    from .tasks.code.answers import FoundCode, extract_code, find_code
    from .tasks.code.problems import CodeProblem, read_problems, run_answers
    from .tasks.code.revising import detection_metrics, judge_revisions, revise, revised_answers, revision_table
    from .tasks.code.revision import Revision, failing_revisions, make_revisions
    from .tasks.code.scoring import check_enough, pass_table, read_completions, score_completions, score_to_jsonl
    from .tasks.predictions import prediction_metrics, text_prediction_metrics
    from .tasks.registry import TASKS, load_task
    from .tasks.sudoku.plots import plot_corrections, quality_samples
    from .tasks.sudoku.task import evaluate_sudoku, load_sudoku, sudoku_metrics, sudoku_prediction_metrics
    from .tasks.task import Judgement, Task
    from .tasks.text import as_reader
else:
    __getattr__, __dir__ = lazy_names(__name__, markdown_table="comparison_table", plot_success="plot_comparison")

__all__ = [
    "TASKS",
    "CodeProblem",
    "Continuation",
    "FoundCode",
    "GridPoint",
    "Judgement",
    "Match",
    "ProgramResult",
    "Revision",
    "SampleScores",
    "Samples",
    "Task",
    "accuracy_under_parallelism",
    "as_reader",
    "auroc",
    "bootstrap_interval",
    "bootstrap_ratio",
    "check_enough",
    "check_isolation",
    "compare",
    "comparison_table",
    "count_scored_tokens",
    "detection_metrics",
    "distinct_n",
    "evaluate",
    "evaluate_settings",
    "evaluate_sudoku",
    "expand_grid",
    "expected_calibration_error",
    "extract_code",
    "failing_revisions",
    "find_code",
    "generative_perplexity",
    "is_solved",
    "isolation_problem",
    "judge_revisions",
    "last_states",
    "load_metric",
    "load_sudoku",
    "load_task",
    "log_likelihood_bound",
    "make_revisions",
    "mauve",
    "mauve_of_states",
    "mcnemar_test",
    "metric_path",
    "negative_log_likelihood",
    "paired_bootstrap",
    "paired_bootstrap_ratio",
    "pass_at_k",
    "pass_table",
    "plot_comparison",
    "plot_corrections",
    "plot_reliability",
    "plot_samples",
    "prediction_metrics",
    "quality_samples",
    "read_completions",
    "read_problems",
    "read_samples",
    "reliability_bins",
    "repetition",
    "revise",
    "revised_answers",
    "revision_table",
    "run_answers",
    "run_program",
    "run_programs",
    "samples_table",
    "score_completions",
    "score_samples",
    "score_to_jsonl",
    "sudoku_metrics",
    "sudoku_prediction_metrics",
    "text_prediction_metrics",
    "unigram_entropy",
    "weights_digest",
    "wilson_interval",
]
