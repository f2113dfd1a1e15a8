"""The table and the picture of files of samples: perplexity beside entropy, as either can be bought with the other.

A file is called by what differs: the strategy, and the settings in which the files do not agree and which are no
default. Files of one strategy at several numbers of steps are a line of the picture.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prism_hf.evaluation.comparison.plots import COLORS, DASHES, MARKERS, name_lines
from prism_hf.evaluation.comparison.report import markdown
from prism_hf.evaluation.comparison.settings import describe_arguments
from prism_hf.evaluation.metrics.statistics import (
    bootstrap_interval,
    bootstrap_ratio,
    paired_bootstrap,
    paired_bootstrap_ratio,
)
from prism_hf.generation import RemaskGenerationConfig

from .files import Samples
from .scoring import NGRAMS, SampleScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Settings that stand in columns of their own, and those that follow from the model, which is named.
COLUMNS = ("remask_strategy", "steps")
OF_THE_MODEL = ("weights", "commit_hash", "revision", "adapter")


def labels_of(files: Sequence[Samples]) -> list[str]:
    """What each file is called: its strategy and what else differs, or its name where no manifest tells.

    Example:
        ```python
        >>> labels_of([read_samples("none.jsonl"), read_samples("cap.jsonl")])
        ['none', 'remdm_cap (eta=0.04)']
        ```
    """
    told = [file.settings for file in files if file.manifest]
    names = dict.fromkeys(name for settings in told for name in settings)
    differing = [name for name in names if any(each.get(name) != told[0].get(name) for each in told)]
    if "model" in differing:
        differing = [name for name in differing if name not in OF_THE_MODEL]
    defaults = RemaskGenerationConfig._get_default_generation_params()

    def label(file: Samples) -> str:
        if file.strategy is None:
            return file.name
        shown = {name: file.settings.get(name) for name in differing if name not in COLUMNS}
        shown = {name: value for name, value in shown.items() if value not in (None, defaults.get(name))}
        return f"{file.strategy} ({describe_arguments(shown)})" if shown else file.strategy

    return list(map(label, files))


def lines_of(files: Sequence[Samples]) -> list[str]:
    """The line of the picture that each file is a point of: its strategy, unless two files of that have equal steps."""
    labels = labels_of(files)
    points = [(file.strategy, file.settings.get("steps")) for file in files]
    crowded = {strategy for strategy, steps in points if points.count((strategy, steps)) > 1}
    return [
        label if file.strategy is None or file.strategy in crowded else file.strategy
        for file, label in zip(files, labels, strict=True)
    ]


def samples_table(scores: Sequence[SampleScores], reference: str | None = None) -> str:
    """Scores of files as one Markdown table, those of fewer forward passes and of lower perplexity first.

    Brackets hold 95% intervals by the bootstrap over samples; of MAUVE the lowest and highest of its seeds. Each file
    is set against the reference of as many samples by a paired bootstrap: the difference of the mean log-likelihood of
    a token and that of the mean entropy, both in nats.

    Args:
        scores (`Sequence[SampleScores]`): What `score_samples` returns.
        reference (`str`, *optional*): A file's name, or a strategy, whose file at the same steps is taken.

    Returns:
        `str`: The table.

    Raises:
        ValueError: if there are no scores, or no file is the reference.

    Example:
        ```python
        print(samples_table(scores, reference="none"))
        ```
    """
    if not scores:
        raise ValueError("There are no scores to set in a table: give those that score_samples returned.")
    files = [each.samples for each in scores]
    if reference is not None and not any(reference in (file.name, file.strategy) for file in files):
        raise ValueError(f"reference={reference!r} is neither the name of a file nor a strategy of one.")
    labels = dict(zip(map(id, scores), labels_of(files), strict=True))
    columns: dict[str, Callable[[SampleScores], str]] = {
        "samples of": lambda each: labels[id(each)],
        "steps": lambda each: _shown(each.samples.settings.get("steps")),
        "forward passes": lambda each: _shown(each.samples.forward_passes),
        "samples": lambda each: str(len(each.totals)),
        "perplexity": _perplexity,
        "entropy": _entropy,
        "MAUVE": _mauve,
        **{f"distinct-{n}": _distinct(n) for n in NGRAMS},
        "repetition": lambda each: "" if each.repetition is None else f"{each.repetition.mean():.3f}",
        "seconds": lambda each: "" if (taken := each.samples.manifest.get("seconds")) is None else f"{taken:.0f}",
    }
    rows = sorted(scores, key=lambda each: (each.samples.forward_passes or math.inf, each.perplexity))
    cells = {head: [column(row) for row in rows] for head, column in columns.items()}
    if reference is not None:
        pairs = [_against(row, _find_reference(scores, row, reference)) for row in rows]
        cells[f"log-likelihood against {reference}"] = [pair[0] for pair in pairs]
        cells[f"entropy against {reference}"] = [pair[1] for pair in pairs]
    cells = {head: column for head, column in cells.items() if any(column)}
    return markdown(list(cells), list(zip(*cells.values(), strict=True)))


def _perplexity(scores: SampleScores) -> str:
    low, high = _log_perplexity(scores)
    return f"{_digits(scores.perplexity)} [{_digits(math.exp(low))}, {_digits(math.exp(high))}]"


def _log_perplexity(scores: SampleScores) -> tuple[float, float]:
    return bootstrap_ratio(scores.totals, scores.num_tokens)


def _entropy(scores: SampleScores) -> str:
    if scores.entropy is None:
        return ""
    low, high = bootstrap_interval(scores.entropy)
    return f"{scores.entropy.mean():.3f} [{low:.3f}, {high:.3f}]"


def _mauve(scores: SampleScores) -> str:
    if not scores.mauve:
        return ""
    mean = sum(scores.mauve) / len(scores.mauve)
    return f"{mean:.3f} [{min(scores.mauve):.3f}, {max(scores.mauve):.3f}]"


def _distinct(n: int) -> Callable[[SampleScores], str]:
    return lambda scores: "" if scores.distinct is None else f"{scores.distinct[n - 1]:.3f}"


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def _digits(value: float) -> str:
    """Three digits, as perplexities span decades."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


