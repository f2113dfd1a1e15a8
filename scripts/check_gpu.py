"""Proves and times on a GPU what a CPU cannot: one command, no network, no weights and no data from outside.

    python scripts/check_gpu.py --out outputs/check_gpu                # everything, in order of worth, in 10 minutes
    python scripts/check_gpu.py --out outputs/check_gpu --only golden train --minutes 4

Each check runs in a process of its own with a limit of time. Its rows are printed as they come, as a Markdown table,
and DIR/check_gpu.json is written anew after each, so that a run that is cut off keeps what it had. The weights are
random at LLaDA-8B's shape, the Sudoku model that ships, and the golden fixtures. A check whose package is missing says
so. On a machine without a GPU every check runs at a tiny shape, which proves that it works and measures nothing.

Needs transformers 5.17 or newer, and about 40 GiB of GPU memory for the checks at 8B.
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import torch
import transformers
import yaml
from estimate_memory import estimate_memory
from peft import LoraConfig
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForMaskedLM, BitsAndBytesConfig, TrainerCallback

from prism_hf import (
    LladaConfig,
    LladaForMaskedDiffusion,
    PrismConfig,
    PrismForMaskedDiffusion,
    PrismTrainer,
    PrismTrainingArguments,
    remask_generate,
)
from prism_hf.data.sudoku.csv_files import read_sudoku_csv
from prism_hf.data.sudoku.grids import to_grid, to_sequence
from prism_hf.diffusion.losses import linear_unmasking_loss
from prism_hf.generation import STRATEGIES
from prism_hf.resources import resource_path
from prism_hf.training.liger import apply_liger

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "tests" / "fixtures"
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """What is run: on a GPU LLaDA-8B as published, elsewhere next to nothing."""

    layers: int = 32
    width: int = 4096
    heads: int = 32
    mlp: int = 12288
    vocabulary: int = 126464
    prompt: int = 256
    new: int = 256
    block: int = 32
    written: int = 64
    batches: tuple[int, ...] = (1, 8)
    train_batches: tuple[int, ...] = (1, 4)
    length: int = 1024
    rank: int = 256
    matmul: int = 8192
    puzzles: int = 1000
    train_steps: int = 4


TINY = Shape(
    layers=2,
    width=64,
    heads=4,
    mlp=96,
    vocabulary=512,
    prompt=8,
    new=32,
    block=8,
    written=16,
    batches=(1, 2),
    train_batches=(1, 2),
    length=32,
    rank=4,
    matmul=64,
    puzzles=4,
    train_steps=2,
)


@dataclass(frozen=True)
class Row:
    """One line of the table. `ok` is None where something is measured and nothing is promised."""

    case: str
    figure: str
    bound: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class Machine:
    """Where the checks run."""

    device: torch.device
    shape: Shape

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def compiler(self) -> str:
        """Of torch.compile: on a CPU the graphs alone, as their compilation takes minutes and shows nothing."""
        return "inductor" if self.on_gpu else "eager"

    def synchronise(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def peak(self) -> int:
        """Bytes that tensors took at most since the last `clear`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() if self.on_gpu else 0

    def clear(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def bounded(case: str, value: float, most: float) -> Row:
    return Row(case, f"{value:.2e}", f"<= {most:.0e}", value <= most)


# The models


@torch.no_grad()
def build_model(machine: Machine, **fields) -> PrismForMaskedDiffusion:
    """LLaDA of the machine's shape in bfloat16 under an mlp head, with random weights made in place."""
    shape = machine.shape
    last = shape.vocabulary - 1
    config = LladaConfig(
        d_model=shape.width,
        n_layers=shape.layers,
        n_heads=shape.heads,
        mlp_hidden_size=shape.mlp,
        vocab_size=shape.vocabulary,
        mask_token_id=min(126336, last),
        eos_token_id=min(126081, last - 1),
        pad_token_id=min(126081, last - 1),
        **fields,
    )
    with torch.device("meta"):
        backbone = LladaForMaskedDiffusion._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    backbone.to_empty(device=machine.device)
    generator = torch.Generator(machine.device).manual_seed(0)
    for name, parameter in backbone.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
        else:  # tokens should depend on the canvas, as those of small initial weights hardly do
            parameter.normal_(std=1.0 if "embed" in name else parameter.shape[1] ** -0.5, generator=generator)
    torch.manual_seed(0)  # of the head's weights
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=config), backbone)
    model.quality_head.to(machine.device)
    return model.eval()


