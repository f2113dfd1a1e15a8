"""What each step of a generation does, known before the first forward: the schedules of the samplers.

Each is a schedule of one row, made from its number of masks M alone, so that a row is treated the same in any batch.
The loop reads the schedules of all rows as tensors, and never has to ask the device how many tokens there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..strategies import StepState, has_loop, resolve_strategy, selection_of
from .threshold import adapts, sets_own_budget, verifies

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig


class RowStep(NamedTuple):
    """What one row does in one step. The masks of a row are ranked from left to right, 0 to M - 1.

    start, end: the block, in ranks; only its positions are remasked and filled. target: the block holds so many tokens
    after the step, or more. num_fill: positions to fill, or more where the target asks for it. num_remask: tokens to
    remask, or fewer, and only while `above` < tokens in the block < `below`. num_open: the block has no more masks than
    this before the forward. width: no more positions than this are filled. last: 1 where the block ends. step: index of
    the step within its block, out of `steps`; time runs from 1 to 0 in them. asks: 1 where the strategy is asked for
    this row. remasks_later: 1 where a later step of the block may remask. num_loop: random tokens remasked before the
    forward, of a step that holds the count.
    """

    start: int
    end: int
    target: int
    num_fill: int
    num_remask: int
    above: int
    below: int
    num_open: int
    width: int
    last: int
    step: int
    steps: int
    asks: int
    remasks_later: int = 0
    num_loop: int = 0


@dataclass(frozen=True)
class PlannedStep:
    """One step of all rows.

    index: base step (a loop step has that of the base step it precedes). asks: the strategy is asked for some row.
    sigma: probability that `eta` remasks a token. num_loop: the most random tokens that a row remasks first. rows: a
    `RowStep` of (B,) tensors. num_open, width, size: the largest of any row, `size` that of the block. num_held: no
    block holds more tokens than this before the forward. opens, closes: some row begins or ends a block. first, stop:
    the blocks of all rows lie in ranks first to stop - 1, counted from the first appended mask. recomputed: with a
    cache, the positions (B, W) that the forward computes anew, or None for all.
    """

    index: int
    asks: bool
    sigma: float
    num_loop: int
    rows: RowStep
    num_open: int
    width: int
    size: int
    num_held: int
    opens: bool
    closes: bool
    first: int
    stop: int
    recomputed: torch.Tensor | None = None


def spread(total: int, parts: int) -> list[int]:
    """`total` over `parts`, as even as can be; the first get what is over."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def spread_to_middle(total: int, parts: int) -> list[int]:
    """`total` over `parts`, as even as can be; those nearest the middle get what is over (of equals, the earlier)."""
    from_middle = sorted(range(parts), key=lambda part: abs(2 * part - parts + 1))
    return [share for _, share in sorted(zip(from_middle, spread(total, parts), strict=True))]


def remasks_at(step: int, steps: int, config: RemaskGenerationConfig) -> bool:
    """Whether `step` lies in the window from `remask_start` to `remask_end`, where anything is to be remasked."""
    in_window = config.remask_start * steps <= step < config.remask_end * steps
    return in_window and resolve_strategy(config.remask_strategy) is not None


