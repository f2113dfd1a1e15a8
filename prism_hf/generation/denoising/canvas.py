"""The canvas: prompt, masks and padding of a batch, and the generation that fills it.

Padding goes to the right while the model reads. With bidirectional attention each row then has the positions that it
has alone, be they absolute or rotary. Returned sequences end in their new tokens, as a decoder's do.

With `max_length` each row, its prompt included, is that long. So nothing is padded while the model reads, whatever the
prompts: it is in the returned sequences alone that shorter prompts have padding before them, and longer ones after
their new tokens, of which they have fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from prism_hf._compat import config_of, setting

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..strategies.base import RemaskStrategy
    from .reading import Reader
    from .schedule import Step
    from .threshold import AdaptiveSteps

# Where a model keeps an embedding for each position, and where its config says for how many it was made.
POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")
LENGTH_FIELDS = ("max_position_embeddings", "max_sequence_length", "model_length", "n_positions")


@dataclass(frozen=True)
class Canvas:
    """A batch as the model reads it: each row's real tokens, then its new masks, then its padding.

    Args:
        tokens (`torch.LongTensor`): (B, L) before the first step.
        attention_mask (`torch.LongTensor`, *optional*): (B, L), None without padding.
        fillable (`torch.BoolTensor`): (B, L), the masks.
        given (`torch.BoolTensor`): (B, L), the real tokens.
        appended (`torch.LongTensor`): (B, L), 0, 1, ... at the new masks and -1 elsewhere.
        back (`torch.LongTensor`, *optional*): (B, L'), where the column of a returned sequence is found in the canvas,
            L or more where it is nowhere, as it is padding; None if it is the same.
        num_new (`int`): The last columns of the returned sequences, those of new masks.
        num_appended (`torch.LongTensor`): (B,), how many new masks each row has.
        token_type_ids (`torch.LongTensor`, *optional*): (B, L), if they were given.
    """

    tokens: torch.Tensor
    attention_mask: torch.Tensor | None
    fillable: torch.Tensor
    given: torch.Tensor
    appended: torch.Tensor
    back: torch.Tensor | None
    num_new: int
    num_appended: torch.Tensor
    token_type_ids: torch.Tensor | None = None

    def restore(self, values: torch.Tensor, padding: float = 0) -> torch.Tensor:
        """Values (..., B, L) at the positions of the canvas as (..., B, L') in the order of the returned sequences.

        `padding` is the value of a column that the canvas does not have.
        """
        if self.back is None:
            return values
        missing = self.back.shape[-1] - values.shape[-1]
        values = nn.functional.pad(values, (0, missing), value=padding) if missing else values
        return values.gather(-1, self.back.expand(values.shape))


@dataclass
class Generation:
    """A generation under way: what all its steps share, and the canvas as it stands.

    Args:
        config (`RemaskGenerationConfig`): The complete settings.
        strategy (`RemaskStrategy`): What remasks, and makes the steps.
        canvas (`Canvas`): The layout, and what stood there before the first step.
        schedule (`list[Step]`): The steps.
        steps (`int`): T, the number of base steps.
        read (`Reader`): Makes the forwards.
        adaptive (`AdaptiveSteps`, *optional*): Fits the steps to the canvas, in threshold decoding.
        pad_token_id (`int`, *optional*): What a row holds after its end.
        generator (`torch.Generator`, *optional*): The source of all randomness.
        logits_processor (`Callable`, *optional*): Called with what tokens are drawn from.

    What changes from step to step: `tokens` (B, L) int64; `masked` (B, L) bool; `confidence` (B, L), the probability
    with which each token was drawn, None where no strategy reads it; `window` (B, L) bool, each row's block, and
    `later` (B, L) bool, what comes after it; `reads` (B,) bool, the rows that take part in the step's forward;
    `is_complete` (B,) bool, those whose block is complete after it; `ends_block`, whether some row's may be;
    `finished` (B,) bool, the rows that have ended; `cut_off` (B, L) bool, what follows their end; `is_over`.
    """

    config: RemaskGenerationConfig
    strategy: RemaskStrategy
    canvas: Canvas
    schedule: list[Step]
    steps: int
    read: Reader
    adaptive: AdaptiveSteps | None = None
    pad_token_id: int | None = None
    generator: torch.Generator | None = None
    logits_processor: Callable | None = None
    ends_block: bool = field(default=False, init=False)
    is_over: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        fillable = self.canvas.fillable
        self.tokens, self.masked, self.confidence = self.canvas.tokens, fillable, None
        if "confidence" in self.strategy.needs:
            self.confidence = torch.zeros_like(self.tokens, dtype=torch.float32)
        self.num_masks, self.rank = fillable.sum(-1), fillable.cumsum(-1) - 1
        self.finished = torch.zeros_like(self.num_masks, dtype=torch.bool)
        self.cut_off, self.has_nan_quality = torch.zeros_like(fillable), self.finished.new_zeros(())

    @property
    def masks(self) -> torch.Tensor:
        """The masks of each row's block (B, L)."""
        return self.masked & self.window

    @property
    def generated(self) -> torch.Tensor:
        """The tokens generated in each row's block, which may be remasked (B, L)."""
        return self.window & ~self.masked

    def begin(self, step: Step) -> Step | None:
        """Find each row's block. Returns the step, fitted to the canvas in threshold decoding; None to leave it out."""
        unfinished = self.canvas.fillable & ~self.finished[:, None]
        self.later = unfinished & (self.rank >= step.rows.end[:, None])
        self.window = unfinished & (self.rank >= step.rows.start[:, None]) & ~self.later
        self.reads = ~self.finished
        return step if self.adaptive is None else self.adaptive.fit(self, step)

    def remask(self, positions: torch.Tensor) -> None:
        """Put the mask token at `positions` (B, L) bool."""
        self.tokens = self.tokens.masked_fill(positions, self.config.mask_token_id)
        self.masked = self.masked | positions

    def settle(self, step: Step, changes: Changes) -> None:
        """Find the rows whose block is complete."""
        if changes.quality is not None:
            unjudged = changes.quality.isnan() & self.window & ~changes.remasked
            self.has_nan_quality = self.has_nan_quality | unjudged.any()
        self.is_complete, self.ends_block = step.rows.ends_block.bool(), step.ends_block
        if self.adaptive is not None:
            self.adaptive.settle(self, step, changes)

    def end(self, rows: torch.Tensor, after: torch.Tensor) -> None:
        """End `rows` (B,) bool, with padding at what comes `after` their end (B, L) bool."""
        self.tokens = self.tokens.masked_fill(after, self.pad_token_id)
        self.masked, self.cut_off = self.masked & ~after, self.cut_off | after
        self.finished = self.finished | rows


class Changes(NamedTuple):
    """What a step did.

    Args:
        unmasked (`torch.BoolTensor`): (B, L).
        remasked (`torch.BoolTensor`): (B, L), what a loop removed before the forward among it.
        quality (`torch.Tensor`, *optional*): (B, L) that the forward read; NaN where a loop had removed the token, and
            where a cache spared it.
    """

    unmasked: torch.Tensor
    remasked: torch.Tensor
    quality: torch.Tensor | None


def prepare_canvas(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    config: RemaskGenerationConfig,
    token_type_ids: torch.Tensor | None = None,
) -> Canvas:
    """Append new masks to each row's real tokens, see `count_new`, and repeat rows `num_return_sequences` times.

    New tokens are of the type of the last real one. Raises ValueError for what the model cannot read.
    """
    check_inputs(model, input_ids, attention_mask, token_type_ids)
    repeats = config.num_return_sequences
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    new_of_rows = count_new(model, real.sum(-1).tolist(), config)
    num_new = max(new_of_rows)
    check_width(model, input_ids.shape[1], config)
    num_appended = torch.tensor(new_of_rows, device=input_ids.device)
    tokens, real = (each.repeat_interleave(repeats, dim=0) for each in (input_ids.long(), real))
    num_appended = num_appended.repeat_interleave(repeats)
    batch, width = tokens.shape
    new = (batch, num_new)
    tokens = torch.cat([tokens, tokens.new_full(new, config.mask_token_id)], dim=1)
    column = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
    present = torch.cat([real, column[:, :num_new] < num_appended[:, None]], dim=1)
    types = back = padding = None
    if token_type_ids is not None:
        types = token_type_ids.long().repeat_interleave(repeats, dim=0)
        last = (real * column[:, :width]).amax(-1, keepdim=True) if width else real.new_zeros(batch, 1)
        types = torch.cat([types, types.gather(1, last).expand(new)], dim=1)
    if not bool(present.all()):
        # Masks in place keep their columns. Appended ones follow the prompts, as those of a decoder do.
        back = (column - (~real).sum(-1, keepdim=True)) % tokens.shape[1] if num_new else None
        column = (~present).to(torch.uint8).argsort(dim=-1, stable=True)
        back = column.argsort(-1) if back is None else back
        column = column[:, : column.shape[1] if config.max_new_tokens is not None else config.max_length]
        tokens, present = tokens.gather(1, column), present.gather(1, column)
        types = None if types is None else types.gather(1, column)
        padding = None if config.max_new_tokens is None else present.long()
    is_mask = tokens == config.mask_token_id
    return Canvas(
        tokens=tokens,
        attention_mask=padding,
        fillable=is_mask & present,
        given=~is_mask & present,
        appended=(column - width).clamp(min=-1),
        back=back,
        num_new=num_new,
        num_appended=num_appended,
        token_type_ids=types,
    )


def vocabulary_size(model: Any) -> int | None:
    """The number of tokens that the model knows, None where no config says."""
    return setting(config_of(model), "vocab_size")


def check_inputs(model: Any, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> None:
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


def longest_canvas(model: Any) -> int | None:
    """How many tokens the model has positions for; None where they are relative, or nothing tells.

    A table of positions says so itself: it holds as many as the config says, without those that come before a first
    position of `padding_idx + 1`, as in RoBERTa. Without a table it is what the config names.
    """
    config = config_of(model)
    config = setting(config, "backbone_config", config)
    lengths = [setting(config, name) for name in LENGTH_FIELDS]
    named = min((length for length in lengths if isinstance(length, int) and length > 0), default=None)
    tables = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in (model.named_modules() if isinstance(model, nn.Module) else ())
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in POSITION_TABLES
    ]
    if tables:
        return min(tables) if named is None else min(*tables, named)
    return None if setting(config, "relative_attention", False) else named


def count_new(
    model: Any, lengths: Iterable[int], config: RemaskGenerationConfig, name: str = "Row", first: int = 0
) -> list[int]:
    """How many masks are appended to each row: `max_new_tokens`, or what its own tokens leave of `max_length`.

    Raises ValueError for the first row of more than `max_length` tokens, or than the model has positions.

    lengths: the tokens of each row, without padding. name, first: what to call a row, and the number of the first.
    """
    limit, counts = longest_canvas(model), []
    for number, length in enumerate(lengths, start=first):
        num_new = config.max_length - length if config.max_new_tokens is None else config.max_new_tokens
        if num_new < 0:
            raise ValueError(
                f"{name} {number} has {length} tokens, more than max_length={config.max_length}: raise it, or shorten "
                "the row."
            )
        if limit is not None and length + num_new > limit:
            new = f" and is to get {num_new} new ones" if num_new else ""
            lower = "max_length" if config.max_new_tokens is None else "max_new_tokens"
            raise ValueError(
                f"{name} {number} has {length} tokens{new}, more than the {limit} that the model has positions "
                f"for: shorten it{f' or lower {lower}' if num_new else ''}."
            )
        counts.append(num_new)
    return counts


def check_width(model: Any, width: int, config: RemaskGenerationConfig) -> None:
    """Raise ValueError if a batch, its padding included, is wider than the model has positions for."""
    limit, num_new = longest_canvas(model), config.max_new_tokens
    if limit is not None and num_new is not None and width + num_new > limit:
        raise ValueError(
            f"input_ids is {width} wide, its padding included, and is to get {num_new} new tokens, more than the "
            f"{limit} that the model has positions for: pad no wider than the longest row."
        )
