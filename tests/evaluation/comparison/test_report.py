"""Tables and pictures of rows that are made up."""

import math

import pytest
import torch
from scipy.stats import binomtest

from prism_hf.evaluation import comparison_table, plot_comparison


def row(label, scores, budget=10, passes=10, order="random", **more):
    return {
        "label": label,
        "order": order,
        "temperature": 1.0,
        "budget": budget,
        "arguments": {"num_remask": 2},
        "forward_passes": passes,
        "seconds": 3.2,
        "scores": scores,
        "agrees": True,
        "candidates": [],
        "measures": {},
        "setting": {},
        "tokens_per_forward": math.nan,
    } | more


def solved(count, total=40):
    return torch.arange(total) < count


def test_rows_that_made_more_forward_passes_are_apart(tmp_path):
    rows = [
        row("none", solved(10)),
        row("prism", solved(20)),
        row("wino", solved(35), passes=11),
        row("p2", solved(25), passes=7),
        row("p2", solved(30), budget=20, passes=20),
        row("random", solved(0, 5), budget=20, passes=20),  # whose interval begins a rounding error above 0
    ]
    first, second = comparison_table(rows, "solved").split("## 20 forward passes")
    equal, apart = first.split("### Not comparable: more than 10 forward passes")
    assert [line.split("|")[1].strip() for line in equal.splitlines()[4:-1]] == ["p2", "prism", "none"]
    assert "| p2 | num_remask=2 | random | sampled at 1 | 7 | 62.5% |" in equal and "wino" not in equal
    assert "| wino | num_remask=2 | random | sampled at 1 | 11 | 87.5% |" in apart and "McNemar" not in apart
    assert "p2" in second and "Not comparable" not in second
    plot_comparison(tmp_path / "comparison.png", rows, "solved")
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_reference_that_is_apart_is_no_reference():
    table = comparison_table([row("none", solved(10)), row("prism", solved(20), passes=12)], "solved")
    assert "| none | num_remask=2 | random | sampled at 1 | 10 | 25.0% | 14.2% to 40.2% | 3 |  |  |" in table


def test_the_reference_is_that_of_the_same_order_and_examples():
    rows = [
        row("none", solved(10)),
        row("prism", solved(19)),
        row("none", solved(30), order="margin"),
        row("prism", solved(40).roll(2), order="margin"),
    ]
    table = comparison_table(rows, "solved")
    p = binomtest(0, 9, 0.5).pvalue
    assert f"| -22.5 (0 : 9) | {p:.3f} |" in table
    assert "| -25.0 (0 : 10) | 0.002 |" in table
    table = comparison_table([*rows, row("wino", solved(40), order=None)], "solved")
    assert "| wino | num_remask=2 | own | sampled at 1 | 10 | 100.0% |" in table
    assert "| +0.0 (0 : 0), margin order | 1.000 |" in table


def test_scores_that_are_no_successes_get_a_bootstrap(tmp_path):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(50, generator=generator, dtype=torch.float64)
    rows = [row("prism", base), row("none", base - 0.5 + 0.1 * torch.rand(50, generator=generator))]
    table = comparison_table(rows, "log-likelihood")
    assert "95% interval of the difference" in table and "McNemar" not in table
    low, high = table.splitlines()[5].split("|")[-2].split(" to ")
    assert -0.5 < float(low) < float(high) < -0.4
    plot_comparison(tmp_path / "comparison.png", rows)


def test_accuracy_under_parallelism_is_the_published_one(tmp_path):
    published = {  # of GSM8K, where 74.98% is the best of all
        "d3LLM": (637.65, [(1, 7402), (9.11, 7309)]),
        "dParallel": (358.14, [(1, 7400), (5.14, 7263)]),
        "D2F": (213.76, [(1, 7498), (2.88, 7439)]),
        "Fast-dLLM": (205.78, [(1, 7479), (2.77, 7468)]),
        "LLaDA": (72.55, [(1, 7255)]),
    }
    rows = [
        row(label, solved(right, 10000), tokens_per_forward=rate)
        for label, (_, pairs) in published.items()
        for rate, right in pairs
    ]
    table = comparison_table(rows[::-1], "solved", "LLaDA").split("## Accuracy under parallelism")[1]
    assert "best of all rows is 75.0%" in table
    cells = [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if line.startswith("| ")][1:]
    assert [each[1] for each in cells] == list(published)
    for each in cells:
        assert float(each[4]) == pytest.approx(published[each[1]][0], abs=0.011)
    assert cells[0][5] == "1.00: 74.0%; 9.11: 73.1%"
    plot_comparison(tmp_path / "parallelism.png", rows, "solved", "d3LLM", against="tokens per forward")
    assert (tmp_path / "parallelism.png").read_bytes().startswith(b"\x89PNG")


def test_no_area_where_nothing_is_right_or_scores_are_no_shares():
    for scores in (solved(0), -torch.rand(40)):
        rows = [row("prism", scores, tokens_per_forward=rate) for rate in (1.0, 4.0)]
        assert "Accuracy under parallelism" not in comparison_table(rows, "solved")
