"""The heads that say how likely each token is to be right, by the name that `PrismConfig.head_type` gives them."""

import torch
from torch import nn

from prism_hf.generation.denoising.caching import CanvasCache, canvas_positions
from prism_hf.models.attention import padding_mask
from prism_hf.models.mdlm import MdlmBlock, MdlmConfig, MdlmOutputLayer
from prism_hf.models.mdlm.modeling_mdlm import MdlmRotaryEmbedding

from .configuration_prism import PrismConfig


class PrismLinearHead(nn.Module):
    """LayerNorm and one linear unit."""

    def __init__(self, config: PrismConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden_states: torch.Tensor, conditioning=None, attention_mask=None, **kwargs) -> torch.Tensor:
        """(B, L, D) -> (B, L)."""
        return self.linear(self.norm(hidden_states.to(self.linear.weight.dtype))).squeeze(-1)


class PrismMlpHead(nn.Module):
    """LayerNorm, Linear, GELU, Linear: the head published for LLaDA-8B."""

    def __init__(self, config: PrismConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.linear = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden_states: torch.Tensor, conditioning=None, attention_mask=None, **kwargs) -> torch.Tensor:
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
        position_ids: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """Return quality logits (B, L).

        `hidden_states` (B, L, D) and `conditioning` (B, cond_dim) are those of `MdlmModelOutput`; `attention_mask`
        and `position_ids` are those that the backbone was given, `cache` its cache, which keeps the head's blocks too.
        """
        # The backbone may be in half precision, while a head on top of it stays in float32.
        dtype = self.output_layer.linear.weight.dtype
        hidden_states, conditioning = hidden_states.to(dtype), conditioning.to(dtype)
        if self.blocks:
            mask = padding_mask(self, hidden_states, attention_mask)
            if position_ids is None:
                position_ids = canvas_positions(hidden_states, cache)
            position_embeddings = self.rotary_emb(position_ids)
            for block in self.blocks:
                hidden_states = block(hidden_states, conditioning, position_embeddings, mask, cache)
        return self.output_layer(hidden_states, conditioning).squeeze(-1)


QUALITY_HEADS = {
    "linear": PrismLinearHead,
    "mlp": PrismMlpHead,
    "dit": lambda config: MdlmQualityHead(config.backbone_config, config.head_num_blocks),
}
