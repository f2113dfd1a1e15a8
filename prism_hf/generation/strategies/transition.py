"""Probability-scheduled strategies: each position changes with a probability of its own (ReMDM, arXiv 2503.00307).

In the step from time t to s a generated token becomes a mask with probability sigma, and a mask becomes a token with
probability ``(alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t)``. If sigma is the same at all positions, alpha_t is the
probability that a position holds a token at time t, whatever sigma is, and with the exact posterior the tokens of the
last step have the distribution of the data as the steps get finer and each remasks less. Unless a docstring says
otherwise, ``alpha_t = 1 - t``.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch

from prism_hf.diffusion.schedules import linear_alpha
from prism_hf.fields import Allowed, Fraction, NotNegative, check_fields

from .base import StepState, register_strategy

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


@register_strategy("ancestral")
@dataclass(frozen=True)
class AncestralSampling:
    """MDLM's ancestral sampling (arXiv 2406.07524): sigma = 0, nothing is remasked. What ReMDM is compared with."""

    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        return reverse_step(state.generated, alpha_t, alpha_s, torch.zeros_like(alpha_t))


@register_strategy("remdm_cap")
@dataclass(frozen=True)
class RemdmCap:
    """ReMDM-cap (arXiv 2503.00307): sigma = min(eta, sigma_max). The same rate of remasking at nearly every step.

    The best `eta` falls as the steps grow; the default is the published one for 256 steps of OpenWebText, where it is
    the variant of choice for few steps.
    """

    eta: Fraction = 0.04
    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True

    __post_init__ = check_fields

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        return reverse_step(state.generated, alpha_t, alpha_s, torch.full_like(alpha_t, self.eta))


@register_strategy("remdm_rescale")
@dataclass(frozen=True)
class RemdmRescale:
    """ReMDM-rescale (arXiv 2503.00307): sigma = eta sigma_max. Remasks more, the earlier it is."""

    eta: Fraction = 0.015
    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True

    __post_init__ = check_fields

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        return reverse_step(state.generated, alpha_t, alpha_s, self.eta * largest_sigma(alpha_t, alpha_s))


@register_strategy("remdm_conf")
@dataclass(frozen=True)
class RemdmConf:
    """ReMDM-conf (arXiv 2503.00307): sigma_i = sigma_max softmax(-psi)_i over the generated tokens of the block.

    psi_i is the probability with which token i was drawn, so tokens that were a surprise are remasked first. Masks have
    sigma = 0: nothing makes up for what is remasked, so there are more masks than alpha says, until the last step fills
    them all at once. So it needs many steps.
    """

    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True
    needs_confidence: ClassVar[bool] = True

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        weight = (-state.confidence).exp() * state.generated  # psi is in [0, 1]: no overflow
        weight = weight / weight.sum(-1, keepdim=True).clamp(min=TINY)
        return reverse_step(state.generated, alpha_t, alpha_s, weight * largest_sigma(alpha_t, alpha_s))


@register_strategy("remdm_loop")
@dataclass(frozen=True)
class RemdmLoop:
    """ReMDM-loop (arXiv 2503.00307): fill to `alpha_on`, then remask and fill at that level, then fill the rest.

    alpha rises linearly to `alpha_on` while t falls from 1 to `t_on`, stays there until `t_off`, and rises to 1 at
    t = 0. In between sigma = eta, elsewhere 0. The variant of choice for many steps: corrections are made when nearly
    all of the context is there. It has a window of its own, so not with `remask_start` and `remask_end`.
    """

    eta: Fraction = 0.02
    t_on: OpenFraction = 0.55
    t_off: OpenFraction = 0.05
    alpha_on: OpenFraction = 0.9
    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True

    def __post_init__(self):
        check_fields(self)
        if self.t_off > self.t_on:
            raise ValueError(f"RemdmLoop needs t_off <= t_on, got t_off={self.t_off} and t_on={self.t_on}.")

    def check_config(self, config) -> None:
        if (config.remask_start, config.remask_end) != (0, 1):
            raise ValueError(
                f"remask_start={config.remask_start} and remask_end={config.remask_end} do not go with "
                "remask_strategy='remdm_loop': set its own t_on and t_off instead."
            )

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        rising = self.alpha_on * (1 - t) / (1 - self.t_on)
        ending = 1 - (1 - self.alpha_on) * t / self.t_off
        return rising.clamp(max=self.alpha_on).maximum(ending)

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = self.alpha(state.t), self.alpha(state.s)
        loops = (state.t <= self.t_on) & (state.t > self.t_off)
        return reverse_step(state.generated, alpha_t, alpha_s, self.eta * loops.to(alpha_t.dtype))


@register_strategy("forward_backward")
@dataclass(frozen=True)
class ForwardBackward:
    """The forward-backward corrector (arXiv 2205.14987): sigma = (alpha_s - alpha_t) / alpha_t.

    A step of the reverse process and one of the forward, as a case of ReMDM (arXiv 2503.00307). It has no strength to
    set: as many tokens are remasked in a step as are gained by it.
    """

    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        sigma = (alpha_s - alpha_t) / alpha_t.clamp(min=TINY)
        return reverse_step(state.generated, alpha_t, alpha_s, sigma)


@register_strategy("dfm")
@dataclass(frozen=True)
class FlowMatchingCorrector:
    """The corrector of discrete flow matching (arXiv 2407.15595), with time 1 - t running up.

    With the corrector's weight ``a = 1 + strength (1 - t)^exponent t^exponent``, a mask is filled with probability
    ``a (alpha_s - alpha_t) / (1 - alpha_t)`` and a token remasked with ``(a - 1) (alpha_s - alpha_t) / alpha_t``. Where
    one of them would pass 1, the step is shortened so that it is 1. A shortened step, at either end, gains less than
    alpha_s - alpha_t; those after it make up for that.
    """

    strength: NotNegative = 10.0
    exponent: NotNegative = 0.25
    selection: ClassVar[str] = "probability"
    fills_by_time: ClassVar[bool] = True

    __post_init__ = check_fields

    def __call__(self, state: StepState) -> torch.Tensor:
        alpha_t, alpha_s = linear_alpha(state.t), linear_alpha(state.s)
        excess = self.strength * (alpha_t * state.t) ** self.exponent
        fill = (1 + excess) * (alpha_s - alpha_t) / (1 - alpha_t).clamp(min=TINY)
        remask = excess * (alpha_s - alpha_t) / alpha_t.clamp(min=TINY)
        # Nothing is generated yet at alpha_t = 0, so nothing shortens that step.
        remask = torch.where(alpha_t > 0, remask, torch.zeros_like(remask))
        shortened = 1 / fill.maximum(remask).clamp(min=1)
        return torch.where(state.generated, remask * shortened, fill * shortened)