def random_canvas(machine: Machine, batch: int) -> torch.Tensor:
    """A canvas of prompt and answer, all given but the first `written` tokens of the answer, which are masks.

    A forward reads what it would read in a whole generation, and every block costs the same.
    """
    shape = machine.shape
    generator = torch.Generator().manual_seed(1)
    size = (batch, shape.prompt + shape.new)
    canvas = torch.randint(min(126000, shape.vocabulary - 8), size, generator=generator).to(machine.device)
    canvas[:, shape.prompt : shape.prompt + shape.written] = min(126336, shape.vocabulary - 1)
    return canvas


# The checks: each yields rows

PRECISIONS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}
# With the package that each needs. On a CPU, flex attention would compile for minutes.
ATTENTIONS = {"eager": None, "sdpa": None}
ATTENTIONS_ON_GPU = {
    "flex_attention": "torch",
    "flash_attention_2": "flash_attn",
    "flash_attention_3": "flash_attn_interface",
}
HALF_ONLY = ("flash_attention_2", "flash_attention_3")


@torch.no_grad()
def check_golden(machine: Machine) -> Iterator[Row]:
    """Logits of the published layouts against the golden tensors, relative to the largest logit."""
    for family, fixture, folder, head_width in (("LLaDA", "llada_tiny", ".", 16), ("MDLM", "mdlm_tiny", "hub", 12)):
        golden = load_file(FIXTURES / fixture / "expected.safetensors")
        ids, logits = golden["input_ids"].to(machine.device), golden["logits"]
        finite = logits.isfinite()
        for attention, package in (ATTENTIONS | ATTENTIONS_ON_GPU).items():
            if package is not None and (not machine.on_gpu or importlib.util.find_spec(package) is None):
                yield Row(f"{family}, {attention}", f"skipped: needs a GPU and the package {package}")
                continue
            if attention == "flex_attention" and head_width < 16:
                yield Row(f"{family}, {attention}", f"skipped: its kernel wants heads 16 wide, these have {head_width}")
                continue
            for dtype, bound in PRECISIONS.items():
                if attention in HALF_ONLY and dtype == torch.float32:
                    continue
                model = AutoModelForMaskedLM.from_pretrained(
                    FIXTURES / fixture / folder, attn_implementation=attention, dtype=dtype
                )
                found = model.to(machine.device).eval()(ids).logits.float().cpu()
                difference = (found - logits)[finite].abs().max() / logits[finite].abs().max()
                yield bounded(f"{family}, {attention}, {str(dtype)[6:]}", difference.item(), bound)


def check_liger(machine: Machine) -> Iterator[Row]:
    """Logits and gradients of LLaDA with Liger's kernels against those without, relative to the largest of each."""
    if not machine.on_gpu or importlib.util.find_spec("liger_kernel") is None:
        yield Row("LLaDA, Liger", "skipped: needs a GPU and the package liger_kernel")
        return
    folder = FIXTURES / "llada_tiny"
    ids = load_file(folder / "expected.safetensors")["input_ids"].to(machine.device)
    model = AutoModelForMaskedLM.from_pretrained(folder).to(machine.device)
    found = []
    for _ in range(2):
        logits = model(ids).logits
        logits.logsumexp(-1).sum().backward()
        found.append([logits.detach(), *(each.grad for each in model.parameters() if each.grad is not None)])
        model.zero_grad()
        apply_liger(model, None)
    for name, which in (("logits", slice(0, 1)), ("gradients", slice(1, None))):
        without, within = (each[which] for each in found)
        differences = [((a - b).abs().max() / a.abs().max()).item() for a, b in zip(without, within, strict=True)]
        yield bounded(f"LLaDA, Liger, {name}", max(differences), PRECISIONS[torch.float32])


# Strategies that wait for the device after each step, since what they do next depends on what they did.
WAITING = ("wino",)


def strategy_settings(model: PrismForMaskedDiffusion) -> dict[str, dict]:
    """Each strategy by its name alone, and the critic of the one that has no default."""
    settings = {"no remasking": {}} | {name: {"remask_strategy": name} for name in STRATEGIES}
    settings["token_critic"]["critic"] = model
    return settings


