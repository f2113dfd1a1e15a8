"""Does the quality head rank and calibrate: is a token trusted with probability p right a share p of the time?"""

from pathlib import Path

import torch
from torch import Tensor

from prism_hf.fields import Positive, check_arguments


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


def auroc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve: how often a positive outscores a negative, ties counting half (Mann-Whitney U).

    scores: any shape, any real numbers; labels: as many, 0 or 1. Nan when there is one class only.
    """
    scores, labels = _checked(scores, labels)
    positives, negatives = labels.sum(), (1 - labels).sum()
    if positives == 0 or negatives == 0:
        return float("nan")
    _, group, size = scores.unique(return_inverse=True, return_counts=True)
    mean_rank = size.cumsum(0) - (size - 1) / 2.0
    rank_sum = (mean_rank.double()[group] * labels).sum()
    return ((rank_sum - positives * (positives + 1) / 2) / (positives * negatives)).item()


def reliability_bins(probabilities: Tensor, labels: Tensor, num_bins: Positive = 15) -> dict[str, Tensor]:
    """Equal-width bins of [0, 1], each closed on the right (the first on both sides), as in Guo et al. (1706.04599).

    probabilities: any shape, in [0, 1]; labels: as many, 0 or 1. Returns ``edges`` (num_bins + 1,), ``count``,
    ``confidence`` (mean probability) and ``accuracy`` (mean label), each (num_bins,); nan means for an empty bin.
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
    """Mean over samples of |accuracy - confidence| of the sample's bin (see `reliability_bins`), in [0, 1]."""
    bins = reliability_bins(probabilities, labels, num_bins)
    gap = (bins["accuracy"] - bins["confidence"]).abs().nan_to_num(0.0)
    return ((gap * bins["count"]).sum() / bins["count"].sum()).item()


def plot_reliability(path: str | Path, probabilities: Tensor, labels: Tensor) -> None:
    """Save a reliability diagram: accuracy against confidence in 15 bins, and how many samples each bin holds.

    The suffix of ``path`` gives the image format. Needs matplotlib.
    """
    from matplotlib.figure import Figure

    bins = reliability_bins(probabilities, labels)
    left, width = bins["edges"][:-1].numpy(), 1 / len(bins["count"])
    figure = Figure(figsize=(4.5, 5.5), layout="constrained")
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    diagram.bar(left, bins["accuracy"].nan_to_num(0.0).numpy(), width, align="edge", color="C0", edgecolor="white")
    diagram.plot(bins["confidence"].numpy(), bins["accuracy"].numpy(), "o", color="C1", label="bin means")
    diagram.plot([0, 1], [0, 1], "--", color="black", label="calibrated")
    ece, area = expected_calibration_error(probabilities, labels), auroc(probabilities, labels)
    diagram.set(ylabel="share correct", xlim=(0, 1), ylim=(0, 1), title=f"ECE {ece:.3f}, AUROC {area:.3f}")
    diagram.legend(loc="upper left")
    histogram.bar(left, bins["count"].numpy(), width, align="edge", color="C0", edgecolor="white")
    histogram.set(xlabel="predicted probability of being correct", ylabel="samples")
    figure.savefig(path)
