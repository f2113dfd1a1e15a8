"""What each step of a generation does, known before the first forward.

A strategy makes the schedule of one row from its number of masks M alone, so that a row is treated the same in any
batch. The loop reads the schedules of all rows as tensors, and never has to ask the device how many tokens there are. A
model whose forward takes `logits_to_keep` (B, W) runs its LM head at the positions that a step can decide only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..strategies.base import RemaskStrategy


class RowStep(NamedTuple):
    """What one row does in one step. The masks of a row are ranked from left to right, 0 to M - 1.

    Args:
        start (`int`): The first rank of the block; only positions of the block are remasked and unmasked.
        end (`int`): The rank after its last.
        target (`int`): The block holds so many tokens after the step, or more.
        most_masks (`int`): The block has no more masks than this before the forward.
        most_unmasked (`int`): No more positions than this are unmasked.
        step (`int`): The index of the step within its block.
        steps (`int`): The number of steps of the block, in which time runs from 1 to 0.
        num_unmask (`int`, *optional*, defaults to 0): Positions to unmask, or more where the target asks for it.
        refills (`int`, *optional*, defaults to 0): 1 where as many more are unmasked as the step remasks.
        num_remask (`int`, *optional*, defaults to 0): Tokens to remask, or fewer.
        min_generated (`int`, *optional*, defaults to 0): Nothing is remasked where the block holds fewer tokens.
        max_generated (`int`, *optional*): Nothing is remasked where it holds more.
        num_loop (`int`, *optional*, defaults to 0): Random tokens to remask before the forward.
        uses_strategy (`int`, *optional*, defaults to 0): 1 where the strategy is asked for this row.
        ends_block (`int`, *optional*, defaults to 0): 1 in the last step of a block.
        remasks_later (`int`, *optional*, defaults to 0): 1 where a later step of the block may remask.
    """

    start: int
    end: int
    target: int
    most_masks: int
    most_unmasked: int
    step: int
    steps: int
    num_unmask: int = 0
    refills: int = 0
    num_remask: int = 0
    min_generated: int = 0
    max_generated: int = sys.maxsize
    num_loop: int = 0
    uses_strategy: int = 0
    ends_block: int = 0
    remasks_later: int = 0


@dataclass(frozen=True)
class Step:
    """One step of all rows.

    Args:
        index (`int`): The base step; a loop step has that of the base step it precedes.
        rows (`RowStep`): Each entry a tensor (B,).
        uses_strategy (`bool`): Whether the strategy is asked for some row.
        eta (`float`): The probability with which the setting `eta` remasks a token.
        num_loop (`int`): The most random tokens that a row remasks first.
        most_masks (`int`): The largest of any row.
        most_unmasked (`int`): The largest of any row.
        most_generated (`int`): No block holds more tokens than this before the forward.
        block_length (`int`): That of the longest block.
        begins_block (`bool`): Whether some row begins a block.
        ends_block (`bool`): Whether some row ends one.
        is_last (`bool`): Whether no step follows.
        first_appended (`int`): The blocks of all rows begin at this appended mask, or after it.
        stop_appended (`int`): They end before this one.
        recomputed (`torch.LongTensor`, *optional*): With a cache, the positions (B, W) that the forward computes anew;
            None for all.
    """

    index: int
    rows: Any  # a `RowStep` of tensors
    uses_strategy: bool
    eta: float
    num_loop: int
    most_masks: int
    most_unmasked: int
    most_generated: int
    block_length: int
    begins_block: bool
    ends_block: bool
    is_last: bool
    first_appended: int
    stop_appended: int
    recomputed: torch.Tensor | None = None


def spread(total: int, parts: int) -> list[int]:
    """`total` over `parts`, as even as can be; the first get what is over."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def spread_to_middle(total: int, parts: int) -> list[int]:
    """`total` over `parts`, as even as can be; those nearest the middle get what is over (of equals, the earlier)."""
    from_middle = sorted(range(parts), key=lambda part: abs(2 * part - parts + 1))
    return [share for _, share in sorted(zip(from_middle, spread(total, parts), strict=True))]


def in_window(step: int, steps: int, config: RemaskGenerationConfig) -> bool:
    """Whether `step` lies in the window from `remask_start` to `remask_end`."""
    return config.remask_start * steps <= step < config.remask_end * steps


def blocks_of(num_masks: int, config: RemaskGenerationConfig, steps: int) -> Iterator[tuple[int, int, int]]:
    """(first rank, length, number of steps) of each block of a row; the whole row is one without `block_length`.

    With `max_length` the blocks are those of a row that is all masks; what the prompt takes of them are last, empty
    ones.
    """
    length = config.block_length or max(num_masks, 1)
    starts = range(0, max(masks_in_blocks(num_masks, config), 1), length)
    for start, block_steps in zip(starts, spread(steps, len(starts)), strict=True):
        first = min(start, num_masks)
        yield first, min(length, num_masks - first), block_steps


