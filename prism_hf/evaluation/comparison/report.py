"""The tables and the picture of results. Rows that made more forward passes than others are kept apart."""

from collections.abc import Callable, Iterable, Sequence
from itertools import filterfalse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_hf.evaluation.metrics.statistics import (
    bootstrap_interval,
    discordant_pairs,
    mcnemar_test,
    paired_bootstrap,
    wilson_interval,
)

from .matching import is_comparable
from .plots import Point, plot_against_passes
from .settings import describe_arguments

Row = dict[str, Any]


def comparison_table(rows: list[Row], measured: str | None = None, reference: str = "prism") -> str:
    """Rows of `compare` as Markdown: for each budget a table, best first, and what is not comparable apart.

    Each is set against a row of the strategy `reference` with the same tokens and the same order, or, if there is none,
    the best of those with the same tokens: by McNemar's exact test where scores are bool, else by a paired bootstrap.

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
    candidates = _candidates_table(rows, measured)
    return "\n".join([*parts, *([f"## What the arguments were chosen from\n\n{candidates}"] if candidates else [])])


def plot_comparison(
    path: str | Path, rows: list[Row], measured: str | None = None, reference: str | None = "prism"
) -> None:
    """Save a plot of the rows that keep to their budgets: scores with 95% intervals against forward passes.

    A panel holds an order with its tokens, and the strategies that have an order of their own.

    Args:
        path (`str` or `Path`): The image, whose suffix gives its format.
        rows (`list[dict]`): What `compare` or `evaluate` returns.
        measured (`str`, *optional*): What the axis of scores is called, by default what the task measures.
        reference (`str`, *optional*, defaults to `"prism"`): The label whose line is thick.

    Example:
        ```python
        plot_comparison("results.png", compare(model, task, points, "results.jsonl"))
        ```
    """
    within, _ = _split(rows)
    points = []
    for row in sorted(within, key=lambda row: row["order"] is None):
        others = [other for other in within if other["temperature"] == row["temperature"] and other["order"]]
        beside = dict.fromkeys(map(_order, others)) if row["order"] is None else {}
        low, high = _interval(row["scores"])
        for order in beside or [_order(row)]:
            panel = f"{order} order, {_tokens(row)}"
            points.append(Point(panel, row["label"], _passes(row), _mean(row["scores"]), low, high))
    percent = all(_is_binary(row) for row in within)
    plot_against_passes(path, points, measured or _measured(rows), percent, emphasised=reference)


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


def _shown_passes(row: Row) -> str:
    most = str(row["forward_passes"])
    return f"{_passes(row):.1f} (at most {most})" if _threshold(row) else most
