"""Noise schedules: the probability `alpha(t)` that a token is still clean at time `t` in [0, 1]."""

import math

import torch


def linear_alpha(t: torch.Tensor) -> torch.Tensor:
    """`1 - t` (MDLM, arXiv 2406.07524)."""
    return 1 - t


def linear_alpha_derivative(t: torch.Tensor) -> torch.Tensor:
    return -torch.ones_like(t)


def cosine_alpha(t: torch.Tensor) -> torch.Tensor:
    """`1 - cos(pi/2 (1 - t))`, which stays noisy for longer than the linear schedule (MaskGIT, arXiv 2202.04200)."""
    return 1 - torch.cos(math.pi / 2 * (1 - t))


def cosine_alpha_derivative(t: torch.Tensor) -> torch.Tensor:
    return -math.pi / 2 * torch.sin(math.pi / 2 * (1 - t))


SCHEDULES = {
    "linear": (linear_alpha, linear_alpha_derivative),
    "cosine": (cosine_alpha, cosine_alpha_derivative),
}


def antithetic_timesteps(
    uniform: torch.Tensor, batch_size: int, earliest: float = 1e-3, latest: float = 1.0
) -> torch.Tensor:
    """One timestep a row, spread evenly over the batch: `t_b = earliest + (latest - earliest) ((u/n + b/n) mod 1)`.

    Each `t_b` is uniform by itself and each of n equal intervals holds one, so the loss varies less than with
    independent draws (MDLM, arXiv 2406.07524, section 3.3).

    Args:
        uniform: (1,) one uniform draw in [0, 1) for the whole batch.

    Returns:
        (B,) in [earliest, latest).
    """
    rows = torch.arange(batch_size, device=uniform.device)
    return earliest + (latest - earliest) * (((uniform + rows) / batch_size) % 1)
