"""Remasking strategies: which generated tokens go back to the mask.

A strategy is any callable ``strategy(state: StepState) -> (B, L)``, float, on the device of the canvas. Its attribute
`selection` says how the sampler reads that tensor:

- `"lowest"` (also where there is no such attribute): a score. The generated tokens of lowest score are remasked; how
  many is the sampler's business (`num_remask` or `eta`), and the unmasking order fills.
- `"probability"`: the probability that a position changes in this step, independently of the others: at generated
  tokens that of going back to the mask, at masks that of being filled. Elsewhere it is not read. In the last step of a
  block every mask is filled and nothing is remasked, whatever it says. With `fills_by_time = True` (the probability at
  masks depends on `t` and `s` alone) the LM head runs at no more positions than such a step can fill.
- `"ranking"`: a score of each position of a complete draft. As many of the block's positions as the schedule says are
  kept, those of highest score; all others are masked, whether they were before or not.

What a strategy reads of a state beyond canvas, generated and time, it asks for: `needs_quality = True`, `needs_probs`,
`needs_token_probs`, `needs_confidence`; `needs_shadows = True` hides each token from itself for `token_probs`.
`fill_threshold` and `verify_threshold` make it decode in parallel: they stand for `confidence_threshold` and, over the
score that it returns, for `quality_threshold`. It may then remask fewer tokens than the step before has filled, however
many, and takes no `num_remask`. `num_forwards` is the number of model calls it makes itself each time it is
asked. `defaults(config)` gives the settings that it takes where a call leaves them open, and `check_config(config)` may
raise ValueError where those of a call do not fit it. The built-in ones are frozen dataclasses, registered under the
name that users write.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch

from prism_hf._compat import version_of
from prism_hf.fields import did_you_mean

SELECTIONS = ("lowest", "probability", "ranking")


@dataclass(frozen=True)
class StepState:
    """What a strategy sees of one step, after the forward pass and before anything is changed. It is not to be changed.

    canvas (B, L) int64: what the model has read, padding at the end. generated (B, L) bool: tokens of the block that
    the sampler filled and may remask. probs (B, L, V): the posterior, mask token excluded; quality (B, L) in [0, 1],
    NaN where a cache spares the computation, never in the block; either is None when the strategy does not ask for it.
    step: index of the step, out of `steps`.

    t, s (B, 1): the time of each row's block before and after the step; it runs from 1 to 0. attention_mask (B, L): 0
    at padding, None without. confidence (B, L): the probability with which each generated token was drawn. draft
    (B, L) int64: with `"ranking"`, the canvas with all masks of the block filled. token_probs (B, L): the posterior
    probability of the draft's tokens (of the canvas' generated ones where there is no draft), NaN outside the block and
    at masks. A strategy that needs neither quality nor posterior and has `"probability"` is asked before the forward.
    """

    canvas: torch.Tensor
    generated: torch.Tensor
    probs: torch.Tensor | None
    quality: torch.Tensor | None
    step: int
    steps: int
    generator: torch.Generator | None = None
    t: torch.Tensor | None = None
    s: torch.Tensor | None = None
    attention_mask: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    draft: torch.Tensor | None = None
    token_probs: torch.Tensor | None = None


RemaskStrategy = Callable[[StepState], torch.Tensor]

STRATEGIES: dict[str, type] = {}


def register_strategy(name: str) -> Callable[[type], type]:
    """Class decorator: makes a dataclass strategy available as `remask_strategy=name`, and savable."""

    def register(cls: type) -> type:
        if not is_dataclass(cls):
            raise ValueError(
                f"A registered strategy is a dataclass, got {cls!r}: decorate it with @dataclass(frozen=True)."
            )
        if STRATEGIES.get(name, cls) is not cls:
            raise ValueError(f"The strategy name {name!r} is taken by {STRATEGIES[name]!r}: choose another.")
        STRATEGIES[name] = cls
        return cls

    return register


def resolve_strategy(value: Any) -> RemaskStrategy | None:
    """The strategy for a name, a saved ``{"name": ..., **fields}``, an instance or a callable; None for no remasking.

    Raises ValueError on an unknown name (with the nearest right one) or on anything that cannot be called.
    """
    if value is None or value == "none" or isinstance(value, STRATEGIES["none"]):
        return None
    settings = {}
    if isinstance(value, dict):
        settings = {key: entry for key, entry in value.items() if key != "name"}
        value = value.get("name")
    if isinstance(value, str):
        if value not in STRATEGIES:
            hint = did_you_mean(value, STRATEGIES)
            raise ValueError(f"Unknown remask_strategy {value!r}: choose one of {sorted(STRATEGIES)}.{hint}")
        unknown = set(settings) - set(field_names(STRATEGIES[value]))
        if unknown:
            raise ValueError(
                f"remask_strategy {value!r} has no field {sorted(unknown)[0]!r}: its fields are "
                f"{field_names(STRATEGIES[value])}."
            )
        return STRATEGIES[value](**settings)
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"remask_strategy must be None, a name of {sorted(STRATEGIES)}, or a callable; got {value!r}.")
    selection = selection_of(value)
    if selection not in SELECTIONS:
        raise ValueError(f"{name_of(value)}.selection must be one of {SELECTIONS}, got {selection!r}.")
    return value


def field_names(strategy: Any) -> list[str]:
    """The names of the arguments of a strategy or its class; none for a plain callable."""
    return [field.name for field in fields(strategy)] if is_dataclass(strategy) else []


def selection_of(strategy: RemaskStrategy | None) -> str:
    """How the sampler reads what the strategy returns, one of `SELECTIONS`."""
    return getattr(strategy, "selection", "lowest")


def needs(strategy: RemaskStrategy | None, what: str) -> bool:
    """Whether the strategy asks for `what`: "quality", "probs", "token_probs", "confidence" or "shadows"."""
    return bool(getattr(strategy, f"needs_{what}", False))


def has_loop(strategy: RemaskStrategy | None) -> bool:
    """Whether the strategy has a loop stage of its own."""
    return bool(getattr(strategy, "has_loop", False))


def name_of(strategy: RemaskStrategy) -> str:
    """What a user would recognise a strategy by in a message."""
    registered = [name for name, cls in STRATEGIES.items() if type(strategy) is cls]
    return repr(registered[0]) if registered else getattr(strategy, "__qualname__", type(strategy).__qualname__)


def strategy_to_saved(value: Any) -> Any:
    """An instance of a registered strategy as its name, or ``{"name": ..., **fields}``; anything else unchanged.

    A field with ``metadata={"saved": False}`` is left out.
    """
    for name, cls in STRATEGIES.items():
        if type(value) is cls:
            kept = {
                field.name: getattr(value, field.name) for field in fields(value) if field.metadata.get("saved", True)
            }
            return {"name": name, **kept} if kept else name
    return value


def ask(strategy: RemaskStrategy, state: StepState) -> torch.Tensor:
    """What the strategy returns, (B, L).

    Raises ValueError, with its name, where that is no float tensor like the canvas, or where it has changed the state.
    """
    given = [each for each in vars(state).values() if isinstance(each, torch.Tensor) and not each.is_inference()]
    versions = [version_of(each) for each in given]
    result = strategy(state)
    if [version_of(each) for each in given] != versions:
        raise ValueError(
            f"The remask strategy {name_of(strategy)} has written into the state of the step, which is the sampler's "
            "own: work on a copy (clone), and return a score."
        )
    canvas = state.canvas
    if (
        not isinstance(result, torch.Tensor)
        or result.shape != canvas.shape
        or not result.is_floating_point()
        or result.device != canvas.device
    ):
        got = (tuple(result.shape), result.dtype, result.device) if isinstance(result, torch.Tensor) else result
        raise ValueError(
            f"The remask strategy {name_of(strategy)} must return a float tensor of shape {tuple(canvas.shape)} on "
            f"{canvas.device}, got {got!r}."
        )
    return result
