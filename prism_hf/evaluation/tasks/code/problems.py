"""Problems of programming with tests, MBPP and HumanEval, and whether a model's completions solve them.

Layouts as published, JSONL, which may be gzipped: mbpp.jsonl (arXiv 2108.07732) with `text`, `code`,
`test_setup_code` and `test_list`; HumanEval.jsonl.gz (arXiv 2107.03374) with `prompt`, `canonical_solution`, `test` and
`entry_point`.

Prompts are those of PRISM's code for LLaDA: HumanEval's docstring or MBPP's text, and how to answer. Its default is
HumanEval without doctests.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from prism_hf.data.code.texts import code_prompt, first_docstring, first_function_name, signature_of, without_doctests
from prism_hf.data.files import read_bytes, read_object, text_lines
from prism_hf.evaluation.sandbox.sandbox import ProgramResult, run_programs
from prism_hf.fields import Allowed

from .answers import as_body, binds, extract_code

MBPP = {"task_id": int, "text": str, "code": str, "test_setup_code": str, "test_list": list}
HUMANEVAL = {"task_id": str, "prompt": str, "canonical_solution": str, "test": str, "entry_point": str}
# What tells one from the other. Sanitized MBPP has `prompt` for `text` and a list `test_imports` for `test_setup_code`.
OF_MBPP = {"text", "code", "test_list", "test_setup_code", "test_imports"}
OF_HUMANEVAL = {"canonical_solution", "test", "entry_point"}
# By task_id, as the authors of MBPP split it. Problems 1 to 10 are for few-shot prompts.
MBPP_SPLITS = {"prompt": range(1, 11), "test": range(11, 511), "validation": range(511, 601), "train": range(601, 975)}

FORMS_OF_PROMPT = ("name", "signature")
PromptForm = Annotated[str, Allowed(choices=FORMS_OF_PROMPT)]

# A class that some of MBPP's tests use, and only its reference solutions define.
PAIR = "class Pair:\n    def __init__(self, a, b):\n        self.a = a\n        self.b = b\n\n\n"


@dataclass(frozen=True)
class CodeProblem:
    """A problem with tests.

    Args:
        task_id (`int` or `str`): What the benchmark calls it.
        instruction (`str`): What is asked, without examples.
        entry_point (`str`): The function to write.
        given (`str`): Code that stands before an answer: for HumanEval, imports and the function's head with its
            docstring, so that an answer may be its body or the whole function.
        reference (`str`): An answer that is right.
        tests (`str`): Code that raises, run after given and answer, if the answer is wrong.
        with_examples (`str`, *optional*): What is asked, with examples of calls, where there are some.
        signature (`str`, *optional*): The line that the function begins with in the reference, or in what is given.

    Example:
        ```python
        code = "def one(): return 1"
        problem = CodeProblem(1, "Return 1.", "one", given="", reference=code, tests="assert one() == 1")
        (result,) = run_answers([problem], [code])
        ```
    """

    task_id: int | str
    instruction: str
    entry_point: str
    given: str
    reference: str
    tests: str
    with_examples: str | None = None
    signature: str | None = None

    @property
    def prompt(self) -> str:
        """What a model is asked: the prompt that it is trained on, see `prism_hf.data.code`."""
        return self.prompt_in()

    def prompt_in(self, form: PromptForm = "name", examples: bool = False) -> str:
        """What a model is asked in one of the published forms.

        Args:
            form (`str`, *optional*, defaults to `"name"`): The prompt gives the function's `"name"`, or its
                `"signature"`, the line that it begins with; the name where no signature is known.
            examples (`bool`, *optional*, defaults to `False`): HumanEval's docstring whole, not without its doctests;
                MBPP's text and its tests.
        """
        text = self.with_examples if examples and self.with_examples else self.instruction
        return code_prompt(text, self.entry_point, self.signature if form == "signature" else None)


def read_problems(path: str | Path, name: str | None = None) -> list[CodeProblem]:
    """The problems of a file or dataset in the layout of MBPP, sanitized or not, or HumanEval.

    A file has a JSON object a line, or one array. Of a dataset, all splits are read. Text that a model is to read may
    be a chat, a list of messages, which then is the text of them all.

    Args:
        path (`str` or `Path`): A file, which may be gzipped, a folder of a dataset, or its name on the Hub.
        name (`str`, *optional*): The dataset's configuration, where it has several: `"sanitized"` of MBPP.

    Returns:
        `list[CodeProblem]`: The problems, in order.

    Raises:
        ValueError: with file and line, where there is no JSON, or it lacks a field, has one of another type, repeats a
            task_id, or names no function; if there are no problems.

    Example:
        ```python
        problems = read_problems("mbpp.jsonl")
        ```
    """
    problems: list[CodeProblem] = []
    seen: dict[int | str, str] = {}
    for where, row in _rows_at(path, name):
        problem = _read_problem(row, f"{path}, {where}")
        if problem.task_id in seen:
            first = seen[problem.task_id]
            raise ValueError(f"{path}, {where} has the task_id {problem.task_id!r} of {first}: keep one.")
        seen[problem.task_id] = where
        problems.append(problem)
    if not problems:
        raise ValueError(f"{path} has no problems: give one a line, in the layout of MBPP or HumanEval.")
    return problems


def _rows_at(path: str | Path, name: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, or of all splits of a dataset, each with its place."""
    file = Path(path).expanduser()
    if file.is_file() or file.suffix in (".json", ".jsonl", ".gz"):
        if name is not None:
            raise ValueError(f"{path} is a file, which has no configuration {name!r}: leave it out.")
        yield from rows_of(read_bytes(path), str(path))
        return
    from prism_hf.data.loading import load_rows

    rows = load_rows(path, name, split="all")
    yield from ((f"row {number}", dict(row)) for number, row in enumerate(rows, start=1))


