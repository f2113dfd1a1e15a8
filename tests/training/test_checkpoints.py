"""Training that is started again: finished, killed near its end, with a part of a checkpoint gone, or overflowing."""

import copy
import fcntl
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import BertForMaskedLM, TrainerCallback

from prism_hf.jobs.output_lock import FOLDER_LOCK
from prism_hf.training import (
    LogCompletionsCallback,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
    last_checkpoint,
)
from prism_hf.training.checkpoints import delete, remove_leftovers, rotate_checkpoints
from prism_hf.training.running import train_and_save


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different


def files_of(folder):
    return [path.relative_to(folder) for path in folder.rglob("*")]


LORA = LoraConfig(target_modules=["query", "value"], r=2)


@pytest.mark.parametrize(
    ("ema_decay", "peft_config", "duration"),
    [
        (None, None, {"max_steps": 3}),
        (0.9, None, {"max_steps": 3}),
        (0.9, LORA, {"max_steps": 3, "gradient_accumulation_steps": 2}),
        (0.9, None, {"max_steps": -1, "num_train_epochs": 0.75}),
        (None, LORA, {"max_steps": -1, "num_train_epochs": 1.5, "save_strategy": "epoch"}),
    ],
)
def test_a_finished_training_started_again_takes_no_step(
    backbone, prism, sequences, arguments, tmp_path, ema_decay, peft_config, duration
):
    settings = {"save_strategy": "steps", "save_steps": 2, "ema_decay": ema_decay} | duration

    def run(model, **more):
        args = arguments(PrismTrainingArguments, **settings)
        trainer = PrismTrainer(model, args, train_dataset=sequences(32), peft_config=peft_config)
        trainer.train(**more)
        return trainer

    torch.manual_seed(1)
    start = weights_of(prism)
    first = run(prism)
    steps, final, saved = first.state.global_step, weights_of(first.model), set(files_of(tmp_path / "out"))
    for _ in range(2):
        torch.manual_seed(1)
        again = type(prism)(prism.config)
        again.load_state_dict(start)
        second = run(again, resume_from_checkpoint=True)
        assert second.state.global_step == steps
        assert_same(weights_of(second.model), final)
    assert set(files_of(tmp_path / "out")) == saved


