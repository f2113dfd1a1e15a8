"""Strategies that rank a complete draft: the positions of highest score are kept, all others are masked."""

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from prism_hf.backbones import forward_parameters
from prism_hf.fields import NotNegative, check_fields

from .base import StepState, register_strategy


@register_strategy("p2")
@dataclass(frozen=True)
class PathPlanning:
    """P2 with self-planning (arXiv 2502.03540): rank by the log-probability that the model itself gives each token.

    At tokens that were there before the step it is multiplied by `eta`. 0 never remasks them, 1 ranks them as the new
    ones, and more remasks more. Free of training; the model's probability of a token that it sees is not that of a
    quality head, which was trained for it. The LM head runs at all positions of the block.
    """

    eta: NotNegative = 1.0
    selection: ClassVar[str] = "ranking"
    needs_token_probs: ClassVar[bool] = True

    __post_init__ = check_fields

    def __call__(self, state: StepState) -> torch.Tensor:
        # Finite, so that a probability of 0 times an eta of 0 is 0.
        score = state.token_probs.clamp(min=torch.finfo(torch.float32).tiny).log()
        return torch.where(state.generated, self.eta * score, score)


@register_strategy("token_critic")
@dataclass(frozen=True)
class TokenCritic:
    """Token-Critic (arXiv 2209.04439): rank by what a second network, trained for it, says of the whole draft.

    `critic` is a model whose forward takes input_ids and attention_mask (B, L) and gives `quality_logits` (B, L), such
    as a `PrismForMaskedDiffusion`. It makes a forward of its own in each step but the last of a block, which count in
    `num_forwards` and `tokens_per_forward`. Pass it to `generate`; it is never saved with the settings.
    """

    critic: Any = field(default=None, repr=False, compare=False, metadata={"saved": False})
    selection: ClassVar[str] = "ranking"
    num_forwards: ClassVar[int] = 1

    def __deepcopy__(self, memo) -> "TokenCritic":
        # A config is copied now and then; its critic, a network, is shared.
        return copy.copy(self)

    def check_config(self, config) -> None:
        if self.critic is None:
            raise ValueError(
                "remask_strategy='token_critic' needs the critic: pass critic=model to generate, or "
                "remask_strategy=TokenCritic(model)."
            )

    def __call__(self, state: StepState) -> torch.Tensor:
        wanted = {"return_quality": True, "return_logits": False}
        wanted = {name: value for name, value in wanted.items() if name in forward_parameters(self.critic)}
        output = self.critic(input_ids=state.draft, attention_mask=state.attention_mask, **wanted)
        return output.quality_logits.float()
