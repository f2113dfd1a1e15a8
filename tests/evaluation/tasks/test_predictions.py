"""Text that a model in training generates, judged, against the metrics on the same texts one by one."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, GPT2Config, GPT2LMHeadModel

from prism_hf.evaluation import (
    negative_log_likelihood,
    prediction_metrics,
    sudoku_prediction_metrics,
    text_prediction_metrics,
    unigram_entropy,
)

TEXTS = [("def f(x):", " return x"), ("", "import torch\n"), ("x = ", "1 + 1 + 1"), ("", "nothing was given here")]
RUN = Path(__file__).with_name("predicting_run.py")


@pytest.fixture(scope="module")
def scorer(text_tokenizer, tmp_path_factory):
    """The folder of a scorer that reads the tokens of the model."""
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "n_positions": 32, "n_embd": 32, "n_layer": 1, "n_head": 2, "initializer_range": 0.4}
    folder = tmp_path_factory.mktemp("scorer")
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=1)).save_pretrained(folder)
    text_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prediction(text_tokenizer):
    """What a trainer gives: prompts, then what was written, then padding."""
    rows = [[text_tokenizer(text).input_ids if text else [] for text in pair] for pair in TEXTS]
    width = max(len(given) + len(new) for given, new in rows)
    ids = [given + new + [-100] * (width - len(given) - len(new)) for given, new in rows]
    labels = [[-100] * len(given) + new + [-100] * (width - len(given) - len(new)) for given, new in rows]
    return EvalPrediction(np.array(ids), np.array(labels))


def test_text_is_judged_beyond_its_prompt(scorer, text_tokenizer, prediction):
    found = text_prediction_metrics(scorer, text_tokenizer)(prediction)
    model = GPT2LMHeadModel.from_pretrained(scorer).eval()
    scored = [negative_log_likelihood([new], model, text_tokenizer, prompts=[given]) for given, new in TEXTS]
    mean = sum(total.item() for total, _ in scored) / sum(number.item() for _, number in scored)
    assert found["generative_perplexity"] == pytest.approx(np.exp(mean), rel=1e-5)
    entropies = [unigram_entropy(text_tokenizer(new, return_tensors="pt").input_ids).item() for _, new in TEXTS]
    assert found["entropy"] == pytest.approx(np.mean(entropies))


def test_two_processes_share_the_judging(scorer, text_tokenizer, prediction, on_two, tmp_path):
    arrays = [prediction.predictions.tolist(), prediction.label_ids.tolist()]
    (tmp_path / "arrays.json").write_text(json.dumps(arrays))
    two = json.loads(on_two(RUN, scorer, tmp_path / "arrays.json"))
    assert two["read"] == len(TEXTS) / 2
    assert two["metrics"] == pytest.approx(text_prediction_metrics(scorer, text_tokenizer)(prediction), rel=1e-5)


def test_what_is_judged_follows_from_the_data(scorer, text_tokenizer):
    assert prediction_metrics("sudoku", True, None) is sudoku_prediction_metrics
    assert prediction_metrics("sudoku", False, None) is prediction_metrics("text", True, text_tokenizer) is None
    assert prediction_metrics("text", True, text_tokenizer, scorer) is not None
    with pytest.raises(ValueError, match="eval_scorer='gpt2' judges what is generated: set predict_with_generate"):
        prediction_metrics("text", False, text_tokenizer, "gpt2")
    with pytest.raises(ValueError, match="which Sudoku is not"):
        prediction_metrics("sudoku", True, None, "gpt2")
