"""Scoring completions of programming problems, and what is told of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from prism_hf.data.files import read_bytes, read_object, text_lines
from prism_hf.evaluation.metrics.code import pass_at_k
from prism_hf.evaluation.metrics.statistics import bootstrap_interval
from prism_hf.fields import Positive, check_arguments

from .answers import FORMS, find_code
from .problems import CodeProblem, run_answers


def score_completions(
    problems: Sequence[CodeProblem], completions: Sequence[str], **kwargs: Any
) -> list[dict[str, Any]]:
    """Find the code of each completion of a problem and run it with the tests.

    Args:
        problems (`Sequence[CodeProblem]`): The problem of each completion.
        completions (`Sequence[str]`): What was written.
        **kwargs: See `run_programs`.

    Returns:
        `list[dict[str, Any]]`: A row a completion: `task_id`, `sample` (0 for the first of a problem), `completion`,
        `found` (where its code was, see `find_code`), `passed`, and `reason`, why not.

    Example:
        ```python
        asked, completions = read_completions("completions.jsonl", read_problems("mbpp.jsonl"))
        rows = score_completions(asked, completions)
        print(pass_table(rows, k=[1]))
        ```
    """
    codes = [find_code(text, problem.entry_point) for problem, text in zip(problems, completions, strict=True)]
    results = run_answers(problems, [code for code, _ in codes], **kwargs)
    rows: list[dict[str, Any]] = []
    seen: Counter[int | str] = Counter()
    for problem, text, (_, form), result in zip(problems, completions, codes, results, strict=True):
        rows.append(
            {
                "task_id": problem.task_id,
                "sample": seen[problem.task_id],
                "completion": text,
                "found": form,
                "passed": result.passed,
                "reason": result.reason,
            }
        )
        seen[problem.task_id] += 1
    return rows


def read_completions(path: str | Path, problems: Sequence[CodeProblem]) -> tuple[list[CodeProblem], list[str]]:
    """The completions of a JSONL file and the problem of each.

    A row has a `completion` and a `task_id`, as those that a comparison keeps and those of HumanEval's authors, or, as
    what `recipes/generate.py` makes of our prompts, the `prompt` of a problem.

    Args:
        path (`str` or `Path`): The file.
        problems (`Sequence[CodeProblem]`): All problems that there may be completions of.

    Returns:
        `tuple[list[CodeProblem], list[str]]`: For each completion its problem, and its text.

    Raises:
        ValueError: with the line, where one has no completion or is of no problem; if there are none.

    Example:
        ```python
        asked, completions = read_completions("completions.jsonl", read_problems("mbpp.jsonl"))
        ```
    """
    by_id = {problem.task_id: problem for problem in problems}
    by_prompt = {problem.prompt: problem for problem in problems}
    asked, texts = [], []
    for number, line in text_lines(read_bytes(path), str(path)).items():
        where = f"{path}, line {number}"
        row = read_object(line, where)
        if not isinstance(row.get("completion"), str):
            raise ValueError(f"{where} must have a text 'completion', got {row.get('completion')!r} of {sorted(row)}.")
        known, name = (by_id, "task_id") if "task_id" in row else (by_prompt, "prompt")
        problem = known.get(row[name]) if isinstance(row.get(name), int | str) else None
        if problem is None:
            told = {name: row[name] for name in ("task_id", "prompt") if name in row}
            raise ValueError(
                f"{where} is of no problem of the file, {told or 'without task_id and prompt'}: the first has the "
                f"task_id {problems[0].task_id!r}."
            )
        asked.append(problem)
        texts.append(row["completion"])
    if not texts:
        raise ValueError(f"{path} has no completions: give one a line, with its task_id.")
    return asked, texts


def check_enough(asked: Sequence[CodeProblem], k: Sequence[Positive]) -> None:
    """Check that each problem has as many completions as pass@k needs.

    Args:
        asked (`Sequence[CodeProblem]`): The problem of each completion.
        k (`Sequence[int]`): Of pass@k.

    Raises:
        ValueError: if a problem has fewer, or one of `k` is no number of at least 1.

    Example:
        ```python
        check_enough(asked, k=[1, 10])
        ```
    """
    check_arguments(check_enough, {"k": k})
    least, number = min((number, task_id) for task_id, number in Counter(each.task_id for each in asked).items())[::-1]
    if not k or max(k) > number:
        raise ValueError(
            f"k={[*k]} must be of 1 to {number}, as many completions as there are of the problem {least!r}."
        )


def pass_table(rows: Sequence[dict[str, Any]], k: Sequence[int], num_problems: int | None = None) -> str:
    """pass@k, unbiased, as Markdown, with 95% intervals: those of the problems, resampled with all their completions.

    Args:
        rows (`Sequence[dict[str, Any]]`): What `score_completions` returns.
        k (`Sequence[int]`): Of pass@k.
        num_problems (`int`, *optional*): How many there are, to tell how many have no completion and count nowhere.

    Returns:
        `str`: The table, and what became of the completions.

    Example:
        ```python
        print(pass_table(score_completions(asked, completions), k=[1, 10]))
        ```
    """
    numbers, right = Counter(row["task_id"] for row in rows), Counter(row["task_id"] for row in rows if row["passed"])
    lines = ["| | | 95% interval |", "|---|---|---|"]
    for each in k:
        scores = torch.tensor([pass_at_k(number, right[task_id], each) for task_id, number in numbers.items()])
        low, high = bootstrap_interval(scores)
        lines.append(f"| pass@{each} | {scores.double().mean():.1%} | {low:.1%} to {high:.1%} |")
    missing = (num_problems or len(numbers)) - len(numbers)
    left_out = f" ({missing} other problems of the file have none and are in no number above)" if missing else ""
    reasons = Counter(row["reason"] for row in rows if not row["passed"]).most_common()
    return "\n".join(
        [
            *lines,
            "",
            f"{len(rows)} completions of {len(numbers)} problems{left_out}. Code was found in: "
            f"{count_forms(row['found'] for row in rows)}.",
            f"Of those that did not pass: {', '.join(f'{reason} {n}' for reason, n in reasons) or 'none'}.",
            "",
        ]
    )


def count_forms(forms: Iterable[str]) -> str:
    """How many answers had their code in each of `FORMS`, in words."""
    counts = Counter(forms)
    return ", ".join(f"{form} {counts[form]}" for form in FORMS if counts[form])
