"""How many Sudoku puzzles a model solves."""

import math

from torch import Tensor

from ..data.sudoku import BLANK, is_valid_grid, to_grid


def is_solved(predictions: Tensor, puzzles: Tensor) -> Tensor:
    """Whether each prediction is a valid grid that keeps every given of its puzzle.

    predictions, puzzles: (N, 89 or 81) token ids. Returns (N,) bool. End-of-row tokens count as givens.
    """
    if predictions.shape != puzzles.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    valid = is_valid_grid(to_grid(predictions))
    keeps_givens = ((predictions == puzzles) | (puzzles == BLANK)).all(-1)
    return valid & keeps_givens


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion (95% by default): (low, high)."""
    rate, shrink = successes / trials, 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


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