@contextlib.contextmanager
def waits_forbidden(model: nn.Module, forwards: int) -> Iterator[None]:
    """Within, torch raises where the host waits for the device between the first of so many forwards and the last."""
    left = forwards

    def begin(*_):
        torch.cuda.set_sync_debug_mode("error" if left > 1 else "default")

    def end(*_):
        nonlocal left
        left -= 1

    hooks = [model.register_forward_pre_hook(begin), model.register_forward_hook(end)]
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
        for hook in hooks:
            hook.remove()


def place(error: Exception) -> str:
    """The last line of this project that an error went through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "prism_hf" in Path(frame.filename).parts]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"


def check_synchronisation(machine: Machine) -> Iterator[Row]:
    """Between the first forward and the last no strategy lets the host wait: torch raises where one does."""
    model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism")).to(machine.device).eval()
    puzzles = to_sequence(to_grid(read_sudoku_csv(resource_path("sudoku/puzzles.csv"))), layout=81)[:4]
    puzzles = puzzles.to(machine.device)
    for name, settings in strategy_settings(model).items():
        calls: list = []
        counting = model.register_forward_hook(lambda *_, calls=calls: calls.append(None))
        model.generate(puzzles, steps=12, generator=torch.Generator(machine.device).manual_seed(0), **settings)
        counting.remove()
        watched = machine.on_gpu and name not in WAITING
        try:
            with waits_forbidden(model, len(calls)) if watched else contextlib.nullcontext():
                model.generate(puzzles, steps=12, generator=torch.Generator(machine.device).manual_seed(0), **settings)
            figure, ok = ("waits once a step" if name in WAITING else f"no wait in {len(calls)} forwards"), True
        except RuntimeError as error:
            figure, ok = f"waits at {place(error)}: {str(error).splitlines()[0]}", False
        yield Row(name, figure if machine.on_gpu else "ran; only a GPU shows waits", "no wait", ok)


@torch.no_grad()
def literal_loop(model: PrismForMaskedDiffusion, canvas: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Low-confidence unmasking in blocks from the published text, one token a step, with no attention to cost."""
    mask, canvas = model.config.mask_token_id, canvas.clone()
    for start in range(shape.prompt, shape.prompt + shape.written, shape.block):
        for _ in range(shape.block):
            logits = model.backbone(input_ids=canvas).logits
            logits[..., mask] = -torch.inf
            drawn = logits.argmax(-1)
            confidence = logits.double().softmax(-1).gather(-1, drawn[..., None])[..., 0]
            confidence = confidence.masked_fill(canvas != mask, -torch.inf)
            confidence[:, start + shape.block :] = -torch.inf
            for row in range(len(canvas)):
                chosen = confidence[row].topk(1).indices
                canvas[row, chosen] = drawn[row, chosen]
    return canvas


GENERATIONS = {
    "exact": {},
    "prefix cache": {"cache_implementation": "prefix"},
    "dual cache": {"cache_implementation": "dual"},
}
WITH_PRISM = {"remask_strategy": "prism", "num_remask": 4}


def check_generation(machine: Machine) -> Iterator[Row]:
    """Tokens a second and peak memory at 8B: the literal loop, and ours with and without caches and PRISM."""
    model, shape = build_model(machine), machine.shape
    machine.clear()
    held = machine.peak()
    for batch in shape.batches:
        canvas = random_canvas(machine, batch)
        sides = {"literal loop": None}
        for prism in ({}, WITH_PRISM):
            sides |= {f"{name}{', PRISM' if prism else ''}": given | prism for name, given in GENERATIONS.items()}
        reference = None
        for name, settings in sides.items():
            machine.clear()
            taken = []
            for _ in range(2):  # the first warms up
                machine.synchronise()
                began = time.perf_counter()
                if settings is None:
                    literal_loop(model, canvas, shape)
                    forwards = shape.written
                else:
                    given = {"block_length": shape.block, "return_dict_in_generate": True}
                    forwards = model.generate(canvas, **given, **settings).num_forwards
                machine.synchronise()
                taken.append(time.perf_counter() - began)
            seconds = min(taken)
            reference = reference or seconds / forwards
            yield Row(
                f"batch {batch}, {name}",
                f"{batch * shape.written / seconds:.1f} tokens/s, {seconds / forwards * 1e3:.1f} ms a forward, "
                f"{reference / (seconds / forwards):.2f} x literal, {(machine.peak() - held) / GIB:.2f} GiB above",
            )


