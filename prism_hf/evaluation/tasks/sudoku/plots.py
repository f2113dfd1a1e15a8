"""Pictures of Sudoku results. They need matplotlib."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_hf.data.sudoku import BLANK, cell_positions, is_solved
from prism_hf.evaluation.comparison.plots import plot_against_passes
from prism_hf.evaluation.comparison.settings import describe
from prism_hf.generation import RemaskGenerationOutput, Trajectory


def plot_success(path: str | Path, rows: list[dict[str, Any]]) -> None:
    """Save a plot of the rows of `evaluate_sudoku`: puzzles solved against forward passes, with 95% intervals."""
    points = [
        {
            "panel": order_of(row),
            "label": describe(row["setting"]),
            "passes": row["mean_forward_passes"],
            "mean": row["success"],
            "low": row["success_low"],
            "high": row["success_high"],
        }
        for row in rows
    ]
    plot_against_passes(path, points, "puzzles solved", percent=True)


def order_of(row: dict[str, Any]) -> str:
    setting = row["setting"]
    return f"{setting.get('order', 'confidence')} order, {'sampled' if setting.get('do_sample') else 'greedy'} tokens"


def most_corrected(output: RemaskGenerationOutput, puzzles: Tensor) -> int:
    """The row of a batch that was solved with the most tokens replaced by others."""
    last = output.sequences.cpu()
    before = torch.cat([puzzles[None].to(last), output.trajectory.canvas[:-1].cpu()])
    wrong = output.trajectory.remasked.cpu() & (before != last) & (before != BLANK)
    return int((wrong.sum(dim=(0, 2)) + 1).mul(is_solved(last, puzzles)).argmax())


def plot_corrections(path: str | Path, puzzles: Tensor, output: RemaskGenerationOutput, num_panels: int = 8) -> None:
    """Save a picture of one puzzle being corrected, of those solved the one with the most corrections.

    Panels show steps with corrections: black for givens, blue for generated tokens, red for those whose final token
    is another. A red square marks a cell that the step remasks.

    puzzles: (B, 89 or 81), as they were given to `generate`, whose `output` holds the trajectory.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    row = most_corrected(output, puzzles)
    cells = cell_positions(puzzles.shape[1])
    given = puzzles[row][cells] != BLANK
    canvas = torch.cat([puzzles[None, row], output.trajectory.canvas[:, row].cpu()])[:, cells]
    remasked = output.trajectory.remasked[:, row].cpu()[:, cells]
    last = canvas[-1]
    corrects = (remasked & (canvas[:-1] != last)).sum(-1)
    steps = corrects.argsort(descending=True, stable=True)[: num_panels - 1].sort().values.tolist()

    columns = (num_panels + 1) // 2
    figure = Figure(figsize=(2.6 * columns, 5.8), layout="constrained")
    axes = figure.subplots(2, columns).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, step in zip(axes, [*steps, len(remasked)], strict=False):
        final = step == len(remasked)
        axis.set_title("solved" if final else f"step {step + 1} of {len(remasked)}", fontsize=10)
        axis.set(xlim=(0, 9), ylim=(9, 0), aspect="equal")
        for line in range(10):
            width = 1.6 if line % 3 == 0 else 0.4
            axis.plot([line, line], [0, 9], color="black", linewidth=width)
            axis.plot([0, 9], [line, line], color="black", linewidth=width)
        for cell in range(81):
            y, x = divmod(cell, 9)
            token = int(canvas[step, cell])
            wrong = token != int(last[cell])
            if not final and remasked[step, cell]:
                axis.add_patch(Rectangle((x, y), 1, 1, facecolor="#ffd9d9", edgecolor="#cc0000", linewidth=1.5))
            if token != BLANK:
                color = "black" if given[cell] else "#cc0000" if wrong else "#1f5fbf"
                axis.text(x + 0.5, y + 0.55, str(token), ha="center", va="center", fontsize=9, color=color)
    figure.suptitle(
        "black: given, blue: generated, red: generated and later replaced, red square: remasked in this step",
        fontsize=9,
    )
    figure.savefig(path, dpi=120)


def quality_samples(trajectory: Trajectory, puzzles: Tensor, solutions: Tensor) -> tuple[Tensor, Tensor]:
    """Quality of every generated token at every step (M,), and whether it is the solution's (M,) bool.

    For `plot_reliability`, `auroc` and `expected_calibration_error`. puzzles, solutions: (B, 89 or 81), those that
    `generate` was given; solutions must be unique.
    """
    before = torch.cat([puzzles[None].to(trajectory.canvas), trajectory.canvas[:-1]])
    read = (before != BLANK) & ~trajectory.quality.isnan()
    generated = read & (puzzles == BLANK).to(before.device)
    right = before == solutions.to(before.device)
    return trajectory.quality[generated], right[generated]
