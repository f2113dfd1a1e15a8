"""Files of completions, scored by the recipe."""

import json
import os
import re
import runpy
import signal
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest
import torch

from prism_hf.evaluation import isolation_problem, pass_table, read_completions, read_problems, score_to_jsonl

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
    run(samples="completions.jsonl", output_dir="out", k="1 2")
    scored = [json.loads(line) for line in (tmp_path / "out" / "completions.scored.jsonl").read_text().splitlines()]
    passed = [[True, False, True, False], [False, True, False, False]]
    assert [row["passed"] for row in scored] == sum(passed, [])
    assert [row["found"] for row in scored[:4]] == ["bare code", "tags", "fence", "nothing"]
    assert [row["parses"] for row in scored[:4]] == [True, True, True, False]
    assert [row["sample"] for row in scored] == [0, 1, 2, 3] * 2
    table = (tmp_path / "out" / "pass_at_k.md").read_text()
    two = [any(pair) for each in passed for pair in combinations(each, 2)]
    assert "| completions | 37.5% |" in table and f" | {sum(two) / len(two):.1%} |" in table
    assert "8 completions of 2 problems. Code" in table and "1 other problems" in pass_table(scored, [1], 3)
    assert "Code was found in: tags 2, fence 2, bare code 2, nothing 2." in table
    assert table in capsys.readouterr().out


def test_prompts_are_written_and_what_completes_them_is_scored(run, tmp_path):
    run(prompts_file="prompts.jsonl", num_samples=2)
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["task_id"] for row in prompts] == ["HumanEval/0"] * 2 + ["HumanEval/1"] * 2
    completed = [{"prompt": row["prompt"], "completion": ANSWERS[0]} for row in prompts]  # whose id was lost
    (tmp_path / "completions.jsonl").write_text("\n".join(map(json.dumps, completed)))
    with pytest.warns(FutureWarning, match="completions_file of a recipe is now called samples"):
        run(completions_file="completions.jsonl", output_dir="out")
    scored = [json.loads(line) for line in (tmp_path / "out" / "completions.scored.jsonl").read_text().splitlines()]
    assert [row["passed"] for row in scored] == [True, True, False, False]


@pytest.mark.parametrize(
    "rows, arguments, message",
    [
        ([{"task_id": "HumanEval/0"}], {}, "line 1 must have a text 'completion' or 'solution', got None"),
        ([{"task_id": "Mbpp/0", "completion": ""}], {}, "line 1 is of no problem of the file, {'task_id': 'Mbpp/0'}"),
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
        (
            [],
            {"prompts_file": "problems.jsonl", "samples": None, "output_dir": None},
            "are both problems.jsonl: name another",
        ),
        ([], {"prompts_file": "x.jsonl"}, "Set samples and output_dir, .* or prompts_file"),
        ([], {"samples": "completions.jsonl ./completions.jsonl"}, "samples names a file twice"),
        ([], {"output_dir": None}, "Set output_dir"),
        ([], {"problems_file": None}, "Set task, mbpp or humaneval, or problems_file"),
    ],
)
def test_what_cannot_be_scored_is_told_before_a_program_runs(run, tmp_path, rows, arguments, message, capsys):
    (tmp_path / "completions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises((ValueError, SystemExit)) as raised:  # of what is in a file, and of the command line
        run(**{"samples": "completions.jsonl", "output_dir": "out"} | arguments)
    assert re.search(message, f"{raised.value} {capsys.readouterr().err}")
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


def test_others_files_of_several_runs_make_one_table(run, tmp_path):
    """HumanEval's layout, that of PRISM's sampler (a number and a solution, in any order), and EvalPlus's."""
    right, wrong = "def add(a, b): return a + b", "def add(a, b): return 0"
    layouts = {
        "a/run.jsonl": [{"task_id": f"HumanEval/{n}", "completion": "    return a + b\n"} for n in (0, 1)],
        "b/run.jsonl": [{"task_id": n, "solution": text} for n, text in ((1, wrong), (0, wrong), (0, right))],
        "b/other.json": [{"task_id": f"HumanEval/{n}", "solution": right} for n in (0, 1)],
    }
    for name, rows in layouts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        as_array = name.endswith(".json")
        (tmp_path / name).write_text(json.dumps(rows) if as_array else "\n".join(map(json.dumps, rows)))
    run(samples=" ".join(layouts), output_dir="out")
    lines = (tmp_path / "out" / "pass_at_k.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in lines[2:5]] == [
        ["| a/run", "50.0%"],
        ["| b/run", "25.0%"],
        ["| b/other", "50.0%"],
    ]
    scored = [json.loads(line) for line in (tmp_path / "out" / "b.run.scored.jsonl").read_text().splitlines()]
    assert [(row["task_id"], row["sample"], row["passed"]) for row in scored] == [
        ("HumanEval/1", 0, False),
        ("HumanEval/0", 0, False),
        ("HumanEval/0", 1, True),
    ]


def test_numbers_are_of_the_benchmark_asked(tmp_path):
    mbpp = {"task_id": 11, "text": "One.", "code": "def one(): return 1", "test_setup_code": "", "test_list": ["one()"]}
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(mbpp))
    problems = read_problems(tmp_path / "mbpp.jsonl")
    ids = (11, "11", "Mbpp/11", "MBPP/11")
    (tmp_path / "made.jsonl").write_text("\n".join(json.dumps({"task_id": n, "completion": ""}) for n in ids))
    assert read_completions(tmp_path / "made.jsonl", problems)[0] == problems * 4
    (tmp_path / "made.jsonl").write_text(json.dumps({"task_id": "HumanEval/11", "completion": ""}))
    with pytest.raises(ValueError, match="is of no problem"):
        read_completions(tmp_path / "made.jsonl", problems)


