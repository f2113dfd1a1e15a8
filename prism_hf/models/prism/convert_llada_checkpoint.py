"""The PRISM authors' LLaDA checkpoints (`pytorch_model.bin`), as plain PEFT adapters.

Their trainer saves the whole model: LLaDA's weights, which the adapter leaves out, LoRA's and the quality head's.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from prism_hf.fields import Positive, check_value
from prism_hf.generation import RemaskGenerationConfig
from prism_hf.hub import base_from
from prism_hf.models.checkpoint.files import by_name, open_checkpoint
from prism_hf.models.checkpoint.plain_pickle import StoredTensor
from prism_hf.models.llada.modeling_llada import BLOCK_NAMES

BASE_MODEL = "GSAI-ML/LLaDA-8B-Instruct"
PUBLISHED_DROPOUT = 0.1
HEAD = "remasking_head."
HEAD_NAMES = {"norm": "norm", "proj1": "dense", "proj2": "linear"}
LORA = re.compile(
    r"backbone\.base_model\.model\.model\.transformer\.blocks\.(\d+)\.(\w+)\.lora_([AB])\.(?:\w+\.)?weight"
)


def is_llada_checkpoint(data: Any) -> bool:
    """Whether a file's content is a checkpoint of the PRISM authors' LLaDA trainer."""
    is_flat = isinstance(data, dict) and all(isinstance(key, str) for key in data)
    return is_flat and any(f".{HEAD}" in f".{key}" for key in data)


def convert_llada_checkpoint(
    path: str | Path, base_model: str = BASE_MODEL, lora_alpha: int | None = None
) -> tuple[dict[str, torch.Tensor], LoraConfig]:
    """Read LoRA's weights and the quality head of a checkpoint; LLaDA's own weights are not read.

    Args:
        path (`str` or `Path`): The `pytorch_model.bin` file, or what else `open_checkpoint` opens.
        base_model (`str`, *optional*, defaults to `"GSAI-ML/LLaDA-8B-Instruct"`): Name or folder of the LLaDA that was
            trained, for the adapter's config.
        lora_alpha (`int`, *optional*): Is not in the file; the rank of each module if None, as published.

    Returns:
        The adapter's weights under PEFT's names, and its config.

    Raises:
        ValueError: naming the file, if it is damaged, holds no LoRA or no quality head, or not those of one config; or
            for an alpha that is not positive.
    """
    check_value("lora_alpha", lora_alpha, Positive | None)
    file = open_checkpoint(path)
    try:
        if not is_llada_checkpoint(file.data):
            raise ValueError(f"no checkpoint of the PRISM authors' LLaDA trainer: it has no '{HEAD}' weights.")
        data = by_name(file.data, ("backbone.", HEAD))
        lora, ranks = lora_weights(data)
        head = head_weights(data)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rank = max(ranks.values(), key=list(ranks.values()).count)
    others = {module: each for module, each in ranks.items() if each != rank}
    config = LoraConfig(
        r=rank,
        lora_alpha=rank if lora_alpha is None else lora_alpha,
        rank_pattern=others,
        alpha_pattern=others if lora_alpha is None else {},
        lora_dropout=PUBLISHED_DROPOUT,
        target_modules=sorted({name.split(".")[-3] for name in lora}),
        modules_to_save=["quality_head"],
        base_model_name_or_path=str(base_model),
        auto_mapping={"head_type": "mlp", "head_num_blocks": 0},
        inference_mode=True,
    )
    return file.read(lora | head), config


def lora_weights(data: dict[str, Any]) -> tuple[dict[str, StoredTensor], dict[str, int]]:
    """LoRA's tensors under PEFT's names, and the rank of each module. ValueError unless each block has the same."""
    pairs: dict[tuple[int, str], dict[str, StoredTensor]] = {}
    for key, value in data.items():
        if ".lora_" not in key:
            continue
        match = LORA.fullmatch(key)
        if match is None or match[2] not in BLOCK_NAMES or not isinstance(value, StoredTensor):
            raise ValueError(f"{key!r} is no LoRA matrix of a linear layer in LLaDA's blocks; no other is supported.")
        pair = pairs.setdefault((int(match[1]), match[2]), {})
        if match[3] in pair:
            raise ValueError(f"{key!r}: the file holds several adapters. Save the one to convert alone.")
        pair[match[3]] = value
    modules = {module for _, module in pairs}
    blocks = range(1 + max((block for block, _ in pairs), default=-1))
    missing = [f"{block}.{module}" for block in blocks for module in modules if len(pairs.get((block, module), {})) < 2]
    if not pairs or missing:
        raise ValueError(f"no whole LoRA adapter; missing in blocks: {missing[:5] or 'all'}.")
    ranks = {}
    for (block, module), pair in pairs.items():
        (rank, *_), (*_, also) = (tuple(pair[part].shape) for part in "AB")
        if rank != also or len(pair["A"].shape) != 2 or len(pair["B"].shape) != 2:
            raise ValueError(
                f"the LoRA matrices of {block}.{module} are of two ranks, {rank} and {also}, or no matrices."
            )
        ranks[f"layers.{block}.{BLOCK_NAMES[module]}"] = rank
    names = {
        f"base_model.model.backbone.model.layers.{block}.{BLOCK_NAMES[module]}.lora_{part}.weight": value
        for (block, module), pair in pairs.items()
        for part, value in pair.items()
    }
    return names, ranks


def head_weights(data: dict[str, Any]) -> dict[str, StoredTensor]:
    """The quality head's tensors under PEFT's names. ValueError unless they are those of an `mlp` head."""
    found = {key.removeprefix(HEAD): value for key, value in data.items() if key.startswith(HEAD)}
    expected = {f"{name}.{kind}" for name in HEAD_NAMES for kind in ("weight", "bias")}
    if found.keys() != expected:
        raise ValueError(f"the quality head has {sorted(found)[:8]}, where {sorted(expected)} are expected.")
    weights = {}
    for key, value in found.items():
        name, kind = key.split(".")
        weights[f"base_model.model.quality_head.{HEAD_NAMES[name]}.{kind}"] = value
    return weights


def write_adapter(weights: dict[str, torch.Tensor], config: LoraConfig, folder: str | Path) -> None:
    """Write an adapter as PEFT does, with generation settings by which it corrects itself."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    base = base_from(config.base_model_name_or_path, Path(folder), public=False)
    replace(config, base_model_name_or_path=base).save_pretrained(str(folder))
    save_file(weights, Path(folder) / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    RemaskGenerationConfig(remask_strategy="prism").save_pretrained(folder)
