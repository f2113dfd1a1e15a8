"""The perplexity of an evaluation and its interval; test_theory.py has what they are of, test_cuts.py how rows lie."""

import copy

import numpy as np
import pytest
import torch

from prism_hf.training import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.training.bound import perplexity


def test_the_interval_holds_the_perplexity_as_often_as_it_says():
    random = np.random.default_rng(0)
    tokens = random.integers(5, 200, (1000, 80))
    rates = random.gamma(4, 1 / 2, tokens.shape) * (1 + 50 / tokens)  # nats a token are more in short rows
    held = 0
    lengths = np.arange(5, 200)
    truth = np.exp(2 * (lengths + 50).mean() / lengths.mean())
    for m, x in zip(torch.tensor(tokens).double(), torch.tensor(rates * tokens), strict=True):
        found = perplexity(torch.stack([torch.ones_like(m), x, m, x * x, x * m, m * m]).sum(-1))
        held += found["perplexity_low"] < truth < found["perplexity_high"]
    assert 0.925 < held / len(tokens) < 0.965


def test_more_masks_of_a_row_narrow_it(backbone, sequences, arguments):
    widths = []
    for number in (1, 8):
        args = arguments(MaskedDiffusionTrainingArguments, num_eval_masks=number)
        found = MaskedDiffusionTrainer(backbone, args, eval_dataset=sequences(64)).evaluate()
        assert found["eval_perplexity"] == pytest.approx(np.exp(found["eval_loss"]), rel=1e-5)
        widths.append(np.log(found["eval_perplexity_high"] / found["eval_perplexity_low"]))
    assert widths[1] < widths[0] / 2


def test_it_is_of_the_average_of_the_weights_and_chooses_the_best(backbone, sequences, arguments):
    args = arguments(
        MaskedDiffusionTrainingArguments,
        max_steps=3,
        ema_decay=0.5,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="perplexity",
        loss_normalizer="masked",
    )
    data = {"train_dataset": sequences(64), "eval_dataset": sequences(64, seed=1)}
    trainer = MaskedDiffusionTrainer(backbone, args, **data)
    trainer.train()  # which leaves the average
    logged = [row["eval_perplexity"] for row in trainer.state.log_history if "eval_perplexity" in row]
    assert trainer.evaluate()["eval_perplexity"] == pytest.approx(logged[-1], rel=1e-6)
    assert trainer.state.best_metric == min(logged) < max(logged)


def test_one_row_has_no_interval_and_cut_times_no_bound(backbone, sequences, arguments):
    args = arguments(MaskedDiffusionTrainingArguments)
    found = MaskedDiffusionTrainer(copy.deepcopy(backbone), args, eval_dataset=sequences(1)).evaluate()
    assert "eval_perplexity" in found and "eval_perplexity_low" not in found
    args = arguments(MaskedDiffusionTrainingArguments, max_timestep=0.5)
    found = MaskedDiffusionTrainer(backbone, args, eval_dataset=sequences(2)).evaluate()
    assert "eval_loss" in found and "eval_perplexity" not in found
