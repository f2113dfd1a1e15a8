"""Public Lightning checkpoints of MDLM, PRISM and Token-Critic, as state dicts of this package's models.

The command that writes them as a folder is `prism_hf.models.convert_checkpoint`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from transformers.utils import logging

from prism_hf.fields import Allowed, Share, fits
from prism_hf.models.checkpoint.files import by_name, open_checkpoint
from prism_hf.models.checkpoint.plain_pickle import Inert, StoredTensor, describe
from prism_hf.models.checkpoint.torch_file import check_tensors
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion, MdlmModel, MdlmOutputLayer

from .quality_heads import MdlmQualityHead

logger = logging.get_logger(__name__)

BACKBONE, ADAPTER = "backbone.", "adapter."

StateDict = dict[str, torch.Tensor]
StoredDict = dict[str, StoredTensor]


@dataclass(frozen=True)
class Vocabulary:
    """What the size of a published model's vocabulary tells: its tokenizer, its mask token and the model's length."""

    tokenizer: str | None  # on the Hub, or "sudoku"
    mask_token_id: int
    model_length: int


# Where the hyper-parameters tell what shapes do not, and what is believed of it.
HYPER_PARAMETERS = {
    "model_length": ("config.model.length", Annotated[int, Allowed(min=1, below=2**31)]),
    "dropout": ("config.model.dropout", Share),
    "time_conditioning": ("config.time_conditioning", bool),
    "mask_token_id": ("tokenizer.mask_token_id", Annotated[int, Allowed(min=0, below=2**31)]),
}

VOCABULARIES = {
    11: Vocabulary("sudoku", mask_token_id=0, model_length=89),  # 0 is a blank, 10 ends a row
    35: Vocabulary(None, mask_token_id=4, model_length=256),  # text8's characters
    30522: Vocabulary("bert-base-uncased", mask_token_id=103, model_length=128),
    50258: Vocabulary("gpt2", mask_token_id=50257, model_length=1024),  # GPT-2's tokens, then the mask
}


def convert_lightning_checkpoint(
    path: str | Path, config: MdlmConfig | None = None, use_ema: bool = True, mask_token_id: int | None = None
) -> tuple[StateDict, StateDict | None, MdlmConfig]:
    """Read a Lightning checkpoint of MDLM, PRISM or Token-Critic. Nothing in it is run, and no other tensor is read.

    Args:
        path (`str` or `Path`): The `.ckpt` file.
        config (`MdlmConfig`, *optional*): The backbone's shape. If None it is read off the tensors' shapes; what they
            do not tell (`model_length`, `dropout`, `time_conditioning`) off the hyper-parameters, where the file has
            them.
        use_ema (`bool`, *optional*, defaults to `True`): Take the averaged weights. `ema.shadow_params` is a list
            without names, in parameter order, that covers the backbone, the backbone and then the adapter, or the
            adapter alone (where the backbone was frozen); parameters that it does not cover, and buffers, come from
            `state_dict`.
        mask_token_id (`int`, *optional*): Of a config that is read off the file. If None it is the tokenizer's in the
            hyper-parameters, else that of the published model with this size of vocabulary, else the last id, with a
            warning.

    Returns:
        The backbone's state dict with its `backbone.` prefix, ready for `MdlmForMaskedDiffusion`; the adapter's
        without its prefix, ready for `MdlmQualityHead`, or a whole critic (see `is_critic`), or None where there is
        none; and the backbone's config.

    Raises:
        ValueError: naming the file, if it holds no MDLM weights or is damaged, if keys or shapes differ from those of
            `config`, or if the EMA list does not match the parameters.
    """
    file = open_checkpoint(path)
    try:
        backbone, adapter = split_state_dict(file.data)
        check_tensors(backbone | adapter, file.size)
        if config is None:
            config = infer_config(backbone, BACKBONE, read_settings(file.data), mask_token_id)
        check_weights(backbone, adapter, config)
        if use_ema:
            averaged = match_shadow_params(file.data.get("ema"), backbone, adapter)
            backbone = {key: averaged.get(key, value) for key, value in backbone.items()}
            adapter = {key: averaged.get(key, value) for key, value in adapter.items()}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    tensors = file.read(backbone | adapter)
    head = {key.removeprefix(ADAPTER): tensors[key] for key in adapter}
    return {key: tensors[key] for key in backbone}, head or None, config


def split_state_dict(data: Any) -> tuple[StoredDict, StoredDict]:
    """The backbone's and the adapter's tensors of a Lightning checkpoint, under their names in it."""
    if not isinstance(data, dict) or not isinstance(data.get("state_dict"), dict):
        found = [str(key)[:50] for key in list(data)[:10]] if isinstance(data, dict) else describe(data)
        raise ValueError(
            "no Lightning checkpoint, which has an entry 'state_dict', and none of the LLaDA trainer, with weights "
            f"under 'remasking_head.': found {found}."
        )
    state_dict = by_name(data["state_dict"], (BACKBONE, ADAPTER))
    kept = {key: value for key, value in state_dict.items() if key.startswith((BACKBONE, ADAPTER))}
    if other := [key for key in state_dict if key not in kept]:
        logger.warning(f"{len(other)} entries that are not weights of MDLM or its adapter are left out: {other[:5]}")
    return (
        {key: value for key, value in kept.items() if key.startswith(BACKBONE)},
        {key: value for key, value in kept.items() if key.startswith(ADAPTER)},
    )


def is_critic(adapter: dict | None) -> bool:
    """Whether an adapter, its prefix removed, is a Token-Critic: a transformer with an embedding of its own."""
    return adapter is not None and "vocab_embed.embedding" in adapter


def critic_config(adapter: dict, config: MdlmConfig) -> MdlmConfig:
    """The config of a critic (see `is_critic`) of the model that `config` describes."""
    settings = {
        "model_length": config.model_length,
        "dropout": config.dropout,
        "time_conditioning": config.time_conditioning,
    }
    return infer_config(adapter, "", settings, config.mask_token_id)


def infer_config(weights: dict, prefix: str, settings: dict[str, Any], mask_token_id: int | None) -> MdlmConfig:
    """Read the model's shape off its tensors; `settings` are fields that shapes do not tell."""
    needed = [f"{prefix}{name}" for name in ("vocab_embed.embedding", "sigma_map.mlp.2.weight", "rotary_emb.inv_freq")]
    if missing := [key for key in needed if key not in weights]:
        raise ValueError(f"no MDLM weights: {missing} not in 'state_dict'. Pass a checkpoint of MDLM or PRISM's DiT.")
    shapes = [tuple(weights[key].shape) for key in needed]
    if [len(shape) for shape in shapes] != [2, 2, 1] or not all(sum(shapes, ())):
        raise ValueError(f"no MDLM weights: {needed} have shapes {shapes}, not those of matrices and a list.")
    (vocab_size, hidden_dim), (cond_dim, _), (num_frequencies,) = shapes
    known = VOCABULARIES.get(vocab_size)
    if mask_token_id is None:
        mask_token_id = settings.get("mask_token_id", known.mask_token_id if known else None)
    if mask_token_id is None:
        mask_token_id = vocab_size - 1
        logger.warning(
            f"No published model has a vocabulary of {vocab_size} tokens; the last one, {mask_token_id}, is taken for "
            "the mask token. If that is another, say so (mask_token_id, --mask-token-id)."
        )
    lengths = {"model_length": known.model_length} if known else {}
    return MdlmConfig(
        vocab_size=vocab_size,
        hidden_dim=hidden_dim,
        cond_dim=cond_dim,
        n_blocks=count_blocks(weights, prefix),
        n_heads=hidden_dim // (2 * num_frequencies),
        **lengths | settings | {"mask_token_id": mask_token_id},
    )


