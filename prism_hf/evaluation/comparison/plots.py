"""The picture that all evaluations share. It needs matplotlib."""

import math
from pathlib import Path
from typing import Any

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow, which is faint on white.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#D55E00")
MARKERS = "os^Dvp*hX"
DASHES = ("-", "--", ":")


def plot_against_passes(
    path: str | Path,
    points: list[dict[str, Any]],
    measured: str,
    percent: bool = False,
    emphasised: str | None = None,
) -> None:
    """Save a plot of scores with their intervals against forward passes: a panel a `panel`, a line a `label`.

    points: dicts with `panel`, `label`, `passes`, `mean`, `low` and `high`. Lines are named at their right end; the
    `emphasised` one is thicker. A label looks the same in all panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

    panels = list(dict.fromkeys(point["panel"] for point in points))
    labels = list(dict.fromkeys(point["label"] for point in points))
    ticks = legible_ticks({point["passes"] for point in points})
    columns = min(2, max(len(panels), 1))
    rows = math.ceil(max(len(panels), 1) / columns)
    figure = Figure(figsize=(6.8 * columns, 5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    for axis, panel in zip(axes, panels, strict=False):
        shown = [point for point in points if point["panel"] == panel]
        bottom, top = min(point["low"] for point in shown), max(point["high"] for point in shown)
        margin = 0.05 * (top - bottom) or 0.05
        bottom, top = bottom - margin, top + margin
        ends = []
        for number, label in enumerate(labels):
            line = sorted((point for point in shown if point["label"] == label), key=lambda point: point["passes"])
            if not line:
                continue
            # A little aside, so that the intervals of different lines do not cover one another.
            aside = 1 + 0.012 * (number - (len(labels) - 1) / 2)
            style = {
                "color": COLORS[number % len(COLORS)],
                "marker": MARKERS[number % len(MARKERS)],
                "linestyle": DASHES[number // len(COLORS) % len(DASHES)],
                "linewidth": 2.8 if label == emphasised else 1.3,
                "zorder": 3 if label == emphasised else 2,
            }
            passes, means = [aside * point["passes"] for point in line], [point["mean"] for point in line]
            # Rounding may put the end of an interval at 0% or 100% on the wrong side of the score.
            lengths = [[max(0, p["mean"] - p["low"]) for p in line], [max(0, p["high"] - p["mean"]) for p in line]]
            axis.errorbar(passes, means, yerr=lengths, capsize=2, elinewidth=0.9, markersize=5, **style)
            ends.append((means[-1], passes[-1], label, style["color"]))
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set(title=panel, xlabel="forward passes", ylabel=measured, xlim=(ticks[0] / 1.15, ticks[-1] * 1.15))
        axis.set_ylim(bottom, top)
        if percent:
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.grid(alpha=0.3)
        name_lines(axis, ends, emphasised)
    figure.savefig(path, dpi=120)


def name_lines(axis, ends: list[tuple[float, float, str, str]], emphasised: str | None) -> None:
    """Write the label of each line, in its colour, beside its right end: (score, passes, label, colour)."""
    bottom, top = axis.get_ylim()
    ends = sorted(ends)
    heights = spread([end[0] for end in ends], 0.045 * (top - bottom), top)
    for (mean, last, label, color), height in zip(ends, heights, strict=True):
        axis.annotate(
            label, (last, mean), (1.04, height), textcoords=("axes fraction", "data"), va="center", fontsize=9,
            color=color, fontweight="bold" if label == emphasised else "normal", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "alpha": 0.6},
        )  # fmt: skip


def legible_ticks(passes: set[float]) -> list[float]:
    """Numbers of forward passes to write on a logarithmic axis: of those that nearly agree the largest."""
    ticks = []
    for number in sorted(passes, reverse=True):
        if not ticks or number * 1.1 < ticks[-1]:
            ticks.append(number)
    return ticks[::-1]


def spread(heights: list[float], gap: float, top: float) -> list[float]:
    """Ascending heights moved as little as keeps them `gap` apart, upwards first, and then down from `top`."""
    placed = []
    for height in heights:
        placed.append(height if not placed else max(height, placed[-1] + gap))
    limit = top
    for index in reversed(range(len(placed))):
        placed[index] = min(placed[index], limit)
        limit = placed[index] - gap
    return placed