def loop_of(config: RemaskGenerationConfig, steps: int) -> tuple[int, int]:
    """The base step before which the loop comes, and its number of steps."""
    if not (config.loop_steps or has_loop(resolve_strategy(config.remask_strategy))):
        return 0, 0
    start = max(7 * steps // 8, 1) if config.loop_start is None else config.loop_start
    return start, config.loop_steps or -(-steps // 2)


def step_indices(config: RemaskGenerationConfig, steps: int) -> list[tuple[int, bool]]:
    """(index, is a loop step) of every step: the base steps, with those of the loop among them."""
    start, loop_steps = loop_of(config, steps)
    if loop_steps and config.block_length:  # a row has loops of its own in each of its blocks
        return [(place * steps // (steps + loop_steps), False) for place in range(steps + loop_steps)]
    return with_loop([(index, False) for index in range(steps)], start, loop_steps)


def with_loop(indices: list[tuple[int, bool]], start: int, loop_steps: int) -> list[tuple[int, bool]]:
    """The steps with `loop_steps` more before the base step `start`, as which they count."""
    return [*indices[:start], *[(start, True)] * loop_steps, *indices[start:]]


def default_num_remask(num_masks: int, steps: int) -> int:
    """Tokens that a step remasks where nothing says how many: one fewer than it fills, but at least one."""
    return max((num_masks - 1) // steps, 1)


def default_share(size: int) -> int:
    """Tokens remasked in a block of `size` where nothing says how many: 12 of 64, as published for LLaDA-8B."""
    return -(-size * 12 // 64)


def static_schedule(num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
    """The static sampler (PRISM, arXiv 2510.01384): one block of all M masks.

    After base step i of T the row holds ceil(M (i + 1) / T) tokens; loop steps hold the count of the step before. It
    remasks n = num_remask (see `default_num_remask`) while n < tokens < M - n, and no more than masks that were there
    before can make up for. With verification it remasks n whatever the row holds, but for the last step.
    """
    remasks = resolve_strategy(config.remask_strategy) is not None
    num_remask = config.num_remask if remasks and config.num_remask else 0
    if remasks and config.num_remask is None and config.eta is None:
        num_remask = default_num_remask(num_masks, steps)
    if verifies(config):
        num_remask = num_masks if config.num_remask is None else min(num_remask, num_masks)
    # More steps than masks: the published window would close before the last tokens could be corrected.
    stays_open = num_masks < steps and 2 * num_remask < num_masks
    schedule, previous = [], 0
    for index, is_loop in step_indices(config, steps):
        target = previous if is_loop else -(-num_masks * (index + 1) // steps)
        may_remask = remasks_at(index, steps, config)
        room = num_masks - target
        above, below = num_remask, num_masks - num_remask
        if verifies(config):
            count, above, below = num_remask if index < steps - 1 else 0, -1, num_masks + 1
        elif config.eta is not None:
            count, above, below = room, -1, num_masks + 1
        elif stays_open and index < steps - 1:
            count, below = num_remask, num_masks + 1
        else:
            count = min(num_remask, room)
        num_loop = config.num_remask_loop if is_loop else 0
        reopened = num_remask if stays_open or verifies(config) else 0
        num_open = min(max(num_masks - previous, reopened) + num_loop, num_masks)
        width = min(target - previous + num_remask + num_loop, num_masks)
        if adapts(config) or config.eta:
            width = num_open
        schedule.append(
            RowStep(
                start=0,
                end=num_masks,
                target=target,
                num_fill=0,
                num_remask=count if may_remask else 0,
                above=above,
                below=below,
                num_open=max(num_open, width),
                width=width,
                last=0,
                step=index,
                steps=steps,
                asks=int(may_remask),
                num_loop=num_loop,
            )
        )
        previous = target
    schedule[-1] = schedule[-1]._replace(last=1)
    return schedule


def block_schedule(num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
    """The block sampler (LLaDA, arXiv 2502.09992, with PRISM's remasking): blocks of `block_length` masks, in turn.

    The steps are spread over the blocks. Each step remasks its share of `num_remask`, the middle ones of a block more,
    and fills its share of the block's masks, the first ones more, and as many again as it may remask. The first step of
    a block has nothing to remask; the last remasks nothing, as nobody would fill it, and fills all that is left. The
    steps of a loop are spread over the blocks too, each at the same share of its block's steps: such a step holds the
    count, and remasks one token beside its random ones, if the block remasks any.
    """
    starts = range(0, max(num_masks, 1), config.block_length)
    loop_start, loop_steps = loop_of(config, steps)
    schedule = []
    for start, block_steps, num_loops in zip(
        starts, spread(steps, len(starts)), spread(loop_steps, len(starts)), strict=True
    ):
        size = min(config.block_length, num_masks - start)
        window = [step for step in range(block_steps) if remasks_at(step, block_steps, config)]
        total = default_share(size) if config.num_remask is None else config.num_remask
        shares, above, below = dict(zip(window, spread_to_middle(total, len(window)), strict=True)), -1, size + 1
        if sets_own_budget(config):
            shares = dict.fromkeys(window, size)
        elif adapts(config) and config.num_remask is None:
            # The middle of the steps may never come, so one at each, within the window of the static sampler.
            shares, above, below = dict.fromkeys(window, 1), 1, size - 1
        target, num_open, dues = 0, size, spread(size, block_steps)
        loop_from = max(loop_start * block_steps // steps, 1)
        indices = with_loop([(step, False) for step in range(block_steps)], loop_from, num_loops)
        for step, is_loop in indices:
            common = {"start": start, "end": start + size, "above": above, "below": below, "last": 0, "step": step}
            common["steps"] = block_steps
            if is_loop:
                num_remask = min(total, size - target, 1) if remasks_at(step, block_steps, config) else 0
                opened = min(num_open + config.num_remask_loop, size)
                width = min(max(target - size + num_open, 0) + config.num_remask_loop + num_remask, opened)
                schedule.append(
                    RowStep(
                        target=target, num_fill=0, num_remask=num_remask, num_open=opened, width=width,
                        asks=num_remask, num_loop=config.num_remask_loop, **common,
                    )
                )  # fmt: skip
                num_open = size - target
                continue
            due, share, fills_up = dues[step], shares.get(step, 0), step == block_steps - 1
            target += due
            num_remask = 0 if fills_up or step == 0 else share
            num_fill = 0 if adapts(config) else due + share
            schedule.append(
                RowStep(
                    target=target if fills_up or adapts(config) else 0,
                    num_fill=num_fill,
                    num_remask=num_remask,
                    num_open=num_open,
                    width=num_open if fills_up or adapts(config) else min(num_fill, num_open),
                    asks=int(num_remask > 0),
                    **common,
                )
            )
            left = max(size - target, num_remask) if adapts(config) else max(num_open - num_fill, 0) + num_remask
            num_open = min(left, size)
        schedule[-1] = schedule[-1]._replace(last=1)
    return schedule


def joint_schedule(num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
    """The samplers that decide on tokens and masks together, a block (or the whole row) after the other.

    After step i of a block's T a ranking keeps ceil(size (i + 1) / T) positions. With probabilities the number is
    random, and the last step fills all.
    """
    strategy = resolve_strategy(config.remask_strategy)
    ranks = selection_of(strategy) == "ranking"
    length = config.block_length or max(num_masks, 1)
    starts = range(0, max(num_masks, 1), length)
    schedule = []
    for start, block_steps in zip(starts, spread(steps, len(starts)), strict=True):
        size, held = min(length, num_masks - start), 0
        widths = None if ranks else most_filled(strategy, size, block_steps)
        for step in range(block_steps):
            last, in_window = step == block_steps - 1, remasks_at(step, block_steps, config)
            target = -(-size * (step + 1) // block_steps) if ranks else size * last
            schedule.append(
                RowStep(
                    start=start,
                    end=start + size,
                    target=target,
                    num_fill=0,
                    num_remask=size * in_window,
                    above=-1,
                    below=size + 1,
                    num_open=size - held,
                    width=size - held if ranks else widths[step],
                    last=int(last),
                    step=step,
                    steps=block_steps,
                    asks=int(target < size if ranks else in_window and not last),
                )
            )
            held = target
    return schedule


def most_filled(strategy, size: int, steps: int, surprise: float = 1e-12) -> list[int]:
    """How many of `size` masks each step fills at most, but for a `surprise`; those over it would wait for the next.

    Whatever the canvas, the number filled is no more than Binomial(size, p), p being the probability at a mask.
    """
    if not getattr(strategy, "fills_by_time", False) or size == 0:
        return [size] * steps
    t = 1 - torch.arange(steps, dtype=torch.float32)[:, None] / steps
    mask, nothing = torch.zeros_like(t, dtype=torch.long), torch.zeros_like(t, dtype=torch.bool)
    probe = StepState(mask, nothing, None, None, 0, steps, t=t, s=t - 1 / steps, confidence=torch.zeros_like(t))
    p = strategy(probe).double().clamp(0, 1)  # (T, 1)
    k = torch.arange(size + 1, dtype=torch.float64)
    ways = torch.lgamma(k[-1] + 1) - torch.lgamma(k + 1) - torch.lgamma(size - k + 1)
    law = (ways + torch.xlogy(k, p) + torch.xlogy(size - k, 1 - p)).exp()  # (T, size + 1)
    at_least = law.flip(-1).cumsum(-1).flip(-1)  # Pr[number >= k]
    widths = (at_least[:, 1:] > surprise).sum(-1).tolist()
    return [*widths[:-1], size]


def mark_later(schedule: list[RowStep]) -> list[RowStep]:
    """The schedule with `remasks_later` set."""
    marked, later = [], 0
    for step in reversed(schedule):
        later = 0 if step.last else later
        marked.append(step._replace(remasks_later=later))
        later = max(later, int(step.num_remask > 0))
    return marked[::-1]


def plan_steps(
    num_masks: list[int], num_new: int, config: RemaskGenerationConfig, steps: int, device
) -> list[PlannedStep]:
    """The plan for rows with `num_masks` masks each, the last `num_new` of them appended; its tensors on `device`.

    Raises:
        ValueError: if there are more blocks than steps.
    """
    joint = selection_of(resolve_strategy(config.remask_strategy)) != "lowest"
    schedule = joint_schedule if joint else static_schedule
    if config.block_length is not None:
        schedule = joint_schedule if joint else block_schedule
        num_blocks = -(-max(num_masks) // config.block_length)
        if steps < num_blocks:
            raise ValueError(
                f"steps={steps} are too few for {num_blocks} blocks of block_length={config.block_length}: "
                f"raise steps to {num_blocks} or more, or make the blocks longer."
            )
    counts = {count: number for number, count in enumerate(sorted(set(num_masks)))}  # rows with as many are alike
    columns = list(zip(*(mark_later(schedule(count, config, steps)) for count in counts), strict=True))
    row_kind = torch.tensor([counts[count] for count in num_masks], device=device)
    on_device = torch.tensor(columns, device=device).index_select(1, row_kind).transpose(1, 2)  # (S, fields, B)
    in_place = [count - num_new for count in counts]
    plan, previous = [], None
    for (index, is_loop), values, column in zip(step_indices(config, steps), on_device, columns, strict=True):
        rows = RowStep(*zip(*column, strict=True))
        size = max(map(int.__sub__, rows.end, rows.start))
        alpha_t, alpha_s = index / steps, (index if is_loop else index + 1) / steps
        plan.append(
            PlannedStep(
                index=index,
                asks=any(rows.asks),
                sigma=min(config.eta or 0.0, (1 - alpha_s) / alpha_t if alpha_t else 1.0),
                num_loop=max(rows.num_loop),
                rows=RowStep(*values),
                num_open=max(rows.num_open),
                width=max(rows.width),
                size=size,
                num_held=size,
                opens=rows.start != previous,
                closes=any(rows.last),
                first=max(min(map(int.__sub__, rows.start, in_place)), 0),
                stop=max(max(map(int.__sub__, rows.end, in_place)), 0),
            )
        )
        previous = rows.start
    return plan
