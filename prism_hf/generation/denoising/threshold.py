"""Threshold decoding: what the model is sure of decides how many positions a step fills and how many steps are made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..strategies import resolve_strategy

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from .schedule import PlannedStep


def fill_threshold(config: RemaskGenerationConfig) -> float | None:
    """A position whose likeliest token has a probability above this is filled; None without threshold decoding."""
    own = getattr(resolve_strategy(config.remask_strategy), "fill_threshold", None)
    return config.confidence_threshold if own is None else own


def verify_threshold(config: RemaskGenerationConfig) -> float | None:
    """Only tokens of a quality, or of a score of the strategy if the threshold is its own, below this are remasked."""
    own = getattr(resolve_strategy(config.remask_strategy), "verify_threshold", None)
    return config.quality_threshold if own is None else own


def adapts(config: RemaskGenerationConfig) -> bool:
    """Whether the model's confidence decides how many positions are filled, and so how many steps are made."""
    return fill_threshold(config) is not None


def verifies(config: RemaskGenerationConfig) -> bool:
    """Whether a row goes on until a forward has read all that it filled and found nothing to remask."""
    remasks = resolve_strategy(config.remask_strategy) is not None
    return remasks and adapts(config) and verify_threshold(config) is not None


def sets_own_budget(config: RemaskGenerationConfig) -> bool:
    """Whether a row may remask fewer tokens than the step before has filled, instead of a number that is set."""
    return verifies(config) and config.num_remask is None and config.eta is None


def adapt_step(
    planned: PlannedStep, masked: torch.Tensor, window: torch.Tensor, unfinished: torch.Tensor, most: torch.Tensor
) -> tuple[PlannedStep, torch.Tensor]:
    """A step with a threshold as the canvas asks for it, which may be not at all, and the rows (B,) bool that read it.

    masked, window (B, L) bool: before the forward, and the block. unfinished (B,) bool. most (B,): tokens that each row
    may remask.
    """
    planned = limit_remasked(planned, most)
    reads = (masked & window).any(-1) | (unfinished & (planned.rows.num_remask > 0))
    return fit_step(planned, masked, window), reads


def limit_remasked(planned: PlannedStep, most: torch.Tensor) -> PlannedStep:
    """The step with no more than `most` (B,) tokens remasked in each row."""
    return replace(planned, rows=planned.rows._replace(num_remask=planned.rows.num_remask.minimum(most)))


def fit_step(planned: PlannedStep, masked: torch.Tensor, window: torch.Tensor) -> PlannedStep:
    """The step no wider than the canvas needs, which the host waits to hear from the device.

    masked, window (B, L) bool: before the forward, and the block. Where no row may remask, the strategy is not asked.
    """
    unfilled, generated = (masked & window).sum(-1), (window & ~masked).sum(-1)
    judges = (generated * planned.rows.num_remask > 0).any()
    num_open, num_held = torch.stack([unfilled.amax(), generated.amax() * judges]).tolist()
    width = min(planned.width, num_open)
    return replace(planned, num_open=num_open, width=width, num_held=num_held, asks=planned.asks and num_held > 0)


def most_remasked_next(filled: torch.Tensor, unfilled: torch.Tensor, config: RemaskGenerationConfig) -> torch.Tensor:
    """How many tokens a row may remask after a step with a threshold, (B,): none when nothing is left to be judged.

    A row may be done before the others of its batch, and must not begin again. filled (B, L) bool: by the step.
    unfilled (B,) bool: the row's block has masks after it.
    """
    if sets_own_budget(config):
        return (filled.sum(-1) - 1).clamp(min=0)
    goes_on = unfilled | filled.any(-1) if verifies(config) else unfilled
    return filled.shape[1] * goes_on
