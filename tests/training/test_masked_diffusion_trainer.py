"""What `Trainer` accepts, and in which order, our trainers do too."""

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig
from transformers import BertForMaskedLM, Seq2SeqTrainingArguments, TrainingArguments
from transformers.trainer_utils import HPSearchBackend

from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.models.prism.peft_model import PeftModelForPrism
from prism_hf.training import (
    MaskedDiffusionCollator,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismTrainer,
    PrismTrainingArguments,
    TokenCriticTrainer,
    TokenCriticTrainingArguments,
)

TRAINERS = [
    (MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments),
    (PrismTrainer, PrismTrainingArguments),
    (TokenCriticTrainer, TokenCriticTrainingArguments),
]
LORA = LoraConfig(target_modules=["query", "value"], r=2)


@pytest.fixture
def given(backbone, prism):
    """For a trainer's class: a model that it trains, and what it needs beside."""

    def build(trainer_class):
        model = copy.deepcopy(backbone if trainer_class is MaskedDiffusionTrainer else prism)
        return model, {"denoiser": copy.deepcopy(prism)} if trainer_class is TokenCriticTrainer else {}

    return build


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.mark.parametrize("trainer_class, args_class", TRAINERS)
def test_model_init_trains_as_a_given_model_does(trainer_class, args_class, given, sequences, arguments, tmp_path):
    args = arguments(args_class, max_steps=2, ema_decay=0.5)
    model, others = given(trainer_class)
    start = copy.deepcopy(model)
    expected = trainer_class(model, args, train_dataset=sequences(16), **others)
    expected.train()

    model, others = given(trainer_class)
    trainer = trainer_class(args=args, model_init=lambda: copy.deepcopy(start), train_dataset=sequences(16), **others)
    for _ in range(2):  # each training begins anew
        trainer.train()
        for name, value in weights(expected).items():
            assert torch.equal(trainer.model.state_dict()[name], value), name
        assert trainer.model.training_record == expected.model.training_record
        assert set(trainer.model.model_tags) == set(expected.model.model_tags)
    trainer.save_model(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "training_args.json").exists()


@pytest.mark.parametrize("num_arguments", [0, 1])
def test_model_init_with_an_adapter_and_a_frozen_backbone(prism, sequences, arguments, num_arguments):
    def make(*trial):
        made.append(copy.deepcopy(prism))
        return made[-1]

    made = []
    args = arguments(PrismTrainingArguments, freeze_backbone=True, max_steps=2)
    init = (lambda: make()) if num_arguments == 0 else (lambda trial: make(trial))
    trainer = PrismTrainer(args=args, model_init=init, train_dataset=sequences(16), peft_config=LORA)
    trainer.train()
    assert type(trainer.model) is PeftModelForPrism and trainer.model.get_base_model() is made[-1]
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained and all("quality_head" in name for name in trained)
    before = prism.state_dict()
    for name, value in made[-1].backbone.state_dict().items():
        if "lora" not in name:
            assert torch.equal(value, before[f"backbone.{name}".replace(".base_layer", "")]), name


@pytest.mark.parametrize("first, second", [(False, True), (True, False)])
def test_a_trials_arguments_hold_for_its_model(prism, sequences, arguments, monkeypatch, first, second):
    monkeypatch.setattr("transformers.integrations.hp_params", lambda trial: trial.params)  # which needs Optuna
    args = arguments(PrismTrainingArguments, freeze_backbone=first, max_steps=1)
    trainer = PrismTrainer(args=args, model_init=lambda trial: copy.deepcopy(prism), train_dataset=sequences(16))
    trainer.hp_search_backend, trainer.hp_name = HPSearchBackend.OPTUNA, None
    trainer.hp_space = lambda trial: trial.params
    for frozen in (second, first):
        trainer.train(trial=SimpleNamespace(number=0, params={"freeze_backbone": frozen, "unmasking_weight": 0.25}))
        changed = {
            n for n, value in trainer.model.state_dict().items() if not torch.equal(value, prism.state_dict()[n])
        }
        assert any("quality_head" in name for name in changed)
        assert all("quality_head" in name for name in changed) == frozen
        assert trainer.model.training_record.arguments["unmasking_weight"] == 0.25


