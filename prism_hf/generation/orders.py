"""Unmasking orders: which masked positions are filled first.

An order is a function ``(probs, generator=None) -> score``. ``probs`` (B, L, V) is the untruncated posterior, with the
mask token excluded; ``score`` (B, L) is any real number, and masked positions are filled from the highest score down
(equal scores: leftmost first). Scores at positions that are not masked are ignored.
"""

import torch

from .sampling import uniform


def random_order(probs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Uniformly random positions (ancestral sampling of a masked diffusion model). (B, L, V) -> (B, L)."""
    return uniform(probs.shape[:2], probs.device, generator)


def confidence_order(probs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Probability of the likeliest token (LLaDA, arXiv 2502.09992). (B, L, V) -> (B, L) in [0, 1]."""
    return probs.amax(-1)


def margin_order(probs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Probability of the likeliest token minus that of the second. (B, L, V) -> (B, L) in [0, 1]."""
    first, second = probs.topk(2, dim=-1).values.unbind(-1)
    return first - second


def entropy_order(probs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Negative entropy of the posterior, in nats. (B, L, V) -> (B, L), at most 0."""
    return -torch.special.entr(probs).sum(-1)


def left_to_right_order(probs: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Leftmost masked position first. (B, L, V) -> (B, L)."""
    batch, length = probs.shape[:2]
    return -torch.arange(length, device=probs.device, dtype=torch.float32).expand(batch, length)


ORDERS = {
    "random": random_order,
    "confidence": confidence_order,
    "margin": margin_order,
    "entropy": entropy_order,
    "left_to_right": left_to_right_order,
}
