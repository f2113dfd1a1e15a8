"""What can be known of a generation to be wrong before the first forward."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, StoppingCriteriaList

from prism_hf.data.prompts import tokens_without_text

from .configuration_remask import RemaskGenerationConfig, prepare_generation_config
from .stopping import as_ids

# Where a model keeps an embedding for each position, and where its config says for how many it was made.
POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
LENGTH_FIELDS = ("max_position_embeddings", "max_sequence_length", "model_length", "n_positions")


def vocabulary_size(model) -> int | None:
    """The number of tokens that the model knows, None where no config says."""
    return getattr(getattr(model, "config", None), "vocab_size", None)


def padding_of(model, mask_token_id: int) -> int | None:
    """The pad token of the model's config, or of its backbone's; None if it is no token of the model, or its mask."""
    own, size = getattr(model, "config", None), vocabulary_size(model)
    for config in (own, getattr(own, "backbone_config", None)):
        token = getattr(config, "pad_token_id", None)
        if token is not None and 0 <= token != mask_token_id and (size is None or token < size):
            return token
    return None


def excluded_tokens(config: RemaskGenerationConfig) -> list[int]:
    """The tokens that are never drawn, the mask first."""
    words = [word[0] for word in config.bad_words_ids or () if len(word) == 1]
    return [config.mask_token_id, *(config.suppress_tokens or ()), *words]


def check_tokens(model, config: RemaskGenerationConfig) -> None:
    """Raise ValueError where a setting names a token that the model lacks, or leaves no token to draw."""
    size = vocabulary_size(model)
    if size is None:
        return
    named = {
        "mask_token_id": [config.mask_token_id],
        "eos_token_id": as_ids(config.eos_token_id),
        "pad_token_id": as_ids(config.pad_token_id),
        "suppress_tokens": config.suppress_tokens or [],
        "bad_words_ids": [token for word in config.bad_words_ids or [] for token in word],
    }
    for name, tokens in named.items():
        if wrong := [token for token in tokens if token >= size]:
            raise ValueError(f"{name} has {wrong[0]}, but the tokens of the model go from 0 to {size - 1}.")
    if config.mask_token_id in as_ids(config.eos_token_id):
        raise ValueError(
            f"eos_token_id={config.eos_token_id} has the mask, {config.mask_token_id}, which is never drawn and so "
            "ends no row: name the token that ends a text."
        )
    if len(set(excluded_tokens(config))) == size:
        raise ValueError(
            f"suppress_tokens and bad_words_ids leave none of the {size} tokens to draw, as the mask never is: allow "
            "one."
        )


def fitted_to_tokenizer(model, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call, completed by what a tokenizer tells.

    Its EOS ends a text unless they or the model say what does, its pad token fills what follows unless they or the
    model have one, and ids that it lacks are never drawn: a vocabulary that was padded to a round number has some.
    """
    config, size = prepare_generation_config(model, None, **settings), vocabulary_size(model)
    told = {}
    for name, of_model in (("eos_token_id", None), ("pad_token_id", padding_of(model, config.mask_token_id))):
        token = getattr(tokenizer, name)
        is_open = name not in settings and getattr(config, name) is None and of_model is None
        if is_open and token not in (None, config.mask_token_id) and (size is None or token < size):
            told[name] = token
    if missing := tokens_without_text(tokenizer, size, config.mask_token_id):
        told["suppress_tokens"] = sorted({*(config.suppress_tokens or []), *missing})
    return settings | told


def check_endings(
    model, config: RemaskGenerationConfig, criteria: StoppingCriteriaList | None, num_new: int
) -> int | None:
    """The token that fills a row after its end. Raises ValueError if rows may end and there is none."""
    if criteria and not num_new:
        raise ValueError(
            "stopping_criteria end rows within their new tokens: set max_new_tokens, or leave the criteria out when "
            "there are only the masks of input_ids to fill."
        )
    if config.pad_token_id == config.mask_token_id and (criteria or config.eos_token_id is not None):
        raise ValueError(
            f"pad_token_id={config.pad_token_id} is the mask, so that what follows a row's end would look unfilled: "
            "set another."
        )
    for pad_token_id in (config.pad_token_id, padding_of(model, config.mask_token_id), *as_ids(config.eos_token_id)):
        if pad_token_id is not None:
            return pad_token_id
    if criteria:
        raise ValueError("stopping_criteria need pad_token_id: what a row holds after its end.")
    return None