def test_model_init_is_checked_as_a_given_model(backbone, prism, sequences, arguments, tmp_path):
    args = arguments(PrismTrainingArguments)
    with pytest.raises(ValueError, match="BertForMaskedLM has no quality head"):
        PrismTrainer(args=args, model_init=lambda: backbone, train_dataset=sequences(8))
    prism.save_pretrained(tmp_path / "prism")
    trainer = PrismTrainer(args=args, model_init=lambda: str(tmp_path / "prism"), train_dataset=sequences(8))
    assert type(trainer.model) is PrismForMaskedDiffusion
    backbone.save_pretrained(tmp_path / "backbone")
    args = arguments(MaskedDiffusionTrainingArguments)
    trainer = MaskedDiffusionTrainer(str(tmp_path / "backbone"), args, train_dataset=sequences(8))
    assert type(trainer.model) is BertForMaskedLM
    with pytest.raises(ValueError, match="not both"):
        PrismTrainer(prism, arguments(PrismTrainingArguments), model_init=lambda: prism)
    config = copy.deepcopy(prism.config.backbone_config)
    config.vocab_size += 1
    critic = PrismForMaskedDiffusion(PrismConfig(backbone_config=config))
    with pytest.raises(ValueError, match="The critic has vocab_size=10"):
        TokenCriticTrainer(
            args=arguments(TokenCriticTrainingArguments),
            model_init=lambda: critic,
            denoiser=prism,
            train_dataset=sequences(8),
        )


@pytest.mark.parametrize("trainer_class, args_class", TRAINERS)
def test_arguments_by_position(trainer_class, args_class, given, sequences, arguments):
    model, others = given(trainer_class)
    train, evaluation = sequences(16), sequences(8, seed=1)
    collator, tokenizer = MaskedDiffusionCollator(3), type("Tokenizer", (), {"pad_token_id": 3})()
    trainer = trainer_class(model, arguments(args_class), collator, train, evaluation, tokenizer, **others)
    assert trainer.train_dataset is train and trainer.eval_dataset is evaluation
    assert trainer.processing_class is tokenizer and trainer.data_collator.collator is collator
    args, peft = arguments(args_class), {} if trainer_class is MaskedDiffusionTrainer else {"peft_config": LORA}
    trainer = trainer_class(None, args, None, train, None, None, lambda: model, **peft, **others)
    assert trainer.model_init() is model


@pytest.mark.parametrize("trainer_class, args_class", TRAINERS)
def test_plain_training_arguments_are_completed(trainer_class, args_class, given, sequences, arguments):
    model, others = given(trainer_class)
    plain = arguments(
        TrainingArguments,
        max_steps=1,
        hub_token="hf_x",
        lr_scheduler_kwargs={"a": 1},
        warmup_steps=0.1,
        accelerator_config={"split_batches": True},
        report_to="none",
        optim="adamw_torch",
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        save_strategy="steps",
        save_steps=1,
    )
    ours = args_class(plain.output_dir)
    trainer = trainer_class(model, plain, train_dataset=sequences(16), eval_dataset=sequences(8), **others)
    assert type(trainer.args) is args_class
    for each in dataclasses.fields(args_class):
        source = plain if hasattr(plain, each.name) else ours
        if each.name not in ("accelerator_config", "ddp_find_unused_parameters"):
            assert getattr(trainer.args, each.name) == getattr(source, each.name), each.name
    assert trainer.args.accelerator_config.split_batches
    assert trainer.args.ddp_find_unused_parameters == ours.ddp_find_unused_parameters
    plain.lr_scheduler_kwargs = trainer.args.lr_scheduler_kwargs = None
    trainer.train()


@pytest.mark.parametrize("args", [Seq2SeqTrainingArguments, TokenCriticTrainingArguments, lambda output_dir: {}])
def test_arguments_of_another_trainer_are_refused_by_name(prism, sequences, args, tmp_path):
    with pytest.raises(TypeError, match="args must be PrismTrainingArguments or plain TrainingArguments, got"):
        PrismTrainer(prism, args(output_dir=str(tmp_path)), train_dataset=sequences(8))
