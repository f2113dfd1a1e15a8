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
        input_ids (`torch.Tensor` of shape `(B, L)`): Clean tokens `x`.
        mask_probability (`torch.Tensor` of shape `(B,)`): `1 - alpha(t)`.
        mask_token_id (`int`): The mask token.
        uniform (`torch.Tensor` of shape `(B, L)`): Uniform draws in [0, 1).
        maskable (bool `torch.Tensor` of shape `(B, L)`, *optional*, defaults to all): Where a token may be masked:
            prompts, padding and separators never are.

    Returns:
        `z` (B, L) and `masked` (B, L) bool, the positions where `z` holds the mask token in place of `x`.
    """
    masked = uniform < mask_probability[:, None]
    if maskable is not None:
        masked = masked & maskable
    return input_ids.masked_fill(masked, mask_token_id), masked
