"""Problems of programming with tests, MBPP and HumanEval, and whether a model's completions solve them.

Layouts as published, JSONL, gzipped where the name ends in .gz: mbpp.jsonl (arXiv 2108.07732) with `text`, `code`,
`test_setup_code` and `test_list`; HumanEval.jsonl.gz (arXiv 2107.03374) with `prompt`, `canonical_solution`, `test` and
`entry_point`.
"""

import gzip
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.code import code_prompt, first_function_name
from ..data.jsonl import existing_file, read_object
from .sandbox import ProgramResult, run_programs

MBPP = {"task_id": int, "text": str, "code": str, "test_setup_code": str, "test_list": list}
HUMANEVAL = {"task_id": str, "prompt": str, "canonical_solution": str, "test": str, "entry_point": str}
# By task_id, as the authors of MBPP split it. Problems 1 to 10 are for few-shot prompts.
MBPP_SPLITS = {"prompt": range(1, 11), "test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}

# A class that some of MBPP's tests use, and only its reference solutions define.
PAIR = "class Pair:\n    def __init__(self, a, b):\n        self.a = a\n        self.b = b\n\n\n"


@dataclass(frozen=True)
class CodeProblem:
    """A problem with tests.

    instruction: what is asked. entry_point: the function to write. given: code that stands before an answer: for
    HumanEval, imports and the function's head with its docstring, so that an answer may be its body or the whole
    function. reference: an answer that is right. tests: code that raises, run after given and answer, if the answer is
    wrong.
    """

    task_id: int | str
    instruction: str
    entry_point: str
    given: str
    reference: str
    tests: str

    @property
    def prompt(self) -> str:
        """What a model is asked: the prompt that it is trained on, see `prism_hf.data.code`."""
        return code_prompt(self.instruction, self.entry_point)


def read_problems(path: str | Path) -> list[CodeProblem]:
    """The problems of a file in the layout of MBPP or HumanEval.

    Raises:
        ValueError: with file and line, where there is no JSON, or it lacks a field, has one of another type, repeats a
            task_id, or names no function; if there are no problems.
    """
    path = existing_file(path)
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        try:
            lines = file.read().decode().split("\n")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} cannot be read as {'gzipped ' * (path.suffix == '.gz')}text: {error}.") from error
    problems, seen = [], {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            problem = read_problem(line, f"{path}, line {number}")
            if problem.task_id in seen:
                first = seen[problem.task_id]
                raise ValueError(
                    f"{path}, line {number} has the task_id {problem.task_id!r} of line {first}: keep one."
                )
            seen[problem.task_id] = number
            problems.append(problem)
    if not problems:
        raise ValueError(f"{path} has no problems: give one a line, in the layout of MBPP or HumanEval.")
    return problems


def read_problem(line: str, where: str) -> CodeProblem:
    row = read_object(line, where)
    is_mbpp = len(MBPP.keys() & row.keys()) >= len(HUMANEVAL.keys() & row.keys())
    for name, kind in (MBPP if is_mbpp else HUMANEVAL).items():
        if name not in row:
            layout = "MBPP" if is_mbpp else "HumanEval"
            raise ValueError(f"{where} has no field {name!r} of the layout of {layout}, only {sorted(row)}.")
        if not isinstance(row[name], kind):
            raise ValueError(f"{where}: {name!r} must be {kind.__name__}, got {row[name]!r}.")
    return from_mbpp(row, where) if is_mbpp else from_humaneval(row, where)


def from_mbpp(row: dict[str, Any], where: str) -> CodeProblem:
    # As published, though the tests of 19 of the 500 problems of the test split call another function of the reference.
    name = first_function_name(row["code"])
    if name is None:
        raise ValueError(f"{where}: 'code' defines no top-level function, whose name the answer is to have.")
    tests = row["test_list"]
    if not tests or not all(isinstance(test, str) for test in tests):
        raise ValueError(f"{where}: 'test_list' must be a list of at least one line of code, got {tests!r}.")
    tests = "\n".join([row["test_setup_code"], *tests, ""])
    given = PAIR if re.search(r"\bPair\(", tests) else ""
    return CodeProblem(row["task_id"], row["text"], name, given, row["code"], tests)


def from_humaneval(row: dict[str, Any], where: str) -> CodeProblem:
    name = row["entry_point"]
    if not re.search(rf"^def +{re.escape(name)}\b", row["prompt"], re.MULTILINE):
        raise ValueError(f"{where}: 'prompt' does not define the 'entry_point' {name!r}.")
    return CodeProblem(
        task_id=row["task_id"],
        instruction=f"Complete this function:\n\n{row['prompt'].strip()}",
        entry_point=name,
        given=row["prompt"],
        reference=row["canonical_solution"],
        tests=f"{row['test']}\ncheck({name})\n",
    )


def extract_code(completion: str) -> str:
    """What is between <py> and </py>, or from <py> on where the end is missing; nothing where there is no <py>."""
    _, _, code = completion.partition("<py>")
    code, _, _ = code.partition("</py>")
    return code.strip("\n")


def run_answers(problems: Sequence[CodeProblem], answers: Sequence[str], **kwargs) -> list[ProgramResult]:
    """Whether the code of each answer passes its problem's tests. kwargs: see `run_program` and `run_programs`."""
    programs = [(problem.given + answer, problem.tests) for problem, answer in zip(problems, answers, strict=True)]
    return run_programs(programs, **kwargs)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate, from n answers of which c are right, that one of k answers is: 1 - C(n-c, k) / C(n, k).

    It is the share of the subsets of k answers that hold a right one (arXiv 2107.03374, equation 1).
    """
    if not (0 <= c <= n and 1 <= k <= n):
        raise ValueError(f"pass@k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}.")
    return 1 - math.comb(n - c, k) / math.comb(n, k)
