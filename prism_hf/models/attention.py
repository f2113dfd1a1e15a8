"""What the attention of the native models shares: rotary positions, and the mask of a bidirectional model.

Positions are half-split (RoFormer, arXiv 2104.09864; the layout of GPT-NeoX), in float32 whatever the dtype.
"""

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask


def inverse_frequencies(head_dim: int, theta: float, device: torch.device | None = None) -> torch.Tensor:
    """Rotation speeds in radians a position, (head_dim / 2,) float32."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


@torch.no_grad()
def rotary_embedding(positions: torch.Tensor, head_dim: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """`cos` and `sin` of `positions` (..., L), each (..., L, head_dim) in float32.

    Made anew for every canvas: a buffer would be rounded by a cast of the model.
    """
    # An outer product by broadcasting: a matmul would be rounded under autocast.
    angles = positions.float()[..., None] * inverse_frequencies(head_dim, theta, positions.device)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn `states` (B, heads, L, head_dim) by their positions; `cos` and `sin` broadcast to that shape."""
    first, second = states.float().chunk(2, dim=-1)
    rotated = states.float() * cos + torch.cat((-second, first), dim=-1) * sin
    return rotated.to(states.dtype)


def padding_mask(module: nn.Module, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None):
    """What the attention implementation of `module.config` takes for padding (B, L), or None.

    `hidden_states` (B, W, D) are those that attend; they may be some of the L positions.
    """
    return create_bidirectional_mask(
        config=module.config,
        inputs_embeds=hidden_states,
        attention_mask=attention_mask,
        # Whether there is padding at all is asked of the device, which a generation would wait for in each step.
        allow_is_bidirectional_skip=attention_mask is None or module.training,
    )
