"""How many Sudoku puzzles a model solves, for each of a list of sampler settings."""

from pathlib import Path
from typing import Any

from torch import Tensor

from prism_hf.data.sudoku import BLANK, is_solved
from prism_hf.evaluation.evaluate_settings import describe, evaluate_settings
from prism_hf.evaluation.metrics.statistics import wilson_interval


def sudoku_metrics(predictions: Tensor, puzzles: Tensor, solutions: Tensor | None = None) -> dict[str, float]:
    """Share of puzzles solved, ``success``, with its 95% Wilson interval, ``success_low`` to ``success_high``.

    All arguments: (N, 89 or 81) token ids. With solutions, ``cell_accuracy`` is the share of blank cells filled with
    the solution's digit (nan when nothing was blank).
    """
    if len(puzzles) == 0:
        raise ValueError("There are no puzzles to score; expected at least one row.")
    if solutions is not None and solutions.shape != puzzles.shape:
        raise ValueError(
            f"solutions {tuple(solutions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    solved = int(is_solved(predictions, puzzles).sum())
    low, high = wilson_interval(solved, len(puzzles))
    metrics = {"success": solved / len(puzzles), "success_low": low, "success_high": high}
    if solutions is not None:
        metrics["cell_accuracy"] = (predictions == solutions)[puzzles == BLANK].double().mean().item()
    return metrics


def evaluate_sudoku(
    model,
    puzzles: Tensor,
    settings: list[dict[str, Any]],
    path: str | Path,
    solutions: Tensor | None = None,
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
) -> list[dict[str, Any]]:
    """Solve puzzles (N, 89 or 81) once for each of `settings`. `evaluate_settings` tells more.

    A setting that is in the file `path`, for the same puzzles, weights and seed, is not computed again.

    Returns one dict a setting: the setting, what it was made with, `forward_passes` (of the slowest batch),
    `mean_forward_passes`, `seconds`, and what `sudoku_metrics` returns.

    Raises:
        ValueError: if a setting is wrong, before anything is computed.
    """
    return evaluate_settings(
        model, puzzles, settings, path, lambda predictions: sudoku_metrics(predictions, puzzles, solutions),
        made_with={"num_puzzles": len(puzzles)}, batch_size=batch_size, seed=seed, bf16=bf16,
    )  # fmt: skip


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows of `evaluate_sudoku` as a Markdown table."""
    lines = [
        "| order | tokens | remasking | forward passes | solved | 95% interval | cells right | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        setting = row["setting"]
        cells = f"{row['cell_accuracy']:.2%}" if "cell_accuracy" in row else ""
        order, passes = setting.get("order", "confidence"), str(row["forward_passes"])
        if "confidence_threshold" in setting:
            order = f"{order} > {setting['confidence_threshold']}"
            passes = f"{row['mean_forward_passes']:.1f} (at most {passes})"
        lines.append(
            f"| {order} | {'sampled' if setting.get('do_sample') else 'greedy'} "
            f"| {describe(setting)} | {passes} | {row['success']:.1%} "
            f"| {row['success_low']:.1%} to {row['success_high']:.1%} | {cells} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"