def read_settings(data: dict) -> dict[str, Any]:
    """What the hyper-parameters (an OmegaConf object and a tokenizer, here inert) tell beside the shapes."""
    found = {name: hyper_parameter(data, path) for name, (path, _) in HYPER_PARAMETERS.items()}
    return {name: value for name, value in found.items() if fits(value, HYPER_PARAMETERS[name][1])}


def hyper_parameter(data: dict, path: str) -> Any:
    """The value at a dotted path in the hyper-parameters of a checkpoint, or None."""
    value = data.get("hyper_parameters")
    for name in path.split("."):
        contents = value.state if isinstance(value, Inert) else value
        contents = contents.get("_content", contents) if isinstance(contents, dict) else {}  # of a DictConfig
        value = contents.get(name) if isinstance(contents, dict) else None
    if isinstance(value, Inert) and isinstance(value.state, dict):
        value = value.state.get("_val")  # of a node of OmegaConf
    return value


def count_blocks(weights: dict, prefix: str) -> int:
    """Number of transformer blocks under `prefix`."""
    return len({match[1] for key in weights if (match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))})


def check_weights(backbone: StoredDict, adapter: StoredDict, config: MdlmConfig) -> None:
    """Raise ValueError unless the tensors are those of `config`'s backbone and of a quality head or critic on it."""
    plain_adapter = {key.removeprefix(ADAPTER): value for key, value in adapter.items()}
    with torch.device("meta"):
        check_layout(backbone, MdlmForMaskedDiffusion(config).state_dict(), "backbone")
        if is_critic(plain_adapter):
            config = critic_config(plain_adapter, config)
            critic = MdlmModel(config)
            critic.output_layer = MdlmOutputLayer(config, 1)
            check_layout(plain_adapter, critic.state_dict(), "critic")
        elif adapter:
            head = MdlmQualityHead(config, count_blocks(adapter, ADAPTER))
            check_layout(adapter, {ADAPTER + key: value for key, value in head.state_dict().items()}, "adapter")


