"""PRISM steps: against a plain implementation, with activation checkpointing and on two processes, and packed.

    python scripts/bench_training.py [--shape mdlm llada llada_lora] [--rounds 3]
    python scripts/bench_training.py --scaling [--shape llada_lora] [--rounds 1]
    python scripts/bench_training.py --packing [--shape llada_lora] [--rounds 3]
    python scripts/bench_training.py --limit

The first compares time, peak memory, arithmetic, loss and gradients; the second the tokens per second and the memory of
optimiser steps of `PrismTrainer`, of the same batch on one process and shared by two (gloo, DDP), a thread each; the
third an epoch over documents of 1/16 of the length up to all of it, padded and packed; the fourth the tokens per second
of pre-training at the shape of prose_mdm_laptop.yaml, with as many as a large product's rate would allow.

The plain implementation builds the logits of every position in both forwards and keeps both graphs, as one writes it
first. Each side runs in a process of its own; the sides take turns. Memory is read in a process that gives freed
tensors back at once, so that the peak counts what is in use. Linux only, as it reads the peak from /proc.
"""

import argparse
import copy
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from transformers import BertConfig, BertForMaskedLM, PreTrainedConfig, TrainerCallback

from prism_hf import (
    LladaConfig,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    MdlmConfig,
    PrismConfig,
    PrismForMaskedDiffusion,
    PrismTrainer,
    PrismTrainingArguments,
)

VOCAB = 126464
NUM_DRAFT_TOKENS, UNMASKING_WEIGHT = 8, 0.5


@dataclass(frozen=True)
class Shape:
    """What is trained: a backbone, all of it or by LoRA, and the batch."""

    backbone: PreTrainedConfig
    length: int
    batch: int
    lora: bool = False


MDLM = MdlmConfig(vocab_size=VOCAB, hidden_dim=512, n_blocks=4, n_heads=8, cond_dim=128, model_length=256, dropout=0.0)
LLADA = LladaConfig(d_model=512, n_layers=8, n_heads=8, mlp_hidden_size=1536, vocab_size=VOCAB)
TINY = LladaConfig(
    d_model=32,
    n_layers=2,
    n_heads=2,
    mlp_hidden_size=64,
    vocab_size=512,
    mask_token_id=511,
    eos_token_id=510,
    pad_token_id=510,
)
SHAPES = {
    "mdlm": Shape(MDLM, length=256, batch=4),
    "llada": Shape(LLADA, length=512, batch=2),
    "llada_lora": Shape(LLADA, length=512, batch=2, lora=True),
    "tiny": Shape(TINY, length=32, batch=2, lora=True),  # to see that the script works
}
# That of prose_mdm_laptop.yaml: a sentence encoder of 6 layers with a pruned vocabulary.
ENCODER = BertConfig(
    vocab_size=8192,
    hidden_size=384,
    num_hidden_layers=6,
    num_attention_heads=12,
    intermediate_size=1536,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    attn_implementation="eager",
)
# Processes that share the batch, and whether activations are checkpointed.
SCALES = [(1, False), (1, True), (2, False), (2, True)]
NUM_STEPS = 4  # of which the first is a warm-up
NUM_DOCUMENTS = 24  # of uneven lengths
ENVIRONMENT = {"seconds": {}, "memory": {"MALLOC_MMAP_THRESHOLD_": "65536"}}


def build_trainer(shape: Shape, folder: str, dataset=({"input_ids": [0]},), **arguments) -> PrismTrainer:
    torch.manual_seed(0)
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(shape.backbone)))
    lora = LoraConfig(r=64, lora_alpha=64, target_modules=["q_proj", "k_proj", "v_proj"])
    args = PrismTrainingArguments(
        folder,
        num_draft_tokens=NUM_DRAFT_TOKENS,
        draft_do_sample=False,
        unmasking_weight=UNMASKING_WEIGHT,
        use_cpu=True,
        report_to="none",
        **{"per_device_train_batch_size": shape.batch} | arguments,
    )
    trainer = PrismTrainer(model, args, train_dataset=list(dataset), peft_config=lora if shape.lora else None)
    with torch.no_grad():  # away from initial zeros, so that every gradient counts
        for parameter in trainer.model.parameters():
            parameter.normal_(std=0.02)
    return trainer


