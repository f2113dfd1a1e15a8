"""Convert a public Lightning checkpoint of MDLM or PRISM to the Hub layout.

    python -m prism_hf.models.mdlm.convert_mdlm_checkpoint in.ckpt out_dir

Writes `config.json` and `model.safetensors`: a `PrismForMaskedDiffusion` where the checkpoint has a quality head, else
an `MdlmForMaskedDiffusion`.
"""

import argparse
import pickle
import re
from pathlib import Path

import torch
from transformers.utils import logging

from .configuration_mdlm import MdlmConfig
from .modeling_mdlm import MdlmForMaskedDiffusion, MdlmQualityHead

logger = logging.get_logger(__name__)

BACKBONE, ADAPTER = "backbone.", "adapter."

StateDict = dict[str, torch.Tensor]


def convert_lightning_checkpoint(
    path: str | Path, config: MdlmConfig | None = None, use_ema: bool = True
) -> tuple[StateDict, StateDict | None, MdlmConfig]:
    """Read a Lightning checkpoint of MDLM or PRISM.

    Args:
        path: the `.ckpt` file, unpickled with `weights_only=True`.
        config: the model's shape. If None it is read off the tensors' shapes; what shapes do not tell
            (`model_length`, `dropout`, `time_conditioning`, `mask_token_id`) then has `MdlmConfig`'s defaults.
        use_ema: take the averaged weights. `ema.shadow_params` is a list without names, in parameter order, that
            covers the backbone and perhaps the adapter after it; parameters that it does not cover, and buffers,
            come from `state_dict`.

    Returns:
        The backbone's state dict with its `backbone.` prefix, ready for `MdlmForMaskedDiffusion`; the adapter's
        without its prefix, ready for `MdlmQualityHead`, or None where there is no adapter; and the config.

    Raises:
        ValueError: if the file holds pickled objects or no MDLM weights, if keys or shapes differ from those of
            `config`, or if the EMA list does not match the parameters.
    """
    checkpoint = load_tensors(path)
    state_dict = checkpoint["state_dict"]
    backbone = {key: value for key, value in state_dict.items() if key.startswith(BACKBONE)}
    adapter = {key: value for key, value in state_dict.items() if key.startswith(ADAPTER)}
    if other := [key for key in state_dict if not key.startswith((BACKBONE, ADAPTER))]:
        logger.warning(
            f"{path}: {len(other)} entries that are not weights of MDLM or its adapter are left out: {other}"
        )

    if config is None:
        config = infer_config(backbone)
    with torch.device("meta"):
        check_layout(backbone, MdlmForMaskedDiffusion(config).state_dict(), "backbone")
        if adapter:
            head = MdlmQualityHead(config, count_blocks(adapter, ADAPTER)).state_dict()
            check_layout(adapter, {ADAPTER + key: value for key, value in head.items()}, "adapter")

    if use_ema:
        averaged = match_shadow_params(checkpoint.get("ema"), backbone, adapter)
        backbone = {key: averaged.get(key, value) for key, value in backbone.items()}
        adapter = {key: averaged.get(key, value) for key, value in adapter.items()}
    adapter = {key.removeprefix(ADAPTER): value for key, value in adapter.items()}
    return backbone, adapter or None, config


def load_tensors(path: str | Path) -> dict:
    """Unpickle tensors and plain containers only; ValueError for a file that needs more than that."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds pickled Python objects, which could run code when loaded ({error}). If you trust its "
            "source, load it once with weights_only=False and torch.save only its 'state_dict' and 'ema' entries."
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        found = sorted(map(str, checkpoint)) if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(f"{path} is no Lightning checkpoint: expected an entry 'state_dict', found {found}.")
    return checkpoint


def infer_config(backbone: StateDict) -> MdlmConfig:
    """Read the model's shape off its tensors."""
    needed = [
        f"{BACKBONE}{name}" for name in ("vocab_embed.embedding", "sigma_map.mlp.2.weight", "rotary_emb.inv_freq")
    ]
    if missing := [key for key in needed if key not in backbone]:
        raise ValueError(f"no MDLM weights: {missing} not in 'state_dict'. Pass a checkpoint of MDLM or PRISM's DiT.")
    embedding, sigma_weight, inv_freq = (backbone[key] for key in needed)
    vocab_size, hidden_dim = embedding.shape
    return MdlmConfig(
        vocab_size=vocab_size,
        hidden_dim=hidden_dim,
        cond_dim=sigma_weight.shape[0],
        n_blocks=count_blocks(backbone, BACKBONE),
        n_heads=hidden_dim // (2 * inv_freq.shape[0]),
    )


