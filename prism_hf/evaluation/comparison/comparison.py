"""Remasking strategies on the same examples with the same number of forward passes, each with its best arguments."""

import math
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_hf.evaluation.evaluate_settings import RETRYING, check_settings, evaluate_settings
from prism_hf.evaluation.tasks.task import Task
from prism_hf.fields import NotNegative, Positive, check_arguments, check_names, check_value
from prism_hf.generation import STRATEGIES, Order, RemaskGenerationConfig
from prism_hf.jobs.results import COMPLETIONS

AXES = ("orders", "temperatures", "budgets")
# Keys of a strategy in a grid that the grid itself gives, with what to write instead.
FROM_THE_GRID = {
    "order": "orders", "temperature": "temperatures", "do_sample": "temperatures", "steps": "budgets",
    "remask_strategy": "name", "critic": "the critic of the whole grid",
}  # fmt: skip


@dataclass(frozen=True)
class GridPoint:
    """One setting of a comparison. Points that differ in `arguments` alone are candidates for one row of the report."""

    label: str
    order: str | None
    temperature: float
    budget: int
    arguments: dict[str, Any]
    setting: dict[str, Any]

    @property
    def row(self) -> tuple[str, str | None, float, int]:
        return self.label, self.order, self.temperature, self.budget


def expand_grid(
    strategies: list[dict[str, Any]],
    orders: list[Order | None],
    temperatures: list[NotNegative],
    budgets: list[Positive],
    critic: str | None = None,
) -> list[GridPoint]:
    """Every strategy with every order, temperature, budget of forward passes and value of its arguments.

    Args:
        strategies: dicts with the `name` of a strategy and its arguments, be they fields of the strategy or of
            `RemaskGenerationConfig`, or `retries` and what else `generate_with_retries` takes. A list is one of
            candidate values, so an argument that is a list is a list in a list. `label` is what the report calls it, by
            default the name; entries with one label are candidates for one row. `orders`, `temperatures` and `budgets`
            stand in for those of the grid.
        orders: unmasking orders; None for a strategy that has one of its own.
        temperatures: of the tokens drawn; 0 takes the likeliest.
        budgets: numbers of forward passes.
        critic: name of the network that `token_critic` asks.

    Raises:
        ValueError: if an entry has no name, or a key that the grid gives; if a budget leaves no step or retries have no
            steps; if nothing is to be compared; if `token_critic` has no critic.
    """
    check_arguments(expand_grid, locals())
    points = []
    for entry in strategies:
        if "name" not in entry:
            raise ValueError(f"A strategy of the grid needs a name, got {entry!r}.")
        for key in entry:
            if key in FROM_THE_GRID:
                raise ValueError(f"{key!r} of the strategy {entry['name']!r} is given by {FROM_THE_GRID[key]}.")
        check_names("remask_strategy", [entry["name"]], STRATEGIES)
        if entry["name"] == "token_critic" and critic is None:
            raise ValueError("The grid has token_critic but no critic: set critic_name_or_path.")
        axes = {"orders": orders, "temperatures": temperatures, "budgets": budgets}
        axes |= {name: entry[name] for name in AXES if name in entry}
        check_arguments(expand_grid, axes, f"the strategy {entry['name']}")
        named = {name: value for name, value in entry.items() if name not in ("name", "label", *AXES)}
        known = {
            *(field.name for field in fields(STRATEGIES[entry["name"]])),
            *RemaskGenerationConfig.fields,
            *RETRYING,
        }
        check_names(f"argument of the strategy {entry['name']}", named, known)
        values = [value if isinstance(value, list) else [value] for value in named.values()]
        for order, temperature, budget, *chosen in product(*axes.values(), *values):
            arguments = dict(zip(named, chosen, strict=True))
            setting = make_setting(entry["name"], order, temperature, budget, arguments, critic)
            points.append(
                GridPoint(entry.get("label", entry["name"]), order, float(temperature), budget, arguments, setting)
            )
    if not points:
        raise ValueError("The grid is empty: give strategies, orders, temperatures and budgets, one of each at least.")
    return points


