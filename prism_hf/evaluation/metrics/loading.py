"""Our metrics as those of the library `evaluate`, each a folder of `loadable` that `evaluate.load` takes.

`evaluate` copies the file that it loads elsewhere, reads its imports line by line and wants all of them installed, so
that each of these files stands by itself. None computes anything: they call what our own tasks call.
"""

from pathlib import Path
from typing import Any

from prism_hf.fields import check_names

LOADABLE = Path(__file__).with_name("loadable")


def metric_path(name: str) -> str:
    """The folder of a metric for `evaluate.load`, which asks no server for it.

    Args:
        name (`str`): One of `"generative_perplexity"`, `"mauve"`, `"pass_at_k"`, `"quality_calibration"`,
            `"sudoku_success"` and `"unigram_entropy"`.

    Returns:
        `str`: Its path.

    Raises:
        ValueError: if there is no such metric.

    Example:
        ```python
        import evaluate

        both = evaluate.combine([metric_path("generative_perplexity"), metric_path("unigram_entropy")])
        ```
    """
    check_names("metric", [name], (path.name for path in LOADABLE.iterdir() if (path / f"{path.name}.py").exists()))
    return str(LOADABLE / name)


def load_metric(name: str, **kwargs: Any) -> Any:
    """One of our metrics as an `evaluate.Metric`.

    Args:
        name (`str`): See `metric_path`.
        **kwargs: To `evaluate.load`, such as `experiment_id` or `keep_in_memory`.

    Returns:
        `evaluate.Metric`: The metric, whose `inputs_description` says what `compute` takes.

    Raises:
        ValueError: if there is no such metric.
        ImportError: without the package `evaluate`.

    Example:
        ```python
        metric = load_metric("sudoku_success")
        print(metric.compute(predictions=solutions, references=puzzles)["success"])
        ```
    """
    path = metric_path(name)
    try:
        import evaluate
    except ImportError as error:
        raise ImportError(f"The metric {name} needs a package: pip install evaluate, or prism_hf[evaluate].") from error
    return evaluate.load(path, **kwargs)
