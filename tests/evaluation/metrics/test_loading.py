"""Our metrics as those of `evaluate`, against closed forms, scikit-learn and brute force."""

import math
import re
import socket
import sys
from itertools import combinations

import evaluate
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from transformers import GPT2Config, GPT2LMHeadModel

import prism_hf
from prism_hf.data import python_files, to_sequence, train_byte_level_bpe
from prism_hf.evaluation import isolation_problem, load_metric, mauve, metric_path, wilson_interval
from prism_hf.evaluation.metrics.loading import LOADABLE

NAMES = ("generative_perplexity", "mauve", "pass_at_k", "quality_calibration", "sudoku_success", "unigram_entropy")
WORDS = [f"x{number} = {number * 7 % 13}" for number in range(30)]
OTHERS = [f"while True: pass  # {'z' * (number % 9)}!" for number in range(30)]
ONE, TWO, ENDLESS = "def f():\n    return 1", "def f():\n    return 2", "while True: pass"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args):
        raise AssertionError("a metric asked for a network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def tokenizer():
    return train_byte_level_bpe(python_files(prism_hf.__path__[0] + "/diffusion", held_out=0)[0], 300)


@pytest.fixture(scope="module")
def scorer():
    """A scorer to which all 300 tokens are equally likely, whatever it reads."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=48, n_embd=32, n_layer=1, n_head=2)).eval()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(300, 32))
    return model


@pytest.fixture(scope="module")
def saved(scorer, tokenizer, tmp_path_factory):
    """The folder of both."""
    folder = str(tmp_path_factory.mktemp("scorer"))
    scorer.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_each_is_loaded_by_its_path(name):
    metric = evaluate.load(metric_path(name))
    assert isinstance(metric, evaluate.Metric) and metric.name == name
    assert isinstance(load_metric(name, keep_in_memory=True), evaluate.Metric)
    described = re.findall(r"^    (?:\*\*)?(\w+)(?: \(|:)", metric.inputs_description, re.M)
    assert {"predictions"} <= set(metric._feature_names()) <= set(described)


def test_there_are_no_others():
    assert {path.parent.name for path in LOADABLE.glob("*/*.py")} == set(NAMES)
    with pytest.raises(ValueError, match="Unknown metric 'sudoku_sucess'.*sudoku_success"):
        metric_path("sudoku_sucess")


def test_without_evaluate_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    with pytest.raises(ImportError, match=r"pip install evaluate, or prism_hf\[evaluate\]"):
        load_metric("mauve")


def test_sudoku_success(sudoku):
    wrong = sudoku.solutions.clone()
    blank = int((sudoku.puzzles[0] == 0).nonzero()[0])
    wrong[0, blank] = wrong[0, blank] % 9 + 1
    metric = load_metric("sudoku_success")
    got = metric.compute(predictions=wrong, references=sudoku.puzzles, solutions=sudoku.solutions.tolist())
    low, high = wilson_interval(5, 6)
    cells = int((sudoku.puzzles == 0).sum())
    expected = {"success": 5 / 6, "success_low": low, "success_high": high, "cell_accuracy": (cells - 1) / cells}
    assert got == expected
    long = [to_sequence(each.view(-1, 9, 9)) for each in (wrong, sudoku.puzzles)]
    for row, puzzle in zip(*long, strict=True):
        metric.add(prediction=row.tolist(), reference=puzzle.tolist())
    assert metric.compute() == {name: expected[name] for name in ("success", "success_low", "success_high")}


def test_quality_calibration():
    draws = np.random.default_rng(0)
    probabilities = draws.random(400).round(2)
    labels = draws.random(400) < probabilities**2
    metric = load_metric("quality_calibration")
    got = metric.compute(predictions=probabilities, references=labels, num_bins=4)
    assert got["auroc"] == pytest.approx(roc_auc_score(labels, probabilities))
    gaps = 0.0
    for low in (0, 0.25, 0.5, 0.75):
        inside = (probabilities > low) & (probabilities <= low + 0.25) | (probabilities == 0) & (low == 0)
        gaps += abs(probabilities[inside].sum() - labels[inside].sum()) / 400
    assert got["expected_calibration_error"] == pytest.approx(gaps)
    sure = metric.compute(predictions=torch.full((4,), 0.75), references=torch.tensor([1, 0, 0, 0]))
    assert sure == {"auroc": 0.5, "expected_calibration_error": 0.5}
    with pytest.raises(ValueError, match="Labels must be 0 or 1"):
        metric.compute(predictions=[0.5, 0.5], references=[1, 0.7])


def test_unigram_entropy(tokenizer, saved):
    metric = load_metric("unigram_entropy")
    rows = [[1, 2, 3, 4], [7, 7], [0, 0, 9]]
    thirds = math.log(3) - 2 / 3 * math.log(2)
    assert metric.compute(predictions=rows)["unigram_entropy"] == pytest.approx((math.log(4) + thirds) / 3)
    assert metric.compute(predictions=rows, max_length=2)["unigram_entropy"] == pytest.approx(math.log(2) / 3)
    ids = [tokenizer(text).input_ids for text in WORDS]
    expected = metric.compute(predictions=ids)
    assert metric.compute(predictions=WORDS, tokenizer=tokenizer) == expected
    assert metric.compute(predictions=WORDS, scorer=saved) == expected
    with pytest.raises(ValueError, match="Sample 2 of 2 has no tokens"):
        metric.compute(predictions=["a", ""], tokenizer=tokenizer)


def test_generative_perplexity_of_equal_chances_is_their_number(scorer, tokenizer, saved):
    metric = load_metric("generative_perplexity")
    for given in ({"scorer": saved}, {"scorer": scorer, "tokenizer": tokenizer}):
        got = metric.compute(predictions=WORDS, **given)["generative_perplexity"]
        assert got == pytest.approx(300, rel=1e-5)
    with pytest.raises(ValueError, match="has no tokenizer: name a scorer that has one"):
        metric.compute(predictions=WORDS, scorer=scorer)


def test_those_on_text_combine(scorer, tokenizer):
    pytest.importorskip("mauve")
    combined = evaluate.combine([metric_path(name) for name in ("generative_perplexity", "unigram_entropy", "mauve")])
    scoring = {"scorer": scorer, "tokenizer": tokenizer, "batch_size": 30, "max_length": 40}
    got = combined.compute(predictions=OTHERS, references=WORDS, **scoring)
    assert list(got) == ["generative_perplexity", "unigram_entropy", "mauve"]
    assert got["generative_perplexity"] == pytest.approx(300, rel=1e-5)
    assert got["mauve"] == mauve(OTHERS, WORDS, *scoring.values())
    same = load_metric("mauve").compute(predictions=WORDS, references=WORDS, num_buckets=4, **scoring)
    assert same["mauve"] == pytest.approx(1, abs=1e-3)


def test_pass_at_k_is_what_code_eval_tells():
    isolation = "namespaces" if isolation_problem() is None else "limits"
    programs = [[ONE, TWO, ONE, TWO], [TWO, TWO, ENDLESS], [ONE, "raise KeyError(3)", "def"]]
    metric = load_metric("pass_at_k")
    tests = ["assert f() == 1, 'not one'"] * 3
    shares, results = metric.compute(
        predictions=programs, references=tests, k=[1, 2, 3, 4], timeout=1.0, isolation=isolation
    )
    right = [[program == ONE for program in row] for row in programs]
    for k in (1, 2, 3):
        subsets = [[any(each) for each in combinations(row, k)] for row in right]
        assert shares.pop(f"pass@{k}") == pytest.approx(sum(sum(each) / len(each) for each in subsets) / 3)
    assert shares == {}  # of four programs each nothing is known
    assert [[result["passed"] for _, result in results[task]] for task in range(3)] == right
    assert results[0][1] == (
        1,
        {"task_id": 0, "passed": False, "result": "failed: AssertionError: not one", "completion_id": 1},
    )
    told = [result["result"].split(":")[0] for _, result in results[1] + results[2]]
    assert told == ["failed", "failed", "timed out", "passed", "failed", "failed"]


def test_pass_at_k_refuses_what_it_cannot_score():
    metric = load_metric("pass_at_k")
    with pytest.raises(ValueError, match="no problems"):
        metric.compute(predictions=[], references=[])
    for programs, settings, message in (
        ([[ONE], []], {}, "Problem 1 has no programs"),
        ([[ONE], [ONE]], {"k": [0]}, "k.*0"),
        ([[ONE], [ONE]], {"isolation": "none"}, "isolation='none'"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.compute(predictions=programs, references=["", ""], **settings)