class Poison(torch.autograd.Function):
    """Passes a value on, and a gradient that is not finite back."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.inf


class Poisoned(MaskedDiffusionTrainer):
    at, micro_batch_at = 0, 0

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        is_here = self.state.global_step == self.at and len(self.window) == self.micro_batch_at
        return Poison.apply(loss) if is_here and model.training else loss


@pytest.mark.parametrize(
    ("max_grad_norm", "at", "micro_batch", "fp16"),
    # On a CPU there is no float16 and no scaler that skips a step.
    [(1.0, 0, 0, False), (1.0, 2, 1, True), (0, 2, 0, False), (None, 1, 1, False)],
)
def test_an_infinite_gradient_stops_before_the_weights_move(
    backbone, sequences, arguments, tmp_path, max_grad_norm, at, micro_batch, fp16
):
    args = arguments(
        MaskedDiffusionTrainingArguments,
        max_steps=3,
        save_strategy="steps",
        save_steps=1,
        max_grad_norm=max_grad_norm,
        gradient_accumulation_steps=2,
        fp16=fp16,
    )
    trainer = Poisoned(backbone, args, train_dataset=sequences(64))
    trainer.at, trainer.micro_batch_at = at, micro_batch
    before = []

    class Watch(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            before.append(weights_of(model))

    trainer.add_callback(Watch())
    with pytest.raises(FloatingPointError, match=rf"gradient norm is (nan|inf) at step {at}, process 0"):
        trainer.train()
    assert_same(weights_of(backbone), before[-1])
    written = sorted((tmp_path / "out").glob("nonfinite-*"))
    assert [path.name for path in written] == [
        f"nonfinite-step-{at}-batch-{number}-process-0.safetensors" for number in range(2)
    ]
    assert all(load_file(path)["input_ids"].shape == (8, 10) for path in written)
    assert len(list((tmp_path / "out").glob("checkpoint-*"))) == at


def test_logits_of_nan_are_told_by_the_loss_where_drafts_are_sampled(prism, sequences, arguments):
    with torch.no_grad():
        next(prism.parameters()).fill_(math.nan)
    trainer = PrismTrainer(prism, arguments(PrismTrainingArguments), train_dataset=sequences(64))
    with pytest.raises(FloatingPointError, match="loss is nan at step 0, batch 0"):
        trainer.train()


def test_a_denoiser_of_nan_is_told(prism, backbone, sequences, arguments):
    with torch.no_grad():
        next(backbone.parameters()).fill_(math.nan)
    args = arguments(TokenCriticTrainingArguments)
    trainer = TokenCriticTrainer(prism, args, denoiser=backbone, train_dataset=sequences(64))
    with pytest.raises(FloatingPointError, match="denoiser's output has NaN"):
        trainer.train()


# Checkpoints


def make_checkpoint(folder, step, parts=("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for part in parts:
        (checkpoint / part).write_text("")
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return checkpoint


def steps_in(folder):
    return sorted(path.name.partition("-")[2] for path in folder.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("limit", "best", "left"),
    [
        (1, None, ["8"]),
        (2, None, ["6", "8"]),
        (3, None, ["4", "6", "8"]),
        (9, None, ["2", "4", "6", "8"]),
        (1, 2, ["2", "8"]),
        (2, 2, ["2", "8"]),
        (3, 2, ["2", "6", "8"]),
        (2, 8, ["6", "8"]),
    ],
)
def test_rotation_counts_whole_checkpoints_only(tmp_path, limit, best, left):
    for step in (2, 4, 6, 8):
        make_checkpoint(tmp_path, step)
    # Half-deleted, in which the state may be what is left, and half-written; both newer than all others.
    make_checkpoint(tmp_path, 1, parts=())
    make_checkpoint(tmp_path, 3, parts=("model.safetensors", "rng_state.pth"))
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "model.safetensors").write_text("")
    for name in ("checkpoint-best", "checkpoint-8-copy", "checkpoint-"):
        (tmp_path / name).mkdir()
    best = None if best is None else str(tmp_path / f"checkpoint-{best}")
    rotate_checkpoints(tmp_path, limit, str(tmp_path / "checkpoint-8"), best, only_model=False)
    assert steps_in(tmp_path) == sorted([*left, "best", "8-copy", ""])
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")


def test_what_is_left_of_an_interrupted_deletion_is_no_checkpoint(tmp_path, monkeypatch):
    checkpoint = make_checkpoint(tmp_path, 2)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)  # as if killed at its first file
        delete(checkpoint)
    assert last_checkpoint(tmp_path) is None and list(tmp_path.iterdir())
    (make_checkpoint(tmp_path, 4) / ".saving-x").mkdir()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert not (tmp_path / "checkpoint-4" / ".saving-x").exists()


@pytest.mark.parametrize("gone", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "ema.safetensors"])
def test_a_state_that_is_gone_is_said(backbone, sequences, arguments, tmp_path, gone):
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1, "ema_decay": 0.9}
    args = arguments(MaskedDiffusionTrainingArguments, **settings)
    MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(8)).train()
    (tmp_path / "out" / "checkpoint-1" / gone).unlink()
    args = arguments(MaskedDiffusionTrainingArguments, **settings | {"max_steps": 2})
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(8))
    with pytest.raises(ValueError, match=f"checkpoint-1.*{gone}"):
        trainer.train(resume_from_checkpoint=True)
    if gone != "ema.safetensors":
        args.save_only_model = True
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 2


@pytest.mark.parametrize("given", ["", "nowhere", Path("empty")])
def test_what_is_no_checkpoint_is_said(backbone, sequences, arguments, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    trainer = MaskedDiffusionTrainer(backbone, arguments(MaskedDiffusionTrainingArguments), train_dataset=sequences(8))
    with pytest.raises(ValueError, match=f"'{given}' is no checkpoint: it holds no weights"):
        trainer.train(resume_from_checkpoint=given)


# Averages of the weights


@pytest.mark.parametrize("save_only_model", [False, True])
def test_the_average_is_what_is_evaluated_and_of_which_the_best_is_kept(
    backbone, sequences, arguments, tmp_path, save_only_model
):
    settings = {
        "save_strategy": "steps",
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "ema_decay": 0.5,
        "max_steps": 4,
        "load_best_model_at_end": True,
        "metric_for_best_model": "unmasking_loss",
        "greater_is_better": True,
        "save_total_limit": 1,
        "save_only_model": save_only_model,
    }
    args = arguments(MaskedDiffusionTrainingArguments, **settings)
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(64), eval_dataset=sequences(16, seed=1))
    raw, average, averages = [], {}, []

    class Record(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            raw.append(weights_of(model))
            n = len(raw) - 1
            decay = min(0.5, (1 + n) / (10 + n)) if n else 0.0
            average.update({name: decay * average.get(name, 0) + (1 - decay) * raw[-1][name] for name in raw[-1]})
            averages.append(dict(average))

        def on_evaluate(self, args, state, control, model=None, **kwargs):
            for name, weight in model.named_parameters():
                torch.testing.assert_close(weight.detach(), average[name])

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if raw:
                assert_same(weights_of(model), raw[-1])

    trainer.add_callback(Record())
    trainer.train()
    trainer.remove_callback(Record)
    logged = [row["eval_unmasking_loss"] for row in trainer.state.log_history if "eval_unmasking_loss" in row]
    best = logged.index(max(logged))
    assert best != 3  # a learning model's highest loss
    for name, weight in backbone.named_parameters():
        torch.testing.assert_close(weight.detach(), averages[best][name])
    assert trainer.evaluate()["eval_unmasking_loss"] == pytest.approx(logged[best], rel=1e-6)
    assert steps_in(tmp_path / "out") == [str(best + 1), "4"]  # though one is the limit: all steps are in the last
    final = weights_of(backbone)
    with torch.no_grad():
        backbone.cls.predictions.bias.fill_(9)
    MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(64), eval_dataset=sequences(16, seed=1)).train(
        resume_from_checkpoint=True
    )
    assert_same(weights_of(backbone), final)
    saved = load_file(tmp_path / "out" / f"checkpoint-{best + 1}" / "model.safetensors")
    assert torch.equal(saved["cls.predictions.bias"], raw[best]["cls.predictions.bias"])  # which training goes on from


def test_only_what_is_trained_is_averaged_and_in_float32(prism, sequences, arguments):
    prism.to(torch.bfloat16)
    args = arguments(PrismTrainingArguments, freeze_backbone=True, ema_decay=0.999, max_steps=2)
    trainer = PrismTrainer(prism, args, train_dataset=sequences(64))
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen.append(trainer.ema_callbacks()[0].averages)

    trainer.add_callback(Look())
    trainer.train()
    assert all("quality_head" in name and value.dtype == torch.float32 for name, value in seen[-1].items())


# Samples during training


@pytest.mark.parametrize("batch_size", [64, 3])
def test_samples_are_scored_at_each_evaluation_and_choose_the_best(
    backbone, sequences, arguments, tmp_path, batch_size
):
    args = arguments(
        MaskedDiffusionTrainingArguments,
        max_steps=3,
        save_strategy="best",
        eval_strategy="steps",
        eval_steps=1,
        ema_decay=0.5,
        metric_for_best_model="success",
        greater_is_better=True,
    )
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(64), eval_dataset=sequences(4, seed=1))
    prompts = torch.zeros(5, 10, dtype=torch.long)
    prompts[:, 0] = torch.arange(1, 6)
    seen = []

    def score(completed, prompts):
        with torch.no_grad():
            seen.append(backbone.cls.predictions.bias.clone())
        assert (completed[:, 0] == prompts[:, 0]).all() and (completed != 0).all()
        return completed[:, 0] <= trainer.state.global_step  # as many right as steps were taken

    for wrong in ({"batch_size": 0}, {"order": "randm"}, {"stepz": 3}, {"prompts": prompts[:0]}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LogCompletionsCallback(**{"trainer": trainer, "prompts": prompts, "score": score} | wrong)
    trainer.add_callback(
        LogCompletionsCallback(trainer, prompts, score, name="success", batch_size=batch_size, steps=3)
    )
    trainer.train()
    logged = [row["eval_success"] for row in trainer.state.log_history if "eval_success" in row]
    assert logged == pytest.approx([1 / 5, 2 / 5, 3 / 5])
    assert trainer.state.best_metric == pytest.approx(3 / 5) and trainer.state.best_global_step == 3
    assert backbone.training_record.metrics["eval_success"] == pytest.approx(3 / 5)
    assert "eval_loss" in backbone.training_record.metrics
    assert torch.equal(seen[-1], backbone.cls.predictions.bias)  # the average, which is the model now


# One run in a folder, from the start to what is saved


def test_one_training_at_a_time_in_a_folder(backbone, sequences, arguments, tmp_path):
    args = arguments(MaskedDiffusionTrainingArguments, max_steps=1)
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=sequences(8))
    with open(tmp_path / "out" / FOLDER_LOCK, "w+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("process 7 on another host")
        other.flush()
        with pytest.raises(ValueError, match=r"Another run works on .*out: process 7 on another host"):
            trainer.train()
    assert trainer.state.global_step == 0
    trainer.train()
    assert trainer.state.global_step == 1 and not list((tmp_path / "out").glob("*.lock"))


@pytest.mark.parametrize("held_out", [0, 4])
def test_the_model_is_saved_before_it_is_evaluated_and_once(
    backbone, sequences, arguments, tmp_path, monkeypatch, held_out
):
    args = arguments(MaskedDiffusionTrainingArguments, max_steps=2, save_strategy="steps", save_steps=2, ema_decay=0.9)
    out, trainers = tmp_path / "out", []

    def build(args):
        trainer = MaskedDiffusionTrainer(
            copy.deepcopy(backbone),
            args,
            train_dataset=sequences(32),
            eval_dataset=sequences(held_out, seed=1) if held_out else None,
        )
        trainers.append(trainer)
        return trainer

    def fail(self, *args, **kwargs):
        assert (out / "model.safetensors").exists()
        raise KeyboardInterrupt

    if held_out:  # a kill before the evaluation
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(MaskedDiffusionTrainer, "evaluate", fail)
            train_and_save(build, (args,))
        assert "## Last evaluation" not in (out / "README.md").read_text()
    train_and_save(build, (args,))
    assert trainers[-1].state.global_step == 2
    saved = load_file(out / "model.safetensors")
    assert torch.equal(
        saved["cls.predictions.bias"],
        load_file(out / "checkpoint-2" / "ema.safetensors")["module.cls.predictions.bias"],
    )
    assert ("`eval_unmasking_loss`" in (out / "README.md").read_text()) == bool(held_out)
    assert (out / "eval_results.json").exists() == bool(held_out)

    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    train_and_save(build, (args,))
    assert trainers[-1].state.global_step == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()} == before
    args.max_steps = 3  # more is asked for
    train_and_save(build, (args,))
    assert trainers[-1].state.global_step == 3


@pytest.mark.parametrize(("eval_steps", "evaluated"), [(2, [2, 3]), (3, [3])])
def test_the_last_weights_are_evaluated_once(backbone, sequences, arguments, tmp_path, eval_steps, evaluated):
    settings = {"eval_strategy": "steps", "eval_steps": eval_steps, "save_strategy": "steps", "save_steps": 3}
    args = arguments(MaskedDiffusionTrainingArguments, max_steps=3, ema_decay=0.5, **settings)
    out, data = tmp_path / "out", {"train_dataset": sequences(32), "eval_dataset": sequences(16, seed=1)}

    def build(args):
        return MaskedDiffusionTrainer(copy.deepcopy(backbone), args, **data)

    def read(name):
        return json.loads((out / name).read_text())

    def evaluations():
        return [row["step"] for row in read("trainer_state.json")["log_history"] if "eval_loss" in row]

    train_and_save(build, (args,))
    found = read("eval_results.json")
    saved = MaskedDiffusionTrainer(BertForMaskedLM.from_pretrained(out), args, eval_dataset=data["eval_dataset"])
    assert found["eval_loss"] == pytest.approx(saved.evaluate()["eval_loss"], rel=1e-5)
    assert evaluations() == evaluated and found["epoch"] == 0.75

    for name in ("trainer_state.json", "eval_results.json", "README.md"):  # as a kill before the end leaves it
        (out / name).unlink()
    train_and_save(build, (args,))
    assert read("eval_results.json") == found and evaluations() == evaluated
    assert "`eval_unmasking_loss`" in (out / "README.md").read_text()
