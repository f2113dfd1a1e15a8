"""The tables and the picture of results. Rows that made more forward passes than others are kept apart."""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from prism_hf.evaluation.metrics.parallelism import accuracy_under_parallelism
from prism_hf.evaluation.metrics.statistics import (
    bootstrap_interval,
    discordant_pairs,
    mcnemar_test,
    paired_bootstrap,
    wilson_interval,
)
from prism_hf.fields import check_arguments

from .matching import is_comparable
from .plots import Point, plot_scores
from .settings import describe_arguments

Row = dict[str, Any]
Against = Literal["forward passes", "tokens per forward"]


def comparison_table(rows: list[Row], measured: str | None = None, reference: str = "prism") -> str:
    """Rows of `compare` as Markdown: for each budget a table, best first, and what is not comparable apart.

    Each is set against a row of the strategy `reference` with the same tokens and the same order, or, if there is none,
    the best of those with the same tokens: by McNemar's exact test where scores are bool, else by a paired bootstrap.

    Where a strategy has rows of several speeds, and scores are shares of what is right, the accuracy under parallelism
    (`accuracy_under_parallelism`) of each follows.

    Rows of `evaluate`, which have no budget, are one table in the order that they were given in, without tests.

    Args:
        rows (`list[dict]`): What `compare` or `evaluate` returns.
        measured (`str`, *optional*): The head of the column of scores, by default the task's.
        reference (`str`, *optional*, defaults to `"prism"`): The label that the others are set against.

    Returns:
        `str`: The tables.

    Raises:
        ValueError: if there are no rows.

    Example:
        ```python
        print(comparison_table(compare(model, task, points, "results.jsonl")))
        ```
    """
    if not rows:
        raise ValueError("There are no rows to set in a table: give those that compare or evaluate returned.")
    measured = measured or _measured(rows)
    if rows[0]["budget"] is None:
        return _table(rows, measured)
    parts = []
    for budget in sorted({row["budget"] for row in rows}):
        comparable, others = _split([row for row in rows if row["budget"] == budget])
        parts.append(f"## {budget} forward passes\n\n{_table(_best_first(comparable), measured, reference)}")
        parts += [
            f"### Not comparable: {why}\n\nThey are in no test and no plot.\n\n{_table(_best_first(apart), measured)}"
            for why, apart in _reasons(others, budget).items()
            if apart
        ]
    further = {
        "Accuracy under parallelism": _parallelism_table(rows, measured),
        "What the arguments were chosen from": _candidates_table(rows, measured),
    }
    return "\n".join([*parts, *(f"## {title}\n\n{table}" for title, table in further.items() if table)])


def plot_comparison(
    path: str | Path,
    rows: list[Row],
    measured: str | None = None,
    reference: str | None = "prism",
    against: Against = "forward passes",
) -> None:
    """Save a plot of the rows that keep to their budgets: scores with 95% intervals against what they cost.

    A panel holds an order with its tokens, and the strategies that have an order of their own.

    Args:
        path (`str` or `Path`): The image, whose suffix gives its format.
        rows (`list[dict]`): What `compare` or `evaluate` returns.
        measured (`str`, *optional*): What the axis of scores is called, by default what the task measures.
        reference (`str`, *optional*, defaults to `"prism"`): The label whose line is thick.
        against (`str`, *optional*, defaults to `"forward passes"`): Or `"tokens per forward"`, which leaves out rows of
            an earlier version that did not count tokens.

    Example:
        ```python
        plot_comparison("results.png", compare(model, task, points, "results.jsonl"))
        ```
    """
    check_arguments(plot_comparison, locals())
    cost = {"forward passes": _passes, "tokens per forward": _rate}[against]
    within = [row for row in _split(rows)[0] if not math.isnan(cost(row))]
    points = []
    for row in sorted(within, key=lambda row: row["order"] is None):
        others = [other for other in within if other["temperature"] == row["temperature"] and other["order"]]
        beside = dict.fromkeys(map(_order, others)) if row["order"] is None else {}
        low, high = _interval(row["scores"])
        for order in beside or [_order(row)]:
            panel = f"{order} order, {_tokens(row)}"
            points.append(Point(panel, row["label"], cost(row), _mean(row["scores"]), low, high))
    percent = all(_is_binary(row) for row in within)
    plot_scores(path, points, against, measured or _measured(rows), percent, emphasised=reference)


