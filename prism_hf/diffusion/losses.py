"""Training losses and their published normalisers."""

import torch
import torch.nn.functional as F

NORMALIZERS = ("sequence", "masked")


def unmasking_loss(
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    denominator: torch.Tensor | float,
) -> torch.Tensor:
    """MDM loss: `sum over masked of w CE / denominator`, with `w = -alpha'(t) / (1 - alpha(t))`, 1/t when linear.

    The two normalisers in use: weights `1/t` with denominator `B * L` (MDLM, PRISM; LLaDA fine-tunes with the target
    length for L), an unbiased bound on the negative log-likelihood; or no weights with the number of masked
    positions, the plain mean, which has less variance on small models.

    Args:
        logits: (N, V) at masked positions.
        targets: (N,) clean tokens.
        weights: (N,) or None.
    """
    loss = F.cross_entropy(logits.float(), targets, reduction="none")
    if weights is not None:
        loss = loss * weights
    return loss.sum() / denominator


def quality_loss(quality_logits: torch.Tensor, correct: torch.Tensor, denominator: torch.Tensor | float):
    """Binary cross-entropy at the filled positions; its minimiser is `Pr[x_i = y_i | y with i masked]` (PRISM, eq. 5).

    Args:
        quality_logits: (N,) at the filled positions.
        correct: (N,) bool, `y_i = x_i`.
        denominator: the number of filled positions, or `B * K`.
    """
    loss = F.binary_cross_entropy_with_logits(quality_logits.float(), correct.float(), reduction="sum")
    return loss / denominator