def ours(trainer: PrismTrainer, inputs: dict) -> torch.Tensor:
    loss = trainer.compute_loss(trainer.model, inputs)  # the unmasking loss is backpropagated within
    loss.backward()
    return loss.detach()


def plain(trainer: PrismTrainer, inputs: dict) -> torch.Tensor:
    """The same step from the paper's text: whole logits twice, both graphs kept."""
    model, mask = trainer.model, trainer.mask_token_id
    x = inputs["input_ids"]
    noised = trainer.noised(inputs, training=True)
    masked, z = noised.masked, noised.z
    logits = model(input_ids=z).logits
    logits = torch.where(torch.arange(logits.shape[-1]) == mask, -torch.inf, logits)
    log_probs = F.log_softmax(logits, dim=-1)
    nll = -log_probs.gather(-1, x[..., None]).squeeze(-1)
    unmasking = (nll[masked] * noised.weights).sum() / x.numel()
    with torch.no_grad():
        score = torch.where(masked, noised.uniform[:, 0], 2.0)
        chosen = score.argsort(dim=-1)[:, :NUM_DRAFT_TOKENS]
        filled = torch.zeros_like(masked).scatter(1, chosen, True) & masked
        y = torch.where(filled, log_probs.argmax(-1), z)
    quality = model(input_ids=y).quality_logits
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


def random_rows(shape: Shape, number: int) -> torch.Tensor:
    """(number, length) tokens, none of them special."""
    size = (number, shape.length)
    return torch.randint(0, shape.backbone.vocab_size - 200, size, generator=torch.Generator().manual_seed(1))


