"""Pictures of Sudoku results. They need matplotlib, which is imported when one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from prism_hf.data.sudoku.grids import BLANK, cell_positions, is_solved
from prism_hf.generation import RemaskGenerationOutput, Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_corrections(path: str | Path, puzzles: Tensor, output: RemaskGenerationOutput, num_panels: int = 8) -> None:
    """Save a picture of one puzzle being corrected, of those solved the one with the most corrections.

    Panels show steps with corrections: black for givens, blue for generated tokens, red for those whose final token
    is another. A red square marks a cell that the step remasks.

    Args:
        path (`str` or `Path`): The image, whose suffix gives its format.
        puzzles (`torch.Tensor` of shape `(B, 89 or 81)`): What was given to `generate`.
        output (`RemaskGenerationOutput`): What it returned, with the trajectory.
        num_panels (`int`, *optional*, defaults to 8): How many steps are shown, the end among them.

    Example:
        ```python
        output = model.generate(puzzles, return_dict_in_generate=True, output_trajectory=True)
        plot_corrections("corrections.png", puzzles, output)
        ```
    """
    from matplotlib.figure import Figure

    row = most_corrected(output, puzzles)
    cells = cell_positions(puzzles.shape[1])
    canvas = torch.cat([puzzles[None, row], output.trajectory.canvas[:, row].cpu()])[:, cells]
    remasked = output.trajectory.remasked[:, row].cpu()[:, cells]
    corrects = (remasked & (canvas[:-1] != canvas[-1])).sum(-1)
    steps = corrects.argsort(descending=True, stable=True)[: num_panels - 1].sort().values.tolist()

    columns = (num_panels + 1) // 2
    figure = Figure(figsize=(2.6 * columns, 5.8), layout="constrained")
    axes = figure.subplots(2, columns).flatten()
    for axis in axes:
        axis.set_axis_off()
    for axis, step in zip(axes, steps, strict=False):
        axis.set_title(f"step {step + 1} of {len(remasked)}", fontsize=10)
        _draw_grid(axis, canvas[step], given=canvas[0], last=canvas[-1], remasked=remasked[step])
    axes[len(steps)].set_title("solved", fontsize=10)
    _draw_grid(axes[len(steps)], canvas[-1], given=canvas[0], last=canvas[-1])
    figure.suptitle(
        "black: given, blue: generated, red: generated and later replaced, red square: remasked in this step",
        fontsize=9,
    )
    figure.savefig(path, dpi=120)


def most_corrected(output: RemaskGenerationOutput, puzzles: Tensor) -> int:
    """The row of a batch that was solved with the most tokens replaced by others."""
    last = output.sequences.cpu()
    before = torch.cat([puzzles[None].to(last), output.trajectory.canvas[:-1].cpu()])
    wrong = output.trajectory.remasked.cpu() & (before != last) & (before != BLANK)
    return int((wrong.sum(dim=(0, 2)) + 1).mul(is_solved(last, puzzles)).argmax())


def _draw_grid(axis: "Axes", canvas: Tensor, given: Tensor, last: Tensor, remasked: Tensor | None = None) -> None:
    """Draw the cells of a step, all (81,): those given, those of the end, and which the step remasks."""
    from matplotlib.patches import Rectangle

    axis.set(xlim=(0, 9), ylim=(9, 0), aspect="equal")
    for line in range(10):
        width = 1.6 if line % 3 == 0 else 0.4
        axis.plot([line, line], [0, 9], color="black", linewidth=width)
        axis.plot([0, 9], [line, line], color="black", linewidth=width)
    for cell, token in enumerate(canvas.tolist()):
        y, x = divmod(cell, 9)
        if remasked is not None and remasked[cell]:
            axis.add_patch(Rectangle((x, y), 1, 1, facecolor="#ffd9d9", edgecolor="#cc0000", linewidth=1.5))
        if token != BLANK:
            color = "black" if given[cell] != BLANK else "#cc0000" if token != last[cell] else "#1f5fbf"
            axis.text(x + 0.5, y + 0.55, str(token), ha="center", va="center", fontsize=9, color=color)


def quality_samples(trajectory: Trajectory, puzzles: Tensor, solutions: Tensor) -> tuple[Tensor, Tensor]:
    """The quality of every generated token at every step, for `plot_reliability`, `auroc` and the calibration error.

    Args:
        trajectory (`Trajectory`): What `generate` recorded.
        puzzles (`torch.Tensor` of shape `(B, 89 or 81)`): What it was given.
        solutions (`torch.Tensor` of shape `(B, 89 or 81)`): Their solutions, which must be unique.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The qualities (M,), and whether each token is the solution's (M,) bool.

    Example:
        ```python
        quality, right = quality_samples(output.trajectory, puzzles, solutions)
        plot_reliability("reliability.png", quality, right)
        ```
    """
    before = torch.cat([puzzles[None].to(trajectory.canvas), trajectory.canvas[:-1]])
    read = (before != BLANK) & ~trajectory.quality.isnan()
    generated = read & (puzzles == BLANK).to(before.device)
    right = before == solutions.to(before.device)
    return trajectory.quality[generated], right[generated]
