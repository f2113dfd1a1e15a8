"""One LoRA step of PRISM on LLaDA-8B's shape in bfloat16, on a CPU: its time, its peak memory and its loss.

    python scripts/step_8b.py
    python scripts/step_8b.py --layers 2 --width 64 --heads 4 --mlp-width 96 --vocabulary 512 --rank 4

The weights are random: nothing is downloaded, and no second copy of them is ever made. It trains as
recipes/configs/llada_8b_opc.yaml does: LoRA r=256 on q, k and v, the quality head, activations checkpointed. It takes
minutes and about 21 GiB, and says how much before it starts. Linux only, as it reads memory from /proc.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from estimate_memory import estimate_memory
from peft import LoraConfig
from torch import nn

from prism_hf import (
    LladaConfig,
    LladaForMaskedDiffusion,
    PrismConfig,
    PrismForMaskedDiffusion,
    PrismTrainer,
    PrismTrainingArguments,
)

GIB = 2**30
# Python with its libraries, and one large weight rearranged for a matrix product.
OVERHEAD = 2 * GIB
FILL = 1_000_003  # no multiple of a row, so that no two rows are alike


def memory(file: str, field: str) -> int:
    """A line of a file of /proc in bytes: VmHWM of self/status is the peak so far."""
    for line in Path("/proc", file).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/{file}")


@torch.no_grad()
def random_backbone(config: LladaConfig) -> LladaForMaskedDiffusion:
    """The model in bfloat16, filled in place: matrices with one block of noise over and over, norms with ones."""
    with torch.device("meta"):
        model = LladaForMaskedDiffusion._from_config(config, dtype=torch.bfloat16)
    model.to_empty(device="cpu")
    noise = torch.empty(FILL, dtype=torch.bfloat16).normal_(
        std=config.init_std, generator=torch.Generator().manual_seed(0)
    )
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        for piece in parameter.view(-1).split(FILL):
            piece.copy_(noise[: len(piece)])
    return model


def build_trainer(backbone: nn.Module, args: PrismTrainingArguments, lora: LoraConfig, length: int) -> PrismTrainer:
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config), backbone)
    tokens = torch.randint(
        backbone.config.vocab_size - 200, (length,), generator=torch.Generator().manual_seed(1)
    )  # no special one
    return PrismTrainer(model, args, train_dataset=[{"input_ids": tokens}], peft_config=lora)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--mlp-width", type=int, default=12288)
    parser.add_argument("--vocabulary", type=int, default=126464, help="tokens, 200 or more of them special")
    parser.add_argument("--rank", type=int, default=256, help="of LoRA")
    parser.add_argument("--length", type=int, default=64, help="tokens of the one sequence")
    options = parser.parse_args()
    last = options.vocabulary - 1
    config = LladaConfig(
        d_model=options.width,
        n_layers=options.layers,
        n_heads=options.heads,
        mlp_hidden_size=options.mlp_width,
        vocab_size=options.vocabulary,
        mask_token_id=min(126336, last),
        eos_token_id=min(126081, last - 1),
        pad_token_id=min(126081, last - 1),
    )
    lora = LoraConfig(
        r=options.rank, lora_alpha=options.rank, lora_dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj"]
    )
    with tempfile.TemporaryDirectory() as folder:
        args = PrismTrainingArguments(
            folder,
            per_device_train_batch_size=1,
            max_steps=1,
            logging_steps=1,
            num_draft_tokens=8,
            draft_do_sample=False,
            unmasking_weight=0.5,
            min_timestep=0.5,
            learning_rate=1e-4,
            bf16=True,
            activation_checkpointing=True,
            save_strategy="no",
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        plan = estimate_memory(config, args, options.length, dtype="bfloat16", peft_config=lora)
        print("GiB planned at the peak, all tokens masked:")
        for name, size in plan.peak.items():
            print(f"  {name:18}{size / GIB:8.2f}")
        needed, available = plan.total + OVERHEAD, memory("meminfo", "MemAvailable")
        print(f"  {'libraries, products':18}{OVERHEAD / GIB:7.2f}\n  {'together':18}{needed / GIB:8.2f}")
        if needed > available:
            raise SystemExit(
                f"This machine has {available / GIB:.1f} GiB available and the step needs {needed / GIB:.1f}: end "
                "other programs, or pass fewer --layers."
            )
        began = time.perf_counter()
        backbone = random_backbone(config)
        weights = backbone.num_parameters()
        trainer = build_trainer(backbone, args, lora, options.length)
        trained = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
        built = time.perf_counter()
        print(f"built in {built - began:.0f} s: {weights:,} weights and {trained:,} trained", flush=True)
        trainer.train()
        seconds = time.perf_counter() - built
    logged = trainer.state.log_history[0]
    peak = memory("self/status", "VmHWM")
    print(
        f"one step in {seconds:.1f} s on {torch.get_num_threads()} threads, peak {peak / GIB:.2f} GiB; loss "
        f"{logged['loss']:.4f} (unmasking {logged['unmasking_loss']:.4f}, quality {logged['quality_loss']:.4f}), "
        f"gradient norm {logged['grad_norm']:.4f}"
    )


if __name__ == "__main__":
    main()
