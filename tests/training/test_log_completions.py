"""Completions that are logged during training, read back from what the trackers wrote."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from prism_hf import generate_to_jsonl, remask_generate
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import (
    LogCompletionsCallback,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)

PROMPTS = ["def f(x):", "import | torch\nclass <A>:", "x"]
GREEDY = {"max_new_tokens": 6, "steps": 3, "order": "margin", "remask_strategy": "prism"}


@pytest.fixture
def trainer(text_model, text_tokenizer, arguments):
    """A PRISM trainer of two steps, which are evaluated."""

    def build(**settings):
        torch.manual_seed(0)
        config = PrismConfig(backbone_config=text_model().config)
        rows = [text_tokenizer(text) for text in PROMPTS]
        settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.0} | settings
        return PrismTrainer(
            PrismForMaskedDiffusion(config),
            arguments(PrismTrainingArguments, **settings),
            train_dataset=rows,
            eval_dataset=rows,
            processing_class=text_tokenizer,
        )

    return build


def completions_of(trainer, tokenizer, tmp_path):
    """What `generate_to_jsonl` writes for the prompts, by the model that is trained with a learning rate of 0."""
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    generate_to_jsonl(trainer.model.eval(), tokenizer, rows, tmp_path / "completions.jsonl", **GREEDY)
    return [json.loads(line)["completion"] for line in (tmp_path / "completions.jsonl").read_text().splitlines()]


def test_texts_in_tensorboard(trainer, text_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = trainer(report_to="tensorboard")
    callback = LogCompletionsCallback(trainer, PROMPTS, num_prompts=2, **GREEDY)
    trainer.add_callback(callback)
    trainer.train()
    expected = completions_of(trainer, text_tokenizer, tmp_path)[:2]
    assert [row["completion"] for row in callback.rows] == 2 * expected
    assert [row["prompt"] for row in callback.rows] == 2 * PROMPTS[:2]
    assert all(0 < row["quality"] < 1 and row["remasked"] >= row["corrected"] for row in callback.rows)
    board = EventAccumulator(str(tmp_path / "board")).Reload()
    events = board.Tensors("completions/text_summary")
    assert [event.step for event in events] == [1, 2]
    table = events[0].tensor_proto.string_val[0].decode().splitlines()
    assert table[0] == "| step | prompt | completion | remasked | corrected | quality |" and len(table) == 4
    assert "import &#124; torch<br>class &lt;A&gt;:" in table[3]


def test_tables_in_wandb(trainer, tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    trainer = trainer(report_to="wandb")
    trainer.add_callback(LogCompletionsCallback(trainer, PROMPTS[:1], **GREEDY))
    trainer.train()
    folder = wandb.run.dir
    wandb.finish()
    tables = [json.loads(path.read_text()) for path in sorted(tmp_path.rglob("completions_*.table.json"))]
    assert folder.startswith(str(tmp_path)) and sorted(len(table["data"]) for table in tables) == [1, 2]
    assert tables[0]["columns"] == ["step", "prompt", "completion", "remasked", "corrected", "quality"]
    assert {row[1] for table in tables for row in table["data"]} == {PROMPTS[0]}


def test_tables_in_trackio(trainer, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))  # read at its import
    from trackio.sqlite_storage import SQLiteStorage

    trainer = trainer(report_to="trackio", project=tmp_path.name, run_name="run")
    trainer.add_callback(LogCompletionsCallback(trainer, PROMPTS[:1], freq=2, **GREEDY))
    trainer.train()
    logged = [row["completions"] for row in SQLiteStorage.get_logs(tmp_path.name, "run") if "completions" in row]
    assert len(logged) == 1
    assert [(row["step"], row["prompt"]) for row in logged[0]["_value"]] == [(2, PROMPTS[0])]


def test_conversations_and_prompts_that_are_filled_in_place_are_printed(trainer, text_tokenizer, capsys, monkeypatch):
    monkeypatch.setattr(text_tokenizer, "chat_template", "{% for m in messages %}[{{ m['content'] }}]{% endfor %}=")
    trainer = trainer(log_completions=True)
    chat = [[{"role": "user", "content": "x"}]]
    filled = [f"def f(x):{2 * text_tokenizer.mask_token}"]
    for prompts, length in ((chat, 6), (filled, 0)):
        trainer.add_callback(LogCompletionsCallback(trainer, prompts, **GREEDY | {"max_new_tokens": length}))
    trainer.evaluate()
    printed = capsys.readouterr().out
    assert printed.count("Completions at step 0:") == 3
    assert f"  prompt: {len(text_tokenizer('x').input_ids) * text_tokenizer.mask_token!r}\n" in printed  # a row's
    assert "Completions at step 0:\n  prompt: '[x]='\n" in printed
    assert f"  prompt: {filled[0]!r}\n  completion: 'def f(x):" in printed


def test_a_critic_judges_without_dropout_between_steps_too(backbone, prism, sequences, arguments):
    args = arguments(TokenCriticTrainingArguments, max_steps=2, learning_rate=0.0)
    rows, modes = sequences(4), []
    prism.quality_head.register_forward_hook(lambda head, *_: modes.append(head.training))
    trainer = TokenCriticTrainer(prism, args, denoiser=backbone, train_dataset=rows, eval_dataset=rows)
    callback = LogCompletionsCallback(trainer, freq=1, num_prompts=4)
    trainer.add_callback(callback)
    trainer.train()
    # A step trains once; in each generation the critic judges all drafts but the last.
    assert modes.count(True) == 2 and modes.count(False) >= 2 and modes[0] and prism.training
    assert len(callback.rows) == 8
    prompts = torch.stack([rows[i]["input_ids"].masked_fill(rows[i]["maskable"], 0) for i in range(4)])
    strategy = {"remask_strategy": "token_critic", "critic": prism.eval(), "mask_token_id": 0}
    expected = [" ".join(map(str, ids)) for ids in remask_generate(backbone, prompts, **strategy).tolist()]
    assert [row["completion"] for row in callback.rows] == 2 * expected


def test_scores_of_all_prompts_and_rows_of_some(trainer, text_tokenizer):
    trainer = trainer()
    seen = []

    def score(completed, prompts):
        seen.append((completed, prompts))
        return (prompts == prompts[-1]).all(1)

    callback = LogCompletionsCallback(trainer, PROMPTS, score, "last", batch_size=2, num_prompts=1, **GREEDY)
    trainer.add_callback(callback)
    assert trainer.evaluate()["eval_last"] == pytest.approx(2 / 3)  # of each of two batches, the last
    assert trainer.state.log_history[-1]["eval_last"] == pytest.approx(2 / 3)
    assert len(callback.rows) == 1 and callback.rows[0]["last"] == 0
    assert all(len(completed) == len(prompts) for completed, prompts in seen)


def test_what_is_neither_shown_nor_scored_is_not_generated(trainer):
    trainer, forwards = trainer(), []
    trainer.model.register_forward_hook(lambda *_: forwards.append(len(callbacks)))
    callbacks = []
    for prompts in (PROMPTS[:2], PROMPTS):
        callbacks.append(LogCompletionsCallback(trainer, prompts, batch_size=1, num_prompts=2, **GREEDY))
        callbacks[-1].complete()
    assert forwards.count(1) == forwards.count(2) > 0
    assert callbacks[0].rows == callbacks[1].rows


def test_what_cannot_be_completed_is_told_before_training(backbone, sequences, arguments):
    trainer = MaskedDiffusionTrainer(backbone, arguments(MaskedDiffusionTrainingArguments), train_dataset=sequences(8))
    for given, message in (
        ({}, "give prompts, or the trainer an eval_dataset"),
        ({"prompts": []}, "There are no prompts"),
        ({"prompts": ["x"]}, "need a tokenizer"),
        ({"prompts": torch.zeros(2, 10).long(), "num_prompts": 0}, "num_prompts"),
        ({"prompts": torch.zeros(2, 10).long(), "freq": 0}, "freq"),
        ({"prompts": torch.zeros(2, 10).long(), "stepz": 3}, "stepz"),
    ):
        with pytest.raises(ValueError, match=message):
            LogCompletionsCallback(trainer, **given)


def test_the_old_name_serves_once_more():
    import prism_hf.training

    with pytest.warns(FutureWarning, match="GenerateCallback is now called .*LogCompletionsCallback"):
        assert prism_hf.training.GenerateCallback is LogCompletionsCallback
