"""How many Sudoku puzzles a model solves, for each of a list of sampler settings."""

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from prism_hf.generation import (
    RemaskGenerationOutput,
    generate_with_retries,
    prepare_generation_config,
    remask_generate,
)

from ..data.sudoku import BLANK, is_valid_grid, to_grid


def is_solved(predictions: Tensor, puzzles: Tensor) -> Tensor:
    """Whether each prediction is a valid grid that keeps every given of its puzzle.

    predictions, puzzles: (N, 89 or 81) token ids. Returns (N,) bool. End-of-row tokens count as givens.
    """
    if predictions.shape != puzzles.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    valid = is_valid_grid(to_grid(predictions))
    keeps_givens = ((predictions == puzzles) | (puzzles == BLANK)).all(-1)
    return valid & keeps_givens


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion (95% by default): (low, high)."""
    rate, shrink = successes / trials, 1 + z**2 / trials
    centre = (rate + z**2 / (2 * trials)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def sudoku_metrics(predictions: Tensor, puzzles: Tensor, solutions: Tensor | None = None) -> dict[str, float]:
    """Share of puzzles solved, ``success``, with its 95% Wilson interval, ``success_low`` to ``success_high``.

    All arguments: (N, 89 or 81) token ids. With solutions, ``cell_accuracy`` is the share of blank cells filled with
    the solution's digit (nan when nothing was blank).
    """
    if len(puzzles) == 0:
        raise ValueError("There are no puzzles to score; expected at least one row.")
    if solutions is not None and solutions.shape != puzzles.shape:
        raise ValueError(
            f"solutions {tuple(solutions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    solved = int(is_solved(predictions, puzzles).sum())
    low, high = wilson_interval(solved, len(puzzles))
    metrics = {"success": solved / len(puzzles), "success_low": low, "success_high": high}
    if solutions is not None:
        metrics["cell_accuracy"] = (predictions == solutions)[puzzles == BLANK].double().mean().item()
    return metrics


def evaluate_sudoku(
    model,
    puzzles: Tensor,
    settings: list[dict[str, Any]],
    path: str | Path,
    solutions: Tensor | None = None,
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
) -> list[dict[str, Any]]:
    """Solve puzzles (N, 89 or 81) once for each of `settings`: the keyword arguments of `remask_generate`, or, if
    `retries` is among them, of `generate_with_retries`.

    A finished setting is appended to the JSONL file `path`; one that is there already, for as many puzzles and the same
    seed, is not computed again. Under `accelerate launch` the batches are shared among the processes; the results do
    not depend on how many there are.

    Returns one dict a setting: the setting, `num_puzzles`, `seed`, `forward_passes` (of the slowest batch), `seconds`,
    and what `sudoku_metrics` returns.

    Raises:
        ValueError: if a setting is wrong, before anything is computed.
    """
    if not settings:
        raise ValueError("There are no settings to evaluate; expected a list of generation settings.")
    # What a setting leaves open is not to come from the model's own generation config.
    settings = [{"remask_strategy": "none"} | setting for setting in settings]
    for setting in settings:
        for attempt in attempts_of(setting):
            prepare_generation_config(model, None, **attempt)
    state, path = PartialState(), Path(path)
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    state.wait_for_everyone()
    rows = [find_row(done, setting, len(puzzles), seed) for setting in settings]
    starts = range(0, len(puzzles), batch_size)[state.process_index :: state.num_processes]
    todo = [index for index, row in enumerate(rows) if row is None]
    total = sum(len(starts) * (settings[index].get("steps") or 51) for index in todo)  # without retries
    precision = torch.autocast(state.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
    with tqdm(total=total, unit="forward", disable=not state.is_main_process) as progress:
        for index in todo:
            began, solved = time.perf_counter(), []
            progress.set_description(describe(settings[index]))
            for start in starts:
                batch = puzzles[start : start + batch_size].to(state.device)
                generator = torch.Generator().manual_seed(seed + start)
                with precision:
                    output = solve(model, batch, settings[index], generator)
                solved.append((start, output.sequences.cpu(), output.num_forwards))
                progress.update(output.num_forwards)
            solved = sorted(gather_object(solved), key=lambda part: part[0])
            predictions = torch.cat([sequences for _, sequences, _ in solved])
            rows[index] = {
                "setting": settings[index],
                "num_puzzles": len(puzzles),
                "seed": seed,
                "forward_passes": max(num_forwards for _, _, num_forwards in solved),
                "seconds": round(time.perf_counter() - began, 2),
                **sudoku_metrics(predictions, puzzles, solutions),
            }
            if state.is_main_process:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[index]) + "\n")
    return rows


def solve(model, puzzles: Tensor, setting: dict[str, Any], generator: torch.Generator) -> RemaskGenerationOutput:
    """Puzzles (B, L) solved as a setting says."""
    generate = generate_with_retries if "retries" in setting else remask_generate
    return generate(model, puzzles, generator=generator, return_dict_in_generate=True, **setting)


def attempts_of(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of the one or more generations that a setting stands for."""
    first = {name: value for name, value in setting.items() if name not in ("retries", "retry_below")}
    return [first, *(first | retry for retry in setting.get("retries", []))]


def find_row(rows: list[dict[str, Any]], setting: dict[str, Any], num_puzzles: int, seed: int) -> dict[str, Any] | None:
    """The finished row of a setting, if there is one."""
    wanted = (setting, num_puzzles, seed)
    return next((row for row in rows if (row["setting"], row["num_puzzles"], row["seed"]) == wanted), None)


def describe(setting: dict[str, Any]) -> str:
    """A setting in a few words, for tables and plots: what remasks, and how much."""
    setting, *retries = attempts_of(setting)
    again = f", {len(retries)} retries" if retries else ""
    strategy = setting.get("remask_strategy")
    if strategy in (None, "none"):
        return f"none{again}"
    details = [
        f"{key}={value}"
        for key, value in setting.items()
        if key not in ("order", "do_sample", "steps", "remask_strategy")
    ]
    return (f"{strategy} ({', '.join(details)})" if details else strategy) + again


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows of `evaluate_sudoku` as a Markdown table."""
    lines = [
        "| order | tokens | remasking | forward passes | solved | 95% interval | cells right | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        setting = row["setting"]
        cells = f"{row['cell_accuracy']:.2%}" if "cell_accuracy" in row else ""
        lines.append(
            f"| {setting.get('order', 'confidence')} | {'sampled' if setting.get('do_sample') else 'greedy'} "
            f"| {describe(setting)} | {row['forward_passes']} | {row['success']:.1%} "
            f"| {row['success_low']:.1%} to {row['success_high']:.1%} | {cells} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"
