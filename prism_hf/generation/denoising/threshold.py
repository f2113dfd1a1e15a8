"""Threshold decoding: the model's confidence says how many positions a step unmasks, and so how many steps there are.

The schedule then holds the most that each step may do. After each step the host hears from the device what was done:
how wide the next step has to be, and which rows have come to the end of their block. With a threshold of quality too, a
block is done when a forward has judged it, so that the last tokens unmasked can be corrected too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .canvas import Changes, Generation
    from .schedule import Step


@dataclass(frozen=True)
class Thresholds:
    """When a step unmasks and remasks, beside the numbers of its schedule.

    Args:
        fill (`float`, *optional*): A mask is unmasked whose likeliest token has a probability above this. None without
            threshold decoding.
        verify (`float`, *optional*): Only tokens of a quality, or of a score of the strategy, below this are remasked.
        remasks (`bool`, *optional*, defaults to `True`): Whether anything is ever remasked.
        counts (`bool`, *optional*, defaults to `False`): Whether a setting says how many tokens are remasked.
    """

    fill: float | None = None
    verify: float | None = None
    remasks: bool = True
    counts: bool = False

    @property
    def adapt(self) -> bool:
        """Whether the model's confidence decides how many positions are unmasked, and so how many steps are made."""
        return self.fill is not None

    @property
    def end_when_verified(self) -> bool:
        """Whether a row goes on until a forward has read all that was generated and found nothing to remask."""
        return self.adapt and self.remasks and self.verify is not None

    @property
    def set_budget(self) -> bool:
        """Whether a row may remask fewer tokens than the step before has unmasked, instead of a number that is set."""
        return self.end_when_verified and not self.counts


class AdaptiveSteps:
    """Makes each step of a generation as the canvas asks for it.

    Args:
        thresholds (`Thresholds`): Those of the strategy.
        num_masks (`torch.LongTensor`): (B,), the masks of each row.
    """

    def __init__(self, thresholds: Thresholds, num_masks: torch.Tensor):
        self.thresholds = thresholds
        self.most_remasked = torch.zeros_like(num_masks)  # that each row may remask in the next step

    def fit(self, generation: Generation, step: Step) -> Step | None:
        """The step no wider than the canvas needs, with the rows that read it in `generation.reads`.

        None where nothing is to be done: what has been unmasked waits, without a forward, for the next step that may
        remask it. Where no row may remask, the strategy is not asked.
        """
        rows = step.rows._replace(num_remask=step.rows.num_remask.minimum(self.most_remasked))
        masks, generated = generation.masks, generation.generated
        generation.reads = masks.any(-1) | (generation.reads & (rows.num_remask > 0))
        num_generated = generated.sum(-1)
        judges = (num_generated * rows.num_remask > 0).any()
        found = torch.stack([masks.sum(-1).amax(), num_generated.amax() * judges])
        most_masks, most_generated = found.tolist()
        if not step.begins_block and most_masks == most_generated == 0:
            return None
        return replace(
            step,
            rows=rows,
            most_masks=most_masks,
            most_unmasked=min(step.most_unmasked, most_masks),
            most_generated=most_generated,
            uses_strategy=step.uses_strategy and most_generated > 0,
        )

    def settle(self, generation: Generation, step: Step, changes: Changes) -> None:
        """Find the rows whose block is complete, and how many tokens each row may remask in the next step.

        A row may be done before the others of its batch, and must not begin again: nothing is remasked when nothing is
        left to be judged.
        """
        has_masks = generation.masks.any(-1)
        unmasked = changes.unmasked
        if self.thresholds.set_budget:
            most = (unmasked.sum(-1) - 1).clamp(min=0)
        else:
            goes_on = has_masks | unmasked.any(-1) if self.thresholds.end_when_verified else has_masks
            most = unmasked.shape[1] * goes_on
        self.most_remasked = torch.where(generation.reads, most, self.most_remasked)
        may_remask = (self.most_remasked > 0) & step.rows.remasks_later.bool()
        goes_on = has_masks | (may_remask & ~generation.finished)
        generation.is_complete = generation.is_complete | ~goes_on
        generation.ends_block = step.ends_block or not bool(goes_on.any())
