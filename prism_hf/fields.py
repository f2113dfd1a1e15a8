"""What a field or argument accepts, told by its annotation, and one check of values against it.

`Annotated[int, Allowed(min=1)]` is an integer of at least 1, `Annotated[str, Allowed(choices=("a", "b"))]` one of two
words, `Fraction | None` a number from 0 to 1 or nothing. Dataclasses, config classes, functions and what a file holds
are all checked against such annotations. Numbers are finite, True is no integer, and text is no number.
"""

import inspect
import math
import os
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


@dataclass(frozen=True, eq=False)  # unions of annotations hash them, and choices may be a dict
class Allowed:
    """Bounds of the numbers of a field, or the values to choose from, and what to do about any other value.

    Args:
        min, above, below, max (`float`, *optional*): Bounds of a number. `max=math.inf` lets infinity in, which is
            otherwise refused as NaN is.
        choices (`Iterable`, *optional*): The values to choose from.
        remedy (`str`, *optional*): What a message says is to be done about another value.
    """

    min: float | None = None
    above: float | None = None
    below: float | None = None
    max: float | None = None
    choices: Iterable[Any] | None = None
    remedy: str = ""

    def holds(self, number: float) -> bool:
        """Whether the number is within the bounds."""
        return (
            (-math.inf < number < math.inf or number == self.max)
            and (self.min is None or number >= self.min)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
            and (self.max is None or number <= self.max)
        )

    def __str__(self) -> str:
        if self.choices is not None:
            return f"one of {', '.join(map(repr, self.choices))}"
        if self.min is not None and self.max is not None:
            return f"from {self.min} to {self.max}"
        words = (("of at least", self.min), ("above", self.above), ("below", self.below), ("at most", self.max))
        return " and ".join(f"{word} {bound}" for word, bound in words if bound is not None)


Count = Annotated[int, Allowed(min=0)]
Positive = Annotated[int, Allowed(min=1)]
Fraction = Annotated[float, Allowed(min=0, max=1)]
NotNegative = Annotated[float, Allowed(min=0)]
Share = Annotated[float, Allowed(min=0, below=1)]
Seed = Annotated[int, Allowed(min=0, max=2**32 - 1)]  # what NumPy takes
PositiveFraction = Annotated[float, Allowed(above=0, max=1)]
DTYPES = ("float32", "bfloat16", "float16")
SHORT = reprlib.Repr()
SHORT.maxdict = SHORT.maxlist = SHORT.maxtuple = 20
SHORT.maxstring = SHORT.maxother = 200
NAMES = {int: "an integer", float: "a number", bool: "True or False", str: "text", dict: "a mapping", NoneType: "None"}


def check_value(name: str, value: Any, kind: Any, owner: str = "") -> Any:
    """The value, where it is of the annotated kind; numbers of NumPy, True and False too, become Python's.

    Raises:
        ValueError: with the name, the value, what is expected and, where one can be told, the remedy.

    Example:
        ```python
        >>> check_value("steps", 0, Positive)
        ValueError: steps=0 must be an integer of at least 1.
        ```
    """
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    if not fits(value, kind):
        of = owner and f" of {owner}"
        raise ValueError(f"{name}={SHORT.repr(value)}{of} must be {describe(kind)}.{_remedy_for(value, kind)}")
    return value


def check_fields(instance: Any, kinds: Mapping[str, Any] | None = None) -> None:
    """Check the fields of a dataclass against its annotations, or those in `kinds`, which win.

    A field's own default is right whatever its annotation says; `choices` in its metadata, which a command line reads,
    count as well. Serves as `__post_init__` of a dataclass.

    Raises:
        ValueError: for the first that does not fit.
    """
    kinds = {**kinds_of(type(instance)), **(kinds or {})}
    for field in fields(instance):
        value = getattr(instance, field.name)
        if field.default is not MISSING and type(value) is type(field.default) and value == field.default:
            continue
        checked = check_value(field.name, value, kinds[field.name], type(instance).__name__)
        if checked is not value:
            object.__setattr__(instance, field.name, checked)


def check_attributes(instance: Any, kinds: Mapping[str, Any]) -> None:
    """Check the attributes that `kinds` names.

    Raises:
        ValueError: for the first that does not fit.
    """
    for name, kind in kinds.items():
        setattr(instance, name, check_value(name, getattr(instance, name), kind, type(instance).__name__))


def check_arguments(function: Callable, given: Mapping[str, Any], owner: str = "") -> None:
    """Check those of a function's arguments that are `given`, such as its `locals()`, against their annotations.

    Raises:
        ValueError: for the first that does not fit.
    """
    for name, kind in annotations_of(function).items():
        if name in given and name != "return":
            check_value(name, given[name], kind, owner)


