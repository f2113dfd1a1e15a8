"""Unmasking orders: which masked positions are filled first.

Masked positions are filled from the highest score down (equal scores: leftmost first). An order that reads the
posterior is a function ``(probs (B, W, V)) -> score (B, W)``: the LM head then runs at the W masked positions of the
block. `probs` is the posterior before any nucleus, with the mask token excluded. The others are functions
``(shape (B, L), device, generator) -> score (B, L)``, and the LM head runs only where something is filled.
"""

from collections.abc import Callable, Sequence

import torch


def uniform(
    shape: Sequence[int],
    device: torch.device,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Uniform numbers in [0, 1) on `device`, drawn on the generator's own device, so a CPU one serves a GPU."""
    source = device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source, dtype=dtype).to(device)


def confidence_order(probs: torch.Tensor) -> torch.Tensor:
    """Probability of the likeliest token (LLaDA, arXiv 2502.09992). (B, W, V) -> (B, W) in [0, 1]."""
    return probs.amax(-1)


def margin_order(probs: torch.Tensor) -> torch.Tensor:
    """Probability of the likeliest token minus that of the second. (B, W, V) -> (B, W) in [0, 1]."""
    first, second = probs.topk(2, dim=-1).values.unbind(-1)
    return first - second


def entropy_order(probs: torch.Tensor) -> torch.Tensor:
    """Negative entropy of the posterior, in nats. (B, W, V) -> (B, W), at most 0."""
    return -torch.special.entr(probs).sum(-1)


def score_by(order: Callable, logits: torch.Tensor, last: Sequence[int] = ()) -> torch.Tensor:
    """The score (...) of positions by an order that reads the posterior, from their logits (..., V).

    Positions whose likeliest token is among `last` get minus infinity, and the others are scored without these tokens,
    as LLaDA has it (`confidence_eos_eot_inf`).
    """
    if not last:
        return order(logits.softmax(-1))
    likeliest, others = logits.argmax(-1), logits.clone()
    comes_last = torch.zeros_like(likeliest, dtype=torch.bool)
    for token in last:
        others[..., token] = -torch.inf
        comes_last = comes_last | (likeliest == token)
    return order(others.softmax(-1)).masked_fill(comes_last, -torch.inf)


def random_order(shape: torch.Size, device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Uniformly random positions (ancestral sampling of a masked diffusion model). Score (B, L) in [0, 1)."""
    return uniform(shape, device, generator)


def left_to_right_order(
    shape: torch.Size, device: torch.device, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Leftmost masked position first. Score (B, L), at most 0."""
    return -torch.arange(shape[1], device=device, dtype=torch.float32).expand(shape)


POSTERIOR_ORDERS = {"confidence": confidence_order, "margin": margin_order, "entropy": entropy_order}

BLIND_ORDERS = {"random": random_order, "left_to_right": left_to_right_order}

ORDERS = POSTERIOR_ORDERS | BLIND_ORDERS
