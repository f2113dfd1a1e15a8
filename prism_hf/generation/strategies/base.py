"""What a remasking strategy is, what it sees, and the names that users write.

A strategy is one object, resolved once a call. It says what it needs and refuses, makes the schedule of a row and each
step of the loop. Strategies of one kind share schedule and step, and differ in what they make of a `StepState`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from prism_hf._compat import version_of
from prism_hf._deprecation import warn_of_old
from prism_hf.fields import check_names, did_you_mean

from ..denoising.reading import Posterior, numbers_in
from ..denoising.threshold import Thresholds
from ..denoising.unmasking import first_columns, probability_of

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..denoising.canvas import Changes, Generation
    from ..denoising.schedule import RowStep, Step

NEEDS = ("quality", "probs", "token_probs", "shadows", "confidence")
# What strategies said before they had a base class.
_OF_BEFORE = ("selection", *(f"needs_{need}" for need in NEEDS))
# What a strategy that decides by itself what is remasked and unmasked leaves nothing to.
COUNTED = ("num_remask", "refill", "eta", "quality_threshold", "confidence_threshold", "loop_steps")
# And those that leave nothing to an order either.
UNORDERED = (*COUNTED, "begin_suppress_tokens")


@dataclass(frozen=True)
class StepState:
    """What a strategy sees of one step, after the forward and before anything is changed. It is not to be changed.

    Args:
        canvas (`torch.LongTensor`): (B, L) that the model has read, padding at the end.
        generated (`torch.BoolTensor`): (B, L), tokens of the block that were generated and may be remasked.
        probs (`torch.Tensor`, *optional*): (B, L, V), the posterior, mask token excluded, of a strategy that needs it.
        quality (`torch.Tensor`, *optional*): (B, L) in [0, 1], of a strategy that needs it; NaN where a cache spares
            the computation, never in the block.
        step (`int`): The index of the step.
        steps (`int`): The number of steps.
        generator (`torch.Generator`, *optional*): The source of all randomness.
        t (`torch.Tensor`): (B, 1), the time of each row's block before the step; it runs from 1 to 0.
        s (`torch.Tensor`): (B, 1), the time after it.
        attention_mask (`torch.LongTensor`, *optional*): (B, L), 0 at padding; None without.
        confidence (`torch.Tensor`, *optional*): (B, L), the probability with which each generated token was drawn, of a
            strategy that needs it.
        draft (`torch.LongTensor`, *optional*): (B, L), for a ranking: the canvas with all masks of the block unmasked.
        token_probs (`torch.Tensor`, *optional*): (B, L), of a strategy that needs it: the posterior probability of the
            draft's tokens (of the generated ones where there is no draft), NaN outside the block and at masks. With
            `"shadows"` among its needs, that of each token hidden from itself.

    Example:
        ```python
        def leftmost_first(state: StepState) -> torch.Tensor:
            return torch.arange(state.canvas.shape[1], device=state.canvas.device).expand_as(state.canvas).float()
        ```
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


class Reading(NamedTuple):
    """What a forward gave: the posterior at some positions, and what the strategy needs.

    Args:
        posterior (`Posterior`): At W positions of each row.
        quality (`torch.Tensor`, *optional*): (B, L).
        probs (`torch.Tensor`, *optional*): (B, L, V).
        token_probs (`Callable`, *optional*): From tokens (B, L) to their probabilities (B, L), NaN outside the block.
    """

    posterior: Posterior
    quality: torch.Tensor | None
    probs: torch.Tensor | None = None
    token_probs: Callable[[torch.Tensor], torch.Tensor] | None = None