def rows_of(data: bytes, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of JSONL, or of one JSON array, each with its place."""
    lines = text_lines(data, name)
    if "".join(lines.values()).lstrip().startswith("["):
        # A line that is an array is none of JSONL.
        with contextlib.suppress(ValueError, RecursionError):
            rows = json.loads("\n".join(lines.values()))
            if all(isinstance(row, dict) for row in rows):
                yield from ((f"entry {number}", row) for number, row in enumerate(rows, start=1))
                return
    for number, line in lines.items():
        yield f"line {number}", read_object(line, f"{name}, line {number}")


def _read_problem(row: dict[str, Any], where: str) -> CodeProblem:
    is_mbpp = len(OF_MBPP & row.keys()) >= len(OF_HUMANEVAL & row.keys())
    row = dict(row)
    if is_mbpp and "text" not in row and "prompt" in row:
        row["text"] = row["prompt"]
    if is_mbpp and "test_setup_code" not in row and isinstance(row.get("test_imports", []), list):
        row["test_setup_code"] = "\n".join(map(str, row.get("test_imports", [])))
    asked = "text" if is_mbpp else "prompt"
    is_chat = isinstance(row.get(asked), list)
    if is_chat:
        row[asked] = _text_of_chat(row[asked], f"{where}: {asked!r}")
    for name, kind in (MBPP if is_mbpp else HUMANEVAL).items():
        if name not in row:
            layout = "MBPP" if is_mbpp else "HumanEval"
            raise ValueError(f"{where} has no field {name!r} of the layout of {layout}, only {sorted(row)}.")
        if not isinstance(row[name], kind) or isinstance(row[name], bool):
            raise ValueError(f"{where}: {name!r} must be {kind.__name__}, got {row[name]!r}.")
    return _from_mbpp(row, where) if is_mbpp else _from_humaneval(row, where, is_chat)


def _text_of_chat(messages: list[Any], where: str) -> str:
    """The text of messages, dicts with a `role` and a `content`, with a blank line between two."""
    texts = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):  # parts, of which some may be no text
            content = "\n".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
        if not isinstance(content, str):
            raise ValueError(f"{where} must be text or a list of messages with a role and a content, got {message!r}.")
        texts.append(content)
    return "\n\n".join(texts)


def _from_mbpp(row: dict[str, Any], where: str) -> CodeProblem:
    # As published, though the tests of 19 of the 500 problems of the test split call another function of the reference.
    name = first_function_name(row["code"])
    if name is None:
        raise ValueError(f"{where}: 'code' defines no top-level function, whose name the answer is to have.")
    tests = row["test_list"]
    if not tests or not all(isinstance(test, str) and test.strip() for test in tests):
        raise ValueError(f"{where}: 'test_list' must be a list of at least one line of code, got {tests!r}.")
    tests = "\n".join([row["test_setup_code"], *tests, ""])
    given = PAIR if re.search(r"\bPair\(", tests) else ""
    return CodeProblem(
        task_id=row["task_id"],
        instruction=row["text"],
        entry_point=name,
        given=given,
        reference=row["code"],
        tests=tests,
        with_examples=f"{row['text'].strip()}\n\nThese tests are to pass:\n" + "\n".join(row["test_list"]),
        signature=signature_of(row["code"], name),
    )


def _from_humaneval(row: dict[str, Any], where: str, is_chat: bool = False) -> CodeProblem:
    name, asked = row["entry_point"], row["prompt"]
    given = extract_code(asked, name) + "\n" if is_chat else asked
    if not name.isidentifier() or _function_head(given, name) is None:
        raise ValueError(f"{where}: 'prompt' does not define the 'entry_point' {name!r}.")
    if _function_head(row["test"], "check") is None:
        raise ValueError(f"{where}: 'test' must define the function check, got {row['test']!r:.80}.")
    # As published, though the first function of four prompts is one that the function asked for calls.
    docstring = asked if is_chat else first_docstring(given) or asked
    return CodeProblem(
        task_id=row["task_id"],
        instruction=without_doctests(docstring),
        entry_point=name,
        given=given,
        reference=row["canonical_solution"],
        tests=f"{row['test']}\ncheck({name})\n",
        with_examples=docstring,
        signature=signature_of(given, name),
    )


def _function_head(code: str, name: str) -> re.Match | None:
    """Where a top-level function begins."""
    return re.search(rf"^(?:async +)?def +{re.escape(name)}\b", code, re.MULTILINE)


def of_split(problems: Sequence[CodeProblem], split: str | None) -> list[CodeProblem]:
    """The problems of one of `MBPP_SPLITS`; all of HumanEval, which has none, and where it is None or `"all"`.

    Raises ValueError if there is none.
    """
    if split in (None, "all") or not any(isinstance(problem.task_id, int) for problem in problems):
        return list(problems)
    found = [problem for problem in problems if problem.task_id in MBPP_SPLITS[split]]
    if not found:
        known = MBPP_SPLITS[split]
        raise ValueError(
            f"None of {len(problems)} problems is of MBPP's {split} split, task ids {known.start} to {known.stop - 1}: "
            "set split='all'."
        )
    return found


def program_of(problem: CodeProblem, answer: str) -> str:
    """The program of an answer: after what is given, whose last function it may complete or write anew.

    Imports from `__future__` come first, as Python wants them.
    """
    head = _function_head(problem.given, problem.entry_point)
    if head is None:
        program = f"{problem.given}{answer}\n"
    elif binds(answer, problem.entry_point):
        program = f"{problem.given[: head.start()]}{answer}\n"
    else:
        program = f"{problem.given.rstrip()}\n{as_body(answer)}\n"
    future = r"^from __future__ import .*\n"
    return "".join([*re.findall(future, program, re.MULTILINE), re.sub(future, "", program, flags=re.MULTILINE)])


def run_answers(problems: Sequence[CodeProblem], answers: Sequence[str], **kwargs: Any) -> list[ProgramResult]:
    """Run the code of each answer with its problem's tests.

    Args:
        problems (`Sequence[CodeProblem]`): The problem of each answer.
        answers (`Sequence[str]`): Code, as `extract_code` finds it.
        **kwargs: See `run_programs`.

    Returns:
        `list[ProgramResult]`: Whether each passed, in order.

    Example:
        ```python
        problems = read_problems("mbpp.jsonl")
        results = run_answers(problems, [problem.reference for problem in problems], timeout=5.0)
        ```
    """
    programs = [(program_of(problem, answer), problem.tests) for problem, answer in zip(problems, answers, strict=True)]
    return run_programs(programs, **kwargs)
