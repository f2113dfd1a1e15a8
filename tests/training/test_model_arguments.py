"""Model and data arguments of recipes: TRL's, and the old names of ours."""

from dataclasses import fields

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig
from trl import ModelConfig, ScriptArguments, get_peft_config, get_quantization_config

from prism_hf import PrismTrainingArguments
from prism_hf.data import DataArguments
from prism_hf.training import parse_arguments
from prism_hf.training.model_arguments import ModelArguments, loading_arguments

FLAT = """
use_peft: true
lora_r: 64
lora_alpha: 128
lora_dropout: 0.1
lora_target_modules: [q_proj, v_proj]
load_in_4bit: true
use_bnb_nested_quant: true
dtype: bfloat16
"""
OLD = """
peft: {r: 64, lora_alpha: 128, lora_dropout: 0.1, target_modules: [q_proj, v_proj]}
quantization: {load_in_4bit: true, bnb_4bit_quant_type: nf4, bnb_4bit_use_double_quant: true,
  bnb_4bit_compute_dtype: bfloat16}
"""


def parse(tmp_path, text="", *rest):
    (tmp_path / "config.yaml").write_text("seed: 0\n" + text)
    arguments = ["--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path), "--use_cpu", *rest]
    return parse_arguments((ModelArguments, DataArguments, PrismTrainingArguments), arguments)


def test_fields_of_trl_have_its_defaults():
    pairs: list = [(ModelArguments, ModelConfig, {"lora_task_type"}), (DataArguments, ScriptArguments, set())]
    for ours, theirs, other in pairs:
        defaults = {field.name: field.default for field in fields(ours)}
        assert {each.name for each in fields(theirs) if defaults[each.name] != each.default} == other


def test_lora_and_four_bits_are_those_of_trl(tmp_path):
    model_args, *_ = parse(tmp_path, FLAT)
    kinds = {"lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
    assert get_peft_config(model_args).to_dict() == LoraConfig(r=64, lora_alpha=128, **kinds).to_dict()
    quantization = get_quantization_config(model_args)
    assert quantization.load_in_4bit and quantization.bnb_4bit_compute_dtype == torch.bfloat16
    assert quantization.bnb_4bit_use_double_quant and quantization.bnb_4bit_quant_type == "nf4"
    on_the_line = "--use_peft --lora_r 64 --lora_alpha 128 --lora_dropout 0.1 --lora_target_modules q_proj v_proj"
    flags = on_the_line.split() + ["--load_in_4bit", "--use_bnb_nested_quant", "--dtype", "bfloat16"]
    assert parse(tmp_path, "", *flags)[0] == model_args
    assert get_peft_config(parse(tmp_path)[0]) is None and get_quantization_config(parse(tmp_path)[0]) is None


@pytest.mark.parametrize("given", ["lora_target_modules: all-linear", "lora_target_modules: [all-linear]"])
def test_one_name_of_modules_is_text(tmp_path, given):
    model_args, *_ = parse(tmp_path, f"use_peft: true\n{given}")
    assert get_peft_config(model_args).target_modules == "all-linear"


def test_old_mappings_serve_and_warn(tmp_path):
    with pytest.warns(FutureWarning, match="peft of a recipe is now called use_peft, lora_r"):
        model_args, *_ = parse(tmp_path, OLD)
    assert model_args == parse(tmp_path, FLAT)[0]
    with pytest.warns(FutureWarning):
        model_args, *_ = parse(tmp_path, "peft: {target_modules: [q_proj]}\nquantization: {load_in_4bit: true}")
    ours, theirs = get_peft_config(model_args), LoraConfig(target_modules=["q_proj"])
    assert ours.to_dict() == theirs.to_dict()
    assert get_quantization_config(model_args).to_dict() == BitsAndBytesConfig(load_in_4bit=True).to_dict()
    with pytest.raises(ValueError, match="Unknown field of peft 'rank'"):
        parse(tmp_path, "peft: {rank: 4}")


def test_old_names_of_data_serve_and_warn(tmp_path):
    with pytest.warns(FutureWarning, match="dataset_path of a recipe is now called dataset_name"):
        _, data_args, _ = parse(tmp_path, "dataset: code\ndataset_path: a/b\ndataset_name: part\nstreaming: true")
    assert (data_args.dataset_name, data_args.dataset_config, data_args.dataset_path) == ("a/b", "part", None)
    assert data_args.dataset_streaming and not data_args.streaming
    with pytest.warns(FutureWarning):
        assert parse(tmp_path, "dataset_path: grids.csv")[1].dataset == "sudoku"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("use_peft: true", "needs lora_target_modules"),
        ("lora_r: 0", "lora_r=0 .* an integer of at least 1"),
        ("lora_dropout: 1.5", "lora_dropout=1.5"),
        ("load_in_4bit: true\nload_in_8bit: true", "can't use 8 bit and 4 bit"),
        ("dtype: bf16", "dtype='bf16' .* one of 'auto', 'bfloat16'"),
        ("load_in_4bits: true", "Did you mean 'load_in_4bit'?"),
        ("lora_alfa: 4", "Did you mean 'lora_alpha'?"),
        ("ignore_bias_buffers: true", "ignore_bias_buffers=True .* No model here has bias buffers"),
        ("dataset: code", "dataset='code' needs dataset_name"),
        ("dataset: rows", "dataset='rows' needs dataset_name"),
        ("dataset_name: a/b\nlength: 64", "max_length=64 cuts it, and pad_to_multiple_of=64"),
        ("dataset_name: a/b\nnum_eval_puzzles: 9", "num_eval_puzzles=9 is for dataset='sudoku'"),
        ("dataset: sudoku\ndatasets: [{path: a}]", "datasets are read for dataset='rows' or 'code'"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse(tmp_path, text)


def test_what_a_model_is_loaded_with(tmp_path, caplog):
    model_args, _, args = parse(
        tmp_path,
        "trust_remote_code: true\nmodel_init_kwargs: {dtype: float16}",
        "--attn_implementation",
        "flash_attention_2",
    )
    assert loading_arguments(model_args, args) == {
        "revision": "main",
        "dtype": "float16",
        "attn_implementation": "sdpa",
        "quantization_config": None,
        "trust_remote_code": True,
    }
    assert args.model_init_kwargs is None
    assert "'flash_attention_2' is not to be had, as the model runs on the CPU" in caplog.text


@pytest.mark.parametrize("given", ["q_proj", "[q_proj]"])
def test_one_name_of_modules_is_no_regex(tmp_path, text_model, given):
    model_args, *_ = parse(tmp_path, f"use_peft: true\nlora_target_modules: {given}")
    adapted = get_peft_model(text_model(), get_peft_config(model_args)).targeted_module_names
    assert adapted and all(name.endswith(".q_proj") for name in adapted)
    model_args, *_ = parse(tmp_path, "use_peft: true\nlora_target_modules: .*q_proj")
    assert get_peft_model(text_model(), get_peft_config(model_args)).targeted_module_names == adapted