def _find_reference(scores: Sequence[SampleScores], row: SampleScores, reference: str) -> SampleScores | None:
    """The file that another is set against: that of the name, or of the strategy at the same steps."""
    named = [each for each in scores if each.samples.name == reference]
    steps = row.samples.settings.get("steps")
    of_strategy = [
        each
        for each in scores
        if each.samples.strategy == reference and row.samples.manifest and each.samples.settings.get("steps") == steps
    ]
    return next((each for each in [*named, *of_strategy] if each is not row), None)


def _against(row: SampleScores, other: SampleScores | None) -> tuple[str, str]:
    """Two cells: the differences in log-likelihood a token and in entropy, empty where files cannot be paired."""
    if other is None or len(row.totals) != len(other.totals) or other.samples.strategy == row.samples.strategy:
        return "", ""
    low, high = paired_bootstrap_ratio((-row.totals, row.num_tokens), (-other.totals, other.num_tokens))
    difference = math.log(other.perplexity) - math.log(row.perplexity)
    likelihood = f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]"
    if row.entropy is None or other.entropy is None:
        return likelihood, ""
    low, high = paired_bootstrap(row.entropy, other.entropy)
    return likelihood, f"{row.entropy.mean() - other.entropy.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def plot_samples(path: str | Path, scores: Sequence[SampleScores], emphasised: str | None = None) -> None:
    """Save a plot of perplexity, on a logarithmic axis, against entropy, with 95% intervals.

    A line joins the numbers of steps of a strategy, which stand at its points; its name is at the right. What no
    manifest tells of, such as texts of people, is a point with a cross of lines through it.

    Args:
        path (`str | Path`): The image, whose suffix gives its format.
        scores (`Sequence[SampleScores]`): What `score_samples` returns; files without tokens have no entropy and are
            left out.
        emphasised (`str`, *optional*): The strategy whose line is thick.

    Example:
        ```python
        plot_samples("samples.png", scores, emphasised="prism")
        ```
    """
    from matplotlib.figure import Figure

    shown = [each for each in scores if each.entropy is not None and int(each.num_tokens.sum()) > 0]
    figure = Figure(figsize=(9.5, 6.5), layout="constrained")
    axis = figure.subplots()
    lines: dict[str, list[SampleScores]] = {}
    for line, each in zip(lines_of([each.samples for each in shown]), shown, strict=True):
        lines.setdefault(line, []).append(each)
    axis.set_yscale("log")
    ends = [
        _draw(axis, name, points, number, thick=name == emphasised)
        for number, (name, points) in enumerate(lines.items())
    ]
    axis.set(xlabel="entropy of a sample's tokens, nats", ylabel="generative perplexity")
    _write_plain_numbers(axis)
    axis.grid(alpha=0.3, which="both")
    axis.margins(0.06)
    name_lines(axis, ends, emphasised)
    figure.savefig(path, dpi=120)


def _draw(
    axis: "Axes", name: str, points: list[SampleScores], number: int, thick: bool
) -> tuple[float, float, str, str]:
    """Draw the points of a line, the `number`-th, and return its end: (perplexity, entropy, name, colour)."""
    points = sorted(points, key=lambda each: each.samples.settings.get("steps") or 0)
    known = [(each, each.entropy) for each in points if each.entropy is not None]
    x, y = [entropy.mean().item() for _, entropy in known], [each.perplexity for each, _ in known]
    across = [bootstrap_interval(entropy) for _, entropy in known]
    along = [(math.exp(low), math.exp(high)) for low, high in (_log_perplexity(each) for each, _ in known)]
    from_people = points[0].samples.strategy is None
    color = "#555555" if from_people else COLORS[number % len(COLORS)]
    axis.errorbar(
        x,
        y,
        xerr=_distances(x, across),
        yerr=_distances(y, along),
        color=color,
        ecolor=(color, 0.45),
        marker="*" if from_people else MARKERS[number % len(MARKERS)],
        markersize=11 if from_people else 5,
        linestyle=DASHES[number // len(COLORS) % len(DASHES)],
        linewidth=2.8 if thick else 1.3,
        elinewidth=0.7,
        zorder=3 if thick else 2,
    )
    if from_people:
        axis.axvline(x[-1], color=color, linewidth=0.7, linestyle=":")
        axis.axhline(y[-1], color=color, linewidth=0.7, linestyle=":")
    for (each, _), right, up in zip(known, x, y, strict=True):
        steps = _shown(each.samples.settings.get("steps"))
        axis.annotate(steps, (right, up), (4, 4), textcoords="offset points", fontsize=7, color=color)
    return y[-1], x[-1], name, color


def _distances(values: list[float], intervals: list[tuple[float, float]]) -> list[list[float]]:
    """How far the ends of intervals are from the values, as matplotlib takes them; rounding may cross over."""
    below = [max(0.0, value - low) for value, (low, _) in zip(values, intervals, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(values, intervals, strict=True)]
    return [below, above]


def _write_plain_numbers(axis: "Axes") -> None:
    """Perplexities as 20, 50, 100 and not as powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
