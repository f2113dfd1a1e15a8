"""Convert a public checkpoint to a folder that `prism_hf.load_model` loads.

    python -m prism_hf.models.convert_checkpoint in.ckpt out_dir

takes Lightning checkpoints (`.ckpt`) of MDLM, PRISM and Token-Critic, and the `pytorch_model.bin` of the PRISM authors'
LLaDA trainer; which one it is, the file's content tells, not its name. Nothing in the file is run, and only the tensors
that are kept are read. Models take them over without a copy, so converting takes less memory than the file is large.

| file | folder |
|---|---|
| MDLM | an `MdlmForMaskedDiffusion` |
| MDLM with PRISM's quality head | a `PrismForMaskedDiffusion` |
| Token-Critic | the critic, a `PrismForMaskedDiffusion`, and in `denoiser/` the model whose drafts it judges |
| LLaDA with LoRA and PRISM's quality head | a PEFT adapter, for `AutoPeftModelForPrism` |
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from prism_hf.data.sudoku.tokenizer import SudokuTokenizer
from prism_hf.generation import RemaskGenerationConfig
from prism_hf.models.checkpoint.loading import ADAPTER_WEIGHTS, MODEL_WEIGHTS
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion, MdlmOutputLayer
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.models.prism.convert_lightning_checkpoint import (
    VOCABULARIES,
    StateDict,
    convert_lightning_checkpoint,
    count_blocks,
    critic_config,
    is_critic,
)
from prism_hf.models.prism.convert_llada_checkpoint import (
    BASE_MODEL,
    convert_llada_checkpoint,
    is_llada_checkpoint,
    write_adapter,
)

from .checkpoint.files import open_checkpoint

Model = TypeVar("Model", bound=PreTrainedModel)
LIGHTNING_OPTIONS, LLADA_OPTIONS = ("no_ema", "mask_token_id"), ("base_model", "lora_alpha")


def build(model_class: type[Model], config: PreTrainedConfig, weights: StateDict) -> Model:
    """The model of these weights, which it takes over without a copy."""
    with torch.device("meta"):
        model = model_class(config)
    model.load_state_dict(weights, assign=True)
    return model


def build_prism(backbone: StateDict, adapter: StateDict, config: MdlmConfig) -> PrismForMaskedDiffusion:
    """The model of a converted backbone and its quality head."""
    prism_config = PrismConfig(backbone_config=config, head_type="dit", head_num_blocks=count_blocks(adapter, ""))
    weights = {f"backbone.{key}": value for key, value in backbone.items()}
    weights |= {f"quality_head.{key}": value for key, value in adapter.items()}
    model = build(PrismForMaskedDiffusion, prism_config, weights)
    model.generation_config = RemaskGenerationConfig(remask_strategy="prism")  # as PrismTrainer does
    return model


def build_critic(adapter: StateDict, config: MdlmConfig) -> PrismForMaskedDiffusion:
    """The critic of a converted adapter: a transformer under a head without blocks. It has no LM head, so zeros serve.

    `config` is that of the model whose drafts it judges.
    """
    config = critic_config(adapter, config)
    weights = {}
    for key, value in adapter.items():
        part = "quality_head." if key.startswith("output_layer.") else "backbone.backbone."
        weights[part + key] = value
    weights["quality_head.rotary_emb.inv_freq"] = adapter["rotary_emb.inv_freq"].clone()
    for key, value in MdlmOutputLayer(config, config.vocab_size).state_dict().items():
        weights[f"backbone.backbone.output_layer.{key}"] = torch.zeros_like(value)
    prism_config = PrismConfig(backbone_config=config, head_type="dit", head_num_blocks=0)
    return build(PrismForMaskedDiffusion, prism_config, weights)


def save_tokenizer(config: Any, folder: Path) -> str:
    """Save the tokenizer of a published model into its folder, where it can be had. Returns what happened, in words."""
    known = VOCABULARIES.get(config.vocab_size)
    if known is None or known.tokenizer is None or known.mask_token_id != config.mask_token_id:
        return f"no tokenizer: none is known for {config.vocab_size} tokens with mask token {config.mask_token_id}"
    if known.tokenizer == "sudoku":
        SudokuTokenizer().save_pretrained(folder)
        return "with its prism_hf.data.SudokuTokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(known.tokenizer, local_files_only=True)
    except (OSError, ValueError):
        return (
            f"no tokenizer: it is that of {known.tokenizer} with mask token {known.mask_token_id}, which is not in "
            "the local cache of the Hub. Download it and convert again, or load it apart"
        )
    if tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": "[MASK]"})  # the next free id
    if tokenizer.mask_token_id != known.mask_token_id:
        return f"no tokenizer: that of {known.tokenizer} here has mask token {tokenizer.mask_token_id}"
    tokenizer.save_pretrained(folder)
    return f"with the tokenizer of {known.tokenizer}"


def save_model(model: PreTrainedModel, folder: Path) -> None:
    """Save a model with the tokenizer of its vocabulary, and say so."""
    model.save_pretrained(folder)
    config = model.config.backbone_config if isinstance(model, PrismForMaskedDiffusion) else model.config
    tokenizer = save_tokenizer(config, folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"Wrote {folder}: a {type(model).__name__} of {parameters / 1e6:.1f}M parameters, mask token "
        f"{config.mask_token_id}, {tokenizer}."
    )


def convert_lightning(args: argparse.Namespace) -> None:
    """Write what a Lightning checkpoint holds: an MDLM, a PRISM model, or a critic and its denoiser."""
    backbone, adapter, config = convert_lightning_checkpoint(
        args.checkpoint, use_ema=not args.no_ema, mask_token_id=args.mask_token_id
    )
    if is_critic(adapter):
        save_model(build_critic(adapter, config), args.output)
        save_model(build(MdlmForMaskedDiffusion, config, backbone), args.output / "denoiser")
    elif adapter is not None:
        save_model(build_prism(backbone, adapter, config), args.output)
    else:
        save_model(build(MdlmForMaskedDiffusion, config, backbone), args.output)


def convert_llada(args: argparse.Namespace) -> None:
    """Write the adapter that a checkpoint of the LLaDA trainer holds."""
    weights, config = convert_llada_checkpoint(args.checkpoint, args.base_model or BASE_MODEL, args.lora_alpha)
    write_adapter(weights, config, args.output)
    modules = ", ".join(sorted(config.target_modules))
    print(
        f"Wrote {args.output}: a LoRA adapter of rank {config.r}, alpha {config.lora_alpha}, on {modules} of "
        f"{config.base_model_name_or_path}, with its quality head."
    )


def check_output(output: Path, is_adapter: bool) -> None:
    """Raise ValueError unless a model, or an adapter, can be written to the folder `output`."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"{existing} is a file: give a folder to write to.")
    if not os.access(existing, os.W_OK):
        raise ValueError(f"{existing} cannot be written to: give another folder.")
    other = [name for name in (MODEL_WEIGHTS if is_adapter else ADAPTER_WEIGHTS) if (output / name).exists()]
    if other:
        raise ValueError(
            f"{output} has {other[0]}: a model and an adapter in one folder could not be told apart. Give another one."
        )


