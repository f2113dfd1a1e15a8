"""LLaDA (arXiv 2502.09992): a Llama-like transformer that attends in both directions and predicts masked tokens."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.core_model_loading import WeightConverter, WeightRenaming
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from prism_hf._deprecation import renamed_arguments
from prism_hf.generation.denoising.caching import CanvasCache, canvas_positions
from prism_hf.models.attention import PositionEmbeddings, attend, padding_mask, rotary_embedding
from prism_hf.models.checkpoint.loading import WholeCheckpointMixin
from prism_hf.models.lm_head import LmHead, columns_alone, keep_positions
from prism_hf.models.native import NativeGenerationMixin

from .configuration_llada import LladaConfig

# Names within a block, published -> ours.
BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
# Published key -> ours, applied at loading and reversed at saving. At most one capture group works in a renaming.
CHECKPOINT_NAMES: list[WeightConverter | WeightRenaming] = [
    WeightRenaming(r"model\.transformer\.wte\.weight", "model.embed_tokens.weight"),
    WeightRenaming(r"model\.transformer\.ff_out\.weight", "lm_head.weight"),
    WeightRenaming(r"model\.transformer\.ln_f\.weight", "model.norm.weight"),
    *(
        WeightRenaming(rf"transformer\.blocks\.(\d+)\.{published}", rf"layers.\1.{ours}")
        for published, ours in BLOCK_NAMES.items()
    ),
]


class LladaAttention(nn.Module):
    """Attention in both directions with rotary positions and grouped key and value heads."""

    is_causal = False

    def __init__(self, config: LladaConfig):
        super().__init__()
        self.config = config
        self.num_key_value_groups = config.n_heads // config.n_kv_heads
        self.scaling = config.head_dim**-0.5
        self.q_proj = nn.Linear(config.d_model, config.n_heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=False)
        self.v_proj = nn.Linear(config.d_model, config.n_kv_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.n_heads * config.head_dim, config.d_model, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings,
        attention_mask: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B, L, D) -> (B, L, D), and the weights (B, heads, L, L) where the attention implementation gives them.

        With `columns` (B, W) the output is that of these positions, which still attend to all.
        """
        query = self.q_proj(keep_positions(hidden_states, columns))
        key, value = self.k_proj(hidden_states), self.v_proj(hidden_states)
        query, key, value = (
            states.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for states in (query, key, value)
        )
        dropout = self.config.attention_dropout if self.training else 0.0
        attended, weights = attend(
            self, query, key, value, position_embeddings, attention_mask, columns=columns, dropout=dropout, **kwargs
        )
        return self.o_proj(attended), weights


class LladaLayer(GradientCheckpointingLayer):
    """One transformer block, norms first."""

    def __init__(self, config: LladaConfig):
        super().__init__()
        self.input_layernorm = LlamaRMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.self_attn = LladaAttention(config)
        self.post_attention_layernorm = LlamaRMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.mlp = LlamaMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: PositionEmbeddings,
        attention_mask: torch.Tensor | None = None,
        columns: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        attended, _ = self.self_attn(normed, position_embeddings, attention_mask, columns, **kwargs)
        hidden_states = keep_positions(hidden_states, columns) + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


class LladaPreTrainedModel(WholeCheckpointMixin, PreTrainedModel):
    """Loading, saving and initialisation shared by the LLaDA models."""

    config_class = LladaConfig
    config: LladaConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LladaLayer"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _supports_canvas_cache = True
    _supports_states_to_keep = True
    _can_record_outputs = {"hidden_states": LladaLayer, "attentions": LladaAttention}

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        """Yes, by `attend`; transformers looks for it in the source of this module alone."""
        return True


