"""The estimate of memory against what training small models takes on this machine, as Linux saw it; about 2 minutes.

python scripts/check_memory.py
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
from estimate_memory import ARGUMENTS, ATTENTION, estimate, load_config, model_arguments_of
from transformers import AutoModelForMaskedLM, PreTrainedConfig
from trl import get_peft_config

from prism_hf import LladaConfig, PrismConfig, PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments
from prism_hf.diffusion.losses import CHUNK_ELEMENTS

TOLERANCE = 0.15
# No dropout: a CPU keeps another mask than a GPU.
LORA = {"use_peft": True, "lora_r": 64, "lora_alpha": 64, "lora_dropout": 0.0, "lora_target_modules": ATTENTION}
# LLaDA's shapes in small, with what is trained and how: (d_model, layers, vocabulary, batch, length), settings.
CHECKPOINTING = {"activation_checkpointing": True}
CHECKS = {
    "all weights, float32": ((384, 6, 8192, 8, 128), {}),
    "all weights, float32, checkpointing": ((384, 6, 8192, 8, 128), CHECKPOINTING),
    "LoRA, float32": ((384, 6, 8192, 8, 128), LORA),
    "LoRA, float32, checkpointing": ((384, 6, 16384, 16, 128), LORA | CHECKPOINTING),
    "LoRA, bfloat16": ((384, 6, 8192, 8, 128), LORA | {"bf16": True}),
    "LoRA, bfloat16, checkpointing": ((384, 6, 16384, 16, 128), LORA | {"bf16": True} | CHECKPOINTING),
}


def check_settings(name: str, folder: str) -> dict:
    (d_model, n_layers, vocab_size, batch_size, length), settings = CHECKS[name]
    LladaConfig(
        d_model=d_model,
        n_layers=n_layers,
        n_heads=d_model // 64,
        mlp_hidden_size=3 * d_model,
        vocab_size=vocab_size,
        max_sequence_length=length,
        mask_token_id=vocab_size - 1,
        eos_token_id=0,
        pad_token_id=0,
    ).save_pretrained(folder)
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
        folder,
        **{name: settings[name] for name in ARGUMENTS if name in settings},
        max_steps=2,
        min_timestep=0.99,
        save_strategy="no",
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    rows = torch.randint(config.vocab_size - 1, (2 * batch_size, length), generator=torch.Generator().manual_seed(0))
    PrismTrainer(
        PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(config)), backbone),
        args,
        peft_config=get_peft_config(model_arguments_of(settings)),
        train_dataset=[{"input_ids": row} for row in rows],
    ).train()


def measure(name: str) -> None:
    """Print the bytes that training takes at its peak, in this process; a small run before it loads the libraries."""
    CHUNK_ELEMENTS["cpu"] = CHUNK_ELEMENTS["cuda"]  # the estimate is of a GPU
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
    parser.add_argument("--measure", choices=list(CHECKS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
    else:
        check()


if __name__ == "__main__":
    main()