class RemaskStrategy:
    """What a generation is remasked by. A kind of strategies implements `schedule` and `step`, see `strategies.score`.

    Class attributes:
        needs (`tuple[str, ...]`): What it reads of a `StepState` beyond canvas, generated and time: of `"quality"`,
            `"probs"`, `"token_probs"`, `"shadows"` (hides each token from itself for `token_probs`), `"confidence"`.
        order (`str`): The unmasking order where a call names none.
        refuses (`tuple[str, ...]`): Settings that it decides itself, so that a call may not set them, nor the order.
        draws (`bool`): Whether two generations may differ though no token is sampled.
        num_forwards (`int`): Model calls that it makes itself each time it is asked.

    Example:
        ```python
        @register_strategy("doubt")
        @dataclass(frozen=True)
        class DoubtRemasking(ScoreStrategy):
            needs = ("token_probs",)

            def __call__(self, state):
                return state.token_probs


        remask_generate(model, input_ids, remask_strategy="doubt", num_remask=2)
        ```
    """

    needs: ClassVar[tuple[str, ...]] = ()
    order: ClassVar[str] = "confidence"
    refuses: ClassVar[tuple[str, ...]] = ()
    draws: ClassVar[bool] = True
    num_forwards: ClassVar[int] = 0

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.needs, tuple):
            raise ValueError(f"{cls.__name__}.needs must be a tuple such as ('quality',), got {cls.needs!r}.")
        check_names(f"need of {cls.__name__}", cls.needs, NEEDS)
        if old := [name for name in vars(cls) if name in _OF_BEFORE]:
            needs = (*cls.needs, *(name.removeprefix("needs_") for name in old if name != "selection"))
            raise TypeError(
                f"{cls.__name__}.{old[0]} is not read: what is made of its scores is said by its base class, and what "
                f"it reads by needs = {needs}."
            )

    def __call__(self, state: StepState) -> torch.Tensor:
        """What it makes of a state, (B, L) float, as its kind reads it."""
        raise NotImplementedError(f"{type(self).__name__} has no __call__(state).")

    def schedule(self, num_masks: int, config: RemaskGenerationConfig, steps: int) -> list[RowStep]:
        """What a row with `num_masks` masks does in each step."""
        raise NotImplementedError(f"{type(self).__name__} is of no kind: inherit from ScoreStrategy, for example.")

    def step(self, generation: Generation, step: Step) -> Changes:
        """Make one step of a generation: read, remask, unmask."""
        raise NotImplementedError(f"{type(self).__name__} is of no kind: inherit from ScoreStrategy, for example.")

    def defaults(self, config: RemaskGenerationConfig) -> dict[str, Any]:
        """The settings that it takes where a call leaves them open."""
        return {}

    def check_config(self, config: RemaskGenerationConfig) -> None:
        """Raise ValueError where the settings of a call do not fit it."""

    def loop(self, config: RemaskGenerationConfig, steps: int) -> tuple[int, int]:
        """The base step before which extra steps come that hold the count of tokens, and their number."""
        return 0, 0

    def thresholds(self, config: RemaskGenerationConfig) -> Thresholds:
        """When a step unmasks and remasks, beside the numbers of the schedule."""
        return Thresholds()

    @property
    def in_config(self) -> Any:
        """What a config holds of it."""
        return self

    def __str__(self) -> str:
        """What a user would recognise it by in a message."""
        registered = [name for name, cls in STRATEGIES.items() if type(self) is cls]
        return repr(registered[0]) if registered else type(self).__qualname__

    def read(self, generation: Generation, step: Step, positions: torch.Tensor) -> Reading:
        """A forward, for the posterior at `positions` (B, W) and what the strategy needs, where it is asked."""
        tokens, recomputed = generation.tokens, step.recomputed
        if step.uses_strategy and "probs" in self.needs:
            everywhere, quality = generation.read(tokens, None, recomputed)
            return Reading(everywhere.take(positions), quality, everywhere.allowed().softmax(-1))
        if not (step.uses_strategy and "token_probs" in self.needs):
            return Reading(*generation.read(tokens, positions, recomputed))
        block = first_columns(generation.window, step.block_length)
        at, shadowed = block, None
        if "shadows" in self.needs:
            generated = generation.generated
            shadowed = first_columns(generated, step.most_generated)
            # A mask is its own shadow, so that one row of logits is enough for each position of the block.
            place = tokens.shape[1] + numbers_in(shadowed, tokens)
            at = torch.where(generated.gather(1, block), place.gather(1, block), block)
        of_block, quality = generation.read(tokens, at, recomputed, shadowed)

        def token_probs(canvas: torch.Tensor) -> torch.Tensor:
            probs = of_block.map(probability_of, canvas.gather(1, block))
            probs = torch.full(tokens.shape, torch.nan, device=tokens.device).scatter(1, block, probs)
            return probs.masked_fill(~generation.window, torch.nan)

        posterior = of_block.take(numbers_in(block, tokens).gather(1, positions))
        return Reading(posterior, quality, token_probs=token_probs)

    def observe(
        self, generation: Generation, step: Step, generated: torch.Tensor, reading: Reading | None = None
    ) -> StepState:
        """What the strategy sees before a step changes anything: canvas, time, and what the forward gave."""
        rows = step.rows
        state = StepState(
            canvas=generation.tokens,
            generated=generated,
            probs=None if reading is None else reading.probs,
            quality=None if reading is None else reading.quality,
            step=step.index,
            steps=generation.steps,
            generator=generation.generator,
            t=(1 - rows.step / rows.steps)[:, None],
            s=(1 - (rows.step + 1) / rows.steps)[:, None],
            attention_mask=generation.canvas.attention_mask,
            confidence=generation.confidence,
        )
        if reading is None or reading.token_probs is None:
            return state
        return replace(state, token_probs=reading.token_probs(state.canvas).masked_fill(~generated, torch.nan))

    def ask(self, state: StepState) -> torch.Tensor:
        """What the strategy makes of the state, (B, L).

        Raises:
            ValueError: with its name, where that is no float tensor like the canvas, or where it has changed the state.
        """
        given = [each for each in vars(state).values() if isinstance(each, torch.Tensor) and not each.is_inference()]
        versions = [version_of(each) for each in given]
        result = self(state)
        if [version_of(each) for each in given] != versions:
            raise ValueError(
                f"The remask strategy {self} has written into the state of the step, which is the sampler's own: work "
                "on a copy (clone), and return a score."
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
                f"The remask strategy {self} must return a float tensor of shape {tuple(canvas.shape)} on "
                f"{canvas.device}, got {got!r}."
            )
        return result


