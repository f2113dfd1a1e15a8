"""Remasking strategies on the same examples with the same number of forward passes, each with its best arguments."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_hf.evaluation.tasks.task import Task
from prism_hf.jobs.results import COMPLETIONS

from .grid import GridPoint
from .settings import check_settings, evaluate_settings


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