def check_helpers(generator: Any, streamer: Any) -> None:
    """Raise ValueError where the source of randomness or the streamer of a call is something else."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is {generator!r}: give torch.Generator().manual_seed(...).")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise ValueError(f"streamer is {streamer!r}: give one of transformers, such as TextStreamer(tokenizer).")


def check_inputs(model, input_ids, attention_mask, token_type_ids) -> None:
    """Raise ValueError unless they are tensors (B, L): ids that the model knows, a mask of 0 and 1, and types."""
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2:
        got = tuple(input_ids.shape) if isinstance(input_ids, torch.Tensor) else type(input_ids).__name__
        raise ValueError(
            f"input_ids must be a tensor (batch, length), got {got}. What a tokenizer returns is unpacked: "
            'generate(**tokenizer(text, return_tensors="pt")).'
        )
    if input_ids.is_floating_point() or input_ids.dtype == torch.bool:
        raise ValueError(f"input_ids must be integers, got {input_ids.dtype}.")
    if len(input_ids) == 0:
        raise ValueError("input_ids has no rows: give at least one.")
    input_ids = input_ids.long()  # unsigned integers cannot be compared
    for name, value in (("attention_mask", attention_mask), ("token_type_ids", token_type_ids)):
        if value is None:
            continue
        shape = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        if shape != tuple(input_ids.shape):
            raise ValueError(f"{name} has shape {shape}: give it that of input_ids, {tuple(input_ids.shape)}.")
    if attention_mask is not None:
        binary = ((attention_mask == 0) | (attention_mask == 1)).all()
        # An additive mask that hides nothing has no 1 either.
        if not bool(binary & (attention_mask.any() | (not attention_mask.is_floating_point()))):
            raise ValueError(
                "attention_mask must be 1 at tokens and 0 at padding. Of an additive one, which has 0 at tokens and "
                "large negative numbers at padding, pass (mask == 0).long()."
            )
    size = vocabulary_size(model)
    wrong = (input_ids < 0) if size is None else (input_ids < 0) | (input_ids >= size)
    if input_ids.numel() and bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        known = "are not negative" if size is None else f"go from 0 to {size - 1}"
        raise ValueError(
            f"input_ids[{row}, {column}] is {input_ids[row, column].item()}, but the ids of the model {known}: use the "
            "model's own tokenizer, and any token of it as padding."
        )


def longest_canvas(model) -> int | None:
    """How many tokens the model has positions for; None where they are relative, or nothing tells.

    A table of positions says so itself: it holds as many as the config says, without those that come before a first
    position of `padding_idx + 1`, as in RoBERTa. Without a table it is what the config names.
    """
    config = getattr(model, "config", None)
    config = getattr(config, "backbone_config", config)
    named = [getattr(config, name, None) for name in LENGTH_FIELDS]
    named = min((length for length in named if isinstance(length, int) and length > 0), default=None)
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in (model.named_modules() if isinstance(model, nn.Module) else ())
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES
    ]
    if tables:
        return min(tables) if named is None else min(*tables, named)
    return None if getattr(config, "relative_attention", False) else named


def check_lengths(
    model, lengths: Iterable[int], num_new: int, width: int = 0, name: str = "Row", first: int = 0
) -> None:
    """Raise ValueError for the first row whose tokens and new masks are more than the model has positions.

    lengths: the tokens of each row, without padding. width: those of a padded batch. name, first: what to call a row,
    and the number of the first.
    """
    limit = longest_canvas(model)
    if limit is None:
        return
    remedy = "shorten it or lower max_new_tokens" if num_new else "shorten it"
    for number, length in enumerate(lengths, start=first):
        if length + num_new > limit:
            new = f" and is to get {num_new} new ones" if num_new else ""
            raise ValueError(
                f"{name} {number} has {length} tokens{new}, more than the {limit} that the model has positions "
                f"for: {remedy}."
            )
    if width + num_new > limit:
        raise ValueError(
            f"input_ids is {width} wide, its padding included, and is to get {num_new} new tokens, more than the "
            f"{limit} that the model has positions for: pad no wider than the longest row."
        )
