"""One PRISM step, loss and gradients, against a plain implementation: time, peak memory and agreement.

    python scripts/bench_training.py

The plain implementation builds the logits of every position in both forwards and keeps both graphs, as one writes it
first. Each side runs in a process of its own; the sides take turns. Memory is read in a process that gives freed
tensors back at once, so that the peak counts what is in use. Linux only, as it reads the peak from /proc.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from prism_hf import MdlmConfig, PrismConfig, PrismForMaskedDiffusion, PrismTrainer, PrismTrainingArguments

VOCAB, WIDTH, LAYERS, LENGTH, BATCH = 126464, 512, 4, 256, 4
NUM_DRAFT_TOKENS, UNMASKING_WEIGHT = 8, 0.5


def build_model() -> PrismForMaskedDiffusion:
    torch.manual_seed(0)
    backbone = MdlmConfig(
        vocab_size=VOCAB, hidden_dim=WIDTH, n_blocks=LAYERS, n_heads=8, cond_dim=128, model_length=LENGTH, dropout=0.0
    )
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone))
    with torch.no_grad():  # away from the zero initialisation, so that every gradient counts
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model.train()


def build_trainer(model: PrismForMaskedDiffusion, folder: str) -> PrismTrainer:
    args = PrismTrainingArguments(
        folder, per_device_train_batch_size=BATCH, num_draft_tokens=NUM_DRAFT_TOKENS, draft_do_sample=False,
        unmasking_weight=UNMASKING_WEIGHT, use_cpu=True, report_to="none",
    )  # fmt: skip
    return PrismTrainer(model, args, train_dataset=[{"input_ids": [0]}])


def ours(trainer: PrismTrainer, inputs: dict) -> torch.Tensor:
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    return loss.detach()


def plain(trainer: PrismTrainer, inputs: dict) -> torch.Tensor:
    """The same step from the paper's text: whole logits twice, both graphs kept."""
    model, mask = trainer.model, trainer.mask_token_id
    x = inputs["input_ids"]
    t, uniform = trainer.batch_draws(True, BATCH, 3, LENGTH)
    masked = uniform[:, 0] < t[:, None]
    z = torch.where(masked, mask, x)
    logits = model(z).logits
    logits = torch.where(torch.arange(VOCAB) == mask, -torch.inf, logits)
    log_probs = F.log_softmax(logits, dim=-1)
    nll = -log_probs.gather(-1, x[..., None]).squeeze(-1)
    unmasking = (nll * masked / t[:, None].float()).sum() / x.numel()
    with torch.no_grad():
        score = torch.where(masked, uniform[:, 1], 2.0)
        chosen = score.argsort(dim=-1)[:, :NUM_DRAFT_TOKENS]
        filled = torch.zeros_like(masked).scatter(1, chosen, True) & masked
        y = torch.where(filled, log_probs.argmax(-1), z)
    quality = model(y).quality_logits
    bce = F.binary_cross_entropy_with_logits(quality, (y == x).float(), reduction="none")
    loss = (bce * filled).sum() / filled.sum() + UNMASKING_WEIGHT * unmasking
    loss.backward()
    return loss.detach()


def memory(field: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/self/status")


def measure(side: str, what: str, output: str) -> None:
    """Run one side in this process: after a warm-up, the seconds of three steps or the peak memory of one."""
    model = build_model()
    step = {"ours": ours, "plain": plain}[side]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(model, folder)
        generator = torch.Generator().manual_seed(1)
        inputs = {"input_ids": torch.randint(0, VOCAB - 1, (BATCH, LENGTH), generator=generator)}
        step(trainer, inputs)
        model.zero_grad()
        seconds = []
        before = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        for _ in range(3 if what == "seconds" else 1):
            model.zero_grad()
            began = time.perf_counter()
            loss = step(trainer, inputs)
            seconds.append(time.perf_counter() - began)
        peak = memory("VmHWM") - before
        if what == "memory":
            save_file({name: p.grad for name, p in model.named_parameters()}, output)
    print(json.dumps({"seconds": seconds, "peak": peak, "loss": loss.item()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=["seconds", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="how often the two sides take turns")
    args = parser.parse_args()
    if args.side:
        measure(args.side, args.what, args.output)
        return
    print(f"vocabulary {VOCAB}, {WIDTH} wide, {LAYERS} layers, length {LENGTH}, batch {BATCH}, float32, ", end="")
    print(f"{torch.get_num_threads()} threads")
    seconds, peak = {"plain": [], "ours": []}, {"plain": [], "ours": []}
    losses, gradients = {}, {}
    environment = {"seconds": os.environ, "memory": os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}}
    with tempfile.TemporaryDirectory() as folder:
        runs = [(side, what) for _ in range(args.rounds) for what in ("seconds", "memory") for side in seconds]
        for side, what in tqdm(runs, unit="run"):
            output = f"{folder}/{side}.safetensors"
            command = [sys.executable, __file__, "--side", side, "--what", what, "--output", output]
            run = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment[what]
            )
            result = json.loads(run.stdout.splitlines()[-1])
            if what == "seconds":
                seconds[side] += result["seconds"]
            else:
                peak[side].append(result["peak"])
                losses[side], gradients[side] = result["loss"], load_file(output)
    time_of = {side: statistics.median(values) for side, values in seconds.items()}
    peak_of = {side: statistics.median(values) for side, values in peak.items()}
    print("| | seconds a step | extra memory at the peak, gradients included |\n|---|---|---|")
    for side in seconds:
        print(f"| {side} | {time_of[side]:.2f} | {peak_of[side] / 2**20:.0f} MiB |")
    print(f"| plain / ours | {time_of['plain'] / time_of['ours']:.2f} | {peak_of['plain'] / peak_of['ours']:.2f} |")
    difference = max((gradients["ours"][name] - value).abs().max().item() for name, value in gradients["plain"].items())
    print(f"loss {losses['plain']:.6f} and {losses['ours']:.6f}; largest difference of a gradient {difference:.1e}")


if __name__ == "__main__":
    main()
