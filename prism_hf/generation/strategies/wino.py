"""WINO: fill generously, then verify in the same forward, with shadow tokens.

What shadow tokens are, see `denoising.reading`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from prism_hf.fields import Fraction, check_fields

from ..denoising.threshold import Thresholds
from .base import COUNTED, StepState, register_strategy
from .score import ScoreStrategy

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig


@register_strategy("wino")
@dataclass(frozen=True)
class WinoRemasking(ScoreStrategy):
    """Unmasks generously, then remasks what the model would not say again.

    - **Rule**: each step unmasks all masks whose likeliest token has a probability over `fill_threshold`, at least one,
      and remasks the tokens of the block whose probability, with the token hidden from itself, is below
      `verify_threshold`: the least likely ones, fewer than the step before has unmasked. Ends when a forward has found
      nothing to remask in the full block; `steps` is a maximum.
    - **When**: no training, few forwards.
    - **Needs**: token_probs and shadows: a model of `llada`, `mdlm`, `bert`, `distilbert` or `electra`. To verify, a
      forward reads as many tokens more as there are to verify, which see all others but not one another (in the
      published code they do).
    - **Relations**: `prism` with `confidence_threshold` does the same with a learned quality.
    - **Example**: `model.generate(input_ids, max_new_tokens=256, block_length=64, remask_strategy="wino")`
    - **Paper**: WINO, arXiv 2507.18578.

    Args:
        fill_threshold (`float`, *optional*, defaults to 0.6): Masks with a likelier token are unmasked.
        verify_threshold (`float`, *optional*, defaults to 0.9): Less likely tokens are remasked.
    """

    fill_threshold: Fraction = 0.6
    verify_threshold: Fraction = 0.9
    needs: ClassVar[tuple[str, ...]] = ("token_probs", "shadows")
    refuses: ClassVar[tuple[str, ...]] = COUNTED
    draws: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def thresholds(self, config: RemaskGenerationConfig) -> Thresholds:
        return Thresholds(self.fill_threshold, self.verify_threshold)

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.token_probs
