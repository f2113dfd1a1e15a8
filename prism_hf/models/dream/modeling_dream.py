"""Dream: Qwen2 that reads in both directions, and whose logits at a position are of the token after it.

It began as an autoregressive model (Qwen2.5), and its checkpoints have Qwen2's layout. What transformers reads in
`config.is_causal` lifts the causal mask. The logits are left as published, a position late; who reads them finds so in
`prism_hf.backbones`. DiffuCoder and DreamCoder are of the same class.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils import can_return_tuple

from prism_hf.models.lm_head import keep_positions
from prism_hf.models.native import NativeGenerationMixin


@strict
class DreamConfig(Qwen2Config):
    """Shape of a Dream transformer, under Qwen2's names.

    Args:
        mask_token_id (`int`, *optional*, defaults to 151666): Id of the mask token.
        is_causal (`bool`, *optional*, defaults to `False`): Read by transformers' attention: masks see what is to
            their right.

    Example:
        ```python
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        config = DreamConfig(**sizes, num_key_value_heads=1, vocab_size=40, mask_token_id=4)
        model = DreamForMaskedDiffusion(config)
        ```
    """

    model_type = "Dream"
    mask_token_id: int | None = 151666
    use_cache: bool = False
    is_causal: bool = False


class DreamModel(Qwen2Model):
    """The body of Dream: Qwen2's, in both directions.

    Example:
        ```python
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
        model = DreamModel(DreamConfig(**sizes, num_key_value_heads=1, vocab_size=40, mask_token_id=4))
        states = model(torch.tensor([[5, 6, 4, 4]])).last_hidden_state
        ```
    """

    config_class = DreamConfig


class DreamForMaskedDiffusion(NativeGenerationMixin, Qwen2ForCausalLM):  # type: ignore[misc]
    """Dream with its token logits. Those at position i are of the token at i + 1, which `generate` knows.

    Example:
        ```python
        from transformers import AutoTokenizer

        name = "Dream-org/Dream-v0-Instruct-7B"
        model = DreamForMaskedDiffusion.from_pretrained(name, dtype="bfloat16", device_map="auto")
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
        inputs = tokenizer("Write a haiku.", return_tensors="pt").to(model.device)
        output = model.generate(**inputs, max_new_tokens=64, order="entropy")
        ```
    """

    config_class = DreamConfig

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
        """Predict the clean token after every position.

        Args:
            input_ids, attention_mask, position_ids, inputs_embeds: See `Qwen2Model.forward`.
            logits_to_keep (`torch.Tensor`, *optional*): Where logits are wanted: a boolean mask (B, L) of N positions,
                or columns (B, W) int64.

        Returns:
            `MaskedLMOutput`: `logits` (B, L, V), (N, V) or (B, W, V).
        """
        outputs = self.model(input_ids, attention_mask, position_ids, inputs_embeds=inputs_embeds, **kwargs)
        logits = self.lm_head(keep_positions(outputs.last_hidden_state, logits_to_keep))
        return MaskedLMOutput(logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions)
