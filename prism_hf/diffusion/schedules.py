"""Noise schedules: the probability `alpha(t)` that a token is still clean at time `t` in [0, 1]."""

import math

import torch

GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def linear_alpha(t: torch.Tensor) -> torch.Tensor:
    """`1 - t` (MDLM, arXiv 2406.07524)."""
    return 1 - t


def linear_alpha_derivative(t: torch.Tensor) -> torch.Tensor:
    """`-1`."""
    return -torch.ones_like(t)


def cosine_alpha(t: torch.Tensor) -> torch.Tensor:
    """`1 - cos(pi/2 (1 - t))`, which stays noisy for longer than the linear schedule (MaskGIT, arXiv 2202.04200)."""
    return 1 - torch.cos(math.pi / 2 * (1 - t))


def cosine_alpha_derivative(t: torch.Tensor) -> torch.Tensor:
    """`-pi/2 sin(pi/2 (1 - t))`."""
    return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))


SCHEDULES = {
    "linear": (linear_alpha, linear_alpha_derivative),
    "cosine": (cosine_alpha, cosine_alpha_derivative),
}


def antithetic_timesteps(
    uniform: torch.Tensor, rows: torch.Tensor, num_rows: int | None, earliest: float = 1e-3, latest: float = 1.0
) -> torch.Tensor:
    """One timestep a row: `t_b = earliest + (latest - earliest) ((u + b/n) mod 1)` for row b of n.

    Each `t_b` is uniform by itself, whatever n, and each of n equal intervals holds one, so the loss varies less than
    with independent draws (MDLM, arXiv 2406.07524, section 3.3).

    Args:
        uniform (`torch.Tensor` of shape `(1,)`): One uniform draw u in [0, 1) for all n rows.
        rows (`torch.Tensor` of shape `(B,)`): Numbers b of these rows among the n.
        num_rows (`int`, *optional*): n. Where nobody knows it, multiples of the golden ratio take the place of b/n, of
            which any first n are spread almost as evenly.
        earliest, latest (`float`, *optional*, default to 1e-3 and 1.0): The interval of the timesteps.

    Returns:
        (B,) float64 in [earliest, latest).
    """
    shift = rows.double() * GOLDEN_RATIO if num_rows is None else rows.double() / num_rows
    return earliest + (latest - earliest) * ((uniform + shift) % 1)
