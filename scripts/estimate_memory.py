"""Memory of PRISM fine-tuning on each GPU, before there is a GPU: what it holds at the peak, and which cards it fits.

    python scripts/estimate_memory.py --recipe recipes/configs/llada_8b_opc.yaml --batch-size 1 4 12
    python scripts/estimate_memory.py --lora-r 64 --load-in-4bit --gradient-checkpointing --length 1024
    python scripts/estimate_memory.py --check

Takes the shape of LLaDA-8B unless told otherwise; what is given here wins over the recipe. `--check` trains small
models on this machine and sets the peak memory that Linux saw beside the estimate, in about 2 minutes.
"""

import argparse
import copy
import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig

from prism_hf import PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments
from prism_hf.models.llada import LladaConfig
from prism_hf.models.prism import PrismConfig
from prism_hf.training.config_file import read_yaml
from prism_hf.training.memory import STRATEGIES, MemoryEstimate, estimate_memory

GIB = 2**30
CARDS = (24, 80)  # GiB
# What a card must have to spare: the CUDA context with the libraries' workspaces, and a share lost to fragmentation.
CONTEXT, FRAGMENTATION = 1.0 * GIB, 0.05
LLADA_8B = ("GSAI-ML/LLaDA-8B-Base", "GSAI-ML/LLaDA-8B-Instruct")
NF4 = {"load_in_4bit": True, "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": "bfloat16"}
TOLERANCE = 0.15
ATTENTION = ["q_proj", "k_proj", "v_proj"]
# The fields of PrismTrainingArguments that memory depends on.
ARGUMENTS = (
    "per_device_train_batch_size", "bf16", "activation_checkpointing", "activation_checkpointing_kwargs", "optim",
    "num_draft_tokens", "num_drafts", "draft_do_sample", "draft_top_p", "unmasking_weight", "freeze_backbone",
    "use_muon", "ema_decay",
)  # fmt: skip

LORA = {"r": 64, "lora_alpha": 64, "target_modules": ATTENTION}  # no dropout: a CPU keeps another mask than a GPU
# LLaDA's shapes in small, with what is trained and how: (d_model, layers, vocabulary, batch, length), settings.
CHECKPOINTING = {"activation_checkpointing": True}
CHECKS = {
    "all weights, float32": ((384, 6, 8192, 8, 128), {}),
    "all weights, float32, checkpointing": ((384, 6, 8192, 8, 128), CHECKPOINTING),
    "LoRA, float32": ((384, 6, 8192, 8, 128), {"peft": LORA}),
    "LoRA, float32, checkpointing": ((384, 6, 16384, 16, 128), {"peft": LORA} | CHECKPOINTING),
    "LoRA, bfloat16": ((384, 6, 8192, 8, 128), {"peft": LORA, "bf16": True}),
    "LoRA, bfloat16, checkpointing": ((384, 6, 16384, 16, 128), {"peft": LORA, "bf16": True} | CHECKPOINTING),
}


def load_config(name: str | None) -> PreTrainedConfig:
    """The backbone's config from a folder, a `config.json` or the Hub; LLaDA-8B's is known without a download."""
    if name is None or name in LLADA_8B:
        return LladaConfig()
    config = AutoConfig.from_pretrained(name)
    return config.backbone_config if isinstance(config, PrismConfig) else config