def check_names(what: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Check that all names are known.

    Raises:
        ValueError: for the first that is not, with the nearest right one.
    """
    known = list(known)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            shown = f": choose one of {sorted(known)}" if len(known) <= 50 or not hint else ""
            raise ValueError(f"Unknown {what} {name!r}{shown}.{hint}")


def build_config(kind: Callable, settings: Any, name: str, kinds: Mapping[str, Any] | None = None) -> Any:
    """`kind(**settings)`, a config class made of the mapping `name`, whose keys and values are checked before.

    Values are checked against the annotations of `kind`, or those in `kinds`, which win.

    Raises:
        ValueError: for settings that are no mapping, a key that `kind` lacks, or a value that does not fit.
    """
    check_value(name, settings, dict)
    known = [each.name for each in inspect.signature(kind).parameters.values() if each.kind is not each.VAR_KEYWORD]
    check_names(f"field of {name}", settings, known)
    hints = {**annotations_of(kind if is_dataclass(kind) else kind.__init__), **(kinds or {})}
    for key, value in settings.items():
        check_value(f"{name}.{key}", value, hints.get(key, Any))
    try:
        return kind(**settings)
    except (AttributeError, TypeError) as error:
        raise ValueError(f"{name}={SHORT.repr(settings)}: {error}.") from error


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """The sentence that names the nearest of those known, or nothing."""
    near = get_close_matches(str(name), map(str, known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


@cache
def annotations_of(declared: Any) -> dict[str, Any]:
    """The annotations of a class or function, with what `Annotated` adds to them."""
    return get_type_hints(declared, include_extras=True)


def kinds_of(cls: type) -> dict[str, Any]:
    """What each field of a dataclass accepts: its annotation, and the `choices` of its metadata."""
    hints = annotations_of(cls)
    return {
        field.name: Annotated[hints[field.name], Allowed(choices=field.metadata["choices"])]
        if "choices" in field.metadata
        else hints[field.name]
        for field in fields(cls)
    }


def parts_of(kind: Any, allowed: Allowed = Allowed()) -> list[tuple[Any, Allowed]]:
    """The members of a union, without `Annotated`, each with what is allowed of it."""
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        return parts_of(inner, next((mark for mark in marks if isinstance(mark, Allowed)), allowed))
    if get_origin(kind) in (Union, UnionType):
        return [part for member in get_args(kind) for part in parts_of(member, allowed)]
    if get_origin(kind) is Literal:
        return [(Any, Allowed(choices=get_args(kind)))]
    return [(kind, allowed)]


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the annotated kind. An annotation that is no class, such as a TypeVar, fits any value."""
    return any(_fits_part(value, *part) for part in parts_of(kind))


def _fits_part(value: Any, kind: Any, allowed: Allowed) -> bool:
    origin, members = get_origin(kind) or kind, get_args(kind)
    if origin in (list, Sequence, dict):
        inside = value.values() if isinstance(value, dict) else value
        return (
            isinstance(value, origin)
            and not isinstance(value, str)
            and all(fits(each, members[-1]) for each in inside if members)
        )
    if origin in (int, float):
        number = isinstance(value, Integral if origin is int else Real) and not isinstance(value, bool)
        if not (number and allowed.holds(value)):
            return False
    elif origin is str:
        if not isinstance(value, str | os.PathLike):
            return False
    elif origin is not Any and isinstance(origin, type) and not isinstance(value, origin):
        return False
    return value is None or allowed.choices is None or value in allowed.choices


def describe(kind: Any) -> str:
    """What a message says is expected: `an integer of at least 1 or None`."""
    return " or ".join(dict.fromkeys(_describe_part(*part) for part in parts_of(kind)))


def _describe_part(kind: Any, allowed: Allowed) -> str:
    origin, members = get_origin(kind) or kind, get_args(kind)
    if allowed.choices is not None and origin is not NoneType:
        return str(allowed)
    if origin in (list, Sequence):
        return f"a list, each {describe(members[0])}" if members else "a list"
    name = NAMES.get(origin) or (origin.__name__ if isinstance(origin, type) else str(origin))
    return f"{name} {allowed}".rstrip() if origin in (int, float) else name


def _remedy_for(value: Any, kind: Any) -> str:
    """What to write instead, where that can be told."""
    hints = []
    for member, allowed in parts_of(kind):
        if allowed.choices is not None:
            hints.append(did_you_mean(value, allowed.choices))
        elif member is int and isinstance(value, float) and value.is_integer():
            hints.append(f" Write {int(value)}.")
        elif member in (int, float) and isinstance(value, str) and value.strip().lstrip("+-")[:1].isdigit():
            hints.append(" It is text: write the number without quotes.")
        elif member is str and value is not None:
            hints.append(" Write it as text, in quotes.")
        hints.append(allowed.remedy and f" {allowed.remedy}")
    return "".join(dict.fromkeys(hints))
