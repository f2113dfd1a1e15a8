"""Generations in evaluations, against generations made one row at a time."""

import importlib.util
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from prism_hf import remask_generate
from prism_hf.data import DataArguments, load_training_data
from prism_hf.evaluation import load_metric
from prism_hf.training import (
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)
from prism_hf.training.running import take_old_puzzles

MASK = 0
RUN = Path(__file__).with_name("generating_run.py")
spec = importlib.util.spec_from_file_location("generating_run", RUN)
run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(run)


def generated_alone(model, rows, **settings):
    """The rows with what follows their prompts generated, one at a time."""
    canvases = [torch.tensor([row["input_ids"][:2] + [MASK] * (len(row["input_ids"]) - 2)]) for row in rows]
    return [remask_generate(model, canvas, max_new_tokens=0, **settings)[0].tolist() for canvas in canvases]


def padded(rows):
    width = max(map(len, rows))
    return [row + [-100] * (width - len(row)) for row in rows]


def labels_of(rows):
    return padded([[-100, -100, *row["input_ids"][2:]] for row in rows])


@pytest.mark.parametrize("batch_size, number", [(2, None), (7, None), (2, 3)])
def test_compute_metrics_gets_what_the_model_generates(tmp_path, batch_size, number):
    rows = run.rows_of(5)
    settings = {"per_device_eval_batch_size": batch_size}
    plain, _ = run.main(str(tmp_path), **settings)
    found, trainer = run.main(str(tmp_path), predict_with_generate=True, num_eval_generations=number, **settings)
    expected = padded(generated_alone(run.model_of().eval(), rows[:number]))
    assert found["arrays"] == [[expected, labels_of(rows[:number])]]
    expected, labels = np.array(expected), np.array(labels_of(rows[:number]))
    assert found["metrics"]["eval_right"] == (expected == labels)[labels != -100].mean()
    assert found["metrics"]["eval_loss"] == pytest.approx(plain["metrics"]["eval_loss"], rel=1e-5)  # of all rows
    assert {"eval_quality_loss", "eval_draft_accuracy"} <= found["metrics"].keys()
    kept = [json.loads(line) for line in (tmp_path / "generations" / "eval-0.jsonl").read_text().splitlines()]
    assert [row["prompt"] + row["tokens"] for row in kept] == [row[row != -100].tolist() for row in expected]
    predicted = trainer.predict(rows[:2])
    assert predicted.predictions.tolist() == padded(generated_alone(run.model_of().eval(), rows[:2]))
    assert {"test_right", "test_loss"} <= predicted.metrics.keys()


@pytest.mark.parametrize("config, run_by", [("ddp.yaml", ()), ("fsdp2.yaml", ("fsdp2_on_cpu.py",))])
def test_processes_share_what_is_generated(on_two, tmp_path, config, run_by):
    one, _ = run.main(str(tmp_path), predict_with_generate=True, **run.TRAINING)
    run_by = tuple(str(RUN.with_name(name)) for name in run_by)
    two = json.loads(on_two(RUN, tmp_path, config=config, run_by=run_by).splitlines()[-1])
    assert two["arrays"] == one["arrays"]
    for name in ("eval_right", "eval_loss", "eval_quality_auroc"):
        assert two["metrics"][name] == pytest.approx(one["metrics"][name], rel=1e-4), name
    for row in one["logged"] + two["logged"]:
        row["quality"] = pytest.approx(row["quality"], rel=1e-4)
    assert two["logged"] == one["logged"]


def test_generations_choose_the_best_model(backbone, sequences, arguments):
    """By a metric of `evaluate`, and of the moving average of the weights where there is one."""
    entropy, seen = load_metric("unigram_entropy"), []
    args = arguments(
        MaskedDiffusionTrainingArguments,
        predict_with_generate=True,
        num_eval_generations=2,
        max_steps=3,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        ema_decay=0.5,
        load_best_model_at_end=True,
        metric_for_best_model="unigram_entropy",
        greater_is_better=True,
    )

    def compute_metrics(prediction):
        with torch.no_grad():
            seen.append(backbone.cls.predictions.bias.clone())
        return entropy.compute(predictions=prediction.predictions.tolist())

    trainer = MaskedDiffusionTrainer(
        backbone,
        args,
        train_dataset=sequences(32),
        eval_dataset=sequences(6, seed=1),
        compute_metrics=compute_metrics,
    )
    trainer.train()
    scores = [row["eval_unigram_entropy"] for row in trainer.state.log_history if "eval_unigram_entropy" in row]
    assert len(scores) == 3 and trainer.state.best_metric == max(scores)
    assert torch.equal(seen[scores.index(max(scores))], backbone.cls.predictions.bias)


def test_the_old_name_of_a_recipe_counts_puzzles_once_more(tmp_path):
    args = MaskedDiffusionTrainingArguments(str(tmp_path))
    data_args = DataArguments(num_eval_puzzles=7, layout=81)
    with pytest.warns(FutureWarning, match="num_eval_puzzles of a recipe is now called num_eval_generations"):
        take_old_puzzles((data_args, args))
    assert args.predict_with_generate and args.num_eval_generations == 7
    _, held_out, _ = load_training_data(data_args, seed=0)
    assert held_out[0]["maskable"].sum() == 51


def test_a_critic_judges_what_its_denoiser_generates(backbone, prism, sequences, arguments):
    args = arguments(TokenCriticTrainingArguments, predict_with_generate=True)
    trainer = TokenCriticTrainer(prism, args, denoiser=backbone, eval_dataset=sequences(3))
    predictions, labels, _ = trainer.predict(sequences(3))
    prompts = torch.from_numpy(predictions).masked_fill(torch.from_numpy(labels) != -100, MASK)
    # The order in which a draft is kept is the critic's, and all else the denoiser's.
    strategy = {"remask_strategy": "token_critic", "critic": prism.eval(), "mask_token_id": MASK}
    assert torch.equal(remask_generate(backbone, prompts, **strategy), torch.from_numpy(predictions))


def test_the_first_rows_of_a_stream(backbone, sequences, arguments):
    rows = [{name: value.tolist() for name, value in sequences(6)[i].items()} for i in range(6)]
    args = arguments(MaskedDiffusionTrainingArguments, predict_with_generate=True, num_eval_generations=4)
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=rows)
    predictions, labels, metrics = trainer.predict(datasets.Dataset.from_list(rows).to_iterable_dataset())
    assert predictions.shape == labels.shape == (4, 10) and "test_loss" in metrics

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(rows)

    with pytest.raises(ValueError, match="num_eval_generations=4 cannot be taken of a Stream"):
        trainer.predict(Stream())