def test_a_killed_scoring_gives_the_table_of_an_unbroken_one(run, tmp_path):
    text = "import time\ntime.sleep(0.1)\ndef add(a, b): return a + b"
    rows = [{"task_id": f"HumanEval/{n % 2}", "completion": text if n % 3 else ANSWERS[1]} for n in range(8)]
    (tmp_path / "made.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = {"samples": "made.jsonl", "k": "1 3", "num_workers": 2}
    run(output_dir="unbroken", **arguments)
    shard, kept = tmp_path / "out" / "made.scored.jsonl.shard-00000", 0
    for enough in (1, 3):
        child = os.fork()
        if child == 0:
            os.setsid()
            torch.set_num_threads(1)
            try:
                run(output_dir="out", **arguments)
            finally:
                os._exit(1)
        while not shard.exists() or shard.read_bytes().count(b"\n") < enough:
            time.sleep(0.005)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        before, kept = kept, shard.read_bytes().count(b"\n")
        assert before <= kept < 8
    run(output_dir="out", **arguments)
    for name in ("pass_at_k.md", "made.scored.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    assert not shard.exists()


def test_what_was_run_is_not_run_again(tmp_path, run):
    """A result is changed in the shard of a begun file, and stays as it was changed."""
    (tmp_path / "problems.jsonl").write_text(json.dumps(PROBLEM))
    problems = read_problems(tmp_path / "problems.jsonl")
    how = {"isolation": "limits", "timeout": 9.0}
    path = tmp_path / "scored.jsonl"
    rows = score_to_jsonl(problems * 2, ANSWERS[:2], path, **how)
    assert [row["passed"] for row in rows] == [True, False]
    path.unlink()
    changed = {"part": 0, "seconds": 0, "rows": [rows[0] | {"passed": False, "reason": "changed"}]}
    (tmp_path / "scored.jsonl.shard-00000").write_text(json.dumps(changed) + "\n" + '{"part": 1, "ro')
    assert [row["reason"] for row in score_to_jsonl(problems * 2, ANSWERS[:2], path, **how)] == ["changed", "failed"]
    for other in ({"completions": ANSWERS[2:]}, {"timeout": 3.0}):
        texts = other.pop("completions", ANSWERS[:2])
        with pytest.raises(ValueError, match="was begun with other settings"):
            score_to_jsonl(problems * 2, texts, path, **how | other)
