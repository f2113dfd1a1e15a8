"""WINO: fill generously, verify with shadow tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from prism_hf.fields import Fraction, check_fields

from .base import StepState, register_strategy


@register_strategy("wino")
@dataclass(frozen=True)
class WinoRemasking:
    """Fill generously, then remask what the model would not say again (WINO, arXiv 2507.18578). Free of training.

    Each step fills all masks whose likeliest token has a probability over `fill_threshold`, at least one, and remasks
    the tokens of the block whose probability, with the token hidden from itself, is below `verify_threshold`: the least
    likely ones, fewer than the step before has filled. Ends when a forward has found nothing to remask in the full
    block; `steps` is a maximum. To verify, a forward reads as many tokens more as there are to verify, which see all
    others but not one another (in the published code they do).
    """

    fill_threshold: Fraction = 0.6
    verify_threshold: Fraction = 0.9
    needs_token_probs: ClassVar[bool] = True
    needs_shadows: ClassVar[bool] = True

    __post_init__ = check_fields

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.token_probs
