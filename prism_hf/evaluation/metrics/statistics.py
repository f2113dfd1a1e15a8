"""Intervals and paired tests for scores of examples: what a difference between two samplers is worth."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from scipy.stats import binomtest, bootstrap, norm
from torch import Tensor

from prism_hf._deprecation import warn_renamed
from prism_hf.fields import Allowed, Count, Fraction, Positive, Seed, Share, check_arguments, check_value


def wilson_interval(
    successes: Count, trials: Positive, level: Share = 0.95, z: float | None = None
) -> tuple[float, float]:
    """Wilson's score interval for a proportion.

    Args:
        successes (`int`): How many of the trials succeeded.
        trials (`int`): How many there were.
        level (`float`, *optional*, defaults to 0.95): How often the interval is to cover the proportion.
        z (`float`, *optional*): The level in standard errors on either side, for one more version.

    Returns:
        `tuple[float, float]`: The lower and the upper end.

    Example:
        ```python
        >>> wilson_interval(8, 10)
        (0.4901..., 0.9433...)
        ```
    """
    check_arguments(wilson_interval, locals())
    check_value("successes", successes, Annotated[int, Allowed(min=0, max=trials)])
    if z is not None:
        warn_renamed("z of wilson_interval", "level, which 1 - 2 * scipy.stats.norm.sf(z) is")
        level = 1 - 2 * norm.sf(z)
    low, high = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(low), float(high)


def mcnemar_test(first: Tensor, second: Tensor) -> float:
    """McNemar's exact test that both solve as many examples.

    Of the examples that only one of them solves, each is the first's with probability 1/2 under the hypothesis.

    Args:
        first, second (`torch.Tensor` of shape `(N,)`): Whether each solves each of the same examples, bool.

    Returns:
        `float`: The two-sided p-value, 1 where they differ in no example.

    Raises:
        ValueError: if the scores are not bool, or not of as many examples.

    Example:
        ```python
        >>> mcnemar_test(torch.tensor([True] * 6 + [False]), torch.tensor([False] * 6 + [True]))
        0.125
        ```
    """
    only_first, only_second = discordant_pairs(first, second)
    trials = only_first + only_second
    return float(binomtest(only_first, trials).pvalue) if trials else 1.0


def discordant_pairs(first: Tensor, second: Tensor) -> tuple[int, int]:
    """How many examples only the first solves, and how many only the second. first, second: (N,) bool."""
    first, second = _paired(first, second)
    if not first.dtype == second.dtype == torch.bool:
        raise ValueError(f"Solved or not must be bool, got {first.dtype} and {second.dtype}: compare with a threshold.")
    return int((first & ~second).sum()), int((second & ~first).sum())


def bootstrap_interval(
    scores: Tensor, num_resamples: Positive = 10_000, level: Fraction = 0.95, seed: Seed = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean score.

    Args:
        scores (`torch.Tensor` of shape `(N,)`): The score of each example.
        num_resamples (`int`, *optional*, defaults to 10000): How often examples are drawn anew, N of them with
            replacement.
        level (`float`, *optional*, defaults to 0.95): How often the interval is to cover the mean.
        seed (`int`, *optional*, defaults to 0): Of the draws.

    Returns:
        `tuple[float, float]`: The lower and the upper end.

    Raises:
        ValueError: if there are no scores.

    Example:
        ```python
        >>> low, high = bootstrap_interval(torch.tensor([0.1, 0.4, 0.2, 0.9]))
        ```
    """
    check_arguments(bootstrap_interval, locals())
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"Expected one score for each example, (N,) with N > 0, got shape {tuple(scores.shape)}.")
    return _percentiles(np.mean, [scores], num_resamples, level, seed)


def bootstrap_ratio(
    totals: Tensor, numbers: Tensor, num_resamples: Positive = 10_000, level: Fraction = 0.95, seed: Seed = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over parts of examples, such as the cross-entropy of all tokens of texts.

    What is drawn anew is the examples, each with all its parts.

    Args:
        totals (`torch.Tensor` of shape `(N,)`): Of each example the sum over its parts.
        numbers (`torch.Tensor` of shape `(N,)`): The number of its parts.
        num_resamples, level, seed: See `bootstrap_interval`.

    Returns:
        `tuple[float, float]`: The lower and the upper end of sum(totals) / sum(numbers).

    Raises:
        ValueError: if the two are not of as many examples.

    Example:
        ```python
        >>> low, high = bootstrap_ratio(torch.tensor([12.0, 30.0]), torch.tensor([4, 10]))
        ```
    """
    return _percentiles(_ratio, _paired(totals, numbers), num_resamples, level, seed)


def paired_bootstrap_ratio(
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    num_resamples: Positive = 10_000,
    level: Fraction = 0.95,
    seed: Seed = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the difference of two such means over parts of the same examples.

    Args:
        first, second (`tuple[torch.Tensor, torch.Tensor]`): The totals and the numbers of each, see `bootstrap_ratio`.
        num_resamples, level, seed: See `bootstrap_interval`.

    Returns:
        `tuple[float, float]`: The lower and the upper end of the first's less the second's.

    Raises:
        ValueError: if they are not of as many examples.

    Example:
        ```python
        >>> numbers = torch.tensor([4, 4])
        >>> paired_bootstrap_ratio((torch.tensor([8.0, 12.0]), numbers), (torch.tensor([4.0, 8.0]), numbers))
        (1.0, 1.0)
        ```
    """
    _paired(first[0], second[0])
    samples = [*_paired(*first), *_paired(*second)]

    def difference(*drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        return _ratio(drawn[0], drawn[1], axis) - _ratio(drawn[2], drawn[3], axis)

    return _percentiles(difference, samples, num_resamples, level, seed)


def _ratio(totals: np.ndarray, numbers: np.ndarray, axis: int = -1) -> np.ndarray:
    return totals.sum(axis) / numbers.sum(axis)


def _percentiles(
    statistic: Callable[..., Any], samples: Sequence[Tensor], num_resamples: int, level: float, seed: int
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of samples (N,), of which the same examples are drawn."""
    values = [each.detach().double().cpu().numpy() for each in samples]
    if len(values[0]) == 1:  # which scipy refuses
        value = float(statistic(*values, axis=-1))
        return value, value
    low, high = bootstrap(
        values,
        statistic,
        n_resamples=num_resamples,
        batch=500,  # all at once would be num_resamples * N numbers
        paired=len(values) > 1,
        confidence_level=level,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return float(low), float(high)


def paired_bootstrap(
    first: Tensor, second: Tensor, num_resamples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the difference of two mean scores.

    Pairs stay together when examples are drawn, so what makes an example hard cancels out.

    Args:
        first, second (`torch.Tensor` of shape `(N,)`): The scores of the same examples.
        num_resamples (`int`, *optional*, defaults to 10000): See `bootstrap_interval`, as for what follows.
        level (`float`, *optional*, defaults to 0.95): How often the interval is to cover the difference.
        seed (`int`, *optional*, defaults to 0): Of the draws.

    Returns:
        `tuple[float, float]`: The lower and the upper end of mean(first) - mean(second).

    Raises:
        ValueError: if the scores are not of as many examples.

    Example:
        ```python
        >>> low, high = paired_bootstrap(torch.tensor([0.5, 0.8, 0.3]), torch.tensor([0.4, 0.6, 0.3]))
        ```
    """
    first, second = _paired(first, second)
    return bootstrap_interval(first.double() - second.double(), num_resamples, level, seed)


def _paired(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    check_arguments(_paired, locals())
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"Expected two scores for each example, (N,) and (N,); got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    return first, second
