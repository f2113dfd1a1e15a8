"""The pictures of evaluations. They need matplotlib, which is imported when one is drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from prism_hf.evaluation.metrics.calibration import auroc, expected_calibration_error, reliability_bins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which is faint on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#D55E00")
MARKERS = "os^Dvp*hX"
DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class Point:
    """A score with its interval, on a line of a panel."""

    panel: str
    label: str
    cost: float
    mean: float
    low: float
    high: float


def plot_scores(
    path: str | Path,
    points: Sequence[Point],
    against: str,
    measured: str,
    percent: bool = False,
    emphasised: str | None = None,
) -> None:
    """Save a plot of scores with their intervals `against` a cost: a panel a `panel`, a line a `label`.

    Lines are named at their right end; the `emphasised` one is thicker. A label looks the same in all panels.
    """
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(point.panel for point in points))
    labels = list(dict.fromkeys(point.label for point in points))
    ticks = legible_ticks({point.cost for point in points})
    columns = min(2, max(len(panels), 1))
    rows = math.ceil(max(len(panels), 1) / columns)
    figure = Figure(figsize=(6.8 * columns, 5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        shown = [point for point in points if point.panel == panel]
        ends = [
            _draw_line(axis, line, number, aside=number - (len(labels) - 1) / 2, thick=label == emphasised)
            for number, label in enumerate(labels)
            if (line := [point for point in shown if point.label == label])
        ]
        _frame(axis, shown, ticks, percent)
        axis.set(title=panel, xlabel=against, ylabel=measured)
        name_lines(axis, ends, emphasised)
    figure.savefig(path, dpi=120)


def _draw_line(
    axis: "Axes", line: list[Point], number: int, aside: float, thick: bool
) -> tuple[float, float, str, str]:
    """Draw the points of a label, the `number`-th, and return its right end: (score, cost, label, colour)."""
    line = sorted(line, key=lambda point: point.cost)
    color = COLORS[number % len(COLORS)]
    # A little aside, so that the intervals of different lines do not cover one another.
    costs, means = [(1 + 0.012 * aside) * point.cost for point in line], [point.mean for point in line]
    # Rounding may put the end of an interval at 0% or 100% on the wrong side of the score.
    below = [max(0, point.mean - point.low) for point in line]
    above = [max(0, point.high - point.mean) for point in line]
    axis.errorbar(
        costs,
        means,
        yerr=[below, above],
        color=color,
        marker=MARKERS[number % len(MARKERS)],
        linestyle=DASHES[number // len(COLORS) % len(DASHES)],
        linewidth=2.8 if thick else 1.3,
        zorder=3 if thick else 2,
        capsize=2,
        elinewidth=0.9,
        markersize=5,
    )
    return means[-1], costs[-1], line[0].label, color


def _frame(axis: "Axes", points: list[Point], ticks: list[float], percent: bool) -> None:
    """Give an axis its limits, grid and ticks."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_major_formatter(lambda value, _: f"{round(value, 1):g}")
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(ticks[0] / 1.15, ticks[-1] * 1.15)
    bottom, top = min(point.low for point in points), max(point.high for point in points)
    margin = 0.05 * (top - bottom) or 0.05
    axis.set_ylim(bottom - margin, top + margin)
    if percent:
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.grid(alpha=0.3)


def name_lines(axis: "Axes", ends: list[tuple[float, float, str, str]], emphasised: str | None) -> None:
    """Write the label of each line, in its colour, to the right of its end: (y, x, label, colour)."""
    ends = sorted(ends)
    to_fraction = axis.transData - axis.transAxes  # whatever the scales
    heights = spread([float(to_fraction.transform((end[1], end[0]))[1]) for end in ends], 0.045, 1.0)
    for (mean, last, label, color), height in zip(ends, heights, strict=True):
        axis.annotate(
            label,
            (last, mean),
            (1.04, height),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            color=color,
            fontweight="bold" if label == emphasised else "normal",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.6},
        )


def legible_ticks(costs: set[float]) -> list[float]:
    """Numbers, such as of forward passes, to write on a logarithmic axis: of those that nearly agree the largest.

    Two are apart by 15%, and by a fourteenth of the axis, which is the width of four digits.
    """
    apart = max(1.15, (max(costs, default=1) / min(costs, default=1)) ** (1 / 14))
    ticks: list[float] = []
    for number in sorted(costs, reverse=True):
        if not ticks or number * apart < ticks[-1]:
            ticks.append(number)
    return ticks[::-1]


def spread(heights: list[float], gap: float, top: float) -> list[float]:
    """Ascending heights moved as little as keeps them `gap` apart, upwards first, and then down from `top`."""
    placed: list[float] = []
    for height in heights:
        placed.append(height if not placed else max(height, placed[-1] + gap))
    limit = top
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed


def plot_reliability(path: str | Path, probabilities: Tensor, labels: Tensor) -> None:
    """Save a reliability diagram: accuracy against confidence in 15 bins, and how many samples each bin holds.

    Args:
        path (`str` or `Path`): The image, whose suffix gives its format.
        probabilities, labels (`torch.Tensor`): See `reliability_bins`.

    Example:
        ```python
        >>> plot_reliability("reliability.png", torch.rand(100), torch.rand(100) < 0.5)
        ```
    """
    from matplotlib.figure import Figure

    bins = reliability_bins(probabilities, labels)
    left, width = bins["edges"][:-1].numpy(), 1 / len(bins["count"])
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    diagram.bar(left, bins["accuracy"].nan_to_num(0.0).numpy(), width, align="edge", color="C0", edgecolor="white")
    diagram.plot(bins["confidence"].numpy(), bins["accuracy"].numpy(), "o", color="C1", label="bin means")
    diagram.plot([0, 1], [0, 1], "--", color="black", label="calibrated")
    ece, area = expected_calibration_error(probabilities, labels), auroc(probabilities, labels)
    diagram.set(ylabel="share correct", xlim=(0, 1), ylim=(0, 1), title=f"ECE {ece:.3f}, AUROC {area:.3f}")
    diagram.legend(loc="upper left")
    histogram.bar(left, bins["count"].numpy(), width, align="edge", color="C0", edgecolor="white")
    histogram.set(xlabel="predicted probability of being correct", ylabel="samples")
    figure.savefig(path)
