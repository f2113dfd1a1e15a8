"""Every class of training arguments checks its own fields and those it inherits."""

import dataclasses
import math

import pytest
from transformers import HfArgumentParser

from prism_hf import MaskedDiffusionTrainingArguments, PrismTrainingArguments, TokenCriticTrainingArguments

INHERITED = [
    ({"report_to": "tensorbord"}, "report_to='tensorbord'.* Did you mean 'tensorboard'"),
    ({"report_to": ["none", "wandbb"]}, "report_to="),
    ({"lr_scheduler_kwargs": "{'num_cycles': 5"}, "lr_scheduler_kwargs=.* must be a mapping"),
    ({"lr_scheduler_kwargs": "[1]"}, "lr_scheduler_kwargs="),
    ({"hub_strategy": "everysave"}, "hub_strategy=.* Did you mean 'every_save'"),
    ({"learning_rate": "1e-4"}, "learning_rate='1e-4' of .* must be a number of at least 0. It is text"),
    ({"learning_rate": math.nan}, "learning_rate=nan"),
    ({"learning_rate": math.inf}, "learning_rate=inf"),
    ({"learning_rate": -1e-4}, "learning_rate=-0.0001"),
    ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ({"adam_beta2": 1.0}, "adam_beta2=1.0"),
    ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
    ({"max_grad_norm": math.nan}, "max_grad_norm=nan"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0"),
    ({"per_device_train_batch_size": 8.0}, "per_device_train_batch_size=8.0.* Write 8."),
    ({"per_device_eval_batch_size": True}, "per_device_eval_batch_size=True"),
    ({"gradient_accumulation_steps": -1}, "gradient_accumulation_steps=-1"),
    ({"num_train_epochs": "3"}, "num_train_epochs='3'"),
    ({"max_steps": 0}, "max_steps=0 .* an integer of at least 1 or one of -1"),
    ({"max_steps": 2.5}, "max_steps=2.5"),
    ({"max_steps": -2}, "max_steps=-2"),
    ({"logging_steps": 0}, "logging_steps=0"),
    ({"save_steps": -5}, "save_steps=-5"),
    ({"eval_steps": "10"}, "eval_steps='10'"),
    ({"warmup_steps": -1}, "warmup_steps=-1"),
    ({"save_total_limit": 0}, "save_total_limit=0"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": None}, "seed=None"),
    ({"bf16": "no"}, "bf16='no' of .* must be True or False"),
    ({"output_dir": 5}, "output_dir=5 of .* must be text"),
    ({"run_name": 5}, "run_name=5"),
    ({"noise_schedule": "linaer"}, "Did you mean 'linear'"),
    ({"loss_normalizer": None}, "loss_normalizer=None"),
    ({"min_timestep": 0.0}, "min_timestep=0.0"),
    ({"min_timestep": 0.5, "max_timestep": 0.5}, "min_timestep=0.5 must be below max_timestep=0.5"),
    ({"max_timestep": 1.5}, "max_timestep=1.5"),
    ({"ema_decay": 1}, "ema_decay=1 .* a number of at least 0 and below 1 or None"),
    ({"use_muon": "yes"}, "use_muon='yes'"),
]
OF_QUALITY = [
    ({"draft_top_p": 0}, "draft_top_p=0"),
    ({"head_learning_rate": "2e-3"}, "head_learning_rate='2e-3'"),
    ({"draft_do_sample": 1}, "draft_do_sample=1"),
]
OF_PRISM = [
    ({"num_draft_tokens": 2.0}, "num_draft_tokens=2.0.* Write 2."),
    ({"draft_window": 0}, "draft_window=0"),
    ({"draft_steps": 9}, "draft_steps=9 is more than num_draft_tokens=8"),
    ({"draft_selection": "semi_autoregresive"}, "Did you mean 'semi_autoregressive'"),
    ({"quality_normalizer": "masked"}, "quality_normalizer='masked' .* 'filled', 'draft'"),
    ({"unmasking_weight": -0.5}, "unmasking_weight=-0.5"),
    ({"freeze_backbone": "false"}, "freeze_backbone='false'"),
]


@pytest.mark.parametrize(
    "kind, wrong, message",
    [(MaskedDiffusionTrainingArguments, *case) for case in INHERITED]
    + [(PrismTrainingArguments, *case) for case in INHERITED[::4] + OF_QUALITY + OF_PRISM]
    + [(TokenCriticTrainingArguments, *case) for case in INHERITED[::4] + OF_QUALITY],
)
def test_a_wrong_value_is_named_with_what_is_expected(kind, wrong, message):
    with pytest.raises(ValueError, match=message):
        kind(**{"output_dir": "unused", "use_cpu": True} | wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"max_grad_norm": math.inf, "learning_rate": 0},
        {"warmup_steps": 0.05, "lr_scheduler_kwargs": '{"num_cycles": 5}', "eval_steps": 0.1},
        {"report_to": ["none"], "debug": "underflow_overflow", "accelerator_config": {"even_batches": False}},
    ],
)
def test_what_transformers_accepts_is_accepted_and_again_once_it_has_read_it(right, tmp_path):
    args = PrismTrainingArguments(tmp_path, use_cpu=True, **right)
    assert dataclasses.replace(args, seed=1).seed == 1


def test_the_defaults_of_a_command_line_are_accepted(tmp_path):
    (args,) = HfArgumentParser(PrismTrainingArguments).parse_args_into_dataclasses(
        ["--output_dir", str(tmp_path), "--learning_rate", "1e-4", "--use_cpu", "--eval_steps", "5"]
    )
    assert args.learning_rate == 1e-4 and args.eval_steps == 5