def _table(rows: list[Row], measured: str, reference: str | None = None) -> str:
    """One table, of which the columns that say nothing of any row are left out."""
    if not rows:
        return "None.\n"
    binary = _is_binary(rows[0])
    columns: dict[str, Callable[[Row], str]] = {
        "strategy": lambda row: row["label"],
        "arguments": lambda row: describe_arguments(row["arguments"]),
        "order": lambda row: _order(row) + _threshold(row),
        "tokens": _tokens,
        "forward passes": _shown_passes,
        "tokens per forward": _shown_rate,
        measured: lambda row: _shown(_mean(row["scores"]), binary),
        "95% interval": lambda row: " to ".join(_shown(end, binary) for end in _interval(row["scores"])),
    }
    cells = {head: [column(row) for row in rows] for head, column in columns.items()}
    cells = {head: column for head, column in cells.items() if any(column)}
    for head in dict.fromkeys(head for row in rows for head in row["measures"]):
        cells[head] = [_shown_measure(row["measures"].get(head, "")) for row in rows]
    cells["seconds"] = [f"{row['seconds']:.0f}" for row in rows]
    if reference is not None:
        pairs = [_against(row, _find_reference(rows, row, reference)) for row in rows]
        cells[f"against {reference}"] = [difference for difference, _ in pairs]
        cells["McNemar p" if binary else "95% interval of the difference"] = [sureness for _, sureness in pairs]
    return markdown(list(cells), list(zip(*cells.values(), strict=True)))


def _candidates_table(rows: list[Row], measured: str) -> str:
    """For each row that was tuned, the arguments that were tried on the tuning examples and what came of them."""
    lines = []
    for row in rows:
        if not row["candidates"]:
            continue
        tried = "; ".join(
            f"{describe_arguments(each['arguments'])}: {_shown(each['score'], _is_binary(row))}{_in_brackets(each)}"
            for each in row["candidates"]
        )
        chosen = describe_arguments(row["arguments"])
        lines.append([str(row["budget"]), row["label"], _order(row), _tokens(row), chosen, tried])
    heads = ["budget", "strategy", "order", "tokens", "chosen", f"{measured} on other examples"]
    return markdown(heads, lines) if lines else ""


def _parallelism_table(rows: list[Row], measured: str) -> str:
    """The accuracy under parallelism of each strategy, order and temperature, and what it is the area under."""
    counted = [row for row in rows if row["agrees"] and not math.isnan(_rate(row))]
    curves: dict[tuple, list[Row]] = {}
    for row in sorted(counted, key=_rate):
        curves.setdefault((row["label"], row["order"], row["temperature"]), []).append(row)
    best = max((100 * _mean(row["scores"]) for row in rows), default=0)
    if not all(map(_is_share, rows)) or best == 0 or all(len({*map(_rate, curve)}) < 2 for curve in curves.values()):
        return ""
    lines = []
    for curve in curves.values():
        pairs = [(_rate(row), 100 * _mean(row["scores"])) for row in curve]
        shown = "; ".join(f"{rate:.2f}: {accuracy:.1f}%" for rate, accuracy in pairs)
        area = accuracy_under_parallelism(pairs, best)
        lines.append((area, [curve[0]["label"], _order(curve[0]), _tokens(curve[0]), f"{area:.2f}", shown]))
    heads = ["strategy", "order", "tokens", "AUP", f"tokens per forward: {measured}"]
    return (
        f"The area (d3LLM's) under what is right as tokens per forward rise. The best of all rows is {best:.1f}%. The "
        "slowest row of a strategy counts fully, and those more than 5 points below it not at all.\n\n"
        + markdown(heads, [line for _, line in sorted(lines, key=lambda each: -each[0])])
    )


def markdown(heads: list[str], lines: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in [heads, *lines])
    return "\n".join([first, "|" + "---|" * len(heads), *others]) + "\n"


