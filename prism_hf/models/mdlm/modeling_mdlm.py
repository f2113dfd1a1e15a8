"""MDLM's diffusion transformer (arXiv 2406.07524), whose parameter names are those of the published checkpoints."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from prism_hf._deprecation import renamed_arguments
from prism_hf.generation.denoising.caching import CanvasCache, canvas_positions
from prism_hf.models.attention import (
    PositionEmbeddings,
    at_columns,
    attend,
    inverse_frequencies,
    padding_mask,
    rotary_embedding,
)
from prism_hf.models.checkpoint.loading import WholeCheckpointMixin
from prism_hf.models.lm_head import LmHead, columns_alone, keep_positions
from prism_hf.models.native import NativeGenerationMixin

from .configuration_mdlm import MdlmConfig

ROPE_THETA = 10000.0
SIGMA_FREQUENCIES = 256
SIGMA_MAX_PERIOD = 10000.0
MLP_RATIO = 4


@dataclass
class MdlmModelOutput(BaseModelOutput):
    """Hidden state of an MDLM transformer, and what it was conditioned on.

    Args:
        last_hidden_state (`torch.FloatTensor`): (B, L, D), before the output layer.
        conditioning (`torch.Tensor`): (B, cond_dim), what drives every adaLN; a quality head takes it too.
    """

    conditioning: torch.Tensor | None = None


class MdlmLayerNorm(nn.Module):
    """LayerNorm without bias, computed in float32 whatever the dtype of its input."""

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_dim))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed = F.layer_norm(hidden_states.float(), self.weight.shape, self.weight.float(), eps=1e-5)
        return normed.to(hidden_states.dtype)


class MdlmZeroLinear(nn.Linear):
    """Linear map that training starts at zero.

    A class of its own because transformers initialises module by module, and for a model from outside the library it
    passes over modules that hold no parameter directly, such as a block.
    """


class MdlmLmHead(LmHead, MdlmZeroLinear):
    """The output layer's linear map: to the vocabulary, or to the one number of a quality head."""


class MdlmRotaryEmbedding(nn.Module):
    """Half-split rotary positions: the cosines and sines of any positions."""

    inv_freq: torch.Tensor

    def __init__(self, config: MdlmConfig):
        super().__init__()
        self.head_dim = config.hidden_dim // config.n_heads
        # The published checkpoints hold this buffer, so it is saved; forward does without.
        self.register_buffer("inv_freq", inverse_frequencies(self.head_dim, ROPE_THETA))

    def forward(self, position_ids: torch.Tensor) -> PositionEmbeddings:
        """As `rotary_embedding`."""
        return rotary_embedding(position_ids, self.head_dim, ROPE_THETA)


class MdlmVocabEmbedding(nn.Module):
    """Token embedding, as one bare parameter named `embedding`, which is the published name."""

    def __init__(self, config: MdlmConfig):
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.vocab_size, config.hidden_dim))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(input_ids, self.embedding)


