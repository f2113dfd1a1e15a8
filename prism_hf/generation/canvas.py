"""The canvas: prompt, masks and padding of a batch, laid out so that each row is what it would be alone."""

from dataclasses import dataclass

import torch

from .configuration_remask import RemaskGenerationConfig


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