def _best_first(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -_mean(row["scores"]))


def _split(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Rows that are comparable, and those that are not."""
    return list(filter(is_comparable, rows)), list(filterfalse(is_comparable, rows))


def _reasons(rows: list[Row], budget: int) -> dict[str, list[Row]]:
    over = [row for row in rows if row["forward_passes"] > budget]
    return {
        f"more than {budget} forward passes": over,
        "other than the rest in what all are to agree in": [row for row in rows if row not in over],
    }


def _find_reference(rows: list[Row], row: Row, reference: str) -> Row | None:
    """The row of the reference, among `rows`, that another is set against.

    None for rows of the reference itself, and if none has the same tokens.
    """
    if row["label"] == reference:
        return None
    same = [other for other in rows if other["label"] == reference and other["temperature"] == row["temperature"]]
    return max(same, key=lambda other: (other["order"] == row["order"], _mean(other["scores"])), default=None)


def _against(row: Row, reference: Row | None) -> tuple[str, str]:
    """Two cells: the difference to the reference, and how sure it is."""
    if reference is None:
        return "", ""
    first, second = row["scores"], reference["scores"]
    difference = _mean(first) - _mean(second)
    where = "" if reference["order"] == row["order"] else f", {_order(reference)} order"
    if _is_binary(row):
        only_first, only_second = discordant_pairs(first, second)
        p = mcnemar_test(first, second)
        said = f"{100 * difference:+.1f} ({only_first} : {only_second}){where}"
        return said, f"{p:.3f}" if p >= 0.001 else f"{p:.0e}"
    low, high = paired_bootstrap(first, second)
    return f"{difference:+.3f}{where}", f"{low:+.3f} to {high:+.3f}"


def _in_brackets(candidate: Row) -> str:
    measures = ", ".join(f"{head} {_shown_measure(value)}" for head, value in candidate["measures"].items())
    return f" ({measures})" if measures else ""


def _shown_measure(value: float | str) -> str:
    """Four digits, which shares and perplexities are told in, or the words."""
    return value if isinstance(value, str) else f"{value:#.4g}".rstrip(".")


def _mean(scores: Tensor) -> float:
    return scores.double().mean().item()


def _interval(scores: Tensor) -> tuple[float, float]:
    """95% interval of the mean score: Wilson's where scores are bool, else the bootstrap's."""
    if scores.dtype == torch.bool:
        return wilson_interval(int(scores.sum()), len(scores))
    return bootstrap_interval(scores)


def _is_binary(row: Row) -> bool:
    return row["scores"].dtype == torch.bool


def _is_share(row: Row) -> bool:
    """Whether the scores of a row are shares of what could be right."""
    return bool(((row["scores"] >= 0) & (row["scores"] <= 1)).all())


def _measured(rows: list[Row]) -> str:
    return rows[0].get("measured", "score")


def _shown(score: float, binary: bool) -> str:
    return f"{score:.1%}" if binary else f"{score:.3f}"


def _tokens(row: Row) -> str:
    if "temperature" in row["arguments"]:  # each row has its own
        return "sampled"
    return "greedy" if row["temperature"] == 0 else f"sampled at {row['temperature']:g}"


def _order(row: Row) -> str:
    return row["order"] or "own"


def _threshold(row: Row) -> str:
    """What a position's confidence has to be above, where a step fills all such positions."""
    threshold = row["setting"].get("confidence_threshold")
    return "" if threshold is None else f" > {threshold}"


def _passes(row: Row) -> float:
    """The forward passes of an example: with a threshold, as which examples end early, their mean."""
    return row["mean_forward_passes"] if _threshold(row) else row["forward_passes"]


def _rate(row: Row) -> float:
    return row["tokens_per_forward"]


def _shown_rate(row: Row) -> str:
    return "" if math.isnan(_rate(row)) else f"{_rate(row):.2f}"


def _shown_passes(row: Row) -> str:
    most = str(row["forward_passes"])
    return f"{_passes(row):.1f} (at most {most})" if _threshold(row) else most
