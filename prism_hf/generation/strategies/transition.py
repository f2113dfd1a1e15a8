"""Strategies with transition probabilities: each position changes with a probability of its own (arXiv 2503.00307).

In the step from time t to s a generated token becomes a mask with probability sigma, and a mask becomes a token with
probability ``(alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)``. If sigma is the same at all positions, alpha_t is the
probability that a position holds a token at time t, whatever sigma is, and with the exact posterior the tokens of the
last step have the distribution of the data as the steps get finer and each remasks less. Unless a docstring says
otherwise, ``alpha_t = 1 - t``, and sigma_max = ``min(1, (1 - alpha_s) / alpha_t)``. Sample (`do_sample=True`): the
theory is that of draws from the posterior.

Probabilities that do not depend on the forward are drawn before it, so that the LM head runs where a token is drawn, on
a width that a binomial quantile bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch

from prism_hf.diffusion.schedules import linear_alpha
from prism_hf.fields import Allowed, Fraction, NotNegative, check_fields

from ..denoising.canvas import Changes
from ..denoising.orders import uniform
from ..denoising.schedule import RowStep, blocks_of, in_window
from ..denoising.unmasking import first_columns, unmask
from .base import UNORDERED, RemaskStrategy, StepState, register_strategy

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..denoising.canvas import Generation
    from ..denoising.schedule import Step

OpenFraction = Annotated[float, Allowed(above=0, below=1)]
TINY = torch.finfo(torch.float32).tiny


def largest_sigma(alpha_t: torch.Tensor, alpha_s: torch.Tensor) -> torch.Tensor:
    """The largest probability of remasking that masks can make up for, `min(1, (1 - alpha_s) / alpha_t)`."""
    return ((1 - alpha_s) / alpha_t.clamp(min=TINY)).clamp(max=1)


def reverse_step(
    generated: torch.Tensor, alpha_t: torch.Tensor, alpha_s: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """The probability that each position changes, (B, L): `sigma` at tokens, that of being filled at masks.

    alpha_t, alpha_s (B, 1); sigma (B, 1) or (B, L), clamped to what keeps both probabilities in [0, 1].
    """
    sigma = sigma.clamp(min=0).minimum(largest_sigma(alpha_t, alpha_s))
    fill = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t).clamp(min=TINY)
    return torch.where(generated, sigma, fill.clamp(0, 1))


class TransitionStrategy(RemaskStrategy):
    """Kind of strategies that return the probability of each position to change, independently of the others.

    At generated tokens it is that of going back to the mask, at masks that of being unmasked; elsewhere it is not read.
    In the last step of a block every mask is unmasked and nothing is remasked, whatever it says. One that needs nothing
    of the model is asked before the forward: the LM head then runs only where a token is drawn.

    Class attributes:
        fills_by_time (`bool`): Whether the probability at masks depends on `t` and `s` alone. The LM head then runs at
            no more positions than such a step can unmask.

    Example:
        ```python
        @dataclass(frozen=True)
        class Linear(TransitionStrategy):
            fills_by_time = True

            def __call__(self, state):
                fill = ((state.t - state.s) / state.t).expand(state.canvas.shape)
                return torch.where(state.generated, 0.01, fill)


        remask_generate(model, input_ids, remask_strategy=Linear(), do_sample=True)
        ```
    """

    order: ClassVar[str] = "random"
    refuses: ClassVar[tuple[str, ...]] = UNORDERED
    fills_by_time: ClassVar[bool] = False

    def schedule(self, num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
        schedule = []
        for start, size, block_steps in blocks_of(num_masks, config, steps):
            for step, width in enumerate(most_unmasked(self, size, block_steps)):
                is_last, remasks = step == block_steps - 1, in_window(step, block_steps, config)
                row_step = RowStep(
                    start=start,
                    end=start + size,
                    target=size * is_last,
                    most_masks=size,
                    most_unmasked=width,
                    step=step,
                    steps=block_steps,
                    num_remask=size * remasks,
                    uses_strategy=int(remasks and not is_last),
                    ends_block=int(is_last),
                )
                schedule.append(row_step)
        return schedule

    def step(self, generation: Generation, step: Step) -> Changes:
        masks, generated = generation.masks, generation.generated
        reads_model = step.uses_strategy and any(need in self.needs for need in ("quality", "probs", "token_probs"))
        changes = (
            masks if reads_model else self._changing(generation, step, masks, self.observe(generation, step, generated))
        )
        positions = first_columns(changes & masks, step.most_unmasked)
        reading = self.read(generation, step, positions)
        if reads_model:
            changes = self._changing(generation, step, masks, self.observe(generation, step, generated, reading))
        chosen, remasked = (changes & masks).gather(1, positions), changes & generated
        generation.remask(remasked)
        unmask(generation, step, positions, reading.posterior, chosen)
        return Changes(masks & ~generation.masked, remasked, reading.quality)

    def _changing(self, generation: Generation, step: Step, masks: torch.Tensor, state: StepState) -> torch.Tensor:
        """The positions (B, L) bool that change; rows that do not ask the strategy are unmasked as by `ancestral`."""
        chance = _ANCESTRAL(state)
        if step.uses_strategy:
            chance = torch.where(step.rows.uses_strategy.bool()[:, None], self.ask(state), chance)
        drawn = uniform(state.canvas.shape, state.canvas.device, state.generator) < chance
        return torch.where(step.rows.ends_block.bool()[:, None], masks, drawn & generation.window)


def most_unmasked(strategy: TransitionStrategy, size: int, steps: int, surprise: float = 1e-12) -> list[int]:
    """How many of `size` masks each step unmasks at most, but for a `surprise`; those over it would wait for the next.

    Whatever the canvas, the number is no more than Binomial(size, p), p being the probability at a mask.
    """
    if not strategy.fills_by_time or size == 0:
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


@register_strategy("ancestral")
@dataclass(frozen=True)
class AncestralSampling(TransitionStrategy):
    """Unmasks a random number of masks a step, and remasks nothing.

    - **Rule**: sigma = 0; each mask is unmasked with probability (alpha_s - alpha_t) / (1 - alpha_t).
    - **When**: what the `remdm_*` are compared with.
    - **Needs**: nothing.
    - **Relations**: `remdm_cap` with `eta=0`.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="ancestral", do_sample=True)`
    - **Paper**: MDLM, arXiv 2406.07524.
    """

    fills_by_time: ClassVar[bool] = True

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        return reverse_step(state.generated, alpha_t, alpha_s, torch.zeros_like(alpha_t))


@register_strategy("remdm_cap")
@dataclass(frozen=True)
class RemdmCap(TransitionStrategy):
    """Remasks at the same rate in nearly every step.

    - **Rule**: sigma = min(eta, sigma_max).
    - **When**: no training, few steps.
    - **Needs**: nothing.
    - **Relations**: `remdm_rescale` remasks more at the beginning. The best `eta` falls as the steps grow; the default
      is the published one for 256 steps of OpenWebText, where it is the variant of choice for few steps.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="remdm_cap", do_sample=True)`
    - **Paper**: ReMDM, arXiv 2503.00307.

    Args:
        eta (`float`, *optional*, defaults to 0.04): The probability of remasking, unless sigma_max is less.
    """

    eta: Fraction = 0.04
    fills_by_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        return reverse_step(state.generated, alpha_t, alpha_s, torch.full_like(alpha_t, self.eta))


@register_strategy("remdm_rescale")
@dataclass(frozen=True)
class RemdmRescale(TransitionStrategy):
    """Remasks more, the earlier it is.

    - **Rule**: sigma = eta sigma_max.
    - **When**: no training.
    - **Needs**: nothing.
    - **Relations**: `remdm_cap` keeps one rate. The default `eta` is the published one for 1,024 steps of OpenWebText.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="remdm_rescale", do_sample=True)`
    - **Paper**: ReMDM, arXiv 2503.00307.

    Args:
        eta (`float`, *optional*, defaults to 0.015): The share of sigma_max.
    """

    eta: Fraction = 0.015
    fills_by_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        return reverse_step(state.generated, alpha_t, alpha_s, self.eta * largest_sigma(alpha_t, alpha_s))


@register_strategy("remdm_conf")
@dataclass(frozen=True)
class RemdmConf(TransitionStrategy):
    """Remasks tokens that were a surprise when they were drawn.

    - **Rule**: sigma_i = sigma_max softmax(-psi)_i over the generated tokens of the block, psi_i being the probability
      with which token i was drawn. Masks have sigma = 0: nothing makes up for what is remasked, so there are more masks
      than alpha says, until the last step unmasks them all at once.
    - **When**: no training, many steps.
    - **Needs**: confidence.
    - **Relations**: the only one of ReMDM's in which it matters which token is remasked.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="remdm_conf", do_sample=True)`
    - **Paper**: ReMDM, arXiv 2503.00307.
    """

    fills_by_time: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("confidence",)

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        weight = (-state.confidence).exp() * state.generated  # psi is in [0, 1]: no overflow
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=TINY)
        return reverse_step(state.generated, alpha_t, alpha_s, weight * largest_sigma(alpha_t, alpha_s))


@register_strategy("remdm_loop")
@dataclass(frozen=True)
class RemdmLoop(TransitionStrategy):
    """Fills to a level, remasks and unmasks at that level, then fills the rest.

    - **Rule**: alpha rises linearly to `alpha_on` while t falls from 1 to `t_on`, stays there until `t_off`, and rises
      to 1 at t = 0. In between sigma = min(eta, sigma_max), elsewhere 0.
    - **When**: no training, many steps: corrections are made when nearly all of the context is there.
    - **Needs**: nothing.
    - **Relations**: it has a window of its own, so not with `remask_start` and `remask_end`. The default `eta` is the
      published one for 1,024 steps of OpenWebText.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="remdm_loop", t_on=0.5,
      do_sample=True)`
    - **Paper**: ReMDM, arXiv 2503.00307.

    Args:
        eta (`float`, *optional*, defaults to 0.02): The probability of remasking.
        t_on (`float`, *optional*, defaults to 0.55): The time at which the loop begins.
        t_off (`float`, *optional*, defaults to 0.05): The time at which it ends.
        alpha_on (`float`, *optional*, defaults to 0.9): The level.
    """

    eta: Fraction = 0.02
    t_on: OpenFraction = 0.55
    t_off: OpenFraction = 0.05
    alpha_on: OpenFraction = 0.9
    fills_by_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)
        if self.t_off > self.t_on:
            raise ValueError(f"RemdmLoop needs t_off <= t_on, got t_off={self.t_off} and t_on={self.t_on}.")

    def check_config(self, config: RemaskGenerationConfig) -> None:
        if (config.remask_start, config.remask_end) != (0, 1):
            raise ValueError(
                f"remask_start={config.remask_start} and remask_end={config.remask_end} do not go with "
                "remask_strategy='remdm_loop': set its own t_on and t_off instead."
            )

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """The share of tokens at time `t`."""
        rising = self.alpha_on * (1 - t) / (1 - self.t_on)
        ending = 1 - (1 - self.alpha_on) * t / self.t_off
        return rising.clamp(max=self.alpha_on).maximum(ending)

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = self.alpha(state.t), self.alpha(state.s)
        loops = (state.t <= self.t_on) & (state.t > self.t_off)
        return reverse_step(state.generated, alpha_t, alpha_s, self.eta * loops.to(alpha_t.dtype))


@register_strategy("forward_backward")
@dataclass(frozen=True)
class ForwardBackward(TransitionStrategy):
    """Remasks as many tokens in a step as are gained by it.

    - **Rule**: sigma = (alpha_s - alpha_t) / alpha_t: a step of the reverse process and one of the forward.
    - **When**: to compare.
    - **Needs**: nothing; it has no strength to set.
    - **Relations**: a case of ReMDM, arXiv 2503.00307.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="forward_backward", do_sample=True)`
    - **Paper**: Campbell et al., arXiv 2205.14987.
    """

    fills_by_time: ClassVar[bool] = True

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        sigma = (alpha_s - alpha_t) / alpha_t.clamp(min=TINY)
        return reverse_step(state.generated, alpha_t, alpha_s, sigma)


@register_strategy("dfm")
@dataclass(frozen=True)
class FlowMatchingCorrector(TransitionStrategy):
    """Remasks and unmasks more than the schedule gains, most in the middle.

    - **Rule**: with the corrector's weight ``a = 1 + strength (1 - t)^exponent t^exponent``, a mask is unmasked with
      probability ``a (alpha_s - alpha_t) / (1 - alpha_t)`` and a token remasked with ``(a - 1) (alpha_s - alpha_t) /
      alpha_t``. Where one of them would pass 1, the step is shortened so that it is 1. A shortened step, at either end,
      gains less than alpha_s - alpha_t; those after it make up for that.
    - **When**: to compare.
    - **Needs**: nothing.
    - **Relations**: `forward_backward` is `strength=1`, `exponent=0` while no step is shortened.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="dfm", do_sample=True)`
    - **Paper**: discrete flow matching, arXiv 2407.15595, with its time 1 - t running up.

    Args:
        strength (`float`, *optional*, defaults to 10.0): Factor of the corrector's weight.
        exponent (`float`, *optional*, defaults to 0.25): How much of it is in the middle.
    """

    strength: NotNegative = 10.0
    exponent: NotNegative = 0.25
    fills_by_time: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        excess = self.strength * (alpha_t * state.t) ** self.exponent
        fill = (1 + excess) * (alpha_s - alpha_t) / (1 - alpha_t).clamp(min=TINY)
        remask = excess * (alpha_s - alpha_t) / alpha_t.clamp(min=TINY)
        # Nothing is generated yet at alpha_t = 0, so nothing shortens that step.
        remask = torch.where(alpha_t > 0, remask, torch.zeros_like(remask))
        shortened = 1 / fill.maximum(remask).clamp(min=1)
        return torch.where(state.generated, remask * shortened, fill * shortened)


_ANCESTRAL = AncestralSampling()
