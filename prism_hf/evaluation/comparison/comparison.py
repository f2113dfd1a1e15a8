"""Samplers on the same examples: settings as they are listed, or strategies at equal numbers of forward passes.

A comparison is on a budget of forward passes, not on steps: loop steps and a critic's forwards are taken out of the
steps, and the report believes only the number of passes that were made. A row of the file of results holds what each
example scored, so that any two rows can be paired, and digests of the examples and of the weights, so that a retrained
model under the same name is not taken for the old one.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prism_hf._compat import config_of
from prism_hf.evaluation.tasks.task import Task
from prism_hf.jobs.results import COMPLETIONS

from .grid import GridPoint, listed_point
from .matching import Match, is_comparable, matched
from .settings import check_settings, evaluate_settings


def evaluate(
    model: nn.Module,
    task: Task,
    settings: list[dict[str, Any]],
    path: str | Path,
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
    critic: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Complete the examples of a task once for each of the settings.

    A setting that is in the file `path`, for the same weights, examples, batch size, seed and precision, is not
    computed again. Under `accelerate launch` the processes share the batches.

    Args:
        model (`PreTrainedModel`): What is evaluated.
        task (`Task`): Its examples; those to tune on are left alone.
        settings (`list[dict[str, Any]]`): Keyword arguments of `remask_generate`, or, where `retries` is among them, of
            `generate_with_retries`; a row each.
        path (`str` or `Path`): The JSONL file of results. Completions go to a folder beside it.
        batch_size (`int`, *optional*, defaults to 250): Examples in a batch.
        seed (`int`, *optional*, defaults to 0): Of the sampler.
        bf16 (`bool`, *optional*, defaults to `False`): Run the model under bfloat16 autocast.
        critic (`torch.nn.Module`, *optional*): The network for settings with an entry `critic`, which is its name.

    Returns:
        `list[dict[str, Any]]`: A row a setting, as `compare` returns them: its label says what the setting is, it has
        no budget and no candidates.

    Raises:
        ValueError: before anything is computed, if a setting is wrong or there is none.

    Example:
        ```python
        task = load_task("sudoku", layout=81, num_puzzles=100)
        settings = [{"order": "margin"}, {"order": "margin", "remask_strategy": "prism", "num_remask": 4}]
        print(comparison_table(evaluate(model, task, settings, "results.jsonl")))
        ```
    """
    check_settings(model, settings, critic, task.examples)
    points = [listed_point(model, setting, critic) for setting in settings]
    kwargs = {"batch_size": batch_size, "seed": seed, "bf16": bf16, "critic": critic}
    return _completed(model, task, task.examples, points, path, task.made_with, **kwargs)


def compare(
    model: nn.Module,
    task: Task,
    points: list[GridPoint],
    path: str | Path,
    model_name: str = "",
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
    critic: nn.Module | None = None,
    match: Match | None = None,
) -> list[dict[str, Any]]:
    """Choose among the candidates of each row on the tuning examples, then complete the reported examples with it.

    What is in the file `path`, for the same weights, examples, batch size, seed and precision, is not computed again.

    Args:
        model (`PreTrainedModel`): What is evaluated.
        task (`Task`): The examples, and others to tune on.
        points (`list[GridPoint]`): What `expand_grid` returns.
        path (`str` or `Path`): The JSONL file of results; rows of tuning have `"split": "tuning"`. Completions go to a
            folder beside it.
        model_name (`str`, *optional*): Kept in each row.
        batch_size (`int`, *optional*, defaults to 250): Examples in a batch.
        seed (`int`, *optional*, defaults to 0): Of the sampler.
        bf16 (`bool`, *optional*, defaults to `False`): Run the model under bfloat16 autocast.
        critic (`torch.nn.Module`, *optional*): The network that the strategy `token_critic` asks.
        match (`Match`, *optional*): A measure that all rows are to agree in, and the field that is moved until they do,
            for each candidate on the tuning examples and for the chosen one on the reported. A row that does not
            agree even so has `"agrees": False`.

    Returns:
        `list[dict[str, Any]]`: A row a strategy, order, temperature and budget, in the order of the grid: what
        `evaluate_settings` returns, with `label`, `order`, `temperature`, `budget`, `arguments`, `measured`, `scores`
        (N,), `measures`, `tokens_per_forward` (the tokens of all answers over the forwards of all), `agrees` and
        `candidates`, of which there are some where arguments were chosen: the arguments, the mean score and the
        measures on tuning examples and the forward passes of each.

    Raises:
        ValueError: before anything is computed, if a setting is wrong, there are candidates and nothing to tune on,
            or a point is greedy and something to match.

    Example:
        ```python
        task = load_task("sudoku", layout=81, num_puzzles=100, num_tuning_puzzles=20)
        strategies = [{"name": "none"}, {"name": "prism", "num_remask": [4, 8]}]
        points = expand_grid(strategies, orders=["random"], temperatures=[1.0], budgets=[51])
        print(comparison_table(compare(model, task, points, "results.jsonl")))
        ```
    """
    greedy = [point for point in points if match is not None and point.temperature == 0]
    if greedy:
        raise ValueError(f"{greedy[0].label} is greedy, and only drawn tokens can be matched: let temperatures be 1.")
    check_settings(model, [point.setting for point in points], critic, task.examples)
    groups: dict[tuple, list[GridPoint]] = {}
    for point in points:
        groups.setdefault(point.row, []).append(point)
    rivals = [point for group in groups.values() if len(group) > 1 for point in group]
    if rivals and len(task.tuning_examples) == 0:
        raise ValueError(
            f"{rivals[0].label} has several candidates and there is nothing to choose one on: let the task have "
            "examples to tune on (num_tuning_...), or give one value for each argument."
        )

    def run(split: str, point: GridPoint) -> tuple[GridPoint, dict[str, Any]]:
        examples, first = (task.examples, seed) if split == "reported" else (task.tuning_examples, tuning_seed)
        made_with = {"split": split, "num_examples": len(examples), "model": model_name} | task.made_with
        kwargs = {"batch_size": batch_size, "seed": first, "bf16": bf16, "critic": critic}

        def row_of(point: GridPoint) -> dict[str, Any]:
            return _completed(model, task, examples, [point], path, made_with, **kwargs)[0]

        if match is None:
            return point, row_of(point)
        point, row = matched(point, row_of, match)
        return point, row | {"agrees": match.holds(row)}

    tuning_seed = seed + task.tuning_seed
    tuned = [[run("tuning", point) for point in group] if len(group) > 1 else [] for group in groups.values()]
    chosen = [_best(rivals) if rivals else group[0] for rivals, group in zip(tuned, groups.values(), strict=True)]
    return [
        run("reported", point)[1] | {"candidates": list(map(_candidate, rivals))}
        for point, rivals in zip(chosen, tuned, strict=True)
    ]


