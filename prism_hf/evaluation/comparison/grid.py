"""The settings of a comparison: every strategy with every order, temperature, budget and value of its arguments."""

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from torch import nn

from prism_hf.fields import NotNegative, Positive, check_arguments, check_names, check_value
from prism_hf.generation import STRATEGIES, Order, RemaskGenerationConfig
from prism_hf.generation.configuration_remask import RENAMED

from .settings import RETRYING, attempts_of, describe, prepared_config

AXES = ("orders", "temperatures", "budgets")
# Keys of a strategy in a grid that the grid itself gives, with what to write instead.
FROM_THE_GRID = {
    "order": "orders",
    "temperature": "temperatures",
    "do_sample": "temperatures",
    "steps": "budgets",
    "remask_strategy": "name",
    "critic": "the critic of the whole grid",
}


@dataclass(frozen=True)
class GridPoint:
    """One setting of a comparison, and where it stands in the report.

    Points that differ in `arguments` alone, but not in that of a curve, are candidates for one row.

    Args:
        label (`str`): What the report calls it.
        order (`str`, *optional*): The unmasking order, None where a strategy has one of its own.
        temperature (`float`): Of the tokens drawn; 0 takes the likeliest.
        budget (`int`, *optional*): The number of forward passes that it may make, None for any.
        arguments (`dict[str, Any]`): What may be chosen.
        setting (`dict[str, Any]`): All of it, as `evaluate_settings` takes it.
        curve (`str`, *optional*): The argument each of whose values is a row.

    Example:
        ```python
        points = expand_grid([{"name": "prism", "num_remask": [4, 8]}], ["random"], [1.0], budgets=[51])
        assert points[0].row == points[1].row == ("prism", "random", 1.0, 51)
        ```
    """

    label: str
    order: str | None
    temperature: float
    budget: int | None
    arguments: dict[str, Any]
    setting: dict[str, Any]
    curve: str | None = None

    @property
    def row(self) -> tuple[Any, ...]:
        """What the candidates for one row have in common."""
        of_curve = () if self.curve is None else (self.arguments[self.curve],)
        return self.label, self.order, self.temperature, self.budget, *of_curve


def listed_point(model: nn.Module, setting: dict[str, Any], critic: nn.Module | None = None) -> GridPoint:
    """The point of a setting that is not of a grid: the label says what it is, and it may make any number of passes."""
    config: Any = prepared_config(model, attempts_of(setting)[0], critic)[0]  # which declares no fields
    temperature = float(config.temperature) if config.do_sample else 0.0
    return GridPoint(describe(setting), config.order, temperature, None, {}, setting)


def expand_grid(
    strategies: list[dict[str, Any]],
    orders: list[Order | None],
    temperatures: list[NotNegative],
    budgets: list[Positive],
    critic: str | None = None,
) -> list[GridPoint]:
    """Every strategy with every order, temperature, budget of forward passes and value of its arguments.

    Args:
        strategies (`list[dict[str, Any]]`): The `name` of each and its arguments, be they fields of the strategy or of
            `RemaskGenerationConfig`, or `retries` and what else `generate_with_retries` takes. A list is one of
            candidate values, so an argument that is a list is a list in a list. `label` is what the report calls it, by
            default the name; entries with one label are candidates for one row. `orders`, `temperatures` and `budgets`
            stand in for those of the grid. `curve` names the argument, such as a threshold, each of whose values is a
            row of its own and none is chosen.
        orders (`list[str | None]`): Unmasking orders; None for a strategy that has one of its own.
        temperatures (`list[float]`): Of the tokens drawn; 0 takes the likeliest.
        budgets (`list[int]`): Numbers of forward passes.
        critic (`str`, *optional*): Name of the network that `token_critic` asks.

    Returns:
        `list[GridPoint]`: The points, strategy by strategy.

    Raises:
        ValueError: if an entry has no name, or a key that the grid gives; if a budget leaves no step or retries have no
            steps; if nothing is to be compared; if `token_critic` has no critic.

    Example:
        ```python
        strategies = [{"name": "none"}, {"name": "prism", "num_remask": [4, 8]}]
        assert len(expand_grid(strategies, orders=["random"], temperatures=[0, 1], budgets=[51, 102])) == 12
        ```
    """
    check_arguments(expand_grid, locals())
    points = []
    for entry in strategies:
        _check_entry(entry, critic)
        axes: dict[str, list[Any]] = {"orders": orders, "temperatures": temperatures, "budgets": budgets}
        axes |= {name: entry[name] for name in AXES if name in entry}
        check_arguments(expand_grid, axes, f"the strategy {entry['name']}")
        named = _arguments_of(entry)
        values = [value if isinstance(value, list) else [value] for value in named.values()]
        for order, temperature, budget, *chosen in product(*axes.values(), *values):
            arguments = dict(zip(named, chosen, strict=True))
            setting = _make_setting(entry["name"], order, temperature, budget, arguments, critic)
            label, curve = entry.get("label", entry["name"]), entry.get("curve")
            points.append(GridPoint(label, order, float(temperature), budget, arguments, setting, curve))
    if not points:
        raise ValueError("The grid is empty: give strategies, orders, temperatures and budgets, one of each at least.")
    return points