def make_setting(
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
    own = {field.name for field in fields(STRATEGIES[name])} - set(RemaskGenerationConfig.fields)
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


def compare(
    model,
    task: Task,
    points: list[GridPoint],
    path: str | Path,
    model_name: str = "",
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
    critic=None,
) -> list[dict[str, Any]]:
    """Choose among the candidates of each row on the tuning examples, then complete the reported examples with it.

    Results go to `path` as `evaluate_settings` writes them, with the completions in files beside it, those of tuning
    with `"split": "tuning"`. What is there for the same weights, examples, batch size, seed and precision is not
    computed again.

    Returns one dict a row, in the order of the grid: the finished setting, `label`, `order`, `temperature`, `budget`,
    `arguments`, `scores` (N,), `measures`, and `candidates`: where there were several, the arguments, the mean score
    and the measures on tuning examples and the forward passes of each.

    Raises:
        ValueError: before anything is computed, if a setting is wrong, or there are candidates and nothing to tune on.
    """
    check_settings(model, [point.setting for point in points], critic)
    groups: dict[tuple, list[GridPoint]] = {}
    for point in points:
        groups.setdefault(point.row, []).append(point)
    rivals = [point for group in groups.values() if len(group) > 1 for point in group]
    if rivals and len(task.tuning_examples) == 0:
        raise ValueError(
            f"{rivals[0].label} has several candidates and there is nothing to choose one on: set the task's "
            "number of tuning puzzles, samples or problems, or give one value for each argument."
        )

    seeds = {"tuning": seed + task.tuning_seed, "reported": seed}

    def run(split: str, examples: Tensor, chosen: list[GridPoint]) -> list[dict[str, Any]]:
        made_with = {"split": split, "num_examples": len(examples), "model": model_name} | task.made_with

        def measure(sequences: Tensor) -> dict[str, Any]:
            scores, completions = task.judged(sequences, examples)
            columns = {head: column(scores, sequences, examples) for head, column in task.measures.items()}
            return {"scores": pack_scores(scores), "measures": columns, COMPLETIONS: completions}

        rows = evaluate_settings(
            model, examples, [point.setting for point in chosen], path, measure, made_with, batch_size, seeds[split],
            bf16, critic, task.never_drawn,
        )  # fmt: skip
        return list(map(unpacked, rows))

    tuned: dict[tuple, list[tuple[GridPoint, dict[str, Any]]]] = {}
    if rivals:
        for point, row in zip(rivals, run("tuning", task.tuning_examples, rivals), strict=True):
            tuned.setdefault(point.row, []).append((point, row))
    chosen = [best(tuned[row]) if row in tuned else group[0] for row, group in groups.items()]
    rows = run("reported", task.examples, chosen)
    return [row | reported(point, tuned.get(point.row, [])) for point, row in zip(chosen, rows, strict=True)]


def reported(point: GridPoint, tuned: list[tuple[GridPoint, dict[str, Any]]]) -> dict[str, Any]:
    """What a row of a comparison tells beside its result: its point of the grid, and what that was chosen from."""
    return {
        "label": point.label,
        "order": point.order,
        "temperature": point.temperature,
        "budget": point.budget,
        "arguments": point.arguments,
        "candidates": [
            {
                "arguments": candidate.arguments,
                "score": result["scores"].double().mean().item(),
                "measures": result["measures"],
                "forward_passes": result["forward_passes"],
            }
            for candidate, result in tuned
        ],
    }


def best(candidates: list[tuple[GridPoint, dict[str, Any]]]) -> GridPoint:
    """The candidate of highest mean score among those that keep to their budget, the first of equals."""
    within = [pair for pair in candidates if pair[1]["forward_passes"] <= pair[0].budget]
    return max(within or candidates, key=lambda pair: pair[1]["scores"].double().mean().item())[0]


def pack_scores(scores: Tensor) -> str | list[float]:
    """Scores (N,) for a line of JSON: bool as a string of 0 and 1, numbers as a list."""
    if scores.dtype == torch.bool:
        return "".join(map(str, scores.int().tolist()))
    return scores.double().tolist()


def unpacked(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a file of results, with its scores as a tensor; a file has null for NaN."""
    measures = {head: math.nan if value is None else value for head, value in row.get("measures", {}).items()}
    return row | {"scores": unpack_scores(row["scores"]), "measures": measures}


def unpack_scores(packed: str | list[float]) -> Tensor:
    """The inverse of `pack_scores`: (N,) bool or float64."""
    if isinstance(packed, str):
        return torch.tensor([character == "1" for character in packed], dtype=torch.bool)
    return torch.tensor([math.nan if score is None else score for score in packed], dtype=torch.float64)
