"""How many Sudoku puzzles a model solves, for each of a list of sampler settings."""

from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from prism_hf.data.sudoku import (
    BLANK,
    MAX_BLANKS,
    Layout,
    generate_puzzles,
    is_solved,
    read_sudoku_csv,
    to_grid,
    to_sequence,
)
from prism_hf.evaluation.comparison.settings import describe, evaluate_settings
from prism_hf.evaluation.metrics.statistics import wilson_interval
from prism_hf.evaluation.tasks.task import Task
from prism_hf.fields import Allowed, Count, Positive, check_arguments, check_value
from prism_hf.resources import resource_path


def load_sudoku(
    puzzles_file: str | None = None,
    num_puzzles: Positive | None = None,
    num_tuning_puzzles: Count = 0,
    tuning_seed: Annotated[int, Allowed(min=0, below=2**30)] = 0,
    layout: Layout = 89,
) -> Task:
    """Puzzles of a CSV file, by default those that ship, the first `num_puzzles` of them. Score: solved or not.

    Puzzles to tune on come from the generator, with as many blanks as the others have on average. layout: tokens of a
    puzzle, 89 or 81.

    Raises:
        ValueError: if a puzzle to tune on has a solution that a reported puzzle admits too.
    """
    check_arguments(load_sudoku, locals(), "the task sudoku")
    puzzles = to_grid(read_sudoku_csv(puzzles_file or resource_path("sudoku/puzzles.csv")))
    check_value("num_puzzles", num_puzzles, Annotated[int, Allowed(min=1, max=len(puzzles))] | None, "the task sudoku")
    puzzles = puzzles[:num_puzzles]
    blanks = min(round((puzzles == BLANK).sum((1, 2)).double().mean().item()), MAX_BLANKS)
    # A seed of their own, as those of others are small or begin at 2**31. PyTorch reads 32 bits of it.
    generator = torch.Generator().manual_seed(3 * 2**30 + tuning_seed)
    tuning_puzzles, solutions = generate_puzzles(num_tuning_puzzles, blanks, generator)
    shared = sum(bool(((puzzles == BLANK) | (puzzles == solution)).all((1, 2)).any()) for solution in solutions)
    if shared:
        raise ValueError(
            f"{shared} of {num_tuning_puzzles} puzzles to tune on have the solution of a reported puzzle: choose "
            f"another tuning_seed than {tuning_seed}."
        )
    origin = f"{len(puzzles)} puzzles, {Path(puzzles_file).name if puzzles_file else 'those that ship'}."
    if num_tuning_puzzles:
        origin += (
            f" Arguments were chosen on {num_tuning_puzzles} others of the generator (seed {tuning_seed}, {blanks} "
            "blanks): no solution of theirs fits a reported puzzle."
        )
    return Task(to_sequence(puzzles, layout), to_sequence(tuning_puzzles, layout), is_solved, "solved", origin)


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
