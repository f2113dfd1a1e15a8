"""The tables and the picture of a comparison. Rows that made more forward passes than others are kept apart."""

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

from .plots import plot_against_passes
from .settings import describe_arguments


def comparison_table(rows: list[dict[str, Any]], measured: str = "score", reference: str = "prism") -> str:
    """The rows of `compare` as Markdown: for each budget a table, best first, and what does not keep to it apart.

    Each row is set against one of the strategy `reference`, see `find_reference`: by McNemar's exact test where scores
    are bool, else by a paired bootstrap. `measured` heads the column of scores, which the task's `measures` follow.
    """
    parts = []
    for budget in sorted({row["budget"] for row in rows}):
        within, over = split_by_budget([row for row in rows if row["budget"] == budget])
        parts.append(f"## {budget} forward passes\n\n{one_table(within, measured, reference)}")
        if over:
            parts.append(
                f"### Not comparable: more than {budget} forward passes\n\n"
                "These made more forward passes than the others were allowed: they are in no test and no plot.\n\n"
                + one_table(over, measured, reference=None)
            )
    candidates = candidates_table(rows, measured)
    return "\n".join([*parts, *([f"## What the arguments were chosen from\n\n{candidates}"] if candidates else [])])


def split_by_budget(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows that made no more forward passes than their budget, and those that did."""
    within = [row for row in rows if row["forward_passes"] <= row["budget"]]
    return within, [row for row in rows if row["forward_passes"] > row["budget"]]


def one_table(rows: list[dict[str, Any]], measured: str, reference: str | None) -> str:
    if not rows:
        return "None.\n"
    binary = rows[0]["scores"].dtype == torch.bool
    measures = list(rows[0].get("measures", {}))
    heads = ["strategy", "arguments", "order", "tokens", "forward passes", measured, "95% interval"]
    heads += [*measures, "seconds"]
    if reference is not None:
        heads += [f"against {reference}", "McNemar p" if binary else "95% interval of the difference"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for row in sorted(rows, key=lambda row: -mean(row["scores"])):
        low, high = interval(row["scores"])
        cells = [
            row["label"], describe_arguments(row["arguments"]), order_of(row), tokens_of(row), row["forward_passes"],
            shown(mean(row["scores"]), binary), f"{shown(low, binary)} to {shown(high, binary)}",
            *(shown_measure(row["measures"][head]) for head in measures), f"{row['seconds']:.0f}",
        ]  # fmt: skip
        if reference is not None:
            cells += against(row, find_reference(rows, row, reference))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def find_reference(rows: list[dict[str, Any]], row: dict[str, Any], reference: str) -> dict[str, Any] | None:
    """The row of the reference, among `rows`, that another is set against.

    It has the same tokens and the same order; if there is none, the best of those with the same tokens. None for rows
    of the reference itself, and if nothing is left.
    """
    if row["label"] == reference:
        return None
    same = [other for other in rows if other["label"] == reference and other["temperature"] == row["temperature"]]
    return max(same, key=lambda other: (other["order"] == row["order"], mean(other["scores"])), default=None)


def against(row: dict[str, Any], reference: dict[str, Any] | None) -> list[str]:
    """Two cells: the difference to the reference, and how sure it is."""
    if reference is None:
        return ["", ""]
    first, second = row["scores"], reference["scores"]
    difference = mean(first) - mean(second)
    where = "" if reference["order"] == row["order"] else f", {order_of(reference)} order"
    if first.dtype == torch.bool:
        only_first, only_second = discordant_pairs(first, second)
        p = mcnemar_test(first, second)
        return [
            f"{100 * difference:+.1f} ({only_first} : {only_second}){where}",
            f"{p:.3f}" if p >= 0.001 else f"{p:.0e}",
        ]
    low, high = paired_bootstrap(first, second)
    return [f"{difference:+.3f}{where}", f"{low:+.3f} to {high:+.3f}"]


def candidates_table(rows: list[dict[str, Any]], measured: str) -> str:
    """For each row that was tuned, the arguments that were tried on the tuning examples and what came of them."""
    lines = []
    for row in rows:
        if not row["candidates"]:
            continue
        binary = row["scores"].dtype == torch.bool
        tried = "; ".join(
            f"{describe_arguments(each['arguments'])}: {shown(each['score'], binary)}{in_brackets(each)}"
            for each in row["candidates"]
        )
        chosen = describe_arguments(row["arguments"])
        lines.append(f"| {row['budget']} | {row['label']} | {order_of(row)} | {tokens_of(row)} | {chosen} | {tried} |")
    if not lines:
        return ""
    heads = (
        f"| budget | strategy | order | tokens | chosen | {measured} on other examples |\n|---|---|---|---|---|---|\n"
    )
    return heads + "\n".join(lines) + "\n"


def in_brackets(candidate: dict[str, Any]) -> str:
    measures = ", ".join(f"{head} {shown_measure(value)}" for head, value in candidate.get("measures", {}).items())
    return f" ({measures})" if measures else ""


def shown_measure(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def plot_comparison(
    path: str | Path, rows: list[dict[str, Any]], measured: str = "score", reference: str = "prism"
) -> None:
    """Save a plot of the rows of `compare` that keep to their budgets: scores with 95% intervals against forwards.

    A panel holds an order with its tokens, and the strategies that have an order of their own.
    """
    within, _ = split_by_budget(rows)
    points = []
    for row in sorted(within, key=lambda row: row["order"] is None):
        others = [other for other in within if other["temperature"] == row["temperature"] and other["order"]]
        beside = dict.fromkeys(map(order_of, others)) if row["order"] is None else {}
        low, high = interval(row["scores"])
        for order in beside or [order_of(row)]:
            points.append(
                {
                    "panel": f"{order} order, {tokens_of(row)}",
                    "label": row["label"],
                    "passes": row["forward_passes"],
                    "mean": mean(row["scores"]),
                    "low": low,
                    "high": high,
                }
            )
    binary = all(row["scores"].dtype == torch.bool for row in within)
    plot_against_passes(path, points, measured, percent=binary, emphasised=reference)


def mean(scores: Tensor) -> float:
    return scores.double().mean().item()


def interval(scores: Tensor) -> tuple[float, float]:
    """95% interval of the mean score: Wilson's where scores are bool, else the bootstrap's."""
    if scores.dtype == torch.bool:
        return wilson_interval(int(scores.sum()), len(scores))
    return bootstrap_interval(scores)


def shown(score: float, binary: bool) -> str:
    return f"{score:.1%}" if binary else f"{score:.3f}"


def tokens_of(row: dict[str, Any]) -> str:
    return "greedy" if row["temperature"] == 0 else f"sampled at {row['temperature']:g}"


def order_of(row: dict[str, Any]) -> str:
    return row["order"] or "own"
