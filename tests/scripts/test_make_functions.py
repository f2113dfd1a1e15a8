"""Small functions: their tests tell them apart, and no function that is asked for was trained on."""

import ast
import json
import re
import runpy
from pathlib import Path
from unittest import mock

import pytest
from transformers import AutoTokenizer

from prism_hf.data.code.texts import code_prompt
from prism_hf.evaluation import isolation_problem
from prism_hf.evaluation.tasks.code.problems import of_split, read_problems, run_answers

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_functions.py"
SOURCE = '''
import functools

class Box:
    @functools.cache
    def half(self, number):
        """Halve a number,
        which may be odd.

        More is said here.
        """
        # as integers are halved
        return number // 2

    def bare(self):
        return 1

    def empty(self):
        """Nothing else."""

def twin(self):
    """Halve."""
    return 0

def twin(self):
    """Halve again."""
    return 0
'''


def make(folder, number, *arguments):
    with mock.patch("sys.argv", ["make_functions", str(folder), "--num_specifications", str(number), *arguments]):
        runpy.run_path(str(SCRIPT), run_name="__main__")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    (folder / "files").mkdir()
    (folder / "files" / "box.py").write_text(SOURCE)
    make(folder / "made", 600, "--folders", str(folder / "files"), "--vocab_size", "600")
    return folder / "made"


def test_references_pass_and_the_functions_of_other_problems_fail(folder):
    problems = of_split(read_problems(folder / "problems.jsonl"), "test")
    assert len(problems) > 12 and len(of_split(read_problems(folder / "problems.jsonl"), "validation")) > 2
    pairs = [
        (problem, re.sub(r"def \w+", f"def {problem.entry_point}", other.reference, count=1))
        for problem in problems[:12]
        for other in problems
        if problem is not other and problem.entry_point.split("_")[1:] == other.entry_point.split("_")[1:]
    ][:12]
    references = [(problem, problem.reference) for problem in problems[:12]]
    isolation = "limits" if isolation_problem() else "namespaces"
    results = run_answers(*zip(*references, *pairs, strict=True), isolation=isolation)
    assert [result.passed for result in results] == [True] * len(references) + [False] * len(pairs)
    assert len(pairs) == 12 and {result.reason for result in results[len(references) :]} == {"failed"}


def test_no_row_to_train_on_does_what_a_problem_asks_for(folder):
    """By running all of them on the inputs of each problem's tests."""
    trained = []
    for row in read(folder / "rows" / "train.jsonl"):
        names = {}
        if row["source"] == "made":
            exec(row["completion"].removeprefix("\n<py>\n").removesuffix("\n</py>"), names)
            trained.append(next(value for name, value in names.items() if name != "__builtins__"))
    for problem in read_problems(folder / "problems.jsonl"):
        checks = [ast.parse(line).body[0].test for line in problem.tests.strip().splitlines()]
        cases = [(ast.literal_eval(each.left.args[0]), ast.literal_eval(each.comparators[0])) for each in checks]
        kind = problem.entry_point.split("_")[-1]
        alike = [function for function in trained if function.__name__.endswith(kind)]
        assert alike and not any(all(function(given) == out for given, out in cases) for function in alike)


def test_the_prompt_is_what_an_evaluation_asks(folder):
    row = read(folder / "rows" / "test.jsonl")[0]
    problem = read_problems(folder / "problems.jsonl")[0]
    assert row["prompt"].split("\n\n")[1].split("`")[0] == problem.prompt_in("signature").split("\n\n")[1].split("`")[0]
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    rows = read(folder / "rows" / "train.jsonl")
    assert len(tokenizer) == 600 and all(
        len(tokenizer(each["prompt"] + each["completion"]).input_ids) < 144 for each in rows
    )


def test_functions_of_files_have_their_first_paragraph_and_come_once(folder):
    rows = [row for row in read(folder / "rows" / "train.jsonl") if row["source"] == "files"]
    assert {row["prompt"]: row["completion"] for row in rows} == {
        code_prompt("Halve a number, which may be odd.", "half", "def half(self, number):"): (
            "\n<py>\ndef half(self, number):\n    return number // 2\n</py>"
        ),
        code_prompt("Halve.", "twin", "def twin(self):"): "\n<py>\ndef twin(self):\n    return 0\n</py>",
    }


def test_the_seed_gives_the_files(tmp_path):
    names = ("problems.jsonl", "rows/test.jsonl", "rows/train.jsonl", "tokenizer/tokenizer.json")
    made = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        make(tmp_path / name, 100, "--folders", "--vocab_size", "300", "--max_length", "400", "--seed", str(seed))
        made.append([(tmp_path / name / each).read_text() for each in names])
    assert made[0] == made[1] and made[0][0] != made[2][0]
