"""The task of solving Sudoku puzzles."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import EvalPrediction

from prism_hf._deprecation import warn_renamed
from prism_hf.data.sudoku.csv_files import read_sudoku_csv
from prism_hf.data.sudoku.grids import BLANK, Layout, is_solved, to_grid, to_sequence
from prism_hf.data.sudoku.puzzles import MAX_BLANKS, generate_puzzles
from prism_hf.evaluation.metrics.statistics import wilson_interval
from prism_hf.evaluation.tasks.task import Judgement, Task
from prism_hf.fields import Allowed, Count, Positive, check_arguments, check_value
from prism_hf.jobs.lines import to_json, whole_lines, write_whole
from prism_hf.jobs.share import by_main_process
from prism_hf.resources import resource_path

IGNORED = -100  # the label of a token that was given


def load_sudoku(
    puzzles_file: str | None = None,
    num_puzzles: Positive | None = None,
    num_tuning_puzzles: Count = 0,
    tuning_seed: Annotated[int, Allowed(min=0, below=2**30)] = 0,
    layout: Layout = 89,
    solutions_file: str | None = None,
) -> Task:
    """Puzzles to solve. Score: solved or not.

    Puzzles to tune on come from the generator, with as many blanks as the others have on average.

    Args:
        puzzles_file (`str`, *optional*): A CSV file of puzzles, by default those that ship.
        num_puzzles (`int`, *optional*): The first of them, all if not given.
        num_tuning_puzzles (`int`, *optional*, defaults to 0): To choose arguments on.
        tuning_seed (`int`, *optional*, defaults to 0): Of the generator.
        layout (`int`, *optional*, defaults to 89): Tokens of a puzzle, 89 or 81.
        solutions_file (`str`, *optional*): A CSV file of the solutions, to tell how many cells are right too.

    Returns:
        `Task`: The task.

    Raises:
        ValueError: if a puzzle to tune on has a solution that a reported puzzle admits too, or the solutions are those
            of other puzzles.

    Example:
        ```python
        task = load_task("sudoku", layout=81, num_tuning_puzzles=100)
        ```
    """
    check_arguments(load_sudoku, locals(), "the task sudoku")
    puzzles = to_grid(read_sudoku_csv(puzzles_file or resource_path("sudoku/puzzles.csv")))
    check_value("num_puzzles", num_puzzles, Annotated[int, Allowed(min=1, max=len(puzzles))] | None, "the task sudoku")
    puzzles = puzzles[:num_puzzles]
    blanks = min(round((puzzles == BLANK).sum((1, 2)).double().mean().item()), MAX_BLANKS)
    tuning_puzzles, tuning_solutions = _puzzles_to_tune_on(puzzles, num_tuning_puzzles, blanks, tuning_seed)
    origin = f"{len(puzzles)} puzzles, {Path(puzzles_file).name if puzzles_file else 'those that ship'}."
    if num_tuning_puzzles:
        origin += (
            f" Arguments were chosen on {num_tuning_puzzles} others of the generator (seed {tuning_seed}, {blanks} "
            "blanks): no solution of theirs fits a reported puzzle."
        )
    examples, tuning_examples = to_sequence(puzzles, layout), to_sequence(tuning_puzzles, layout)
    if solutions_file is None:
        return Task(examples, tuning_examples, is_solved, "solved", origin)
    solutions = to_sequence(to_grid(read_sudoku_csv(solutions_file)), layout)[: len(examples)]
    if not _fit(solutions, examples):
        raise ValueError(f"{solutions_file} does not hold the solutions of these puzzles, in their order.")
    judge = judge_beside(solutions, to_sequence(tuning_solutions, layout))
    return Task(examples, tuning_examples, judge, "solved", origin)


def judge_beside(*solutions: Tensor) -> Callable[[Tensor, Tensor], Judgement]:
    """The judge of a `Task` that tells how many cells are right too, by the solutions of each set of puzzles."""

    def judge(predictions: Tensor, puzzles: Tensor) -> Judgement:
        known = next(each for each in solutions if _fit(each, puzzles))
        accuracy = _cell_accuracy(predictions, puzzles, known)
        return Judgement(is_solved(predictions, puzzles), measures={"cells right": accuracy})

    return judge


def sudoku_metrics(predictions: Tensor, puzzles: Tensor, solutions: Tensor | None = None) -> dict[str, float]:
    """Share of puzzles solved, with its 95% Wilson interval.

    Args:
        predictions, puzzles (`torch.Tensor` of shape `(N, 89 or 81)`): Token ids.
        solutions (`torch.Tensor` of shape `(N, 89 or 81)`, *optional*): Those of the puzzles.

    Returns:
        `dict[str, float]`: `success`, `success_low` and `success_high`, and with solutions `cell_accuracy`, the share
        of blank cells that hold the solution's digit (NaN when nothing was blank).

    Raises:
        ValueError: if there are no puzzles, or the shapes differ.

    Example:
        ```python
        >>> sudoku_metrics(solutions, puzzles, solutions)["cell_accuracy"]
        1.0
        ```
    """
    if len(puzzles) == 0:
        raise ValueError("There are no puzzles to score; expected at least one row.")
    if solutions is not None and solutions.shape != puzzles.shape:
        raise ValueError(
            f"solutions {tuple(solutions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    accuracy = None if solutions is None else _cell_accuracy(predictions, puzzles, solutions)
    return _metrics_of(is_solved(predictions, puzzles), accuracy)


def sudoku_prediction_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`sudoku_metrics` of what a model generates in an evaluation, for a trainer's `compute_metrics`.

    Args:
        prediction (`EvalPrediction`): With `predict_with_generate`, of rows as those of `SudokuGrids`.

    Returns:
        `dict[str, float]`: As `sudoku_metrics` returns with solutions.

    Example:
        ```python
        from prism_hf.data import SudokuGrids
        from prism_hf.training import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments

        puzzles = SudokuGrids(100, seed=0, layout=81, blanks=51, num_puzzles=1)
        args = MaskedDiffusionTrainingArguments("runs/mdm", predict_with_generate=True)
        trainer = MaskedDiffusionTrainer(model, args, eval_dataset=puzzles, compute_metrics=sudoku_prediction_metrics)
        ```
    """
    predictions, labels = map(torch.as_tensor, (prediction.predictions, prediction.label_ids))
    given = labels == IGNORED
    puzzles, solutions = predictions.masked_fill(~given, BLANK), torch.where(given, predictions, labels)
    return sudoku_metrics(predictions, puzzles, solutions)


