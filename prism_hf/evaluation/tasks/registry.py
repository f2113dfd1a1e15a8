"""The tasks that samplers are compared on, by name."""

import inspect
from collections.abc import Callable
from typing import Any

from prism_hf.evaluation.tasks.code.task import load_code
from prism_hf.fields import check_names

from .infill import load_infill
from .sudoku.task import load_sudoku
from .task import Task
from .text import load_text

TASKS: dict[str, Callable[..., Task]] = {
    "code": load_code,
    "infill": load_infill,
    "sudoku": load_sudoku,
    "text": load_text,
}


def load_task(name: str | None = None, model: Any = None, **arguments: Any) -> Task:
    """A task by its name.

    Args:
        name (`str`): One of `TASKS`.
        model (`PreTrainedModel`, *optional*): The model compared, for a task that has a parameter `model`.
        **arguments: The task's own, see the function in `TASKS`.

    Returns:
        `Task`: The task.

    Raises:
        ValueError: if there is no such task or argument, or an argument is missing.

    Example:
        ```python
        task = load_task("sudoku", layout=81, num_puzzles=100)
        ```
    """
    check_task(name, **arguments)
    known = inspect.signature(TASKS[name]).parameters
    return TASKS[name](**arguments, **({"model": model} if "model" in known else {}))


def check_task(name: str | None = None, **arguments: Any) -> None:
    """Raise ValueError for a task or an argument that is none, or for one that is missing."""
    check_names("task", [name], TASKS)
    known = inspect.signature(TASKS[name]).parameters
    check_names(f"argument of the task {name}", arguments, known.keys() - {"model"})
    missing = [each for each in known if known[each].default is inspect.Parameter.empty and each not in arguments]
    if missing := [each for each in missing if each != "model"]:
        raise ValueError(f"The task {name} needs {', '.join(missing)}: give it beside the name.")