def check_options(args: argparse.Namespace, foreign: tuple[str, ...]) -> None:
    """Raise ValueError if an option is given that says nothing about this kind of file."""
    if given := [f"--{name.replace('_', '-')}" for name in foreign if vars(args)[name] not in (None, False)]:
        raise ValueError(f"{', '.join(given)} says nothing about a file like {args.checkpoint}: leave it out.")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m prism_hf.models.convert_checkpoint",
        description="Convert a checkpoint of MDLM, PRISM, Token-Critic or the PRISM authors' LLaDA trainer.",
    )
    parser.add_argument("checkpoint", type=Path, help="the .ckpt or pytorch_model.bin file, an index or a folder")
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--no-ema", action="store_true", help=".ckpt: the raw weights, not their moving average")
    parser.add_argument("--mask-token-id", type=int, help=".ckpt: id of the mask token, where it is another one")
    parser.add_argument("--base-model", help=f"LLaDA: name or folder of the base ({BASE_MODEL})")
    parser.add_argument("--lora-alpha", type=int, help="LLaDA: LoRA's alpha, which the file lacks (the rank)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Convert the checkpoint that the command line names."""
    args = parse(arguments)
    try:
        file = open_checkpoint(args.checkpoint)
        is_llada = is_llada_checkpoint(file.data)
        check_options(args, LIGHTNING_OPTIONS if is_llada else LLADA_OPTIONS)
        check_output(args.output, is_adapter=is_llada)
        print(f"Reading {args.checkpoint} ({file.size / 2**20:.1f} MiB) ...")
        del file
        (convert_llada if is_llada else convert_lightning)(args)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
