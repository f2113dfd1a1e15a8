"""The canvas: prompt, masks and padding of a batch, laid out so that each row is what it would be alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig

# Where a model keeps an embedding for each position, and where its config says for how many it was made.
POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")

LENGTH_FIELDS = ("max_position_embeddings", "max_sequence_length", "model_length", "n_positions")


@dataclass(frozen=True)
class Canvas:
    """A batch as the model reads it: each row's real tokens, then its new masks, then its padding.

    A bidirectional model needs no padding on the left. With all of it on the right, real tokens have the positions that
    they have in a batch of one, whichever way the prompts were padded.

    tokens (B, L) int64. attention_mask (B, L) int64, or None without padding. fillable (B, L) bool: the masks. given
    (B, L) bool: the real tokens that were there. appended (B, L) int64: 0, 1, ... at the new masks, -1 elsewhere. back
    (B, L) int64: where the column of a returned sequence is found in the canvas; None if it is the same. num_new: masks
    appended to each row, the last columns of the returned sequences. token_type_ids (B, L) int64, if they were given.
    """

    tokens: torch.Tensor
    attention_mask: torch.Tensor | None
    fillable: torch.Tensor
    given: torch.Tensor
    appended: torch.Tensor
    back: torch.Tensor | None
    num_new: int
    token_type_ids: torch.Tensor | None = None

    def restore(self, values: torch.Tensor) -> torch.Tensor:
        """Put values (..., B, L) at the positions of the canvas in the order of the returned sequences."""
        return values if self.back is None else values.gather(-1, self.back.expand(values.shape))


def count_new(config: RemaskGenerationConfig, width: int) -> int:
    """How many masks are appended to `width` columns: `max_new_tokens`, or what is left to `max_length`.

    Raises ValueError if there are more columns than `max_length`.
    """
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if width > config.max_length:
        raise ValueError(f"max_length={config.max_length} is less than the {width} tokens of input_ids: raise it.")
    return config.max_length - width


def prepare_canvas(input_ids, attention_mask, config: RemaskGenerationConfig, token_type_ids=None) -> Canvas:
    """Append new masks to each row's real tokens, see `count_new`, and repeat rows `num_return_sequences` times.

    New tokens are of the type of the last real one.
    """
    input_ids = input_ids.long()
    types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids.long()
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    input_ids, real, types = (
        each.repeat_interleave(config.num_return_sequences, dim=0) for each in (input_ids, real, types)
    )
    batch, width = input_ids.shape
    num_new = count_new(config, width)
    new = (batch, num_new)
    tokens = torch.cat([input_ids, input_ids.new_full(new, config.mask_token_id)], dim=1)
    present = torch.cat([real, real.new_ones(new)], dim=1)
    column = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    if token_type_ids is not None:
        last = (real * column[:, :width]).amax(-1, keepdim=True) if width else real.new_zeros(batch, 1)
        types = torch.cat([types, types.gather(1, last).expand(new)], dim=1)
    back = padding = None
    if not bool(real.all()):
        column = (~present).to(torch.uint8).argsort(dim=-1, stable=True)
        tokens, present = tokens.gather(1, column), present.gather(1, column)
        if token_type_ids is not None:
            types = types.gather(1, column)
        padding = present.long()
        # Masks in place keep their columns. Appended ones end every row, as those of a decoder do.
        back = column.argsort(-1)
        if num_new:
            back = (torch.arange(tokens.shape[1], device=tokens.device) - (~real).sum(-1, keepdim=True)) % tokens.shape[
                1
            ]
    is_mask = tokens == config.mask_token_id
    return Canvas(
        tokens=tokens,
        attention_mask=padding,
        fillable=is_mask & present,
        given=~is_mask & present,
        appended=(column - width).clamp(min=-1),
        back=back,
        num_new=num_new,
        token_type_ids=None if token_type_ids is None else types,
    )


def vocabulary_size(model) -> int | None:
    """The number of tokens that the model knows, None where no config says."""
    return getattr(getattr(model, "config", None), "vocab_size", None)


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