def adopt_results(path: str | Path) -> None:
    """Give rows of a file that an earlier version wrote what `evaluate` reads, so that they are not computed again.

    Those rows hold how many puzzles were solved and not which: the first so many stand for them. Nothing pairs them.
    """

    def adopt() -> None:
        rows = whole_lines(Path(path))
        if any(_is_old(row) for row in rows):
            write_whole(Path(path), (to_json(_adopted(row) if _is_old(row) else row) for row in rows))

    by_main_process(adopt)


def _is_old(row: dict[str, Any]) -> bool:
    return "success" in row and "scores" not in row


def _adopted(row: dict[str, Any]) -> dict[str, Any]:
    solved = round(row["success"] * row["num_puzzles"])
    measures = {"cells right": row["cell_accuracy"]} if "cell_accuracy" in row else {}
    return row | {"scores": "1" * solved + "0" * (row["num_puzzles"] - solved), "measures": measures}


def evaluate_sudoku(
    model: Any,
    puzzles: Tensor,
    settings: list[dict[str, Any]],
    path: str | Path,
    solutions: Tensor | None = None,
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
) -> list[dict[str, Any]]:
    """What `evaluate` is for the task sudoku, with what `sudoku_metrics` returned in each row; for one more version."""
    from prism_hf.evaluation.comparison.comparison import evaluate

    warn_renamed("evaluate_sudoku", "evaluate, which takes any task")
    judge = is_solved if solutions is None else judge_beside(solutions)
    task = Task(puzzles, puzzles[:0], judge, "solved", "", made_with={"num_puzzles": len(puzzles)})
    adopt_results(path)
    rows = evaluate(model, task, settings, path, batch_size, seed, bf16)
    return [row | _metrics_of(row["scores"], row["measures"].get("cells right")) for row in rows]


def _metrics_of(solved: Tensor, cell_accuracy: float | None) -> dict[str, float]:
    """What `sudoku_metrics` returns of the puzzles that were solved, (N,) bool."""
    low, high = wilson_interval(int(solved.sum()), len(solved))
    metrics = {"success": int(solved.sum()) / len(solved), "success_low": low, "success_high": high}
    return metrics if cell_accuracy is None else metrics | {"cell_accuracy": cell_accuracy}


def _puzzles_to_tune_on(puzzles: Tensor, number: int, blanks: int, seed: int) -> tuple[Tensor, Tensor]:
    """Other puzzles (M, 9, 9) than those (N, 9, 9), and their solutions, none of which fits one of the others."""
    # A seed of their own, as those of others are small or begin at 2**31. PyTorch reads 32 bits of it.
    generator = torch.Generator().manual_seed(3 * 2**30 + seed)
    others, solutions = generate_puzzles(number, blanks, generator)
    shared = sum(bool(((puzzles == BLANK) | (puzzles == solution)).all((1, 2)).any()) for solution in solutions)
    if shared:
        raise ValueError(
            f"{shared} of {number} puzzles to tune on have the solution of a reported puzzle: choose another "
            f"tuning_seed than {seed}."
        )
    return others, solutions


def _fit(solutions: Tensor, puzzles: Tensor) -> bool:
    """Whether solutions hold the givens of puzzles; both (N, 89 or 81)."""
    return solutions.shape == puzzles.shape and bool(((puzzles == BLANK) | (puzzles == solutions)).all())


def _cell_accuracy(predictions: Tensor, puzzles: Tensor, solutions: Tensor) -> float:
    return (predictions == solutions)[puzzles == BLANK].double().mean().item()
