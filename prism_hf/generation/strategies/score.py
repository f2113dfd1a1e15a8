"""Strategies that score tokens: those of lowest score are remasked, as many as the schedule says.

Static sampler (PRISM, arXiv 2510.01384): one block of all masks. The paper remasks only while n < generated < M - n, so
the last n tokens can never be corrected. With more steps than masks n positions stay open to the last step, and
corrections go on; with as many steps as masks the published rule is untouched.

Block sampler (LLaDA, arXiv 2502.09992, with PRISM's remasking): blocks of `block_length` masks, in turn. It never
leaves a mask. The published counts do, where a block has fewer masks than steps or as many remasked tokens as steps:
there the last step of a block remasks nothing and fills what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from prism_hf.diffusion.drafting import lowest_first, select_lowest

from ..denoising.canvas import Changes
from ..denoising.orders import BLIND_ORDERS, POSTERIOR_ORDERS, score_by, uniform
from ..denoising.schedule import RowStep, blocks_of, in_window, spread, spread_to_middle, step_indices, with_loop
from ..denoising.threshold import Thresholds
from ..denoising.unmasking import first_columns, unmask
from .base import RemaskStrategy, StepState, register_strategy

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..denoising.canvas import Generation
    from ..denoising.schedule import Step


class ScoreStrategy(RemaskStrategy):
    """Kind of strategies that return a score of each token; the generated tokens of lowest score are remasked.

    How many is the sampler's business (`num_remask` or `eta`), and so is which masks are unmasked (`order`).

    Class attributes:
        remasks (`bool`): Whether anything is ever remasked.

    Example:
        ```python
        @dataclass(frozen=True)
        class OldestFirst(ScoreStrategy):
            def __call__(self, state):
                return torch.arange(state.canvas.shape[1], device=state.canvas.device).expand_as(state.canvas).float()


        remask_generate(model, input_ids, remask_strategy=OldestFirst(), num_remask=2)
        ```
    """

    remasks: ClassVar[bool] = True

    def check_config(self, config: RemaskGenerationConfig) -> None:
        if self.remasks and config.quality_threshold is not None and "quality" not in self.needs:
            raise ValueError(
                f"quality_threshold={config.quality_threshold} needs a strategy that reads quality, such as 'prism'; "
                f"got remask_strategy={config.remask_strategy!r}."
            )
        if config.loop_steps and config.loop_start is None:
            raise ValueError(f"loop_steps={config.loop_steps} needs loop_start: the step before which the loop runs.")
        if config.block_length is not None and config.loop_steps:
            raise ValueError(
                f"block_length={config.block_length} and loop_steps={config.loop_steps} do not go together: only "
                "'prism_loop' has a loop in each block."
            )

    def loop(self, config: RemaskGenerationConfig, steps: int) -> tuple[int, int]:
        return (config.loop_start, config.loop_steps) if config.loop_steps else (0, 0)

    def thresholds(self, config: RemaskGenerationConfig) -> Thresholds:
        counts = config.num_remask is not None or config.eta is not None
        return Thresholds(config.confidence_threshold, config.quality_threshold, self.remasks, counts)

    def schedule(self, num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
        make = _static_schedule if config.block_length is None else _block_schedule
        return make(self, num_masks, config, steps)

    def step(self, generation: Generation, step: Step) -> Changes:
        """Remask the planned number of tokens of lowest score; the unmasking order fills as many more."""
        removed = _remove_at_random(generation, step) if step.num_loop else None
        config, masks, generated = generation.config, generation.masks, generation.generated
        num_masks = masks.sum(-1)
        count = _num_remasked(generation, step, generated) if step.uses_strategy else None
        order = None if config.order in BLIND_ORDERS else POSTERIOR_ORDERS[config.order]
        if order is None:
            score = BLIND_ORDERS[config.order](masks.shape, masks.device, generation.generator)
            positions = lowest_first(-score, masks)[:, : step.most_unmasked]
        else:
            positions = first_columns(masks, step.most_masks)
        reading = self.read(generation, step, positions)
        posterior, quality = reading.posterior, reading.quality
        remasked = torch.zeros_like(masks)
        if step.uses_strategy:
            score = self.ask(self.observe(generation, step, generated, reading))
            remasked = select_lowest(score, self._candidates(config, generated, score, quality), count)
        # Only positions masked before the remasking can be unmasked: the posterior of the others was not asked for.
        num_remasked = remasked.sum(-1)
        due = step.rows.target - generated.sum(-1) + num_remasked
        due = torch.maximum(due, step.rows.num_unmask + step.rows.refills * num_remasked)
        if order is not None:
            score = posterior.map(lambda logits: score_by(order, logits, config.begin_suppress_tokens or ()))
            candidates = torch.arange(step.most_masks, device=masks.device) < num_masks[:, None]
            if (fill := self.thresholds(config).fill) is not None:
                due = torch.maximum(due, (candidates & (score > fill)).sum(-1).clamp(min=1))
            best = lowest_first(-score, candidates)[:, : step.most_unmasked]
            positions, posterior = positions.gather(1, best), posterior.take(best)
        chosen = torch.arange(step.most_unmasked, device=masks.device) < due.minimum(num_masks)[:, None]
        generation.remask(remasked)
        unmask(generation, step, positions, posterior, chosen)
        changes = Changes(masks & ~generation.masked, remasked, quality)
        return changes if removed is None else _with_removed(changes, removed)

    def _candidates(
        self,
        config: RemaskGenerationConfig,
        generated: torch.Tensor,
        score: torch.Tensor,
        quality: torch.Tensor | None,
    ) -> torch.Tensor:
        """The generated tokens (B, L) bool that may be remasked."""
        threshold = self.thresholds(config).verify
        if threshold is None:
            return generated
        return generated & ((score if config.quality_threshold is None else quality) < threshold)


def _num_remasked(generation: Generation, step: Step, generated: torch.Tensor) -> torch.Tensor:
    """How many tokens each row may remask (B,)."""
    rows, num_generated = step.rows, generated.sum(-1)
    within = (rows.min_generated <= num_generated) & (num_generated <= rows.max_generated)
    count = torch.where(within, rows.num_remask, 0)
    if generation.config.eta is not None:
        hit = uniform(generated.shape, generated.device, generation.generator) < step.eta
        count = (hit & generated).sum(-1).minimum(count)
    return count


def _remove_at_random(generation: Generation, step: Step) -> torch.Tensor:
    """Remask random tokens before the forward of a loop step: (B, L) bool."""
    score = uniform(generation.tokens.shape, generation.tokens.device, generation.generator)
    removed = select_lowest(score, generation.generated, step.rows.num_loop)
    generation.remask(removed)
    return removed


def _with_removed(changes: Changes, removed: torch.Tensor) -> Changes:
    quality = None if changes.quality is None else changes.quality.masked_fill(removed, torch.nan)
    return Changes(changes.unmasked, changes.remasked | removed, quality)


def _static_num_remask(strategy: ScoreStrategy, num_masks: int, config: RemaskGenerationConfig, steps: int) -> int:
    """Tokens that a step remasks: where nothing says how many, one fewer than it unmasks, but at least one."""
    if strategy.thresholds(config).end_when_verified:
        return num_masks if config.num_remask is None else min(config.num_remask, num_masks)
    if config.num_remask is None and config.eta is None and strategy.remasks:
        return max((num_masks - 1) // steps, 1)
    return (config.num_remask or 0) if strategy.remasks else 0


def _static_schedule(
    strategy: ScoreStrategy, num_masks: int, config: RemaskGenerationConfig, steps: int
) -> list[RowStep]:
    """One block of all M masks.

    After base step i of T the row holds ceil(M (i + 1) / T) tokens; loop steps hold the count of the step before. It
    remasks n tokens while n < generated < M - n, and no more than masks that were there before can make up for. With
    verification it remasks n whatever the row holds, but for the last step.
    """
    thresholds, num_remask = strategy.thresholds(config), _static_num_remask(strategy, num_masks, config, steps)
    verifies = thresholds.end_when_verified
    # More steps than masks: the published window would close before the last tokens could be corrected.
    stays_open = num_masks < steps and 2 * num_remask < num_masks
    schedule, previous = [], 0
    for index, is_loop in step_indices(strategy, config, steps):
        target = previous if is_loop else -(-num_masks * (index + 1) // steps)
        room, before_last = num_masks - target, index < steps - 1
        limits = {"min_generated": num_remask + 1, "max_generated": num_masks - num_remask - 1}
        count = min(num_remask, room)
        if verifies:
            count, limits = num_remask if before_last else 0, {}
        elif config.eta is not None:
            count, limits = room, {}
        elif stays_open and before_last:
            count, limits = num_remask, {"min_generated": num_remask + 1}
        num_loop = config.num_remask_loop if is_loop else 0
        reopened = num_remask if stays_open or verifies else 0
        most_masks = min(max(num_masks - previous, reopened) + num_loop, num_masks)
        most_unmasked = min(target - previous + num_remask + num_loop, num_masks)
        if thresholds.adapt or config.eta:
            most_unmasked = most_masks
        may_remask = strategy.remasks and in_window(index, steps, config)
        row_step = RowStep(
            start=0,
            end=num_masks,
            target=target,
            most_masks=max(most_masks, most_unmasked),
            most_unmasked=most_unmasked,
            step=index,
            steps=steps,
            num_remask=count if may_remask else 0,
            num_loop=num_loop,
            uses_strategy=int(may_remask),
            **limits,
        )
        schedule.append(row_step)
        previous = target
    schedule[-1] = schedule[-1]._replace(ends_block=1)
    return schedule


def _block_schedule(
    strategy: ScoreStrategy, num_masks: int, config: RemaskGenerationConfig, steps: int
) -> list[RowStep]:
    """Blocks of `block_length` masks, in turn, with the steps, and those of a loop, spread over them."""
    loop_start, loop_steps = strategy.loop(config, steps)
    blocks = list(blocks_of(num_masks, config, steps))
    schedule = []
    for (start, size, block_steps), num_loops in zip(blocks, spread(loop_steps, len(blocks)), strict=True):
        loop = max(loop_start * block_steps // steps, 1), num_loops
        rows = _steps_of_block(strategy, config, size, block_steps, loop)
        schedule += [row._replace(start=start, end=start + size) for row in rows]
    return schedule


def _shares(strategy: ScoreStrategy, config: RemaskGenerationConfig, size: int, steps: int) -> tuple[dict, dict]:
    """The tokens that each step of a block may remask, and the limits within which it does.

    The steps share `num_remask` tokens, where nothing says how many 12 of 64, as published for LLaDA-8B; the middle
    ones of a block get more. In threshold decoding the middle of the steps may never come, so one at each, within the
    window of the static sampler.
    """
    thresholds = strategy.thresholds(config)
    window = [step for step in range(steps) if strategy.remasks and in_window(step, steps, config)]
    if thresholds.set_budget:
        return dict.fromkeys(window, size), {}
    if thresholds.adapt and config.num_remask is None:
        return dict.fromkeys(window, 1), {"min_generated": 2, "max_generated": size - 2}
    return dict(zip(window, spread_to_middle(_num_remask_of_block(config, size), len(window)), strict=True)), {}


def _num_remask_of_block(config: RemaskGenerationConfig, size: int) -> int:
    return -(-size * 12 // 64) if config.num_remask is None else config.num_remask


def _steps_of_block(
    strategy: ScoreStrategy, config: RemaskGenerationConfig, size: int, steps: int, loop: tuple[int, int]
) -> list[RowStep]:
    """The steps of one block of `size` masks, its loop of (first step, number of steps) among them.

    Each step remasks its share and unmasks its share of the block's masks, the first ones more, and as many again as it
    may remask, or as it does remask (`refill`). The first step has nothing to remask; the last remasks nothing, as
    nobody would unmask it, and unmasks all that is left. A loop step holds the count, and remasks one token beside its
    random ones, if the block remasks any.
    """
    adapts = strategy.thresholds(config).adapt
    shares, limits = _shares(strategy, config, size, steps)
    target, most_masks, dues, rows = 0, size, spread(size, steps), []
    for step, is_loop in with_loop(list(range(steps)), *loop):
        fills_up = step == steps - 1 and not is_loop
        if is_loop:
            can_remask = strategy.remasks and in_window(step, steps, config)
            num_remask = min(_num_remask_of_block(config, size), size - target, 1) if can_remask else 0
            opened = min(most_masks + config.num_remask_loop, size)
            width = min(max(target - size + most_masks, 0) + config.num_remask_loop + num_remask, opened)
            changes = {"target": target, "num_loop": config.num_remask_loop}
            left = size - target
        else:
            due, share, opened = dues[step], shares.get(step, 0), most_masks
            target += due
            num_remask = 0 if fills_up or step == 0 else share
            refills = config.refill == "remasked"
            num_unmask = 0 if adapts else due if refills else due + share
            width = opened if fills_up or adapts else min(due + share, opened)
            changes = {"target": target if fills_up or adapts else 0, "num_unmask": num_unmask, "refills": int(refills)}
            left = max(opened - num_unmask, 0) + num_remask
            if adapts or refills:
                left = max(size - target if adapts else opened - due, num_remask)
        row_step = RowStep(
            start=0,
            end=size,
            most_masks=opened,
            most_unmasked=width,
            step=step,
            steps=steps,
            num_remask=num_remask,
            uses_strategy=int(num_remask > 0),
            **changes,
            **limits,
        )
        rows.append(row_step)
        most_masks = min(left, size)
    rows[-1] = rows[-1]._replace(ends_block=1)
    return rows


@register_strategy("none")
@dataclass(frozen=True)
class NoRemasking(ScoreStrategy):
    """Remasks nothing.

    - **Rule**: plain masked diffusion; what is generated stays.
    - **When**: to switch off a model's own default, and as a baseline.
    - **Needs**: nothing.
    - **Relations**: what `remask_strategy=None` is where neither the model nor a config says otherwise. `ancestral`
      fills a random number of masks a step, this one a fixed number.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="none")`
    - **Paper**: MDLM, arXiv 2406.07524; LLaDA, arXiv 2502.09992.
    """

    draws: ClassVar[bool] = False
    remasks: ClassVar[bool] = False

    def __call__(self, state: StepState) -> torch.Tensor:
        return torch.zeros_like(state.canvas, dtype=torch.float32)


@register_strategy("random")
@dataclass(frozen=True)
class RandomRemasking(ScoreStrategy):
    """Remasks random tokens.

    - **Rule**: `num_remask` generated tokens of a step, all equally likely, go back to the mask; by default as many as
      `prism` remasks without a threshold.
    - **When**: the baseline of `prism`.
    - **Needs**: nothing.
    - **Relations**: `prism` with a quality that knows nothing. `remdm_cap` remasks a random number of tokens.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="random", num_remask=2)`
    - **Paper**: ReMDM, arXiv 2503.00307.
    """

    def __call__(self, state: StepState) -> torch.Tensor:
        return uniform(state.canvas.shape, state.canvas.device, state.generator)


@register_strategy("confidence")
@dataclass(frozen=True)
class ConfidenceRemasking(ScoreStrategy):
    """Remasks the tokens that were least likely when they were drawn.

    - **Rule**: `num_remask` generated tokens of a step, those of the lowest probability at the step that drew them, go
      back to the mask; by default as many as `prism` remasks without a threshold.
    - **When**: the baseline of `prism` without a head: what PRISM's code calls ReMDM-conf on LLaDA.
    - **Needs**: confidence.
    - **Relations**: `remdm_conf` remasks a random number, with ReMDM's probabilities. `p2` asks how likely a token is
      now; this one never asks again.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, block_length=32, remask_strategy="confidence")`
    - **Paper**: ReMDM, arXiv 2503.00307; PRISM, arXiv 2510.01384.
    """

    needs: ClassVar[tuple[str, ...]] = ("confidence",)
    draws: ClassVar[bool] = False

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.confidence


@register_strategy("prism")
@dataclass(frozen=True)
class PrismRemasking(ScoreStrategy):
    """Remasks the tokens of lowest learned quality.

    - **Rule**: where neither `num_remask` nor `eta` says how many: without blocks, each step remasks one token fewer
      than it unmasks by the schedule, but at least one. In blocks, as published for LLaDA-8B, 12 for 64 tokens of a
      block, rounded up, spread over its steps. With a `confidence_threshold`, fewer than the step before has unmasked,
      all those with a quality below `quality_threshold`, which is then 0.5, until none is.
    - **When**: the model has a quality head. Few forwards, greedy or sampled.
    - **Needs**: quality.
    - **Relations**: `prism_loop` goes on with more forwards than tokens; `p2` and `wino` do without a head.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="prism")`
    - **Paper**: PRISM, arXiv 2510.01384.
    """

    needs: ClassVar[tuple[str, ...]] = ("quality",)
    draws: ClassVar[bool] = False

    def defaults(self, config: RemaskGenerationConfig) -> dict[str, Any]:
        open_ended = config.num_remask is None and config.eta is None
        return {"quality_threshold": 0.5} if open_ended and config.confidence_threshold is not None else {}

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.quality


@register_strategy("prism_loop")
@dataclass(frozen=True)
class PrismLoopRemasking(ScoreStrategy):
    """Remasks as `prism`, with extra steps that hold the count of generated tokens.

    - **Rule**: each of the `loop_steps` extra steps first remasks `num_remask_loop` random tokens. By default, near
      what was best on Sudoku (docs/results.md): the loop comes when 7/8 of the steps are made, has half as many steps
      as they are, and remasks 2 random tokens in each. With `block_length` each block has a loop of its own, with its
      share of the steps.
    - **When**: there are more forwards than tokens to generate.
    - **Needs**: quality.
    - **Relations**: `num_remask` is by default that of `prism`; `remdm_loop` holds the count without a head.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="prism_loop", steps=96)`
    - **Paper**: PRISM, arXiv 2510.01384.
    """

    needs: ClassVar[tuple[str, ...]] = ("quality",)

    def defaults(self, config: RemaskGenerationConfig) -> dict[str, Any]:
        return {"loop_steps": None, "num_remask_loop": 2}  # how many steps, the number of masks will tell

    def check_config(self, config: RemaskGenerationConfig) -> None:
        if 0 in (config.loop_steps, config.num_remask_loop):
            raise ValueError(
                f"remask_strategy='prism_loop' needs loop_steps and num_remask_loop of at least 1, got "
                f"{config.loop_steps} and {config.num_remask_loop}: leave them out, or use 'prism'."
            )
        if config.confidence_threshold is not None:
            raise ValueError(
                f"confidence_threshold={config.confidence_threshold} does not go with remask_strategy='prism_loop', "
                "whose loop holds a count that the threshold does not keep: use 'prism'."
            )

    def loop(self, config: RemaskGenerationConfig, steps: int) -> tuple[int, int]:
        start = max(7 * steps // 8, 1) if config.loop_start is None else config.loop_start
        return start, config.loop_steps or -(-steps // 2)

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.quality