class MdlmSigmaMap(nn.Module):
    """Noise level sigma (B,) to its embedding (B, cond_dim): sinusoidal features, cosines first, then an MLP."""

    def __init__(self, config: MdlmConfig):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(SIGMA_FREQUENCIES, config.cond_dim),
            nn.SiLU(),
            nn.Linear(config.cond_dim, config.cond_dim),
        )

    def forward(self, sigma: torch.Tensor) -> torch.Tensor:
        half = SIGMA_FREQUENCIES // 2
        steps = torch.arange(half, dtype=torch.float32, device=sigma.device)
        angles = sigma.float()[:, None] * torch.exp(-math.log(SIGMA_MAX_PERIOD) * steps / half)
        features = torch.cat((angles.cos(), angles.sin()), dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class MdlmBlock(GradientCheckpointingLayer):
    """One transformer block: attention and MLP, each shifted, scaled and gated by the conditioning (adaLN)."""

    is_causal = False
    num_key_value_groups = 1

    def __init__(self, config: MdlmConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_dim // config.n_heads
        self.scaling = self.head_dim**-0.5
        self.norm1 = MdlmLayerNorm(config.hidden_dim)
        self.attn_qkv = nn.Linear(config.hidden_dim, 3 * config.hidden_dim, bias=False)
        self.attn_out = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.norm2 = MdlmLayerNorm(config.hidden_dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.hidden_dim, MLP_RATIO * config.hidden_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(MLP_RATIO * config.hidden_dim, config.hidden_dim),
        )
        self.adaLN_modulation = MdlmZeroLinear(config.cond_dim, 6 * config.hidden_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,
        conditioning: torch.Tensor,
        position_embeddings: PositionEmbeddings,
        attention_mask: torch.Tensor | None = None,
        cache: CanvasCache | None = None,
        columns: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, L, D) -> (B, L, D), or (B, W, D) at the positions of `columns` (B, W), which still attend to all.

        `conditioning` is (B, cond_dim); `position_embeddings` are those of `MdlmRotaryEmbedding`, `attention_mask`
        that of `padding_mask`.
        """
        modulation = self.adaLN_modulation(conditioning)[:, None].chunk(6, dim=-1)
        attn_shift, attn_scale, attn_gate, mlp_shift, mlp_scale, mlp_gate = modulation

        qkv = self.attn_qkv(modulate(self.norm1(hidden_states), attn_shift, attn_scale))
        query, key, value = qkv.unflatten(-1, (3, self.config.n_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        if columns is not None:
            hidden_states, query = keep_positions(hidden_states, columns), at_columns(query, columns)
        attended, _ = attend(self, query, key, value, position_embeddings, attention_mask, cache, columns, **kwargs)
        hidden_states = hidden_states + attn_gate * self.drop(self.attn_out(attended))

        transformed = self.mlp(modulate(self.norm2(hidden_states), mlp_shift, mlp_scale))
        return hidden_states + mlp_gate * self.drop(transformed)

    def drop(self, branch: torch.Tensor) -> torch.Tensor:
        return F.dropout(branch, p=self.config.dropout, training=self.training)


def modulate(hidden_states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Scale and shift normalised states (B, L, D) by (B, 1, D)."""
    return hidden_states * (1 + scale) + shift


class MdlmOutputLayer(nn.Module):
    """adaLN norm and a linear map to `out_features`: tokens for the LM head, one number for a quality head."""

    def __init__(self, config: MdlmConfig, out_features: int):
        super().__init__()
        self.norm_final = MdlmLayerNorm(config.hidden_dim)
        self.linear = MdlmLmHead(config.hidden_dim, out_features)
        self.adaLN_modulation = MdlmZeroLinear(config.cond_dim, 2 * config.hidden_dim)

    def forward(
        self, hidden_states: torch.Tensor, conditioning: torch.Tensor, logits_to_keep: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, L, D) and (B, cond_dim) -> (B, L, out_features), or what `keep_positions` keeps of it."""
        return self.linear(keep_positions(self.normalise(hidden_states, conditioning), logits_to_keep))

    def normalise(self, hidden_states: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        """The adaLN norm before the linear map: (B, L, D) and (B, cond_dim) to (B, L, D)."""
        shift, scale = self.adaLN_modulation(conditioning)[:, None].chunk(2, dim=-1)
        return modulate(self.norm_final(hidden_states), shift, scale)


def run_blocks(
    module: Any,
    hidden_states: torch.Tensor,
    conditioning: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cache: CanvasCache | None,
    position_ids: torch.Tensor | None,
    states_to_keep: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """(B, L, D) -> (B, L, D) through the `blocks` of a module that has a `rotary_emb` and a `config` beside them.

    With `states_to_keep` (B, W), the last block gives (B, W, D) at these columns. `kwargs` go to the attention.
    """
    mask = padding_mask(module, hidden_states, attention_mask)
    if position_ids is None:
        position_ids = canvas_positions(hidden_states, cache)
    position_embeddings = module.rotary_emb(position_ids)
    last = len(module.blocks) - 1
    for number, block in enumerate(module.blocks):
        columns = states_to_keep if number == last else None
        hidden_states = block(hidden_states, conditioning, position_embeddings, mask, cache, columns, **kwargs)
    return hidden_states


def init_mdlm_module(module: nn.Module, std: float) -> None:
    """Initialise one MDLM module as published: every adaLN and output linear at zero, so that blocks start as identity.

    Norms and other linears are left to `PreTrainedModel._init_weights`. A model that holds MDLM modules calls this
    after it, in its own `_init_weights`.
    """
    if isinstance(module, MdlmVocabEmbedding):
        init.normal_(module.embedding, mean=0.0, std=std)
    elif isinstance(module, MdlmRotaryEmbedding):
        init.copy_(module.inv_freq, inverse_frequencies(module.head_dim, ROPE_THETA, module.inv_freq.device))
    elif isinstance(module, MdlmZeroLinear):
        init.zeros_(module.weight)
        init.zeros_(module.bias)


class MdlmPreTrainedModel(WholeCheckpointMixin, PreTrainedModel):
    """Loading, saving and initialisation shared by the MDLM models."""

    config_class = MdlmConfig
    config: MdlmConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MdlmBlock"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _supports_canvas_cache = True
    _supports_states_to_keep = True
    _keep_in_fp32_modules_strict = ["inv_freq"]
    _can_record_outputs = {"hidden_states": MdlmBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_mdlm_module(module, self.config.initializer_range)


class MdlmModel(MdlmPreTrainedModel):
    """The diffusion transformer, up to the last hidden state.

    The output layer sits here because the published layout keeps it here; `MdlmForMaskedDiffusion` applies it.

    Example:
        ```python
        model = MdlmModel(MdlmConfig(vocab_size=100, hidden_dim=64, cond_dim=32, n_blocks=2, n_heads=4))
        hidden_states = model(torch.randint(100, (1, 16))).last_hidden_state  # (1, 16, 64)
        ```
    """

    def __init__(self, config: MdlmConfig):
        super().__init__(config)
        self.vocab_embed = MdlmVocabEmbedding(config)
        self.sigma_map = MdlmSigmaMap(config)
        self.rotary_emb = MdlmRotaryEmbedding(config)
        self.blocks = nn.ModuleList([MdlmBlock(config) for _ in range(config.n_blocks)])
        self.output_layer = MdlmOutputLayer(config, config.vocab_size)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vocab_embed

    def get_output_embeddings(self) -> nn.Module:
        return self.output_layer.linear

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sigma: torch.Tensor | None = None,
        cache: CanvasCache | None = None,
        position_ids: torch.Tensor | None = None,
        states_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MdlmModelOutput:
        """Run the transformer.

        Args:
            input_ids (`torch.LongTensor`): (B, L) token ids, masks included.
            attention_mask (`torch.Tensor`, *optional*): (B, L), 1 where a token is real and 0 where it is padding; or
                (B, 1, L, L), what each query sees of the keys, as the attention implementation takes it.
            sigma (`torch.Tensor`, *optional*): (B,) total noise, `-log(1 - t)` for the linear schedule. Ignored, as 0,
                unless `config.time_conditioning`.
            cache (`CanvasCache`, *optional*): It is filled, or says at which W positions of the canvas the tokens
                (B, W) stand; `attention_mask` is that of the canvas in either case.
            position_ids (`torch.LongTensor`, *optional*): (B, L); 0 to L - 1 if not given.
            states_to_keep (`torch.LongTensor`, *optional*): As `LladaModel.forward`.

        Returns:
            `MdlmModelOutput`

        Raises:
            ValueError: if the model is time-conditioned and `sigma` is missing or not of shape (B,).
        """
        conditioning = self.condition(input_ids, sigma)
        hidden_states = self.vocab_embed(input_ids)
        hidden_states = run_blocks(
            self, hidden_states, conditioning, attention_mask, cache, position_ids, states_to_keep, **kwargs
        )
        return MdlmModelOutput(last_hidden_state=hidden_states, conditioning=conditioning)

    def condition(self, input_ids: torch.Tensor, sigma: torch.Tensor | None) -> torch.Tensor:
        """Return the conditioning vector (B, cond_dim) of a batch of canvases (B, L) at noise level `sigma` (B,)."""
        batch_size = input_ids.shape[0]
        if not self.config.time_conditioning:
            sigma = torch.zeros(batch_size, device=input_ids.device)
        elif sigma is None or sigma.shape != (batch_size,):
            received = None if sigma is None else tuple(sigma.shape)
            raise ValueError(
                f"this model has time_conditioning=True and got sigma of shape {received}; pass sigma of shape "
                f"({batch_size},), the total noise of each canvas (-log(1 - t) for the linear schedule)."
            )
        return F.silu(self.sigma_map(sigma))


class MdlmForMaskedDiffusion(NativeGenerationMixin, MdlmPreTrainedModel):  # type: ignore[misc]
    """MDLM with its token logits.

    The logits are the network's own. Of the SUBS parametrisation, the zero probability of the mask token and the
    carrying over of clean tokens belong to whoever draws from them: a draft never considers the mask token and only
    fills masked positions.

    Example:
        ```python
        from prism_hf import MdlmForMaskedDiffusion
        from transformers import AutoTokenizer

        model = MdlmForMaskedDiffusion.from_pretrained("kuleshov-group/mdlm-owt")
        tokenizer = AutoTokenizer.from_pretrained("gpt2")
        output = model.generate(tokenizer("The river", return_tensors="pt").input_ids, max_new_tokens=64, steps=32)
        print(tokenizer.decode(output[0]))
        ```
    """

    def __init__(self, config: MdlmConfig):
        super().__init__(config)
        self.backbone = MdlmModel(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.backbone.get_output_embeddings()

    @renamed_arguments(logits_at="logits_to_keep")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        sigma: torch.Tensor | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict the clean token at every position.

        Args:
            input_ids, attention_mask, sigma, cache, position_ids: See `MdlmModel.forward`.
            logits_to_keep (`torch.Tensor`, *optional*): Where logits are wanted: a boolean mask (B, L) of N positions,
                or columns (B, W) int64.

        Returns:
            `MaskedLMOutput`: `logits` (B, L, V), (N, V) or (B, W, V), unnormalised; `hidden_states` with
            `output_hidden_states=True`.
        """
        alone = columns_alone(self.backbone, logits_to_keep, attention_mask, kwargs)
        outputs = self.backbone(input_ids, attention_mask, sigma, states_to_keep=alone, **kwargs)
        at = logits_to_keep if alone is None else None
        logits = self.backbone.output_layer(outputs.last_hidden_state, outputs.conditioning, at)
        return MaskedLMOutput(logits=logits, hidden_states=outputs.hidden_states)