def settings_of(args: argparse.Namespace) -> dict:
    """Fields of the recipe, and over them what the command line says.

    Raises:
        ValueError: for a recipe that names no model, without --config.
    """
    if args.recipe is None:
        settings = {"dtype": "bfloat16", "bf16": True}
    else:
        settings = read_yaml(args.recipe)
        if args.config is None and "model_name_or_path" not in settings:
            raise ValueError(f"{args.recipe} names no model_name_or_path: pass --config.")
    if "gradient_checkpointing" in settings:  # transformers' older name
        settings["activation_checkpointing"] = settings.pop("gradient_checkpointing")
    given = {
        "model_name_or_path": args.config,
        "length": args.length,
        "activation_checkpointing": args.gradient_checkpointing,
        "per_device_train_batch_size": args.batch_size,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    if args.precision is not None:
        settings |= {"dtype": {"bf16": "bfloat16", "fp32": "float32"}[args.precision], "bf16": args.precision == "bf16"}
    if args.lora_r is not None:
        peft = {"target_modules": ATTENTION} | (settings.get("peft") or {}) | {"r": args.lora_r}
        settings["peft"] = peft if args.lora_r > 0 else None
    if args.load_in_4bit is not None:
        settings["quantization"] = (settings.get("quantization") or NF4) if args.load_in_4bit else None
    return settings


def estimate(settings: dict, batch_size: int, strategy: str = "ddp", num_gpus: int = 1) -> MemoryEstimate:
    arguments = {name: settings[name] for name in ARGUMENTS if name in settings}
    arguments |= {"per_device_train_batch_size": batch_size, "use_cpu": True, "report_to": "none"}
    peft = settings.get("peft")
    head = {name: settings[name] for name in ("head_type", "head_num_blocks") if name in settings}
    with tempfile.TemporaryDirectory() as folder:
        return estimate_memory(
            load_config(settings.get("model_name_or_path")),
            PrismTrainingArguments(folder, **arguments),
            settings.get("length", 1024),
            dtype=settings.get("dtype", "float32"),
            attn_implementation=settings.get("attn_implementation"),
            peft_config=None if peft is None else LoraConfig(**peft),
            quantization=settings.get("quantization"),
            strategy=strategy,
            num_gpus=num_gpus,
            **head,
        )


def print_estimates(estimates: dict[int, MemoryEstimate]) -> None:
    print("GiB on each GPU when most is in use; in brackets the most of one kind at any time, where that is more.")
    print("| sequences on a GPU |" + "".join(f" {batch_size} |" for batch_size in estimates))
    print("|---|" + "---|" * len(estimates))
    for name in next(iter(estimates.values())).peak:
        cells = []
        for estimate in estimates.values():
            peak, highest = (f"{part[name] / GIB:.2f}" for part in (estimate.peak, estimate.highest))
            cells.append(peak if peak == highest else f"{peak} ({highest})")
        if any(estimate.highest[name] for estimate in estimates.values()):
            print(f"| {name} | " + " | ".join(cells) + " |")
    print("| total | " + " | ".join(f"{estimate.total / GIB:.2f}" for estimate in estimates.values()) + " |")
    for card in CARDS:
        fits = (
            "yes" if CONTEXT + estimate.total * (1 + FRAGMENTATION) <= card * GIB else "no"
            for estimate in estimates.values()
        )
        print(f"| fits {card} GB | " + " | ".join(fits) + " |")
    print(f"To fit, {CONTEXT / GIB:.0f} GiB for the CUDA context and {FRAGMENTATION:.0%} for fragmentation are added.")


# Checking against what Linux saw


def check_settings(name: str, folder: str) -> dict:
    (d_model, n_layers, vocab_size, batch_size, length), settings = CHECKS[name]
    LladaConfig(
        d_model=d_model, n_layers=n_layers, n_heads=d_model // 64, mlp_hidden_size=3 * d_model, vocab_size=vocab_size,
        max_sequence_length=length, mask_token_id=vocab_size - 1, eos_token_id=0, pad_token_id=0,
    ).save_pretrained(folder)  # fmt: skip
    shape = {"model_name_or_path": folder, "length": length, "per_device_train_batch_size": batch_size}
    shape |= {"attn_implementation": "sdpa", "dtype": "bfloat16" if settings.get("bf16") else "float32"}
    return shape | settings


def memory(field: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/self/status")


def train(settings: dict, folder: str, config: PreTrainedConfig) -> None:
    """Two steps of `PrismTrainer`, nearly all masked, so that the second has optimiser states."""
    batch_size, length = settings["per_device_train_batch_size"], settings["length"]
    backbone = AutoModelForMaskedLM.from_config(
        config, dtype=getattr(torch, settings["dtype"]), attn_implementation=settings["attn_implementation"]
    )
    args = PrismTrainingArguments(
        folder, **{name: settings[name] for name in ARGUMENTS if name in settings}, max_steps=2, min_timestep=0.99,
        save_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True,
    )  # fmt: skip
    rows = torch.randint(config.vocab_size - 1, (2 * batch_size, length), generator=torch.Generator().manual_seed(0))
    PrismTrainer(
        PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(config)), backbone),
        args,
        peft_config=LoraConfig(**settings["peft"]) if "peft" in settings else None,
        train_dataset=[{"input_ids": row} for row in rows],
    ).train()


def measure(name: str) -> None:
    """Print the bytes that training takes at its peak, in this process; a small run before it loads the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        settings = check_settings(name, folder)
        config = load_config(folder)
        small = copy.deepcopy(config)
        small.d_model, small.n_heads, small.n_kv_heads, small.n_layers, small.mlp_hidden_size = 64, 1, 1, 2, 64
        small.vocab_size = small.embedding_size = 100
        small.mask_token_id = 99
        train(settings | {"length": 16}, folder, small)
        gc.collect()
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        train(settings, folder, config)
        print(json.dumps(memory("VmHWM") - before))


def check() -> None:
    """Raises SystemExit where an estimate is off by more than the tolerance."""
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    failed = []
    print("| trained | measured MiB | estimated MiB | error |\n|---|---|---|---|")
    for name in CHECKS:
        command = [sys.executable, __file__, "--measure", name]
        run = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        measured = json.loads(run.stdout.splitlines()[-1])
        with tempfile.TemporaryDirectory() as folder:
            settings = check_settings(name, folder)
            estimated = estimate(settings, settings["per_device_train_batch_size"]).total
        error = estimated / measured - 1
        print(f"| {name} | {measured / 2**20:.0f} | {estimated / 2**20:.0f} | {error:+.1%} |", flush=True)
        if abs(error) > TOLERANCE:
            failed.append(name)
    if failed:
        raise SystemExit(f"Off by more than {TOLERANCE:.0%}: {', '.join(failed)}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", help="YAML file of recipes/train_prism.py")
    parser.add_argument("--config", help="folder, config.json or Hub name of the backbone; LLaDA-8B if not given")
    parser.add_argument("--length", type=int, help="tokens of a sequence (1024)")
    parser.add_argument("--batch-size", type=int, nargs="+", help="sequences on a GPU; several give a column each (1)")
    parser.add_argument("--precision", choices=["bf16", "fp32"], help="of the loaded weights and of products (bf16)")
    parser.add_argument("--lora-r", type=int, help="rank of LoRA; 0 trains all weights, the default without a recipe")
    parser.add_argument("--load-in-4bit", action=argparse.BooleanOptionalAction, help="NF4 with double quantisation")
    parser.add_argument("--gradient-checkpointing", action=argparse.BooleanOptionalAction)
    parser.add_argument("--strategy", choices=STRATEGIES, default="ddp")
    parser.add_argument("--num-gpus", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="compare with measured peaks of small models; Linux only")
    parser.add_argument("--measure", choices=list(CHECKS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
    elif args.check:
        check()
    else:
        settings = settings_of(args)
        batch_sizes = settings.get("per_device_train_batch_size", 1)
        batch_sizes = batch_sizes if isinstance(batch_sizes, list) else [batch_sizes]
        print_estimates({size: estimate(settings, size, args.strategy, args.num_gpus) for size in batch_sizes})


if __name__ == "__main__":
    main()
