"""Accuracy under parallelism, against published values and worked sums."""

import math

import pytest

from prism_hf.evaluation import accuracy_under_parallelism

BEST = 74.98
PUBLISHED = {
    637.65: [(1, 74.02), (9.11, 73.09)],
    205.78: [(1, 74.79), (2.77, 74.68)],
    213.76: [(1, 74.98), (2.88, 74.39)],
    358.14: [(1, 74.00), (5.14, 72.63)],
    72.55: [(1, 72.55)],
}


@pytest.mark.parametrize("expected", PUBLISHED)
def test_published_values(expected):
    assert accuracy_under_parallelism(PUBLISHED[expected], BEST) == pytest.approx(expected, abs=0.006)


def test_what_fell_by_more_than_five_points_is_left_out_and_order_does_not_matter():
    pairs = [(1, 70.0), (4, 66.0), (8, 64.9)]
    lost = 66 * math.exp(-3 * (1 - 66 / 70))
    assert accuracy_under_parallelism(pairs) == pytest.approx(70 + 3 * (70 + lost) / 2)
    assert accuracy_under_parallelism(pairs[::-1]) == accuracy_under_parallelism(pairs[:2])
    # Above the best accuracy of all methods that was given, nothing counts more than fully.
    assert accuracy_under_parallelism([(2, 50.0), (3, 60.0)], 40.0) == 2 * 50 + (50 + 60) / 2


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "give at least one"), ([(0, 50)], "tokens per forward=0"), ([(1, 101)], "accuracy=101"), ([(1, 0)], "right")],
)
def test_what_is_no_curve_is_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        accuracy_under_parallelism(pairs)
