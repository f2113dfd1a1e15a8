"""One check of values against annotations: what fits, what does not, and what the message says of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from prism_hf.fields import (
    Allowed,
    Count,
    Fraction,
    Positive,
    build_config,
    check_arguments,
    check_fields,
    check_names,
    check_value,
    fits,
)

WORD = Annotated[str, Allowed(choices=("random", "margin"))]


@pytest.mark.parametrize(
    "kind, right, wrong",
    [
        (int, [0, -3, np.int64(4)], [True, 1.0, "1", None, [1], math.nan]),
        (float, [0, -1.5, np.float32(0.5)], [False, "1e-4", math.nan, math.inf, -math.inf, None, [0.5]]),
        (bool, [True, False], [0, 1, "no", None]),
        (str, ["", "text", Path("folder")], [5, None, True, ["text"]]),
        (Count, [0, 7], [-1]),
        (Positive, [1], [0]),
        (Fraction, [0, 1, 0.5], [-1e-9, 1.1, math.nan, 10**400]),
        (Annotated[float, Allowed(min=0, max=math.inf)], [0.0, math.inf], [-1.0, math.nan]),
        (Annotated[float, Allowed(above=0, below=1)], [0.5], [0, 1]),
        (Fraction | None, [None, 0.5], [2, "no"]),
        (WORD | None, ["margin", None], ["margins", 1]),
        (Annotated[int, Allowed(choices=(89, 81))], [89], [80, "89", True]),
        (Literal["a", 1], ["a", 1], ["b", 2]),
        (list[Count], [[], [1, 2]], [3, [-1], [1, "2"], (1, 2), {1: 2}]),
        (Sequence[dict], [[{}], ({},)], ["text", [1], {}]),
        (dict[str, int], [{"a": 1}], [{"a": "1"}, ["a"]]),
        (list[WORD | None], [["margin", None]], [["margins"], "margin"]),
        (Any, [None, 1, "a"], []),
    ],
)
def test_what_fits(kind, right, wrong):
    assert all(fits(value, kind) for value in right)
    assert not any(fits(value, kind) for value in wrong)


@pytest.mark.parametrize(
    "value, kind, message",
    [
        (-1, Count, "n=-1 must be an integer of at least 0."),
        (8.0, Positive, "n=8.0 must be an integer of at least 1. Write 8."),
        ("8", Positive, "n='8' must be an integer of at least 1. It is text: write the number without quotes."),
        (math.nan, Fraction | None, "n=nan must be a number from 0 to 1 or None."),
        (5, str, "n=5 must be text. Write it as text, in quotes."),
        ("no", bool, "n='no' must be True or False."),
        ("margins", WORD, "n='margins' must be one of 'random', 'margin'. Did you mean 'margin'?"),
        (
            [1, "a"],
            Count | list[Count],
            "n=[1, 'a'] must be an integer of at least 0 or a list, each an integer of at least 0.",
        ),
        (
            0,
            Annotated[float, Allowed(above=0, max=1, remedy="Leave it out.")],
            "n=0 must be a number above 0 and at most 1. Leave it out.",
        ),
    ],
)
def test_a_message_names_value_expectation_and_remedy(value, kind, message):
    with pytest.raises(ValueError) as error:
        check_value("n", value, kind)
    assert str(error.value) == message


@dataclass(frozen=True)
class Settings:
    size: Positive = 4
    order: str = field(default="random", metadata={"choices": ["random", "margin"]})
    loosely_declared: int = None  # as TrainingArguments has it
    share: Fraction = 0.5

    __post_init__ = check_fields


def test_fields_of_a_dataclass():
    assert Settings(size=np.int64(3)).size.__class__ is int
    assert check_value("flag", np.bool_(True), bool) is True
    for wrong, message in (
        ({"size": 0}, "size=0 of Settings"),
        ({"order": "margn"}, "Did you mean 'margin'"),
        ({"loosely_declared": "x"}, "loosely_declared='x'"),
        ({"share": True}, "share=True"),
    ):
        with pytest.raises(ValueError, match=message):
            Settings(**wrong)


def test_arguments_names_and_nested_settings():
    def draw(n: Count, generator=None, share: Fraction = 0.0) -> int:
        return n

    check_arguments(draw, {"n": 1, "share": 0.5})
    with pytest.raises(ValueError, match="n=1.5 of draw must be an integer"):
        check_arguments(draw, {"n": 1.5}, "draw")
    with pytest.raises(ValueError, match="Unknown colour 'gren': choose one of .* Did you mean 'green'?"):
        check_names("colour", ["red", "gren"], ["red", "green"])
    assert build_config(Settings, {"size": 2}, "settings") == Settings(2)
    for wrong, message in (
        ([1], r"settings=\[1\] must be a mapping"),
        ({"sise": 2}, "Unknown field of settings 'sise'.*'size'"),
        ({"size": "2"}, "settings.size='2' must be an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            build_config(Settings, wrong, "settings")
