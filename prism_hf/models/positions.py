"""Which positions a model maps to the vocabulary: what `logits_to_keep` means in all of our models."""

import torch

from prism_hf.diffusion.drafting import take_positions


def keep_positions(states: torch.Tensor, logits_to_keep: torch.Tensor | None) -> torch.Tensor:
    """The states of the positions that are asked for.

    Args:
        states (`torch.Tensor`): (B, L, D).
        logits_to_keep (`torch.Tensor`, *optional*): A boolean mask (B, L) of N positions, or columns (B, W) int64.
            Unlike a mask, columns tell their number without asking the device.

    Returns:
        `torch.Tensor`: (N, D) in row-major order, (B, W, D), or `states` where nothing is asked.

    Raises:
        ValueError: for anything else.
    """
    if logits_to_keep is None:
        return states
    if isinstance(logits_to_keep, torch.Tensor):
        if logits_to_keep.dtype == torch.bool and logits_to_keep.shape == states.shape[:2]:
            return states[logits_to_keep]
        if logits_to_keep.dtype == torch.int64 and logits_to_keep.ndim == 2 and len(logits_to_keep) == len(states):
            return take_positions(states, logits_to_keep)
        given = f"{logits_to_keep.dtype} of shape {tuple(logits_to_keep.shape)}"
    else:
        given = repr(logits_to_keep)
    raise ValueError(
        f"logits_to_keep is {given}: give a boolean mask of shape {tuple(states.shape[:2])}, or int64 columns of shape "
        f"({len(states)}, number of positions)."
    )
