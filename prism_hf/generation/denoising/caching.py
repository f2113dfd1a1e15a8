"""Computing some positions of a canvas with kept keys and values of the others (Fast-dLLM, arXiv 2505.22618).

A cache is part of the schedule: which positions each step computes anew. A model that can compute some alone sets
`_supports_canvas_cache` and takes `cache`, a `CanvasCache`, which its attention updates. Rows of different lengths have
their blocks at different positions, so keys and values are written by scatter. A `dit` head's own blocks are cached as
the backbone's are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from prism_hf._compat import attention_of
from prism_hf.backbones import takes_cache

from .canvas import Canvas

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..configuration_remask import RemaskGenerationConfig
    from .schedule import Step


class CanvasCache:
    """The keys and values of all positions of a canvas (B, L), for each attention layer.

    With `positions` None a forward reads the whole canvas and fills the cache. With `positions` (B, W) it reads the
    tokens (B, W) that stand there, replaces their keys and values, and attends to those and to the kept ones of all
    other positions. Written in place, so for inference only.
    """

    def __init__(self) -> None:
        self.positions: torch.Tensor | None = None
        self.layers: dict[nn.Module, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(self, layer: nn.Module, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take what `layer` has computed (B, heads, W, head_dim), return all it attends to (B, heads, L, head_dim)."""
        if self.positions is None:
            self.layers[layer] = key.contiguous(), value.contiguous()
        else:
            rows = torch.arange(len(key), device=key.device)[:, None]
            for kept, computed in zip(self.layers[layer], (key, value), strict=True):
                kept[rows, :, self.positions] = computed.transpose(1, 2)
        return self.layers[layer]


def canvas_positions(hidden_states: torch.Tensor, cache: CanvasCache | None) -> torch.Tensor:
    """Where the columns of `hidden_states` (B, W, D) stand in their canvas: (B, W), or (1, W) for a whole one."""
    if cache is not None and cache.positions is not None:
        return cache.positions
    return torch.arange(hidden_states.shape[1], device=hidden_states.device)[None]


def check_cache(model: PreTrainedModel, canvas: Canvas, config: RemaskGenerationConfig) -> None:
    """Raise ValueError where the model cannot compute some positions alone."""
    cache = f"cache_implementation={config.cache_implementation!r}"
    if not takes_cache(model):
        raise ValueError(
            f"{cache} needs a model that takes a CanvasCache, such as LLaDA or MDLM, alone or under a "
            f"quality head; {type(model).__name__} does not: set cache_implementation=None."
        )
    attention = attention_of(model.config) or ""
    if canvas.attention_mask is not None and "flash" in attention:
        raise ValueError(
            f"{cache} with padding does not go with attn_implementation={attention!r}, which takes the "
            "last positions of the canvas for those that are computed: use 'sdpa', or prompts of one length."
        )


def with_cache(steps: list[Step], canvas: Canvas, config: RemaskGenerationConfig) -> list[Step]:
    """The steps with the positions that each computes anew; None for all, which fills the cache.

    The step in which a row begins a block fills it for the whole batch, and so does every `cache_refresh_interval`-th
    step from there. The others compute each row's block alone (`"dual"`), or all from its first position to the end
    of the canvas (`"prefix"`); a row that has fewer than another computes its last one several times over.
    """
    length = canvas.tokens.shape[1]
    column_of_rank = (~canvas.fillable).to(torch.uint8).argsort(dim=-1, stable=True)
    blocks = [step.rows for step in steps if step.begins_block]
    starts, ends = (
        torch.stack([rows.start for rows in blocks]),
        torch.stack([rows.end for rows in blocks]),
    )  # (blocks, B)
    if config.cache_implementation == "prefix":
        first = starts.minimum(ends - 1).clamp(min=0)  # of an empty block the last mask before it
        starts, ends = column_of_rank.gather(1, first.T).T, torch.full_like(ends, length)
    widths = (ends - starts).amax(1).tolist()
    positions = []
    for start, end, width in zip(starts, ends, widths, strict=True):
        each = start[:, None] + torch.arange(width, device=start.device)
        each = each.minimum(end[:, None] - 1).clamp(min=0)
        positions.append(each if config.cache_implementation == "prefix" else column_of_rank.gather(1, each))

    cached, block, since = [], -1, 0
    for step in steps:
        if step.begins_block:
            block, since = block + 1, 0
        refreshes = since % (config.cache_refresh_interval or len(steps)) == 0
        cached.append(replace(step, recomputed=None if refreshes else positions[block]))
        since += 1
    return cached
