"""Scoring completions of programming problems, and what is told of them."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm.auto import tqdm

from prism_hf.data.files import read_bytes
from prism_hf.evaluation.metrics.code import pass_at_k
from prism_hf.evaluation.metrics.statistics import bootstrap_interval
from prism_hf.evaluation.sandbox.sandbox import ProgramResult
from prism_hf.fields import Positive, check_arguments
from prism_hf.jobs.digests import json_digest
from prism_hf.jobs.lines import whole_lines
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.store import ResumableJsonl

from .answers import FORMS, FoundCode, find_code, is_python
from .problems import FORMS_OF_PROMPT, CodeProblem, program_of, rows_of, run_answers

T = TypeVar("T")


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
        `found` (where its code was, see `find_code`), `parses` (whether that is Python), `passed`, and `reason`, why
        not.

    Example:
        ```python
        asked, completions = read_completions("completions.jsonl", read_problems("mbpp.jsonl"))
        rows = score_completions(asked, completions)
        print(pass_table(rows, k=[1]))
        ```
    """
    found = [find_code(text, problem.entry_point) for problem, text in zip(problems, completions, strict=True)]
    results = run_answers(problems, [each.code for each in found], **kwargs)
    rows = zip(problems, _numbers(problems), completions, found, results, strict=True)
    return [_scored(*each) for each in rows]


def score_to_jsonl(
    problems: Sequence[CodeProblem],
    completions: Sequence[str],
    path: str | Path,
    num_workers: Positive | None = None,
    **kwargs: Any,
) -> list[dict[str, Any]]:
    """`score_completions` into a file, to which each result goes when it is there, and which a kill leaves usable.

    Started again with the same arguments, it runs the programs that are missing; a finished file is read.

    Args:
        problems (`Sequence[CodeProblem]`): The problem of each completion.
        completions (`Sequence[str]`): What was written.
        path (`str` or `Path`): The file of rows. `<path>.settings.json` tells what they depend on.
        num_workers (`int`, *optional*): Programs at once, by default one a CPU.
        **kwargs: See `run_program`.

    Returns:
        `list[dict[str, Any]]`: As `score_completions` does.

    Raises:
        ValueError: if the file was begun with other completions, problems or limits.

    Example:
        ```python
        asked, completions = read_completions("completions.jsonl", read_problems("mbpp.jsonl"))
        rows = score_to_jsonl(asked, completions, "scored.jsonl", timeout=5.0)
        ```
    """
    check_arguments(score_to_jsonl, {"num_workers": num_workers})
    output, numbers = ResumableJsonl(Path(path)), _numbers(problems)
    programs = json_digest([[program_of(each, ""), each.tests] for each in problems])
    with output_lock(path):
        settings = {"completions": json_digest([*completions]), "problems": programs, **kwargs}
        is_finished = output.begin(settings)
        done = output.parts()
        missing = [] if is_finished else [part for part in range(len(problems)) if part not in done]

        def score(part: int) -> dict[str, Any]:
            problem, text = problems[part], completions[part]
            found = find_code(text, problem.entry_point)
            (result,) = run_answers([problem], [found.code], num_workers=1, progress=False, **kwargs)
            return _scored(problem, numbers[part], text, found, result)

        for part, row in in_threads(score, missing, num_workers, Path(path).name):
            output.append(part, [row], 0)
        output.finish(range(len(problems)))
    return whole_lines(Path(path))