def measure(shape: Shape, side: str, what: str, output: str) -> None:
    """Run one side in this process: after a warm-up, three steps' seconds, or one's memory and arithmetic."""
    step = {"ours": ours, "plain": plain}[side]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(shape, folder)
        model = trainer.model.train()
        inputs = {"input_ids": random_rows(shape, shape.batch)}
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
        peak, flops = memory("VmHWM") - before, 0
        if what == "memory":
            save_file({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, output)
            with FlopCounterMode(display=False) as counter:
                step(trainer, inputs)
            flops = counter.get_total_flops()
    print(json.dumps({"seconds": seconds, "peak": peak, "flops": flops, "loss": loss.item()}))


def describe(name: str, threads: int) -> None:
    shape = SHAPES[name]
    backbone = shape.backbone
    print(
        f"{name}: vocabulary {backbone.vocab_size}, {backbone.hidden_size} wide, {backbone.num_hidden_layers} layers, "
        f"length {shape.length}, batch {shape.batch}, {'LoRA' if shape.lora else 'all weights'}, float32, threads: "
        f"{threads}"
    )


def run(command: list[str], environment: dict[str, str]) -> dict:
    """What a process prints in its last line, as JSON."""
    finished = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def compare(name: str, rounds: int) -> None:
    """Let the two sides take turns at a shape, and print the table."""
    describe(name, torch.get_num_threads())
    results = {"plain": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        runs = [(side, what) for _ in range(rounds) for what in ("seconds", "memory") for side in results]
        for side, what in tqdm(runs, unit="run"):
            command = [sys.executable, __file__, "--shape", name, "--side", side, "--what", what]
            command += ["--output", f"{folder}/{side}.safetensors"]
            results[side].append({"what": what} | run(command, ENVIRONMENT[what]))
        gradients = {side: load_file(f"{folder}/{side}.safetensors") for side in results}
    table = {}
    for side, runs in results.items():
        seconds = statistics.median(second for run in runs if run["what"] == "seconds" for second in run["seconds"])
        measured = [run for run in runs if run["what"] == "memory"]
        peak = statistics.median(run["peak"] for run in measured)
        table[side] = (seconds, peak / 2**20, measured[0]["flops"] / 1e12, measured[0]["loss"])
    print("| | seconds a step | extra memory at the peak, gradients included | 10^12 operations | 10^12 a second |")
    print("|---|---|---|---|---|")
    for side, (seconds, peak, flops, _) in table.items():
        print(f"| {side} | {seconds:.2f} | {peak:.0f} MiB | {flops:.3f} | {flops / seconds:.3f} |")
    ratios = [one / other for one, other in zip(table["plain"], table["ours"], strict=True)]
    print(f"| plain / ours | {ratios[0]:.2f} | {ratios[1]:.2f} | {ratios[2]:.2f} | |")
    difference = max((gradients["ours"][name] - value).abs().max().item() for name, value in gradients["plain"].items())
    losses = " and ".join(f"{table[side][3]:.6f}" for side in table)
    print(f"loss {losses}; largest difference of a gradient {difference:.1e}\n")


class StepTimes(TrainerCallback):
    """Seconds of each optimiser step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *args, **kwargs):
        self.began = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.perf_counter() - self.began)
        if len(self.seconds) == 1:
            # The peak starts anew: to build a model, and to share it among processes, takes memory of its own.
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")


def train(shape: Shape, processes: int, checkpointing: bool) -> dict:
    """Seconds of the steps after the first, and the loss of the last, on this process' share of the batch."""
    times = StepTimes()
    rows = [{"input_ids": row} for row in random_rows(shape, NUM_STEPS * shape.batch)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            shape,
            folder,
            rows,
            per_device_train_batch_size=shape.batch // processes,
            max_steps=NUM_STEPS,
            activation_checkpointing=checkpointing,
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer.add_callback(times)
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": times.seconds[1:], "loss": losses[-1]}


def measure_scale(shape: Shape, processes: int, checkpointing: bool) -> None:
    """Train in this process, one of as many as torchrun has started; the libraries are loaded by a tiny run before."""
    torch.set_num_threads(1)
    train(SHAPES["tiny"], processes, checkpointing)
    gc.collect()
    before = memory("VmRSS")
    result = train(shape, processes, checkpointing)
    if os.environ["RANK"] == "0":
        print(json.dumps(result | {"peak": memory("VmHWM") - before}))


def compare_scales(name: str, rounds: int) -> None:
    """Tokens per second and memory of each process, for every one of `SCALES`."""
    shape = SHAPES[name]
    describe(name, 1)
    results = {scale: [] for scale in SCALES}
    for what in tqdm(["seconds", "memory"] * rounds, unit="round"):
        for (processes, checkpointing), runs in results.items():
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
            command += [str(processes), __file__, "--scaling", "--shape", name, "--processes", str(processes)]
            command += ["--checkpointing"] if checkpointing else []
            runs.append({"what": what} | run(command, ENVIRONMENT[what] | {"OMP_NUM_THREADS": "1"}))
    print("| processes | activation checkpointing | seconds a step | tokens a second | peak of a process | loss |")
    print("|---|---|---|---|---|---|")
    for (processes, checkpointing), runs in results.items():
        seconds = statistics.median(second for run in runs if run["what"] == "seconds" for second in run["seconds"])
        peak = statistics.median(run["peak"] for run in runs if run["what"] == "memory") / 2**20
        print(
            f"| {processes} | {'yes' if checkpointing else 'no'} | {seconds:.2f} | "
            f"{shape.batch * shape.length / seconds:.0f} | {peak:.0f} MiB | {runs[0]['loss']:.6f} |"
        )
    print("The peak, from the second step on, counts weights, gradients, optimiser and DDP's buckets.")
    print("The loss is that of the last step.\n")


def uneven_documents(shape: Shape) -> list[dict]:
    """Documents whose lengths are spread evenly on a logarithmic scale, in random order."""
    generator = torch.Generator().manual_seed(2)
    lengths = (shape.length * 16 ** -torch.rand(NUM_DOCUMENTS, generator=generator)).int()
    rows = random_rows(shape, NUM_DOCUMENTS)
    return [{"input_ids": row[:length].tolist()} for row, length in zip(rows, lengths, strict=True)]


def measure_packing(shape: Shape, side: str) -> None:
    """Train in this process for an epoch over documents that are padded or packed; a tiny run comes before."""
    for each in (SHAPES["tiny"], shape):
        times, documents = StepTimes(), uneven_documents(each)
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(
                each,
                folder,
                documents,
                packing=side == "packed",
                max_length=each.length,
                num_train_epochs=1,
                save_strategy="no",
                disable_tqdm=True,
            )
            trainer.data_collator.pad_token_id = 0
            trainer.add_callback(times)
            trainer.train()
    tokens = sum(len(row["input_ids"]) for row in documents)
    print(json.dumps({"seconds": times.seconds, "tokens": tokens, "rows": len(trainer.train_dataset)}))


def compare_packing(name: str, rounds: int) -> None:
    """Let padded and packed rows take turns at a shape, and print the table."""
    shape = SHAPES[name]
    describe(name, torch.get_num_threads())
    results = {"padded": [], "packed": []}
    for side in tqdm(rounds * list(results), unit="run"):
        command = [sys.executable, __file__, "--packing", "--shape", name, "--packing_side", side]
        results[side].append(run(command, {}))
    print("| | rows of an epoch | steps | seconds of an epoch | tokens a second, padding not counted |")
    print("|---|---|---|---|---|")
    speeds = {}
    for side, runs in results.items():
        seconds = statistics.median(sum(run["seconds"]) for run in runs)
        speeds[side] = runs[0]["tokens"] / seconds
        print(f"| {side} | {runs[0]['rows']} | {len(runs[0]['seconds'])} | {seconds:.2f} | {speeds[side]:.0f} |")
    print(f"| packed / padded | | | | {speeds['packed'] / speeds['padded']:.2f} |\n")
    print(f"{NUM_DOCUMENTS} documents of {shape.length // 16} to {shape.length} tokens, {shape.batch} rows a batch.\n")


def pretrain(num_steps: int) -> list[float]:
    """Seconds of each optimiser step of pre-training."""
    times = StepTimes()
    rows = torch.randint(1, ENCODER.vocab_size, (32, 128), generator=torch.Generator().manual_seed(1))
    with tempfile.TemporaryDirectory() as folder:
        args = MaskedDiffusionTrainingArguments(
            folder,
            loss_normalizer="masked",
            use_muon=True,
            ema_decay=0.99,
            per_device_train_batch_size=32,
            max_steps=num_steps,
            bf16=True,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = BertForMaskedLM(copy.deepcopy(ENCODER))
        model.config.mask_token_id = 0
        trainer = MaskedDiffusionTrainer(model, args, train_dataset=[{"input_ids": row} for row in rows])
        trainer.add_callback(times)
        trainer.train()
    return times.seconds


def product_rate(size: int = 4096) -> float:
    """Operations a second of a large square product in bfloat16."""
    one = torch.randn(size, size, dtype=torch.bfloat16)
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)


def compare_with_limit() -> None:
    """Print the tokens per second of pre-training beside those that arithmetic allows on these cores."""
    with FlopCounterMode(display=False) as counter:
        pretrain(1)
    seconds, tokens = statistics.median(pretrain(8)[1:]), 32 * 128
    rate, operations = product_rate(), counter.get_total_flops()
    print(
        f"{ENCODER.num_hidden_layers} layers, {ENCODER.hidden_size} wide, bfloat16, {torch.get_num_threads()} threads\n"
    )
    print("| | tokens a second | 10^9 operations a second |")
    print("|---|---|---|")
    print(f"| pre-training | {tokens / seconds:.0f} | {operations / seconds / 1e9:.0f} |")
    print(f"| a product of 4096 x 4096 | {rate / operations * tokens:.0f} | {rate / 1e9:.0f} |")
    print(f"\n{operations / tokens / 1e6:.0f} million operations a token, the optimiser's included.\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES))
    parser.add_argument("--scaling", action="store_true", help="checkpointing and processes, not a plain step")
    parser.add_argument("--packing", action="store_true", help="rows of different lengths, padded and packed")
    parser.add_argument("--limit", action="store_true", help="pre-training beside what arithmetic allows")
    parser.add_argument("--packing_side", choices=["padded", "packed"], help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="how often the sides take turns (3; 1 with --scaling)")
    parser.add_argument("--side", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=["seconds", "memory"], help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        measure(SHAPES[args.shape[0]], args.side, args.what, args.output)
    elif args.packing_side:
        measure_packing(SHAPES[args.shape[0]], args.packing_side)
    elif args.packing:
        for name in args.shape or ["mdlm", "llada_lora"]:
            compare_packing(name, args.rounds or 3)
    elif args.limit:
        compare_with_limit()
    elif args.processes:
        measure_scale(SHAPES[args.shape[0]], args.processes, args.checkpointing)
    elif args.scaling:
        for name in args.shape or ["llada_lora"]:
            compare_scales(name, args.rounds or 1)
    else:
        for name in args.shape or ["mdlm", "llada", "llada_lora"]:
            compare(name, args.rounds or 3)


if __name__ == "__main__":
    main()
