"""Remasking strategies: which generated tokens go back to the mask.

A strategy is any callable ``strategy(state: StepState) -> score (B, L)``; the generated tokens of lowest score are
remasked first (how many is the sampler's business). If it reads `state.quality`, it has an attribute
`needs_quality = True`; if it reads `state.probs`, `needs_probs = True`, which makes the LM head run at all positions.
The built-in ones are frozen dataclasses, registered under the name that users write.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, is_dataclass
from difflib import get_close_matches
from typing import Any, ClassVar

import torch

from .sampling import uniform


@dataclass(frozen=True)
class StepState:
    """What a strategy sees of one step, after the forward pass and before anything is changed.

    canvas (B, L) int64: what the model has read, padding at the end. generated (B, L) bool: tokens of the block that
    the sampler filled and may remask. probs (B, L, V): the posterior, mask token excluded; quality (B, L) in [0, 1],
    NaN where a cache spares the computation, never in the block; either is None when the strategy does not ask for it.
    step: index of the step, out of `steps`.
    """

    canvas: torch.Tensor
    generated: torch.Tensor
    probs: torch.Tensor | None
    quality: torch.Tensor | None
    step: int
    steps: int
    generator: torch.Generator | None = None


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
    """Remask uniformly random generated tokens (ReMDM, arXiv 2503.00307)."""

    needs_quality: ClassVar[bool] = False

    def __call__(self, state: StepState) -> torch.Tensor:
        return uniform(state.canvas.shape, state.canvas.device, state.generator)


@register_strategy("prism")
@dataclass(frozen=True)
class PrismRemasking:
    """Remask the generated tokens of lowest learned quality (PRISM, arXiv 2510.01384)."""

    needs_quality: ClassVar[bool] = True

    def __call__(self, state: StepState) -> torch.Tensor:
        return state.quality


def resolve_strategy(value: Any) -> RemaskStrategy | None:
    """The strategy for a name, a saved ``{"name": ..., **fields}``, an instance or a callable; None for no remasking.

    Raises ValueError on an unknown name (with the nearest right one) or on anything that cannot be called.
    """
    if value is None or isinstance(value, NoRemasking) or value == "none":
        return None
    fields = {}
    if isinstance(value, dict):
        fields = {key: entry for key, entry in value.items() if key != "name"}
        value = value.get("name")
    if isinstance(value, str):
        if value not in STRATEGIES:
            near = get_close_matches(value, STRATEGIES, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown remask_strategy {value!r}: choose one of {sorted(STRATEGIES)}.{hint}")
        return STRATEGIES[value](**fields)
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"remask_strategy must be None, a name of {sorted(STRATEGIES)}, or a callable; got {value!r}.")
    return value


def strategy_to_saved(value: Any) -> Any:
    """An instance of a registered strategy as its name, or ``{"name": ..., **fields}``; anything else unchanged."""
    for name, cls in STRATEGIES.items():
        if type(value) is cls:
            fields = asdict(value)
            return {"name": name, **fields} if fields else name
    return value