class LladaModel(LladaPreTrainedModel):
    """The transformer, up to the last hidden state.

    Example:
        ```python
        model = LladaModel(LladaConfig(d_model=64, n_layers=2, n_heads=4, mlp_hidden_size=128, vocab_size=100))
        hidden_states = model(torch.randint(100, (1, 16))).last_hidden_state  # (1, 16, 64)
        ```
    """

    _keys_to_ignore_on_load_unexpected = ["lm_head"]

    def __init__(self, config: LladaConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.embedding_size, config.d_model)
        self.layers = nn.ModuleList([LladaLayer(config) for _ in range(config.n_layers)])
        self.norm = LlamaRMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        cache: CanvasCache | None = None,
        states_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutput:
        """Run the transformer.

        Args:
            input_ids (`torch.LongTensor`): (B, L) token ids, masks included.
            attention_mask (`torch.Tensor`, *optional*): (B, L), 1 where a token is real and 0 where it is padding, on
                either side; or (B, 1, L, L), what each query sees of the keys, as the attention implementation takes
                it.
            position_ids (`torch.LongTensor`, *optional*): (B, L); 0 to L - 1 if not given. Positions are relative, so
                padding on the left needs none.
            inputs_embeds (`torch.FloatTensor`, *optional*): (B, L, D), in place of `input_ids`.
            cache (`CanvasCache`, *optional*): It is filled, or says at which W positions of the canvas the tokens
                (B, W) stand; `attention_mask` is that of the canvas in either case.
            states_to_keep (`torch.LongTensor`, *optional*): (B, W), the columns at which the last hidden state is
                wanted, so that the last layer computes no other queries. Not under flex attention, nor under flash
                attention with padding.

        Returns:
            `BaseModelOutput`: `last_hidden_state` (B, L, D), or (B, W, D) at `states_to_keep`, after the final norm.

        Raises:
            ValueError: unless exactly one of `input_ids` and `inputs_embeds` is given.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Pass exactly one of input_ids and inputs_embeds.")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = canvas_positions(hidden_states, cache)
        mask = padding_mask(self, hidden_states, attention_mask)
        position_embeddings = rotary_embedding(position_ids, self.config.head_dim, self.config.rope_theta)
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            columns = states_to_keep if number == last else None
            hidden_states = layer(hidden_states, position_embeddings, mask, columns=columns, cache=cache, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class LladaForMaskedDiffusion(NativeGenerationMixin, LladaPreTrainedModel):  # type: ignore[misc]
    """LLaDA with its token logits, one for each of the `embedding_size` rows of the embedding.

    It reads and writes the published checkpoints, without remote code.

    Example:
        ```python
        from prism_hf import LladaForMaskedDiffusion
        from transformers import AutoTokenizer

        name = "GSAI-ML/LLaDA-8B-Instruct"
        model = LladaForMaskedDiffusion.from_pretrained(name, dtype="bfloat16", device_map="auto")
        tokenizer = AutoTokenizer.from_pretrained(name)
        messages = [{"role": "user", "content": "Write a haiku about rivers."}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(model.device)
        output = model.generate(**inputs, max_new_tokens=64, block_length=32)
        print(tokenizer.decode(output[0], skip_special_tokens=True))
        ```
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LladaConfig):
        super().__init__(config)
        self.model = LladaModel(config)
        self.lm_head = LmHead(config.d_model, config.embedding_size, bias=False)
        self.post_init()

    @renamed_arguments(logits_at="logits_to_keep")
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        logits_to_keep: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict the clean token at every position.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds, cache: See `LladaModel.forward`.
            logits_to_keep (`torch.Tensor`, *optional*): Where logits are wanted: a boolean mask (B, L) of N positions,
                or columns (B, W) int64.

        Returns:
            `MaskedLMOutput`: `logits` (B, L, V), (N, V) or (B, W, V); `hidden_states` and `attentions` where
            `output_hidden_states` and `output_attentions` ask for them.
        """
        alone = columns_alone(self.model, logits_to_keep, attention_mask, kwargs)
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds, states_to_keep=alone, **kwargs)
        states = outputs.last_hidden_state
        logits = self.lm_head(keep_positions(states, logits_to_keep) if alone is None else states)
        return MaskedLMOutput(logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)
