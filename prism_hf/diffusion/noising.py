"""The forward process: a clean sequence and a time give a masked sequence."""

import torch


def mask_tokens(
    input_ids: torch.Tensor,
    mask_probability: torch.Tensor,
    mask_token_id: int,
    uniform: torch.Tensor,
    maskable: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask each maskable token independently.

    Args:
        input_ids: (B, L) clean tokens `x`.
        mask_probability: (B,) `1 - alpha(t)`.
        uniform: (B, L) uniform draws in [0, 1).
        maskable: (B, L) bool; prompts, padding and separators are False and never masked. All True if None.

    Returns:
        `z` (B, L) and `masked` (B, L) bool, the positions where `z` holds the mask token in place of `x`.
    """
    masked = uniform < mask_probability[:, None]
    if maskable is not None:
        masked = masked & maskable
    return input_ids.masked_fill(masked, mask_token_id), masked