def check_literal(machine: Machine) -> Iterator[Row]:
    """Tokens of ours and of the literal loop, in float32, where no tie of bfloat16 decides: layers of 8B, but two."""
    small = replace(machine, shape=replace(machine.shape, layers=2))
    model, shape = build_model(small).float(), small.shape
    for batch in shape.batches:
        canvas = random_canvas(small, batch)
        ours = model.generate(canvas, block_length=shape.block)
        same = (ours == literal_loop(model, canvas, shape)).float().mean().item()
        yield Row(f"batch {batch}, tokens of ours as of the literal loop", f"{same:.1%}", "100%", same == 1)


def matmul_rate(machine: Machine) -> float:
    """10^12 operations a second of a large square product in bfloat16."""
    size = machine.shape.matmul
    one = torch.randn(size, size, device=machine.device, dtype=torch.bfloat16)
    for rounds in (3, 10):
        machine.synchronise()
        began = time.perf_counter()
        for _ in range(rounds):
            one @ one
        machine.synchronise()
    return rounds * 2 * size**3 / (time.perf_counter() - began) / 1e12


class StepClock(TrainerCallback):
    """Seconds of each optimiser step, the device's work included."""

    def __init__(self, machine: Machine):
        self.machine, self.seconds = machine, []

    def on_step_begin(self, *args, **kwargs):
        self.machine.synchronise()
        self.began = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.machine.synchronise()
        self.seconds.append(time.perf_counter() - self.began)


def lora(machine: Machine) -> LoraConfig:
    rank = machine.shape.rank
    return LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.1, target_modules=["q_proj", "k_proj", "v_proj"])


def training_arguments(machine: Machine, folder: str, **given) -> PrismTrainingArguments:
    """Those published for LLaDA-8B, for a few steps."""
    return PrismTrainingArguments(
        folder,
        max_steps=machine.shape.train_steps,
        num_draft_tokens=8,
        draft_do_sample=False,
        unmasking_weight=0.5,
        learning_rate=1e-4,
        bf16=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not machine.on_gpu,
        seed=0,
        **given,
    )


def train(machine: Machine, model, batch: int, folder: str, peft_config=None, **given) -> tuple[float, int, float, int]:
    """Seconds of the best step after the first, the operations of a step, the loss of the last, and the peak memory."""
    shape = machine.shape
    rows = torch.randint(
        min(126000, shape.vocabulary - 8),
        (shape.train_steps * batch, shape.length),
        generator=torch.Generator().manual_seed(1),
    )
    args = training_arguments(machine, folder, per_device_train_batch_size=batch, **given)
    dataset = [{"input_ids": row} for row in rows]
    trainer = PrismTrainer(model, args, train_dataset=dataset, peft_config=peft_config)
    clock = StepClock(machine)
    trainer.add_callback(clock)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak, operations = machine.peak(), 0  # of training alone: while operations are counted, checkpoints stay
    if "torch_compile" not in given:
        inputs = trainer._prepare_inputs(trainer.data_collator(dataset[:batch]))
        with FlopCounterMode(display=False) as counter:
            trainer.compute_loss(trainer.model.train(), inputs).backward()
        operations = counter.get_total_flops()
    return min(clock.seconds[1:]), operations, losses[-1], peak


def check_training(machine: Machine) -> Iterator[Row]:
    """One LoRA step at 8B: seconds, arithmetic against the card's own, and peak memory against the estimate."""
    shape = machine.shape
    rate = matmul_rate(machine)
    yield Row(f"product of {shape.matmul} x {shape.matmul} in bfloat16", f"{rate:.0f} TFLOP/s")
    for batch in shape.train_batches:
        for checkpointing in (True, False):
            machine.clear()
            case = f"batch {batch}, length {shape.length}, {'with' if checkpointing else 'without'} checkpointing"
            with tempfile.TemporaryDirectory() as folder:
                given = {"activation_checkpointing": checkpointing}
                model = build_model(machine)
                args = training_arguments(machine, folder, per_device_train_batch_size=batch, **given)
                planned = estimate_memory(
                    model.config.backbone_config,
                    args,
                    shape.length,
                    dtype="bfloat16",
                    peft_config=lora(machine),
                    attn_implementation="sdpa",
                ).total
                try:
                    seconds, operations, loss, peak = train(machine, model, batch, folder, lora(machine), **given)
                except torch.cuda.OutOfMemoryError:
                    yield Row(case, f"out of memory; {planned / GIB:.1f} GiB estimated")
                    continue
            done = operations / seconds / 1e12
            yield Row(case, f"{seconds:.2f} s, {done:.0f} TFLOP/s, {done / rate:.0%} of the product; loss {loss:.3f}")
            if machine.on_gpu:
                error = planned / peak - 1
                yield Row(
                    f"{case}, memory",
                    f"{peak / GIB:.1f} GiB, estimated {planned / GIB:.1f} ({error:+.1%})",
                    "within 15%",
                    abs(error) <= 0.15,
                )
            del model


