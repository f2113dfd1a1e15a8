"""The heads that say how likely each token is to be right, by the name that `PrismConfig.head_type` gives them.

A head maps `hidden_states` (B, L, D) of the backbone to quality logits (B, L). It is also given the backbone's
`conditioning` where that has one, and what the backbone was given: `attention_mask`, and `cache`, `position_ids` and
the ends of packed documents (`cu_seq_lens_q` and its like, for flash attention) if any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from prism_hf.generation.denoising.caching import CanvasCache
from prism_hf.models.mdlm.configuration_mdlm import MdlmConfig
from prism_hf.models.mdlm.modeling_mdlm import MdlmBlock, MdlmOutputLayer, MdlmRotaryEmbedding, run_blocks

if TYPE_CHECKING:
    from .configuration_prism import PrismConfig


class PrismLinearHead(nn.Module):
    """LayerNorm and one linear unit."""

    def __init__(self, config: PrismConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden_states: torch.Tensor, *context: Any, **placed: Any) -> torch.Tensor:
        """(B, L, D) -> (B, L)."""
        return self.linear(self.norm(hidden_states.to(self.linear.weight.dtype))).squeeze(-1)


class PrismMlpHead(nn.Module):
    """LayerNorm, Linear, GELU, Linear: the head published for LLaDA-8B."""

    def __init__(self, config: PrismConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden_states: torch.Tensor, *context: Any, **placed: Any) -> torch.Tensor:
        """(B, L, D) -> (B, L)."""
        hidden_states = self.norm(hidden_states.to(self.linear.weight.dtype))
        return self.linear(nn.functional.gelu(self.dense(hidden_states))).squeeze(-1)


class MdlmQualityHead(nn.Module):
    """PRISM's quality head for MDLM (arXiv 2510.01384): `n_blocks` further blocks, then adaLN and one linear unit.

    Its parameter names are those of `adapter.*` in the published PRISM checkpoints. `config` must be that of the
    backbone model, whose attention implementation the blocks share.
    """

    def __init__(self, config: MdlmConfig, n_blocks: int):
        super().__init__()
        if n_blocks < 0:
            raise ValueError(f"n_blocks={n_blocks} is negative; use 0 for a head without blocks of its own.")
        self.config = config
        self.rotary_emb = MdlmRotaryEmbedding(config)
        self.blocks = nn.ModuleList([MdlmBlock(config) for _ in range(n_blocks)])
        self.output_layer = MdlmOutputLayer(config, 1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        conditioning: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        cache: CanvasCache | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, L, D) and (B, cond_dim) -> (B, L). The backbone's `cache` keeps the head's blocks too."""
        # The backbone may be in half precision, while a head on top of it stays in float32.
        dtype = self.output_layer.linear.weight.dtype
        hidden_states, conditioning = hidden_states.to(dtype), conditioning.to(dtype)
        if self.blocks:
            hidden_states = run_blocks(self, hidden_states, conditioning, attention_mask, cache, position_ids, **kwargs)
        return self.output_layer(hidden_states, conditioning).squeeze(-1)


QUALITY_HEADS: dict[str, Callable[[PrismConfig], nn.Module]] = {
    "linear": PrismLinearHead,
    "mlp": PrismMlpHead,
    "dit": lambda config: MdlmQualityHead(cast(MdlmConfig, config.backbone_config), config.head_num_blocks),
}