def check_layout(found: dict, expected: StateDict, part: str) -> None:
    """ValueError unless both have the same keys and shapes."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = {
        key: (tuple(found[key].shape), tuple(value.shape))
        for key, value in expected.items()
        if key in found and tuple(found[key].shape) != tuple(value.shape)
    }
    if missing or unexpected or shapes:
        raise ValueError(
            f"the {part} does not fit the config: missing {missing[:5]}, unexpected {unexpected[:5]}, shapes (found, "
            f"expected) {dict(list(shapes.items())[:5])}. Pass the MdlmConfig the checkpoint was trained with, or none "
            "to read it off the shapes."
        )


def match_shadow_params(ema: Any, backbone: StoredDict, adapter: StoredDict) -> StoredDict:
    """Name the EMA's nameless parameters, by position and shape.

    A state dict lists parameters in parameter order with buffers (here `inv_freq` only) between them.
    """
    remedy = "Pass use_ema=False (--no-ema) to convert the raw weights."
    if not isinstance(ema, dict) or not isinstance(ema.get("shadow_params"), list | tuple):
        raise ValueError(f"the checkpoint has no 'ema' entry with a list 'shadow_params'. {remedy}")
    shadow = ema["shadow_params"]
    backbone_keys, adapter_keys = (
        [key for key in part if not key.endswith("inv_freq")] for part in (backbone, adapter)
    )
    covered = [keys for keys in (backbone_keys, backbone_keys + adapter_keys, adapter_keys) if len(keys) == len(shadow)]
    if not covered:
        raise ValueError(
            f"the EMA has {len(shadow)} parameters; the backbone has {len(backbone_keys)} and the adapter "
            f"{len(adapter_keys)}. {remedy}"
        )
    weights = backbone | adapter
    for keys in covered:
        shapes = [value.shape if isinstance(value, StoredTensor) else None for value in shadow]
        wrong = [position for position, key in enumerate(keys) if shapes[position] != weights[key].shape]
        if not wrong:
            return dict(zip(keys, shadow, strict=True))
    found = shadow[wrong[0]]
    found = f"shape {found.shape}" if isinstance(found, StoredTensor) else f"no shape but is {describe(found)}"
    raise ValueError(
        f"EMA parameter {wrong[0]} has {found}, where {keys[wrong[0]]} has {weights[keys[wrong[0]]].shape}. {remedy}"
    )