def check_sudoku(machine: Machine) -> Iterator[Row]:
    """The demo's training step, and puzzles solved in bfloat16 by the model that ships."""
    shape = machine.shape
    recipe = yaml.safe_load((ROOT / "recipes" / "configs" / "sudoku_prism_laptop.yaml").read_text(encoding="utf-8"))
    names = ("num_draft_tokens", "draft_steps", "unmasking_weight", "loss_normalizer", "use_muon", "bf16")
    given = {name: recipe[name] for name in names}
    given["per_device_train_batch_size"] = batch = recipe["per_device_train_batch_size"] if machine.on_gpu else 2
    solved = to_sequence(to_grid(read_sudoku_csv(resource_path("sudoku/solutions.csv"))), layout=81)
    model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
    with tempfile.TemporaryDirectory() as folder:
        args = PrismTrainingArguments(
            folder,
            max_steps=10 if machine.on_gpu else 2,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not machine.on_gpu,
            **given,
        )
        trainer = PrismTrainer(model, args, train_dataset=[{"input_ids": row} for row in solved])
        clock = StepClock(machine)
        trainer.add_callback(clock)
        trainer.train()
    yield Row(f"training step, batch {batch}", f"{min(clock.seconds[1:]) * 1e3:.0f} ms")
    model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism")).to(machine.device).eval()
    puzzles = to_sequence(to_grid(read_sudoku_csv(resource_path("sudoku/puzzles.csv"))), layout=81)
    puzzles = puzzles.repeat(2, 1)[: shape.puzzles].to(machine.device)
    solutions = solved.repeat(2, 1)[: shape.puzzles].to(machine.device)
    with torch.autocast(machine.device.type, torch.bfloat16):
        machine.synchronise()
        began = time.perf_counter()
        found = model.generate(puzzles, order="margin", steps=51)
        machine.synchronise()
    seconds, share = time.perf_counter() - began, (found == solutions).all(-1).float().mean().item()
    yield Row(
        f"{len(puzzles)} puzzles, margin order, 51 passes",
        f"{share:.1%} in {seconds:.1f} s",
        ">= 95%",
        share >= 0.95 if machine.on_gpu else None,
    )


def check_compile(machine: Machine) -> Iterator[Row]:
    """torch.compile of generation and of a training step: faster by how much, and the same."""
    model, shape = build_model(machine), machine.shape
    canvas = random_canvas(machine, 1)
    compiled = torch.compile(model, backend=machine.compiler)
    tokens, seconds = {}, {}
    for name, called in (("eager", model), ("compiled", compiled)):
        for _ in range(2):  # the first compiles
            machine.synchronise()
            began = time.perf_counter()
            tokens[name] = remask_generate(called, canvas, block_length=shape.block)
            machine.synchronise()
            seconds[name] = time.perf_counter() - began
    same = (tokens["eager"] == tokens["compiled"]).float().mean().item()
    figure = f"{seconds['eager'] / seconds['compiled']:.2f} x eager, tokens {same:.1%} alike"
    yield Row("generation, batch 1", figure, ">= 95% alike", same >= 0.95)
    del compiled, model
    taken = {}
    for name, given in (
        ("eager", {}),
        ("compiled", {"torch_compile": True, "torch_compile_backend": machine.compiler}),
    ):
        machine.clear()
        with tempfile.TemporaryDirectory() as folder:
            taken[name] = train(machine, build_model(machine), 1, folder, lora(machine), **given)
    (eager, _, one, _), (fast, _, other, _) = taken["eager"], taken["compiled"]
    figure = f"{eager / fast:.2f} x eager, losses {one:.3f} and {other:.3f}"
    yield Row("training step, batch 1", figure, "losses within 2%", abs(one - other) <= 0.02 * one)


