"""Settings moved until a measure agrees, so that scores are compared at equal terms.

Text that repeats itself is likely: a lower perplexity with a lower entropy says nothing. So a field of the sampler that
the entropy rises with, such as the temperature, is moved for each setting alone until all have the entropy of text of
people. The search looks at the measure and never at the score. Each trial is a row of the file of results, found there
by a run that goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from prism_hf.fields import Positive, check_fields, check_names
from prism_hf.generation import RemaskGenerationConfig

from .grid import FROM_THE_GRID, GridPoint

Row = dict[str, Any]
_FIELDS = set(RemaskGenerationConfig.fields) - set(FROM_THE_GRID) | {"temperature"}


@dataclass(frozen=True)
class Match:
    """What all settings of a comparison are to agree in, and by which field.

    Args:
        value (`float`): What the measure is to be, such as the entropy of held-out text.
        measure (`str`, *optional*, defaults to `"entropy"`): A column of the task.
        by (`str`, *optional*, defaults to `"temperature"`): A field of `RemaskGenerationConfig` that the measure rises
            with, such as `"top_p"`, whose greatest value is 1.
        low (`float`, *optional*, defaults to 0.5): Its least value.
        high (`float`, *optional*, defaults to 2.0): Its greatest value.
        within (`float`, *optional*, defaults to 0.05): How far the measure may be from the value.
        tries (`int`, *optional*, defaults to 6): How often a setting is completed at most.

    Raises:
        ValueError: for a field that there is not or that the grid gives, or a greatest value that is no greater.

    Example:
        ```python
        match = Match(value=4.36, within=0.02)  # for compare(..., match=match) of a task that measures entropy
        ```
    """

    value: float
    measure: str = "entropy"
    by: str = "temperature"
    low: float = 0.5
    high: float = 2.0
    within: float = 0.05
    tries: Positive = 6

    def __post_init__(self) -> None:
        check_fields(self)
        check_names("field to match by", [self.by], sorted(_FIELDS))
        if self.low >= self.high:
            raise ValueError(f"match: low={self.low} is not below high={self.high}: name the least and the greatest.")

    def __str__(self) -> str:
        return f"In each row {self.by} is such that {self.measure} is within {self.within:g} of {self.value:g}."

    def holds(self, row: Row) -> bool:
        """Whether the measure of a row is as near as it is to be."""
        return abs(row["measures"][self.measure] - self.value) <= self.within


def matched(point: GridPoint, run: Callable[[GridPoint], Row], match: Match) -> tuple[GridPoint, Row]:
    """Move a point until its measure agrees, by false position between the nearest trials on either side.

    Args:
        point (`GridPoint`): Its own value of the field is tried first.
        run (`Callable`): The row of a point.
        match (`Match`): What is to agree.

    Returns:
        `tuple[GridPoint, dict]`: The trial whose measure is nearest, moved, and its row.

    Raises:
        ValueError: if the task does not have the measure.

    Example:
        ```python
        moved, row = matched(point, run, Match(value=4.36))
        ```
    """
    trials: dict[float, tuple[GridPoint, Row]] = {}
    below, above = (match.low, None), (match.high, None)  # a value of the field, and of the measure once it is known
    at = min(max(point.setting.get(match.by) or match.high, match.low), match.high)
    while at not in trials and len(trials) < match.tries:
        moved = replace(point, arguments=point.arguments | {match.by: at}, setting=point.setting | {match.by: at})
        trials[at] = moved, run(moved)
        check_names("measure to match", [match.measure], trials[at][1]["measures"])
        if match.holds(trials[at][1]):
            break
        measured = trials[at][1]["measures"][match.measure]
        below, above = ((at, measured), above) if measured < match.value else (below, (at, measured))
        at = _between(below, above, match.value)
    return min(trials.values(), key=lambda trial: abs(trial[1]["measures"][match.measure] - match.value))


def is_comparable(row: dict[str, Any]) -> bool:
    """Whether a row keeps to its budget of forward passes, and agrees in what all are to agree in."""
    return (row["budget"] is None or row["forward_passes"] <= row["budget"]) and row["agrees"]


def _between(below: tuple[float, float | None], above: tuple[float, float | None], value: float) -> float:
    """The next trial: where the line between two measures meets the value, or the middle while a side has none."""
    (low, under), (high, over) = below, above
    share = 0.5 if under is None or over is None else min(max((value - under) / (over - under), 0.1), 0.9)
    return round(low + share * (high - low), 3)
