"""Does the quality head rank and calibrate: is a token trusted with probability p right a share p of the time?

Not torchmetrics, whose AUROC takes scores outside of [0, 1] for logits, so that those that its sigmoid makes equal tie,
and is 0 where there is one class only; and whose calibration error has bins that are closed on the left, with a bin of
its own for a probability of exactly 1, as a sure head gives it.
"""

import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from prism_hf.fields import Positive, check_arguments


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: how often a positive outscores a negative, ties counting half.

    Args:
        scores (`torch.Tensor` of any shape): Real numbers.
        labels (`torch.Tensor` of the same number of elements): 0 or 1.

    Returns:
        `float`: The area, NaN where there is one class only.

    Raises:
        ValueError: if a label is neither 0 nor 1, a score is NaN, or there are more of the ones than of the others.

    Example:
        ```python
        >>> auroc(torch.tensor([0.9, 0.6, 0.7]), torch.tensor([1, 0, 1]))
        1.0
        ```
    """
    scores, labels = _checked(scores, labels)
    positives, negatives = scores[labels == 1].numpy(), scores[labels == 0].numpy()
    if not len(positives) or not len(negatives):
        return float("nan")
    wins = mannwhitneyu(positives, negatives, method="asymptotic").statistic
    return float(wins / (len(positives) * len(negatives)))


def reliability_bins(probabilities: Tensor, labels: Tensor, num_bins: Positive = 15) -> dict[str, Tensor]:
    """Equal-width bins of [0, 1], each closed on the right (the first on both sides), as in Guo et al. (1706.04599).

    Args:
        probabilities (`torch.Tensor` of any shape): In [0, 1].
        labels (`torch.Tensor` of the same number of elements): 0 or 1.
        num_bins (`int`, *optional*, defaults to 15): How many bins.

    Returns:
        `dict[str, torch.Tensor]`: `edges` (num_bins + 1,), and for each bin (num_bins,) its `count`, `confidence` (mean
        probability) and `accuracy` (mean label), both NaN where the bin is empty.

    Raises:
        ValueError: if there are no probabilities, or one is not in [0, 1].

    Example:
        ```python
        >>> bins = reliability_bins(torch.tensor([0.9, 0.8, 0.2]), torch.tensor([1, 1, 0]), num_bins=2)
        >>> bins["accuracy"]
        tensor([0., 1.], dtype=torch.float64)
        ```
    """
    check_arguments(reliability_bins, locals())
    probabilities, labels = _checked_probabilities(probabilities, labels)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    bin_index = torch.bucketize(probabilities, edges[1:-1])
    count = torch.bincount(bin_index, minlength=num_bins)
    return {
        "edges": edges,
        "count": count,
        "confidence": torch.bincount(bin_index, weights=probabilities, minlength=num_bins) / count,
        "accuracy": torch.bincount(bin_index, weights=labels, minlength=num_bins) / count,
    }


def expected_calibration_error(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Mean over samples of |accuracy - confidence| of the sample's bin.

    Args:
        probabilities, labels (`torch.Tensor`): See `reliability_bins`.
        num_bins (`int`, *optional*, defaults to 15): How many bins.

    Returns:
        `float`: The error, in [0, 1].

    Example:
        ```python
        >>> expected_calibration_error(torch.full((4,), 0.75), torch.tensor([1, 0, 0, 0]))
        0.5
        ```
    """
    bins = reliability_bins(probabilities, labels, num_bins)
    gap = (bins["accuracy"] - bins["confidence"]).abs().nan_to_num(0.0)
    return ((gap * bins["count"]).sum() / bins["count"].sum()).item()


def _checked(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_arguments(_checked, locals())
    scores, labels = scores.detach().flatten().double().cpu(), labels.detach().flatten().double().cpu()
    if scores.shape != labels.shape:
        raise ValueError(f"Expected one label for each score, got {len(scores)} scores and {len(labels)} labels.")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"Labels must be 0 or 1, got values from {labels.min()} to {labels.max()}.")
    if scores.isnan().any():
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are nan; drop those positions first.")
    return scores, labels


def _checked_probabilities(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    probabilities, labels = _checked(probabilities, labels)
    if len(probabilities) == 0:
        raise ValueError("There are no probabilities to bin; expected at least one.")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError(
            f"Probabilities must lie in [0, 1], got {probabilities.min()} to {probabilities.max()}; "
            "apply sigmoid to logits first."
        )
    return probabilities, labels