def check_cross_entropy(machine: Machine) -> Iterator[Row]:
    """Loss and gradients at the LM head: the project's, Liger's and plain, in bfloat16."""
    shape = machine.shape
    rows, mask = shape.length, shape.vocabulary - 1
    generator = torch.Generator(machine.device).manual_seed(0)
    like = {"device": machine.device, "dtype": torch.bfloat16}
    decoder = nn.Linear(shape.width, shape.vocabulary, bias=False, **like)
    states = torch.randn(rows, shape.width, generator=generator, **like)
    targets = torch.randint(mask, (rows,), generator=generator, device=machine.device)

    def plain(states):
        logits = decoder(states).float()
        logits[:, mask] = -torch.inf
        return nn.functional.cross_entropy(logits, targets)

    sides = {
        "plain": plain,
        "ours": lambda states: linear_unmasking_loss(states, decoder, targets, None, rows, mask)[0],
    }
    if importlib.util.find_spec("liger_kernel") and machine.on_gpu:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

        sides["Liger (mask token not excluded)"] = lambda states: LigerFusedLinearCrossEntropyFunction.apply(
            states, decoder.weight, targets
        )[0]
    else:
        yield Row("Liger", "skipped: needs a GPU and the package liger-kernel")
    gradients = {}
    for trained in (False, True):
        decoder.weight.requires_grad_(trained)
        for name, loss in sides.items():
            taken = []
            for _ in range(5):  # the first warms up
                decoder.weight.grad = None
                given = states.clone().requires_grad_()
                machine.clear()
                held = machine.peak()
                began = time.perf_counter()
                value = loss(given)
                value.backward()
                machine.synchronise()
                taken.append(time.perf_counter() - began)
            gradients[name] = given.grad.float()
            yield Row(
                f"{name}, {rows} rows, head {'trained' if trained else 'frozen'}",
                f"{min(taken) * 1e3:.1f} ms, {(machine.peak() - held) / GIB:.2f} GiB, loss {value.item():.3f}",
            )
    one, other = gradients["plain"], gradients["ours"]
    yield bounded("gradient, ours to plain", ((one - other).norm() / one.norm()).item(), 2e-2)


def check_4bit(machine: Machine) -> Iterator[Row]:
    """A PRISM step with LoRA on a 4-bit backbone, and a generation with it."""
    if not (machine.on_gpu and importlib.util.find_spec("bitsandbytes")):
        yield Row("4-bit", "skipped: needs a GPU and the package bitsandbytes")
        return
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    with tempfile.TemporaryDirectory() as folder:
        config = LladaConfig(d_model=512, n_layers=4, n_heads=8, mlp_hidden_size=1536)
        LladaForMaskedDiffusion(config).save_pretrained(folder)
        model = PrismForMaskedDiffusion.from_pretrained(folder, quantization_config=quantization, dtype=torch.bfloat16)
        seconds, _, loss, _ = train(machine, model, 1, f"{folder}/out", lora(machine))
        yield Row("LoRA step on 4-bit weights", f"{seconds:.3f} s, loss {loss:.3f}", "finite", loss == loss)
        model.eval()
        ids = torch.randint(1000, (2, 16), device=machine.device)
        written = model.generate(ids, max_new_tokens=16, **WITH_PRISM)
        left = (written == model.config.mask_token_id).sum().item()
        yield Row("generation from 4-bit weights", f"{left} masks left", "0", left == 0)