def masks_in_blocks(num_masks: int, config: RemaskGenerationConfig) -> int:
    """How many masks the steps are spread over: those of a row, or in blocks with `max_length` a whole canvas."""
    of_canvas = config.block_length is not None and config.max_new_tokens is None and config.max_length is not None
    return config.max_length if of_canvas else num_masks


def with_loop(indices: list[int], start: int, loop_steps: int) -> list[tuple[int, bool]]:
    """(index, is a loop step): the steps, with `loop_steps` more before the base step `start`, as which they count."""
    base = [(index, False) for index in indices]
    return [*base[:start], *[(start, True)] * loop_steps, *base[start:]]


def step_indices(strategy: RemaskStrategy, config: RemaskGenerationConfig, steps: int) -> list[tuple[int, bool]]:
    """(index, is a loop step) of every step: the base steps, with those of the loop among them."""
    start, loop_steps = strategy.loop(config, steps)
    if loop_steps and config.block_length:  # a row has loops of its own in each of its blocks
        return [(place * steps // (steps + loop_steps), False) for place in range(steps + loop_steps)]
    return with_loop(list(range(steps)), start, loop_steps)


def _with_remasks_later(schedule: list[RowStep]) -> list[RowStep]:
    marked, later = [], 0
    for step in reversed(schedule):
        later = 0 if step.ends_block else later
        marked.append(step._replace(remasks_later=later))
        later = max(later, int(step.num_remask > 0))
    return marked[::-1]


def _appended(column: Sequence[RowStep], in_place: list[int]) -> tuple[int, int]:
    """Which appended masks a step is about: the first, and the one after the last, of any row.

    in_place: how many masks come before the appended ones in each row.
    """
    blocks = [(row.start - n, row.end - n) for row, n in zip(column, in_place, strict=True) if row.end > row.start]
    return max(min(start for start, _ in blocks), 0), max(max(end for _, end in blocks), 0)


def plan_steps(
    strategy: RemaskStrategy,
    config: RemaskGenerationConfig,
    num_masks: list[int],
    num_new: list[int],
    steps: int,
    device: torch.device | str,
) -> list[Step]:
    """The steps of rows with `num_masks` masks each, the last `num_new` of them appended; their tensors on `device`.

    A step in which every row's block is empty is left out.

    Raises:
        ValueError: if there are more blocks than steps, or if the loop would come after the last step.
    """
    num_blocks = -(-masks_in_blocks(max(num_masks), config) // config.block_length) if config.block_length else 1
    if steps < num_blocks:
        raise ValueError(
            f"steps={steps} are too few for {num_blocks} blocks of block_length={config.block_length}: "
            f"raise steps to {num_blocks} or more, or make the blocks longer."
        )
    if strategy.loop(config, steps)[0] > steps:
        raise ValueError(f"loop_start={config.loop_start} is after the last of {steps} steps: lower it.")
    pairs = list(zip(num_masks, num_new, strict=True))
    kinds = {pair: number for number, pair in enumerate(sorted(set(pairs)))}  # rows with as many of both are alike
    schedules = [_with_remasks_later(strategy.schedule(count, config, steps)) for count, _ in kinds]
    columns = zip(step_indices(strategy, config, steps), zip(*schedules, strict=True), strict=True)
    kept = [(index, column) for index, column in columns if any(row.end > row.start for row in column)]
    in_place = [count - appended for count, appended in kinds]
    kind_of_row = torch.tensor([kinds[pair] for pair in pairs], device=device)
    entries = torch.tensor([column for _, column in kept], device=device)
    on_device = entries.index_select(1, kind_of_row).transpose(1, 2)  # (S, entries, B)
    planned: list[Step] = []
    previous = None
    for ((index, is_loop), column), values in zip(kept, on_device, strict=True):
        rows: Any = RowStep(*cast(Any, zip(*column, strict=True)))
        first_appended, stop_appended = _appended(column, in_place)
        length = max(map(int.__sub__, rows.end, rows.start))
        alpha_t, alpha_s = index / steps, (index if is_loop else index + 1) / steps
        step = Step(
            index=index,
            rows=RowStep(*cast(Any, values)),
            uses_strategy=any(rows.uses_strategy),
            eta=min(config.eta or 0.0, (1 - alpha_s) / alpha_t if alpha_t else 1.0),
            num_loop=max(rows.num_loop),
            most_masks=max(rows.most_masks),
            most_unmasked=max(rows.most_unmasked),
            most_generated=length,
            block_length=length,
            begins_block=rows.start != previous,
            ends_block=any(rows.ends_block),
            is_last=len(planned) == len(kept) - 1,
            first_appended=first_appended,
            stop_appended=stop_appended,
        )
        planned.append(step)
        previous = rows.start
    return planned
