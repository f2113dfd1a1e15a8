"""Intervals and paired tests for scores of examples: what a difference between two samplers is worth."""

import math
from typing import Annotated

import torch
from torch import Tensor

from prism_hf.fields import Allowed, Count, Fraction, Positive, Seed, check_arguments, check_value


def wilson_interval(successes: Count, trials: Positive, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion (95% by default): (low, high)."""
    check_arguments(wilson_interval, locals())
    check_value("successes", successes, Annotated[int, Allowed(min=0, max=trials)])
    rate, shrink = successes / trials, 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _paired(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    check_arguments(_paired, locals())
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"Expected two scores for each example, (N,) and (N,); got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    return first, second


def discordant_pairs(first: Tensor, second: Tensor) -> tuple[int, int]:
    """How many examples only the first solves, and how many only the second. first, second: (N,) bool."""
    first, second = _paired(first, second)
    if not first.dtype == second.dtype == torch.bool:
        raise ValueError(f"Solved or not must be bool, got {first.dtype} and {second.dtype}: compare with a threshold.")
    return int((first & ~second).sum()), int((second & ~first).sum())


def mcnemar_test(first: Tensor, second: Tensor) -> float:
    """Two-sided p-value of McNemar's exact test that both solve as many. first, second: (N,) bool, same examples.

    Of the examples that only one of them solves, each is the first's with probability 1/2 under the hypothesis.
    """
    only_first, only_second = discordant_pairs(first, second)
    trials = only_first + only_second
    tail = sum(math.comb(trials, count) for count in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**trials)


def bootstrap_interval(
    scores: Tensor, num_resamples: Positive = 10_000, level: Fraction = 0.95, seed: Seed = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of scores (N,): (low, high)."""
    check_arguments(bootstrap_interval, locals())
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"Expected one score for each example, (N,) with N > 0, got shape {tuple(scores.shape)}.")
    scores, generator = scores.detach().double().cpu(), torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, num_resamples, 500):  # all at once would be num_resamples * N numbers
        shape = (min(500, num_resamples - start), len(scores))
        means.append(scores[torch.randint(len(scores), shape, generator=generator)].mean(-1))
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.cat(means).quantile(tails).tolist()
    return low, high


def paired_bootstrap(
    first: Tensor, second: Tensor, num_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of mean(first) - mean(second), resampling examples: (low, high).

    first, second: (N,) scores of the same examples. Pairs stay together, so what makes an example hard cancels out.
    """
    first, second = _paired(first, second)
    return bootstrap_interval(first.double() - second.double(), num_resamples, level, seed)