def _completed(
    model: nn.Module,
    task: Task,
    examples: Tensor,
    points: list[GridPoint],
    path: str | Path,
    made_with: dict[str, Any],
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """A row for each point, of examples of the task. kwargs: see `evaluate_settings`."""

    def measure(sequences: Tensor) -> dict[str, Any]:
        judged = task.judged(sequences, examples)
        kept = {} if task.writing else {COMPLETIONS: judged.completions}
        tokens = filled_in(sequences) if judged.num_tokens is None else judged.num_tokens
        counted = {"mean_tokens": tokens.double().mean().item()}
        return {"scores": pack_scores(judged.scores), "measures": judged.measures} | counted | kept

    def filled_in(sequences: Tensor) -> Tensor:
        return (examples == config_of(model).mask_token_id).sum(-1) + sequences.shape[1] - examples.shape[1]

    settings = [point.setting for point in points]
    kwargs |= {"never_drawn": task.never_drawn, "judged_with": task.judged_with, "writing": task.writing}
    rows = evaluate_settings(model, examples, settings, path, measure, made_with, **kwargs)
    return [
        _unpacked(row)
        | {
            "label": point.label,
            "order": point.order,
            "temperature": point.temperature,
            "budget": point.budget,
            "arguments": point.arguments,
            "tokens_per_forward": _tokens_per_forward(row),
            "measured": task.measured,
            "agrees": True,
            "candidates": [],
        }
        for point, row in zip(points, rows, strict=True)
    ]


def _tokens_per_forward(row: dict[str, Any]) -> float:
    """Tokens over forwards of all examples; NaN for a row that an earlier version made, which did not count tokens."""
    return row["mean_tokens"] / row["mean_forward_passes"] if "mean_tokens" in row else math.nan


def _candidate(tuned: tuple[GridPoint, dict[str, Any]]) -> dict[str, Any]:
    """What a row tells of one that it was chosen from."""
    point, row = tuned
    return {
        "arguments": point.arguments,
        "score": row["scores"].double().mean().item(),
        "measures": row["measures"],
        "forward_passes": row["forward_passes"],
    }


def _best(candidates: list[tuple[GridPoint, dict[str, Any]]]) -> GridPoint:
    """The candidate of highest mean score among those that are comparable, the first of equals."""
    within = [(point, row) for point, row in candidates if is_comparable(row)]
    return max(within or candidates, key=lambda pair: pair[1]["scores"].double().mean().item())[0]


def pack_scores(scores: Tensor) -> str | list[float]:
    """Scores (N,) for a line of JSON: bool as a string of 0 and 1, numbers as a list."""
    if scores.dtype == torch.bool:
        return "".join(map(str, scores.int().tolist()))
    return scores.double().tolist()


def unpack_scores(packed: str | list[float]) -> Tensor:
    """The inverse of `pack_scores`: (N,) bool or float64."""
    if isinstance(packed, str):
        return torch.tensor([character == "1" for character in packed], dtype=torch.bool)
    return torch.tensor([math.nan if score is None else score for score in packed], dtype=torch.float64)


def _unpacked(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a file of results, with its scores as a tensor; a file has null for NaN."""
    measures = {head: math.nan if value is None else value for head, value in row.get("measures", {}).items()}
    return row | {"scores": unpack_scores(row["scores"]), "measures": measures}
