"""Strategies that rank a complete draft: the positions of highest score are kept, all others are masked."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from prism_hf.backbones import forward_parameters
from prism_hf.diffusion.drafting import select_lowest
from prism_hf.fields import NotNegative, check_fields

from ..denoising.canvas import Changes
from ..denoising.orders import uniform
from ..denoising.schedule import RowStep, blocks_of, in_window
from ..denoising.unmasking import first_columns, unmask
from .base import UNORDERED, RemaskStrategy, StepState, register_strategy

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..denoising.canvas import Generation
    from ..denoising.schedule import Step


class RankingStrategy(RemaskStrategy):
    """Kind of strategies that return a score of each position of `state.draft`, in which the block is complete.

    After step i of a block's T the ceil(size (i + 1) / T) positions of highest score are kept; all others are masked,
    whether they were before or not.

    Example:
        ```python
        @dataclass(frozen=True)
        class Likeliest(RankingStrategy):
            needs = ("token_probs",)

            def __call__(self, state):
                return state.token_probs


        remask_generate(model, input_ids, remask_strategy=Likeliest())
        ```
    """

    refuses: ClassVar[tuple[str, ...]] = UNORDERED

    def schedule(self, num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
        schedule = []
        for start, size, block_steps in blocks_of(num_masks, config, steps):
            kept = 0
            for step in range(block_steps):
                target = -(-size * (step + 1) // block_steps)
                row_step = RowStep(
                    start=start,
                    end=start + size,
                    target=target,
                    most_masks=size - kept,
                    most_unmasked=size - kept,
                    step=step,
                    steps=block_steps,
                    num_remask=size * in_window(step, block_steps, config),
                    uses_strategy=int(target < size),
                    ends_block=int(step == block_steps - 1),
                )
                schedule.append(row_step)
                kept = target
        return schedule

    def step(self, generation: Generation, step: Step) -> Changes:
        masks, generated = generation.masks, generation.generated
        positions = first_columns(masks, step.most_unmasked)
        reading = self.read(generation, step, positions)
        state = self.observe(generation, step, generated, reading._replace(token_probs=None))
        unmask(generation, step, positions, reading.posterior, masks.gather(1, positions))
        if step.uses_strategy:
            probs = None if reading.token_probs is None else reading.token_probs(generation.tokens)
            score = self.ask(replace(state, draft=generation.tokens, token_probs=probs))
        else:
            score = uniform(masks.shape, masks.device, generation.generator)
        # Outside of the window of remasking, tokens stay whatever their score.
        stays = generated & ~step.rows.num_remask.bool()[:, None]
        kept = select_lowest((-score).masked_fill(stays, -torch.inf), generation.window, step.rows.target)
        dropped = generation.window & ~kept
        changes = Changes(masks & kept & ~generation.masked, generated & dropped, reading.quality)
        generation.remask(dropped)
        return changes


@register_strategy("p2")
@dataclass(frozen=True)
class PathPlanning(RankingStrategy):
    """Keeps the tokens that the model itself finds likeliest.

    - **Rule**: the score is the log-probability of each token of the draft, at tokens that were there before the step
      times `eta`. 0 never remasks them, 1 ranks them as the new ones, and more remasks more.
    - **When**: no training; greedy generation.
    - **Needs**: token_probs: the LM head runs at all positions of the block.
    - **Relations**: `token_critic` ranks by a second network. The model's probability of a token that it sees is not
      that of a quality head, which was trained for it.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="p2", eta=1.2)`
    - **Paper**: P2 with self-planning, arXiv 2502.03540.

    Args:
        eta (`float`, *optional*, defaults to 1.0): Weight of the score of tokens that were there before.
    """

    eta: NotNegative = 1.0
    needs: ClassVar[tuple[str, ...]] = ("token_probs",)
    draws: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(self, state: StepState) -> torch.Tensor:
        # Finite, so that a probability of 0 times an eta of 0 is 0.
        score = state.token_probs.clamp(min=torch.finfo(torch.float32).tiny).log()
        return torch.where(state.generated, self.eta * score, score)


@register_strategy("token_critic")
@dataclass(frozen=True)
class TokenCritic(RankingStrategy):
    """Keeps the tokens that a second network, trained for it, finds best in the whole draft.

    - **Rule**: the score is the critic's quality of each token of the draft.
    - **When**: a critic was trained, see `TokenCriticTrainer`.
    - **Needs**: the `critic`. It makes a forward of its own in each step but the last of a block, which count in
      `num_forwards` and `tokens_per_forward`.
    - **Relations**: `p2` ranks by the model's own probabilities; `prism` reads its quality in the denoiser's forward.
    - **Example**: `model.generate(input_ids, max_new_tokens=64, remask_strategy="token_critic", critic=critic)`
    - **Paper**: Token-Critic, arXiv 2209.04439.

    Args:
        critic (`Any`, *optional*): A model whose forward takes input_ids and attention_mask (B, L) and gives
            `quality_logits` (B, L), such as a `PrismForMaskedDiffusion`. Passed to `generate`; never saved with the
            settings.
    """

    critic: Any = field(default=None, repr=False, compare=False, metadata={"saved": False})
    draws: ClassVar[bool] = False
    num_forwards: ClassVar[int] = 1

    def __deepcopy__(self, memo: Any) -> TokenCritic:
        # A config is copied now and then; its critic, a network, is shared.
        return copy.copy(self)

    def check_config(self, config: RemaskGenerationConfig) -> None:
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