def check_fsdp2(machine: Machine) -> Iterator[Row]:
    """The demo's recipe under FSDP2, one process a GPU over NCCL."""
    if not machine.on_gpu:
        yield Row("FSDP2 over NCCL", "skipped: needs a GPU; tests/training runs it over gloo")
        return
    number = torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        command += [str(ROOT / "recipes/accelerate/fsdp2.yaml"), "--num_processes", str(number)]
        command += [str(ROOT / "recipes/train_prism.py"), "--config"]
        command += [str(ROOT / "recipes/configs/sudoku_prism_laptop.yaml"), "--use_cpu", "false", "--use_muon", "false"]
        command += ["--max_steps", "4", "--logging_steps", "1", "--num_train_samples", "1000"]
        command += ["--num_eval_samples", "64", "--blanks", "30", "--eval_strategy", "no", "--output_dir", folder]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        finished = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
        saved = Path(folder, "model.safetensors").exists()
    print(finished.stderr, file=sys.stderr)
    errors = [line for line in finished.stderr.splitlines() if "Error" in line]
    said = " ".join(errors[:1]) if finished.returncode else "trained, evaluated and saved"
    yield Row(f"{number} processes", said[-200:], "trained and saved", finished.returncode == 0 and saved)


# In order of worth, with the seconds that each may take on a GPU.
CHECKS: dict[str, tuple[Callable[[Machine], Iterator[Row]], int]] = {
    "golden": (check_golden, 60),
    "liger": (check_liger, 30),
    "synchronisation": (check_synchronisation, 60),
    "literal": (check_literal, 60),
    "training": (check_training, 150),
    "generation": (check_generation, 200),
    "sudoku": (check_sudoku, 60),
    "fsdp2": (check_fsdp2, 90),
    "cross_entropy": (check_cross_entropy, 30),
    "4bit": (check_4bit, 60),
    "compile": (check_compile, 240),
}


def work(name: str, on_gpu: bool, connection) -> None:
    """Run one check in this process and send its rows."""
    os.setpgrp()  # so that what the check starts ends with it
    machine = Machine(torch.device("cuda"), Shape()) if on_gpu else Machine(torch.device("cpu"), TINY)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with contextlib.redirect_stdout(sys.stderr):
            for row in CHECKS[name][0](machine):
                connection.send(row)
    except Exception as error:
        traceback.print_exc()
        connection.send(Row(f"{type(error).__name__}", str(error).strip().splitlines()[0][:200], "", False))
    connection.close()


def run(name: str, on_gpu: bool, limit: float) -> Iterator[Row]:
    """The rows of a check, which runs in a process of its own and is ended after `limit` seconds."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    # Forked, so that the libraries are loaded once; CUDA, which a library may have begun at its import, refuses a fork.
    context = multiprocessing.get_context("spawn" if on_gpu else "fork")
    process = context.Process(target=work, args=(name, on_gpu, sender))
    process.start()
    sender.close()
    deadline = time.monotonic() + limit
    try:
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            yield receiver.recv()
        yield Row("cut off", f"after {limit:.0f} s")
    except EOFError:
        process.join(10)
        if process.exitcode:
            yield Row("died", f"exit code {process.exitcode}", "", False)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join()


def card() -> str:
    """What the figures were taken on, asked of the driver, not of CUDA in this process."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return f"no GPU, {platform.machine()}, {os.cpu_count()} cores, tiny shapes: nothing here is a measurement"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="outputs/check_gpu", help="folder of check_gpu.json and check_gpu.md")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all checks together")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), default=list(CHECKS), help="these checks alone")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    on_gpu = "no GPU" not in card()
    about = {
        "machine": card(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "command": " ".join(["python", "scripts/check_gpu.py", *sys.argv[1:]]),
    }
    lines = [", ".join(f"{key}: {value}" for key, value in about.items()), ""]
    lines += ["| check | case | figure | bound | held |", "|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)
    end, results = time.monotonic() + 60 * args.minutes, {}
    for name in [name for name in CHECKS if name in args.only]:
        rows, limit = [], min(CHECKS[name][1], end - time.monotonic())
        for row in run(name, on_gpu, limit) if limit > 5 else [Row("not begun", "no time was left")]:
            rows.append(row)
            held = {None: "", True: "yes", False: "**no**"}[row.ok]
            lines.append(f"| {name} | {row.case} | {row.figure.replace('|', '/')} | {row.bound} | {held} |")
            print(lines[-1], flush=True)
            results[name] = [asdict(each) for each in rows]
            staged = out / "check_gpu.json.writing"
            staged.write_text(json.dumps(about | {"checks": results}, indent=2), encoding="utf-8")
            os.replace(staged, out / "check_gpu.json")
            (out / "check_gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if any(row["ok"] is False for rows in results.values() for row in rows):
        raise SystemExit("Some bounds were not held.")


if __name__ == "__main__":
    main()
