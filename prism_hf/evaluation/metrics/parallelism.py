"""Accuracy of a decoding that fills several tokens a forward, against how many it fills.

AUP and its weight are d3LLM's (arXiv 2601.07568), and so is what counts as a token: one of the answer after it was cut
at the strings that end it, EOS not counted. The forwards of correctors count.
"""

import math
from collections.abc import Sequence
from typing import Annotated

from prism_hf.fields import Allowed, check_value

MOST_LOST = 5.0  # percentage points below the slowest setting, from where on a pair is left out
STEEPNESS = 3.0

Rate = Annotated[float, Allowed(above=0)]
Percent = Annotated[float, Allowed(min=0, max=100)]
BestPercent = Annotated[float, Allowed(above=0, max=100, remedy="Without a right answer there is no curve.")]


def accuracy_under_parallelism(pairs: Sequence[tuple[float, float]], best_accuracy: float | None = None) -> float:
    """AUP of a method on a task: the area under its accuracy as tokens per forward rise, less where accuracy falls.

    The slowest setting counts fully, so that a method without parallelism (one token a forward) scores its accuracy.
    From there on, an accuracy y is weighted by `min(exp(-3 (1 - y / best_accuracy)), 1)`, and the area is that of
    trapezoids. Settings more than 5 points below the slowest are left out.

    Args:
        pairs (`Sequence[tuple[float, float]]`): Tokens per forward and accuracy in percent of each setting.
        best_accuracy (`float`, *optional*, defaults to that of the pairs): The best accuracy in percent of *any* method
            on the task, autoregressive ones included.

    Raises:
        ValueError: without a pair, or for numbers that are none of such.

    Example:
        ```python
        area = accuracy_under_parallelism([(1, 74.02), (9.11, 73.09)], best_accuracy=74.98)
        ```
    """
    if not pairs:
        raise ValueError("There is no pair of tokens per forward and accuracy: give at least one.")
    for rate, accuracy in pairs:
        check_value("tokens per forward", rate, Rate)
        check_value("accuracy", accuracy, Percent)
    ordered = sorted(pairs)
    kept = [pair for pair in ordered if pair[1] >= ordered[0][1] - MOST_LOST]
    best = max(accuracy for _, accuracy in kept) if best_accuracy is None else best_accuracy
    check_value("best_accuracy", best, BestPercent)
    weighted = [(rate, y * min(math.exp(-STEEPNESS * (1 - y / best)), 1.0)) for rate, y in kept]
    area = kept[0][0] * kept[0][1]
    for (before, low), (after, high) in zip(weighted, weighted[1:], strict=False):
        area += (after - before) * (low + high) / 2
    return area
