"""The examples in the docstrings of evaluation run, but for those that ask the Hub."""

import doctest
import inspect
import json
import re

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import prism_hf
from prism_hf import evaluation, load_model
from prism_hf.data import python_files, train_byte_level_bpe
from prism_hf.evaluation.sandbox.sandbox import run_program
from prism_hf.resources import resource_path

EXAMPLES = {
    name: inspect.cleandoc(example)
    for name in evaluation.__all__
    for example in re.findall(r"```python\n(.*?)```", getattr(evaluation, name).__doc__ or "", re.DOTALL)
    if not re.search(r"gpt2|mauve|revision", example)  # the last need a model that reads programs
}
PROBLEM = {
    "task_id": 11,
    "text": "Give one.",
    "code": "def one():\n    return 1\n",
    "test_setup_code": "",
    "test_list": ["assert one() == 1"],
}


@pytest.fixture
def given(sudoku, tmp_path, monkeypatch):
    """What the examples take as given, in a folder with the files that they read."""
    tokenizer = train_byte_level_bpe(python_files(prism_hf.__path__[0] + "/diffusion", held_out=0)[0], 300)
    model = load_model(resource_path("sudoku_prism"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mbpp.jsonl").write_text(json.dumps(PROBLEM) + "\n" + json.dumps(PROBLEM | {"task_id": 601}) + "\n")
    rows = [{"task_id": 11, "completion": PROBLEM["code"]}] * 10
    (tmp_path / "completions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if evaluation.isolation_problem() is not None:
        defaults = inspect.signature(run_program).parameters
        limits = tuple(
            "limits" if name == "isolation" else each.default for name, each in defaults.items() if name != "program"
        )
        monkeypatch.setattr(run_program, "__defaults__", limits)
    asked, completions = evaluation.read_completions("completions.jsonl", evaluation.read_problems("mbpp.jsonl"))
    output = model.generate(sudoku.puzzles, return_dict_in_generate=True, output_trajectory=True, steps=4)
    for name in ("none", "prism", "samples"):
        rows = [{"completion": f"{name} {n}", "tokens": [n, 2 * n]} for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scorer = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=48, n_embd=32, n_layer=1, n_head=2)).eval()
    files = [evaluation.read_samples(f"{name}.jsonl") for name in ("none", "prism")]
    reader = evaluation.as_reader(scorer, tokenizer)
    points = evaluation.expand_grid([{"name": "none"}], ["random"], [0], [4])
    return {
        **{name: getattr(evaluation, name) for name in evaluation.__all__},
        **{"torch": torch, "model": model, "tokenizer": tokenizer, "asked": asked, "completions": completions},
        **{"puzzles": sudoku.puzzles, "solutions": sudoku.solutions, "output": output},
        **{"examples": sudoku.puzzles, "expected": sudoku.solutions, "task": sudoku.task, "points": points},
        **{"scorer": scorer, "scores": evaluation.score_samples(files, reader, "scores.jsonl")},
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name, given):
    example = re.sub(r"(num_\w*(?:puzzles|problems))=\d+", r"\1=1", EXAMPLES[name])
    if not example.startswith(">>>"):
        exec(example, given)
        return
    test = doctest.DocTestParser().get_doctest(example, given, name, None, 0)
    printed = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=printed.append)
    assert not printed, "".join(printed)


def test_there_are_examples():
    described = {name for name in evaluation.__all__ if callable(getattr(evaluation, name))}
    assert described - EXAMPLES.keys() == {
        *("mauve", "mauve_of_states", "negative_log_likelihood", "evaluate_sudoku", "as_reader"),
        *("prediction_metrics", "text_prediction_metrics"),
        *("detection_metrics", "judge_revisions", "revise", "revised_answers", "revision_table"),
        *("Revision", "failing_revisions", "make_revisions"),
    }