def count_blocks(state_dict: StateDict, prefix: str) -> int:
    """Number of transformer blocks under `prefix`."""
    return len({match[1] for key in state_dict if (match := re.match(rf"{re.escape(prefix)}blocks\.(\d+)\.", key))})


def check_layout(found: StateDict, expected: StateDict, part: str) -> None:
    """ValueError unless both have the same keys and shapes."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = {
        key: (tuple(found[key].shape), tuple(value.shape))
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    }
    if missing or unexpected or shapes:
        raise ValueError(
            f"the {part} does not fit the config: missing {missing}, unexpected {unexpected}, shapes (found, expected) "
            f"{shapes}. Pass the MdlmConfig the checkpoint was trained with, or none to read it off the shapes."
        )


def match_shadow_params(ema: dict | None, backbone: StateDict, adapter: StateDict) -> StateDict:
    """Name the EMA's nameless parameters, by position and shape.

    A state dict lists parameters in parameter order with buffers (here `inv_freq` only) between them.
    """
    remedy = "Pass use_ema=False (--no-ema) to convert the raw weights."
    if not ema or "shadow_params" not in ema:
        raise ValueError(f"the checkpoint has no 'ema' entry with 'shadow_params'. {remedy}")
    shadow = ema["shadow_params"]
    backbone_keys, adapter_keys = (
        [key for key in part if not key.endswith("inv_freq")] for part in (backbone, adapter)
    )
    if len(shadow) not in (len(backbone_keys), len(backbone_keys) + len(adapter_keys)):
        raise ValueError(
            f"the EMA has {len(shadow)} parameters; the backbone has {len(backbone_keys)} and the adapter "
            f"{len(adapter_keys)}. {remedy}"
        )
    named = dict(zip(backbone_keys + adapter_keys, shadow, strict=False))
    for position, (key, value) in enumerate(named.items()):
        expected = (backbone if key in backbone else adapter)[key].shape
        if value.shape != expected:
            raise ValueError(
                f"EMA parameter {position} has shape {tuple(value.shape)}, where {key} has {tuple(expected)}. {remedy}"
            )
    return named


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Convert a Lightning checkpoint of MDLM or PRISM to the Hub layout.")
    parser.add_argument("checkpoint", type=Path, help="the .ckpt file")
    parser.add_argument("output", type=Path, help="folder to write the model to")
    parser.add_argument("--no-ema", action="store_true", help="convert the raw weights, not their moving average")
    parser.add_argument("--mask-token-id", type=int, help="id of the mask token, if it is not the vocabulary's last")
    args = parser.parse_args(arguments)

    backbone, adapter, config = convert_lightning_checkpoint(args.checkpoint, use_ema=not args.no_ema)
    if args.mask_token_id is not None:
        config = MdlmConfig(**{**config.to_dict(), "mask_token_id": args.mask_token_id})
    model = MdlmForMaskedDiffusion(config)
    model.load_state_dict(backbone)
    if adapter is not None:
        # Here and not above: the PRISM model is built on this package.
        from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

        num_blocks = count_blocks(adapter, "")
        prism_config = PrismConfig(backbone_config=config, head_type="dit", head_num_blocks=num_blocks)
        model = PrismForMaskedDiffusion(prism_config, model)
        model.quality_head.load_state_dict(adapter)
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