def in_threads(
    make: Callable[[int], T], parts: Sequence[int], num_workers: int | None, description: str
) -> Iterator[tuple[int, T]]:
    """Each of `parts` with what `make` makes of it, some at a time, as they come. What raises ends the others."""
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        futures = {pool.submit(make, part): part for part in parts}
        try:
            bar = tqdm(as_completed(futures), description, total=len(parts), unit="program", disable=not parts)
            yield from ((futures[future], future.result()) for future in bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _numbers(problems: Sequence[CodeProblem]) -> list[int]:
    """Of each completion, how many of the same problem come before it."""
    seen: Counter[int | str] = Counter()
    numbers = []
    for problem in problems:
        numbers.append(seen[problem.task_id])
        seen[problem.task_id] += 1
    return numbers


def _scored(problem: CodeProblem, number: int, text: str, found: FoundCode, result: ProgramResult) -> dict[str, Any]:
    return {
        "task_id": problem.task_id,
        "sample": number,
        "completion": text,
        "found": found.form,
        "parses": bool(found.code.strip()) and is_python(program_of(problem, found.code)),
        "passed": result.passed,
        "reason": result.reason,
    }


def read_completions(path: str | Path, problems: Sequence[CodeProblem]) -> tuple[list[CodeProblem], list[str]]:
    """The completions of a file and the problem of each: JSONL, or one array, which may be gzipped.

    A row has a `completion`, as those that `generate` writes, that a comparison keeps, and of HumanEval's authors, or a
    `solution`, as those of PRISM's authors and of EvalPlus. It has a `task_id`, the benchmark's or its number alone
    (`32` for `HumanEval/32`, `Mbpp/11` for `11`), or else the `prompt` of a problem in one of our forms.

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
    by_id = _by_task_id(problems)
    by_prompt = {
        problem.prompt_in(form, examples): problem
        for problem in problems
        for form in FORMS_OF_PROMPT
        for examples in (False, True)
    }
    asked, texts = [], []
    for place, row in rows_of(read_bytes(path), str(path)):
        where = f"{path}, {place}"
        text = row.get("completion", row.get("solution"))
        if not isinstance(text, str):
            raise ValueError(f"{where} must have a text 'completion' or 'solution', got {text!r} of {sorted(row)}.")
        known, name = (by_id, "task_id") if "task_id" in row else (by_prompt, "prompt")
        problem = known.get(row[name]) if isinstance(row.get(name), int | str) else None
        if problem is None:
            told = {name: row[name] for name in ("task_id", "prompt") if name in row}
            raise ValueError(
                f"{where} is of no problem of the file, {told or 'without task_id and prompt'}: the first has the "
                f"task_id {problems[0].task_id!r}."
            )
        asked.append(problem)
        texts.append(text)
    if not texts:
        raise ValueError(f"{path} has no completions: give one a line, with its task_id.")
    return asked, texts


def _by_task_id(problems: Sequence[CodeProblem]) -> dict[int | str, CodeProblem]:
    """The problems by their task ids, and by the other ways in which files write them."""
    known: dict[int | str, CodeProblem] = {}
    for problem in problems:
        number = re.search(r"\d+$", str(problem.task_id))
        if isinstance(problem.task_id, int):
            known |= {f"Mbpp/{problem.task_id}": problem, f"MBPP/{problem.task_id}": problem}
        if number is not None:
            known |= {int(number[0]): problem, number[0]: problem}
    return known | {problem.task_id: problem for problem in problems}


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


def pass_table(
    rows: Sequence[dict[str, Any]] | Mapping[str, Sequence[dict[str, Any]]],
    k: Sequence[int],
    num_problems: int | None = None,
) -> str:
    """pass@k, unbiased, as Markdown, with 95% intervals: those of the problems, resampled with all their completions.

    Args:
        rows (`Sequence[dict[str, Any]]` or `Mapping[str, Sequence[dict[str, Any]]]`): What `score_completions` returns,
            or that of several files by their names.
        k (`Sequence[int]`): Of pass@k.
        num_problems (`int`, *optional*): How many there are, to tell how many have no completion and count nowhere.

    Returns:
        `str`: The table, and what became of the completions.

    Example:
        ```python
        print(pass_table(score_completions(asked, completions), k=[1, 10]))
        ```
    """
    files = rows if isinstance(rows, Mapping) else {"": rows}
    heads = ["", *(text for each in k for text in (f"pass@{each}", "95% interval"))]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join([name, *_cells(each, k)])} |" for name, each in files.items()]
    for name, each in files.items():
        lines += ["", f"**{name}**: {_told(each, num_problems)}" if name else _told(each, num_problems)]
    return "\n".join([*lines, ""])


def _cells(rows: Sequence[dict[str, Any]], k: Sequence[int]) -> list[str]:
    """pass@k of the completions of a file, each with its interval."""
    numbers, right = Counter(row["task_id"] for row in rows), Counter(row["task_id"] for row in rows if row["passed"])
    cells = []
    for each in k:
        scores = torch.tensor([pass_at_k(number, right[task_id], each) for task_id, number in numbers.items()])
        low, high = bootstrap_interval(scores)
        cells += [f"{scores.double().mean():.1%}", f"{low:.1%} to {high:.1%}"]
    return cells


def _told(rows: Sequence[dict[str, Any]], num_problems: int | None) -> str:
    """What became of the completions of a file."""
    number = len({row["task_id"] for row in rows})
    missing = (num_problems or number) - number
    left_out = f" ({missing} other problems of the file have none and are in no number above)" if missing else ""
    reasons = Counter(row["reason"] for row in rows if not row["passed"]).most_common()
    return (
        f"{len(rows)} completions of {number} problems{left_out}. Code was found in: "
        f"{count_forms(row['found'] for row in rows)}.\n"
        f"Of those that did not pass: {', '.join(f'{reason} {n}' for reason, n in reasons) or 'none'}."
    )


def count_forms(forms: Iterable[str]) -> str:
    """How many answers had their code in each of `FORMS`, in words."""
    counts = Counter(forms)
    return ", ".join(f"{form} {counts[form]}" for form in FORMS if counts[form])
