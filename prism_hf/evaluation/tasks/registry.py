"""The tasks that samplers are compared on, by name."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch

from prism_hf.data.sudoku import (
    BLANK,
    MAX_BLANKS,
    Layout,
    generate_puzzles,
    is_solved,
    read_sudoku_csv,
    to_grid,
    to_sequence,
)
from prism_hf.evaluation.tasks.code.task import load_code
from prism_hf.fields import Allowed, Count, Positive, check_arguments, check_names, check_value
from prism_hf.resources import resource_path

from .task import Task
from .text import load_text


def load_sudoku(
    puzzles_file: str | None = None,
    num_puzzles: Positive | None = None,
    num_tuning_puzzles: Count = 0,
    tuning_seed: Annotated[int, Allowed(min=0, below=2**30)] = 0,
    layout: Layout = 89,
) -> Task:
    """Puzzles of a CSV file, by default those that ship, the first `num_puzzles` of them. Score: solved or not.

    Puzzles to tune on come from the generator, with as many blanks as the others have on average. layout: tokens of a
    puzzle, 89 or 81.

    Raises:
        ValueError: if a puzzle to tune on has a solution that a reported puzzle admits too.
    """
    check_arguments(load_sudoku, locals(), "the task sudoku")
    puzzles = to_grid(read_sudoku_csv(puzzles_file or resource_path("sudoku/puzzles.csv")))
    check_value("num_puzzles", num_puzzles, Annotated[int, Allowed(min=1, max=len(puzzles))] | None, "the task sudoku")
    puzzles = puzzles[:num_puzzles]
    blanks = min(round((puzzles == BLANK).sum((1, 2)).double().mean().item()), MAX_BLANKS)
    # A seed of their own, as those of others are small or begin at 2**31. PyTorch reads 32 bits of it.
    generator = torch.Generator().manual_seed(3 * 2**30 + tuning_seed)
    tuning_puzzles, solutions = generate_puzzles(num_tuning_puzzles, blanks, generator)
    shared = sum(bool(((puzzles == BLANK) | (puzzles == solution)).all((1, 2)).any()) for solution in solutions)
    if shared:
        raise ValueError(
            f"{shared} of {num_tuning_puzzles} puzzles to tune on have the solution of a reported puzzle: choose "
            f"another tuning_seed than {tuning_seed}."
        )
    origin = f"{len(puzzles)} puzzles, {Path(puzzles_file).name if puzzles_file else 'those that ship'}."
    if num_tuning_puzzles:
        origin += (
            f" Arguments were chosen on {num_tuning_puzzles} others of the generator (seed {tuning_seed}, {blanks} "
            "blanks): no solution of theirs fits a reported puzzle."
        )
    return Task(to_sequence(puzzles, layout), to_sequence(tuning_puzzles, layout), is_solved, "solved", origin)


TASKS: dict[str, Callable[..., Task]] = {"code": load_code, "sudoku": load_sudoku, "text": load_text}


def load_task(name: str | None = None, model=None, **arguments: Any) -> Task:
    """The task `name` of `TASKS`, loaded with its own arguments, and with the `model` compared where it asks for one.

    Raises ValueError on an unknown name of either, and for an argument that is missing.
    """
    check_names("task", [name], TASKS)
    known = inspect.signature(TASKS[name]).parameters
    check_names(f"argument of the task {name}", arguments, known.keys() - {"model"})
    missing = [each for each in known if known[each].default is inspect.Parameter.empty and each not in arguments]
    if missing := [each for each in missing if each != "model"]:
        raise ValueError(f"The task {name} needs {', '.join(missing)}: give it beside the name.")
    return TASKS[name](**arguments, **({"model": model} if "model" in known else {}))