STRATEGIES: dict[str, type] = {}


def register_strategy(name: str) -> Callable[[type], type]:
    """Class decorator: makes a dataclass strategy available as `remask_strategy=name`, and savable.

    Args:
        name (`str`): What users write.

    Raises:
        ValueError: for a class that is no dataclass, and for a name that is taken.

    Example:
        ```python
        @register_strategy("oldest")
        @dataclass(frozen=True)
        class OldestFirst(ScoreStrategy): ...
        ```
    """

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


def resolve_strategy(value: Any, **settings: Any) -> RemaskStrategy:
    """The strategy for a name, a saved ``{"name": ..., **fields}``, an instance or a callable; None remasks nothing.

    Args:
        value (`Any`): As users give it.
        **settings: Fields of the strategy, which win over those of `value`.

    Raises:
        ValueError: for an unknown name or field, with the nearest right one, or for what cannot be called.
    """
    if isinstance(value, dict):
        settings = {key: entry for key, entry in value.items() if key != "name"} | settings
    value = _name_or_strategy(value)
    if isinstance(value, str):
        cls = _named(value)
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(settings) - set(known)):
            raise ValueError(f"remask_strategy {value!r} has no field {unknown[0]!r}: its fields are {known}.")
        return _warned_of(as_strategy(cls(**settings)))
    return _warned_of(as_strategy(replace(value, **settings) if settings else value))


def class_of(value: Any) -> type[RemaskStrategy] | RemaskStrategy:
    """What tells of a strategy without its fields: the class of a named one, else the strategy itself.

    Raises:
        ValueError: for an unknown name, with the nearest right one.
    """
    value = _name_or_strategy(value)
    if not isinstance(value, str):
        return as_strategy(value)
    cls = _named(value)
    return cls if issubclass(cls, RemaskStrategy) else as_strategy(cls)


def _name_or_strategy(value: Any) -> Any:
    """The name by which users give a strategy, or the strategy. Raises ValueError for what is neither."""
    if isinstance(value, dict):
        if not isinstance(value.get("name"), str):
            raise ValueError(
                f"remask_strategy={value!r} has no name: give the strategy's under 'name', beside its fields."
            )
        return value["name"]
    if value is None or isinstance(value, str):
        return "none" if value is None else value
    if isinstance(value, type) or not callable(value):
        raise ValueError(f"remask_strategy must be None, a name of {sorted(STRATEGIES)}, or a callable; got {value!r}.")
    return value