def _check_entry(entry: dict[str, Any], critic: str | None) -> None:
    """Raise ValueError for an entry without a known name, or with keys that the grid gives or the strategy lacks."""
    if "name" not in entry:
        raise ValueError(f"A strategy of the grid needs a name, got {entry!r}.")
    name = entry["name"]
    for key in entry:
        if key in FROM_THE_GRID:
            raise ValueError(f"{key!r} of the strategy {name!r} is given by {FROM_THE_GRID[key]}.")
    check_names("remask_strategy", [name], STRATEGIES)
    if name == "token_critic" and critic is None:
        raise ValueError("The grid has token_critic but no critic: set critic_name_or_path.")
    known = {*_fields_of(name), *RemaskGenerationConfig.fields, *RETRYING}
    arguments = [RENAMED.get(argument, argument) for argument in _arguments_of(entry)]
    check_names(f"argument of the strategy {name}", arguments, known)
    if "curve" in entry:
        check_names(f"curve of the strategy {name}", [entry["curve"]], _arguments_of(entry))


def _arguments_of(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("name", "label", "curve", *AXES)}


def _fields_of(strategy: str) -> set[str]:
    return {field.name for field in fields(STRATEGIES[strategy])}


def _make_setting(
    name: str, order: str | None, temperature: float, budget: int, arguments: dict[str, Any], critic: str | None
) -> dict[str, Any]:
    """The setting, as `evaluate_settings` takes it, that makes no more than `budget` forward passes."""
    retries = arguments.get("retries", [])
    check_value("retries", retries, list[dict], name)
    if any("steps" not in retry for retry in retries):
        raise ValueError(f"Each of the retries of {name} needs steps, to be counted in the budget, got {retries}.")
    # Before each retry one more forward judges what is there.
    steps = budget - arguments.get("loop_steps", 0) - sum(retry["steps"] + 1 for retry in retries)
    if name == "token_critic":
        steps = (budget + 1) // 2  # the critic, too, has a forward in each step but the last
    if steps < 1:
        raise ValueError(f"{name} with {arguments} leaves {steps} steps of a budget of {budget} forward passes.")
    own = _fields_of(name) - set(RemaskGenerationConfig.fields)
    of_strategy = {key: value for key, value in arguments.items() if key in own}
    setting = {
        "remask_strategy": {"name": name} | of_strategy if of_strategy else name,
        "order": order,
        "steps": steps,
        "do_sample": temperature > 0,
    }
    if temperature > 0:
        setting["temperature"] = float(temperature)
    if name == "token_critic":
        setting["critic"] = critic
    return setting | {key: value for key, value in arguments.items() if key not in own}
