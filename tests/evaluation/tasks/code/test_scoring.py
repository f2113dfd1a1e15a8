"""Files of completions, scored by the recipe."""

import json
import runpy
import sys
from itertools import combinations
from pathlib import Path

import pytest

from prism_hf.evaluation import isolation_problem, pass_table

RECIPE = Path(__file__).parents[4] / "recipes" / "evaluate_code.py"
PROBLEM = {
    "task_id": "HumanEval/0",
    "entry_point": "add",
    "prompt": 'def add(a, b):\n    """ Add. """\n',
    "canonical_solution": "    return a + b\n",
    "test": "def check(f):\n    assert f(1, 2) == 3\n",
}
OTHER = PROBLEM | {"task_id": "HumanEval/1", "test": "def check(f):\n    assert f(1, 2) == -1\n"}
ANSWERS = ["    return a + b\n", "<py>\ndef add(a, b): return a - b\n</py>", "```\nreturn b + a\n```", "I cannot."]


@pytest.fixture
def run(tmp_path, monkeypatch):
    lines = [json.dumps(each) for each in (PROBLEM, OTHER | {"prompt": PROBLEM["prompt"].replace("Add", "Take")})]
    (tmp_path / "problems.jsonl").write_text("\n".join(lines))

    def run(**arguments):
        given = {"problems_file": "problems.jsonl", "isolation": "limits" if isolation_problem() else "namespaces"}
        given |= arguments
        words = [
            word for name, value in given.items() if value is not None for word in (f"--{name}", *str(value).split())
        ]
        monkeypatch.setattr(sys, "argv", ["evaluate_code.py", *words])
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(RECIPE), run_name="__main__")

    return run


def test_completions_of_a_file_are_scored(run, tmp_path, capsys):
    rows = [{"task_id": each["task_id"], "completion": text} for each in (PROBLEM, OTHER) for text in ANSWERS]
    (tmp_path / "completions.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    run(completions_file="completions.jsonl", output_dir="out", k="1 2")
    scored = [json.loads(line) for line in (tmp_path / "out" / "scored.jsonl").read_text().splitlines()]
    passed = [[True, False, True, False], [False, True, False, False]]
    assert [row["passed"] for row in scored] == sum(passed, [])
    assert [row["found"] for row in scored[:4]] == ["bare code", "tags", "fence", "nothing"]
    assert [row["sample"] for row in scored] == [0, 1, 2, 3] * 2
    table = (tmp_path / "out" / "pass_at_k.md").read_text()
    two = [any(pair) for each in passed for pair in combinations(each, 2)]
    assert "| pass@1 | 37.5% |" in table and f"| pass@2 | {sum(two) / len(two):.1%} |" in table
    assert "8 completions of 2 problems. Code" in table and "1 other problems" in pass_table(scored, [1], 3)
    assert "Code was found in: tags 2, fence 2, bare code 2, nothing 2." in table
    assert table in capsys.readouterr().out


def test_prompts_are_written_and_what_completes_them_is_scored(run, tmp_path):
    run(prompts_file="prompts.jsonl", num_samples=2)
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in prompts] == ["HumanEval/0"] * 2 + ["HumanEval/1"] * 2
    completed = [{"prompt": row["prompt"], "completion": ANSWERS[0]} for row in prompts]  # whose id was lost
    (tmp_path / "completions.jsonl").write_text("\n".join(map(json.dumps, completed)))
    run(completions_file="completions.jsonl", output_dir="out")
    scored = [json.loads(line) for line in (tmp_path / "out" / "scored.jsonl").read_text().splitlines()]
    assert [row["passed"] for row in scored] == [True, True, False, False]


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        ([{"task_id": "HumanEval/0"}], {}, "line 1 must have a text 'completion', got None"),
        ([{"task_id": "0", "completion": ""}], {}, "line 1 is of no problem of the file, {'task_id': '0'}"),
        ([{"completion": ""}], {}, "without task_id and prompt"),
        ([], {}, "has no completions"),
        ([{"task_id": "HumanEval/0", "completion": ""}], {"k": "1 2"}, r"k=\[1, 2\] must be of 1 to 1"),
        (
            [{"task_id": "HumanEval/0", "completion": ""}],
            {"k": "0"},
            r"k=\[0\].* must be a list, each an integer of at",
        ),
        ([{"task_id": ["HumanEval/0"], "completion": ""}], {}, "line 1 is of no problem of the file"),
        ([], {"timeout": "0"}, "timeout=0.0 of CodeArguments must be a number above 0"),
        ([], {"prompts_file": "problems.jsonl", "completions_file": None}, "are both problems.jsonl: name another"),
        ([], {"prompts_file": "x.jsonl"}, "Set prompts_file, .* or completions_file"),
    ],
)
def test_what_cannot_be_scored_is_told_before_a_program_runs(run, tmp_path, rows, arguments, message):
    (tmp_path / "completions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match=message):
        run(**{"completions_file": "completions.jsonl", "output_dir": "out"} | arguments)
    assert not (tmp_path / "out").exists()


def test_intervals_are_of_problems_and_not_of_their_completions():
    rows = [
        {"task_id": n, "passed": n < 5, "found": "tags", "reason": None if n < 5 else "failed"}
        for n in range(10)
        for _ in range(100)
    ]
    line = pass_table(rows, [1]).splitlines()[2]
    low, high = (float(word.strip(" %")) for word in line.split("|")[3].replace("to", "|").split("|"))
    assert low < 30 and high > 70  # a thousand independent answers would have 47 to 53
