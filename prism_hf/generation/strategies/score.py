"""Strategies that score tokens: those of lowest score are remasked, as many as the sampler says."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..denoising.orders import uniform
from .base import StepState, register_strategy


@register_strategy("none")
@dataclass(frozen=True)
class NoRemasking:
    """Never remask: plain masked diffusion. The same as `remask_strategy=None`, but wins over a model's own default."""

    needs_quality: ClassVar[bool] = False

    def __call__(self, state: StepState) -> torch.Tensor:
        return torch.zeros_like(state.canvas, dtype=torch.float32)


@register_strategy("random")
@dataclass(frozen=True)
class RandomRemasking:
    """Remask uniformly random generated tokens (ReMDM, arXiv 2503.00307).

    By default as many as `prism` does without a threshold.
    """

    needs_quality: ClassVar[bool] = False

    def __call__(self, state: StepState) -> torch.Tensor:
        return uniform(state.canvas.shape, state.canvas.device, state.generator)


@register_strategy("prism")
@dataclass(frozen=True)
class PrismRemasking:
    """Remask the generated tokens of lowest learned quality (PRISM, arXiv 2510.01384).

    Where neither `num_remask` nor `eta` says how many: without blocks, each step remasks one token fewer than it fills
    by the schedule, but at least one. In blocks, as published for LLaDA-8B, 12 for 64 tokens of a block, rounded up,
    spread over its steps. With a `confidence_threshold`, fewer than the step before has filled, all those with a
    quality below `quality_threshold`, which is then 0.5, until none is.
    """

    needs_quality: ClassVar[bool] = True

    def defaults(self, config) -> dict[str, Any]:
        open_ended = config.num_remask is None and config.eta is None
        return {"quality_threshold": 0.5} if open_ended and config.confidence_threshold is not None else {}

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.quality


@register_strategy("prism_loop")
@dataclass(frozen=True)
class PrismLoopRemasking:
    """`prism` with the loop stage (PRISM, arXiv 2510.01384): extra steps that hold the count of generated tokens.

    Each of the `loop_steps` extra steps first remasks `num_remask_loop` random tokens. For more forward passes than
    there are tokens to fill. By default, near what was best on Sudoku (docs/results.md): the loop comes when 7/8 of the
    steps are made, has half as many steps as they are, and remasks 2 random tokens in each. `num_remask` is by default
    that of `prism`. With `block_length` each block has a loop of its own, with its share of the steps.
    """

    needs_quality: ClassVar[bool] = True
    has_loop: ClassVar[bool] = True

    def defaults(self, config) -> dict[str, Any]:
        return {"loop_steps": None, "num_remask_loop": 2}  # how many steps, the number of masks will tell

    def check_config(self, config) -> None:
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

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.quality