def _named(name: str) -> type:
    if name not in STRATEGIES:
        hint = did_you_mean(name, STRATEGIES)
        raise ValueError(f"Unknown remask_strategy {name!r}: choose one of {sorted(STRATEGIES)}.{hint}")
    return STRATEGIES[name]


def field_names(strategy: Any) -> list[str]:
    """The names of the arguments of a strategy or its class; none for a plain callable."""
    strategy = getattr(strategy, "function", strategy)
    return [field.name for field in fields(strategy)] if is_dataclass(strategy) else []


def strategy_to_saved(value: Any) -> Any:
    """An instance of a registered strategy as its name, or ``{"name": ..., **fields}``; anything else unchanged.

    A field with ``metadata={"saved": False}`` is left out.
    """
    for name, cls in STRATEGIES.items():
        if type(value) is cls:
            saved = [field.name for field in fields(cls) if field.metadata.get("saved", True)]
            kept = {field: vars(value)[field] for field in saved}
            return {"name": name, **kept} if kept else name
    return value


# The kinds that the attribute `selection` of a class without one of these bases stands for.
_KINDS = {
    "lowest": ("score", "ScoreStrategy"),
    "probability": ("transition", "TransitionStrategy"),
    "ranking": ("ranking", "RankingStrategy"),
}
_OLD_ATTRIBUTES = (*_OF_BEFORE, "fills_by_time", "num_forwards")


def as_strategy(value: Any) -> RemaskStrategy:
    """A strategy as it is, and a plain callable as one that scores tokens.

    What says more of itself than a plain callable, by attributes as strategies had them before they had a base class
    (`selection`, `needs_quality`, ...), is taken for one version more.

    Raises:
        ValueError: for attributes that say what no kind is.
    """
    if isinstance(value, RemaskStrategy):
        return value
    selection = getattr(value, "selection", "lowest")
    if selection not in _KINDS:
        raise ValueError(f"{_name_of(value)}.selection must be one of {tuple(_KINDS)}, got {selection!r}.")
    if hasattr(value, "fill_threshold") or hasattr(value, "verify_threshold"):
        raise ValueError(
            f"{_name_of(value)} has thresholds of its own, which is for ScoreStrategy.thresholds to say: inherit."
        )
    module, name = _KINDS[selection]
    return _of_callables(getattr(import_module(f".{module}", __package__), name))(value)


def _warned_of(strategy: RemaskStrategy) -> RemaskStrategy:
    old = [name for name in _OLD_ATTRIBUTES if hasattr(strategy.in_config, name)]
    if old and strategy.in_config is not strategy:
        kind = type(strategy).__base__.__name__
        warn_of_old(
            f"The remask strategy {strategy} says what it is by the attribute {old[0]}, which the next version of "
            f"prism_hf does not read: inherit from prism_hf.generation.{kind} and name what it reads in `needs`."
        )
    return strategy


def _name_of(value: Any) -> str:
    registered = [name for name, cls in STRATEGIES.items() if cls in (value, type(value))]
    return repr(registered[0]) if registered else getattr(value, "__qualname__", type(value).__qualname__)


@cache
def _of_callables(kind: Any) -> Callable[[Any], RemaskStrategy]:
    class OfCallable(kind):
        """A callable as a strategy of one kind."""

        def __init__(self, function: Any) -> None:
            self.function = function
            self.needs = tuple(need for need in NEEDS if getattr(function, f"needs_{need}", False))
            self.num_forwards = getattr(function, "num_forwards", 0)
            self.fills_by_time = getattr(function, "fills_by_time", False)

        @property
        def in_config(self) -> Any:
            return self.function

        def __call__(self, state: StepState) -> torch.Tensor:
            return self.function(state)

        def __str__(self) -> str:
            return _name_of(self.function)

        def defaults(self, config: RemaskGenerationConfig) -> dict[str, Any]:
            return self.function.defaults(config) if hasattr(self.function, "defaults") else {}

        def check_config(self, config: RemaskGenerationConfig) -> None:
            super().check_config(config)
            if hasattr(self.function, "check_config"):
                self.function.check_config(config)

    return OfCallable
