"""Nothing that is saved holds a token of the Hub or a place on this machine, and all of it still loads."""

import copy
import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast, TrainerCallback

from prism_hf import AutoPeftModelForPrism, evaluation
from prism_hf.hub.portable import portable
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.training import (
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)

TOKEN = "hf_" + "secret" * 6
HUB_TOKEN = "my-token-of-another-form"


def contents(folder):
    """The bytes of all files of a folder, and of what is packed in them."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path, path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as packed:
                    yield from ((path / name, packed.read(name)) for name in packed.namelist())


def assert_private(folder, *private):
    paths = []
    for path, content in contents(folder):
        found = [text for text in (TOKEN, HUB_TOKEN, *private) if text.encode() in content]
        assert not found, (path, found)
        paths.append(path)
    assert paths and not [path for path in paths if path.name == "training_args.bin"]


@pytest.fixture
def saved(backbone, prism, tmp_path):
    """A backbone and a PRISM model in folders, and a tokenizer that was made with a token and a cache."""
    backbone.save_pretrained(tmp_path / "backbone")
    prism.save_pretrained(tmp_path / "prism")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate("0abcdefgh")}, unk_token="h"))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, mask_token="0", pad_token="h", token=TOKEN, cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def train(saved, sequences, arguments, tmp_path):
    """Trains for two steps with everything that names a place, and saves all that a trainer saves."""

    def run(trainer_class, args_class, model, resume=None, callbacks=None, **kwargs):
        args = arguments(
            args_class,
            output_dir=str(tmp_path / "out"),
            hub_token=HUB_TOKEN,
            max_steps=2,
            save_strategy="steps",
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            run_name=str(tmp_path / "runs" / "first"),
            optim_args=f"place={tmp_path / 'inner'},token={TOKEN}",
        )
        trainer = trainer_class(
            model,
            args,
            train_dataset=sequences(16),
            eval_dataset=sequences(8),
            processing_class=saved,
            callbacks=callbacks,
            **kwargs,
        )
        trainer.train(resume_from_checkpoint=resume)
        trainer.save_model()
        trainer.save_state()
        trainer.save_metrics("eval", trainer.evaluate())
        return trainer

    return run


@pytest.mark.parametrize("name", ["mdm", "prism", "adapter", "critic"])
def test_what_a_trainer_saves_is_private(train, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prism, out = PrismForMaskedDiffusion.from_pretrained, tmp_path / "out"
    lora = LoraConfig(target_modules=["query"])
    if name == "mdm":
        model = AutoModelForMaskedLM.from_pretrained(tmp_path / "backbone", token=TOKEN)
        train(MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, model)
    elif name == "prism":
        train(PrismTrainer, PrismTrainingArguments, prism(tmp_path / "backbone", token=TOKEN))
    elif name == "adapter":
        train(PrismTrainer, PrismTrainingArguments, prism(tmp_path / "prism"), peft_config=lora)
    else:
        denoiser = prism(tmp_path / "prism")
        train(
            TokenCriticTrainer,
            TokenCriticTrainingArguments,
            prism(tmp_path / "prism"),
            denoiser=denoiser,
            peft_config=lora,
        )
    assert_private(out, str(tmp_path), os.getcwd())
    arguments = json.loads((out / "training_args.json").read_text())
    assert arguments["output_dir"] == "out" and arguments["run_name"] == "first"
    assert arguments["optim_args"] == "place=inner,token=<token>"


def test_an_adapter_names_its_base_by_the_way_to_it(train, prism, tmp_path, monkeypatch):
    """It loads from anywhere, after both were moved, and after it was loaded and saved elsewhere."""
    lora = LoraConfig(target_modules=["query"])
    base = PrismForMaskedDiffusion.from_pretrained(tmp_path / "prism")
    trained = train(PrismTrainer, PrismTrainingArguments, base, peft_config=lora).model.eval()
    canvas = torch.zeros(1, 10, dtype=torch.long)

    def assert_loads(folder, **kwargs):
        model = AutoPeftModelForPrism.from_pretrained(folder, **kwargs)
        assert torch.equal(model(canvas).quality_logits, trained(canvas).quality_logits)
        return model

    def named(folder):
        return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]

    out = tmp_path / "out"
    assert named(out) == "../prism" and named(out / "checkpoint-1") == "../../prism"
    elsewhere = tmp_path / "else" / "where"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    loaded = assert_loads(out)
    loaded.save_pretrained(elsewhere / "again")
    card = (elsewhere / "again" / "README.md").read_bytes()
    loaded.save_pretrained(elsewhere / "again")
    assert (elsewhere / "again" / "README.md").read_bytes() == card
    assert named(elsewhere / "again") == "../../../prism"
    assert_private(elsewhere, str(tmp_path))
    assert_loads("again")
    for name in ("out", "prism"):
        shutil.move(tmp_path / name, elsewhere / name)
    assert_loads(elsewhere / "out")
    with pytest.raises(OSError, match="base model .* cannot be loaded(.|\n)*base_model_name_or_path"):
        AutoPeftModelForPrism.from_pretrained("again")
    assert_loads("again", base_model_name_or_path=elsewhere / "prism")


def test_a_resumed_run_finds_its_best_checkpoint(train, tmp_path):
    class Stop(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "backbone")
    train(MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, copy.deepcopy(model), callbacks=[Stop()])
    checkpoint = tmp_path / "out" / "checkpoint-1"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] is None and state["best_global_step"] == 1
    resumed = train(MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, model, resume=str(checkpoint))
    best = f"checkpoint-{resumed.state.best_global_step}"
    assert resumed.state.best_model_checkpoint == str(tmp_path / "out" / best)


def test_a_model_whose_backbones_config_was_loaded_is_private(saved, tmp_path):
    config = AutoConfig.from_pretrained(tmp_path / "backbone")
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=config))
    model.save_pretrained(tmp_path / "out")
    assert_private(tmp_path / "out", str(tmp_path))
    assert type(PrismForMaskedDiffusion.from_pretrained(tmp_path / "out").config.backbone_config) is type(config)


def test_results_of_an_evaluation_are_private(prism, tmp_path):
    path, made_with = tmp_path / "results.jsonl", {"model": str(tmp_path / "model"), "tokenizer": f"{tmp_path}/t 1f"}
    settings = {"examples": torch.eye(2, 10, dtype=torch.long), "settings": [{"steps": 2, "max_new_tokens": 0}]}
    for _ in range(2):
        evaluation.evaluate_settings(
            prism.eval(), **settings, path=path, measure=lambda predictions: {}, made_with=made_with, batch_size=2
        )
        (row,) = map(json.loads, path.read_text().splitlines())  # found again the second time
    assert row["model"] == "model" and row["tokenizer"] == "t 1f"


@pytest.mark.parametrize(
    "value, expected",
    [
        ("/home/me/runs/first", "first"),
        ("/home/me/my runs/first one", "first one"),
        (Path("/home/me/first"), "first"),
        ("C:\\Users\\me\\first", "first"),
        ("file:///home/me/first", "first"),
        ("cache=/home/me/first,rank=4", "cache=first,rank=4"),
        ("https://me:password@hub.org/a/b", "https://hub.org/a/b"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
        (f"token={TOKEN}.", "token=<token>."),
        ("user/model", "user/model"),
        ("../prism", "../prism"),
        ("outputs/first", "outputs/first"),
        ("a / b, 1/2 and/or/both", "a / b, 1/2 and/or/both"),
        ({"a": [("/x/y", 1.5)], "b": {"c": None, "d": True}}, {"a": [["y", 1.5]], "b": {"c": None, "d": True}}),
    ],
)
def test_portable(value, expected):
    assert portable(value) == expected
