"""Settings of transformers' own `generate` that denoising has none of, and what to use instead."""

from typing import Any

from transformers import GenerationConfig

REASONS = {
    "beams need left-to-right generation, in which a beginning has a probability: for several sequences set "
    "num_return_sequences": (
        "num_beams", "num_beam_groups", "length_penalty", "early_stopping", "diversity_penalty", "constraints",
        "force_words_ids",
    ),
    "a canvas is read in both directions, so that no token has a past: cache='prefix' or cache='dual', with "
    "block_length, reuse what is outside of a block": (
        "use_cache", "past_key_values", "cache_implementation", "cache_config", "max_cache_len", "prefill_chunk_size",
        "cache_position", "logits_to_keep",
    ),
    "nothing guesses what comes next, as a step fills many positions anyway: see confidence_threshold": (
        "assistant_model", "assistant_tokenizer", "prompt_lookup_num_tokens", "num_assistant_tokens", "use_mtp",
    ),
    "classifier-free guidance is cfg_scale here, its unconditional side being the canvas without what is given": (
        "guidance_scale", "negative_prompt_ids", "negative_prompt_attention_mask",
    ),
    "what is recorded of a generation is output_trajectory, with return_dict_in_generate": (
        "output_scores", "output_logits", "output_attentions", "output_hidden_states",
    ),
    "a canvas is made of token ids, and numbers its positions itself": (
        "position_ids", "inputs_embeds", "encoder_outputs", "decoder_input_ids", "decoder_attention_mask", "labels",
    ),
}  # fmt: skip
# The same for those of which transformers' own `generate` makes a logits processor or a stopping criterion.
CALLABLES = {
    "max_new_tokens masks are appended; that none ends a row earlier is said by suppress_tokens": (
        "min_length", "min_new_tokens",
    ),
    "it is a stopping criterion: pass stopping_criteria=[MaxTimeCriteria(...)] or [StopStringCriteria(...)]": (
        "stop_strings", "max_time",
    ),
    "it is a logits processor: pass one of transformers in logits_processor=[...]": (
        "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
        "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff", "exponential_decay_length_penalty",
        "sequence_bias", "forced_bos_token_id", "forced_eos_token_id", "begin_suppress_tokens", "remove_invalid_values",
        "renormalize_logits", "prefix_allowed_tokens_fn", "watermarking_config",
    ),
}  # fmt: skip
MADE_CALLABLE = [name for names in CALLABLES.values() for name in names]
REASON_OF = {name: reason for reason, names in (REASONS | CALLABLES).items() for name in names}
DEFAULTS = GenerationConfig._get_default_generation_params()


def asks_for_nothing(name: str, value: Any) -> bool:
    """Whether a setting of transformers' has the value at which it does nothing: `num_beams=1`, `output_scores=False`.

    `use_cache` may be True: a canvas has no cache to leave out.
    """
    if reason_against(name) is None:
        return False
    plain = isinstance(value, int | float | str)
    return value is None or value is False or name == "use_cache" or (plain and value == DEFAULTS.get(name))


def reason_against(name: str) -> str | None:
    """Why transformers' setting of that name means nothing in denoising; None if it has no such setting."""
    generic = "it is a setting of left-to-right generation" if name in GenerationConfig().__dict__ else None
    return REASON_OF.get(name, generic)
