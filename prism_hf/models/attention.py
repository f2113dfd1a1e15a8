"""Attention in both directions, as the native models share it: rotary positions, padding, cache, implementations.

Positions are half-split (RoFormer, arXiv 2104.09864; the layout of GPT-NeoX), in float32 whatever the dtype.
"""

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward
from transformers.utils import logging
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from prism_hf._compat import attention_of
from prism_hf.generation.denoising.caching import CanvasCache

logger = logging.get_logger(__name__)

PositionEmbeddings = tuple[torch.Tensor, torch.Tensor]

# Attentions that need a GPU and a package: whether that is there, and how it is installed.
FLASH = {
    "flash_attention_2": (is_flash_attn_2_available, "pip install 'prism_hf[flash]'"),
    "flash_attention_3": (is_flash_attn_3_available, "pip install flash-attn-3"),
    "flash_attention_4": (is_flash_attn_4_available, "pip install flash-attn-4"),
}


def available_attention(asked: str | None, use_cpu: bool = False) -> str | None:
    """The attention that a recipe asks for, or SDPA, with a warning, where that cannot be had on this machine.

    Recipes are written for more than one machine. `from_pretrained` refuses what it cannot give, as in transformers.

    Args:
        asked (`str`, *optional*): As `attn_implementation` of `from_pretrained`.
        use_cpu (`bool`, *optional*, defaults to `False`): Whether the model runs on the CPU though there is a GPU.

    Example:
        ```python
        model = load_model(name, attn_implementation=available_attention("flash_attention_2"))
        ```
    """
    if asked not in FLASH:
        return asked
    is_installed, remedy = FLASH[asked]
    if use_cpu:
        reason = "the model runs on the CPU"
    elif not torch.accelerator.is_available():
        reason = "there is no GPU"
    elif not is_installed(kernels_fallback_ok=True):
        reason = f"its kernels are not installed ({remedy})"
    else:
        return asked
    logger.warning(f"attn_implementation={asked!r} is not to be had, as {reason}: 'sdpa' is taken instead.")
    return "sdpa"


def inverse_frequencies(head_dim: int, theta: float, device: torch.device | None = None) -> torch.Tensor:
    """Rotation speeds in radians a position, (head_dim / 2,) float32."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)


@torch.no_grad()
def rotary_embedding(position_ids: torch.Tensor, head_dim: int, theta: float) -> PositionEmbeddings:
    """Cosines and sines of `position_ids` (B or 1, L), each (B or 1, 1, L, head_dim) in float32.

    They are made anew for every canvas: a cast of the model would round a buffer.
    """
    # An outer product by broadcasting: a matmul would be rounded under autocast.
    frequencies = inverse_frequencies(head_dim, theta, position_ids.device)
    angles = position_ids[:, None].float()[..., None] * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn `states` (B, heads, L, head_dim) by their positions; `cos` and `sin` broadcast to that shape."""
    first, second = states.float().chunk(2, dim=-1)
    rotated = states.float() * cos + torch.cat((-second, first), dim=-1) * sin
    return rotated.to(states.dtype)


def padding_mask(module: nn.Module, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> Any:
    """What the attention implementation of `module.config` takes for padding (B, L), or None.

    `hidden_states` (B, W, D) are those that attend; they may be some of the L positions.
    """
    if attention_mask is None:  # nor a mask of W by W for flex attention, where keys of a cache are L
        return None
    return create_bidirectional_mask(
        config=module.config,
        inputs_embeds=hidden_states,
        attention_mask=attention_mask,
        # Whether there is padding at all is asked of the device, which a generation would wait for in each step.
        allow_is_bidirectional_skip=module.training,
    )


def at_columns(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """What `values` (B or 1, H, L, X) hold at `columns` (B, W): (B, H, W, X)."""
    rows = torch.arange(len(columns), device=columns.device)[:, None]
    return values.expand(len(columns), *values.shape[1:])[rows, :, columns].transpose(1, 2)


def attend(
    layer: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position_embeddings: PositionEmbeddings,
    attention_mask: torch.Tensor | None = None,
    cache: CanvasCache | None = None,
    columns: torch.Tensor | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attend by the implementation that the config of `layer` names, which has `scaling` and `num_key_value_groups`.

    `query`, `key` and `value` (B, heads, W, head_dim) are not yet rotated; `position_embeddings` are those of
    `rotary_embedding`, and `attention_mask` is that of `padding_mask`. A cache takes the layer's keys and values, and
    gives those of the whole canvas. With `columns` (B, Q), `query` is that of these positions among the W.

    Returns the heads' outputs side by side, (B, W or Q, heads * head_dim), and the weights (B, heads, W or Q, L) where
    the implementation gives them.
    """
    key, cos_sin = rotate(key, *position_embeddings), position_embeddings
    if columns is not None:
        cos_sin = at_columns(cos_sin[0], columns), at_columns(cos_sin[1], columns)
        attention_mask = None if attention_mask is None else at_columns(attention_mask, columns)
    query = rotate(query, *cos_sin)
    if cache is not None:
        key, value = cache.update(layer, key, value)
    attention = ALL_ATTENTION_FUNCTIONS.get_interface(attention_of(layer.config), eager_attention_forward)
    attended, weights = attention(
        layer, query, key, value, attention_mask, scaling=layer.scaling, dropout=dropout, **kwargs
    )
    return attended.flatten(2), weights
