"""Generation against a literal loop, with PRISM and with caches: time, peak memory and agreement of the tokens.

    python scripts/bench_generate.py [--shape small long tiny] [--rounds 3] [--sides ...] [--growth] [--strategies]

The literal loop is the sampler as one writes it from LLaDA's text: the logits of every position at every step, and a
loop over the batch for the choice. The peers' loops are written here from their published rule: that of dLLM and
Fast-dLLM, which is the literal one with probabilities in float64, and Fast-dLLM's with its prefix and its dual cache,
which map all that a forward reads to the vocabulary. Each side runs in a process of its own; the sides take turns.
Memory is read in a process that gives freed tensors back at once, so that the peak counts what is in use. Linux only,
as it reads the peak from /proc. Weights are random: agreement under a cache says little of a trained model.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from prism_hf import LladaConfig, PrismConfig, PrismForMaskedDiffusion
from prism_hf.generation.denoising.caching import CanvasCache
from prism_hf.models.llada.modeling_llada import LladaModel
from prism_hf.models.lm_head import LmHead


@dataclass(frozen=True)
class Shape:
    """A LLaDA of `layers`, `width` and `vocabulary`, and what it generates: `new` tokens after a prompt, in blocks."""

    layers: int
    width: int
    vocabulary: int
    prompt: int
    new: int
    block: int
    steps: int
    batch: int


SHAPES = {
    "small": Shape(layers=8, width=512, vocabulary=126464, prompt=128, new=128, block=32, steps=128, batch=4),
    "long": Shape(layers=12, width=768, vocabulary=50258, prompt=384, new=128, block=32, steps=128, batch=1),
    "tiny": Shape(layers=2, width=64, vocabulary=512, prompt=8, new=16, block=8, steps=16, batch=2),
}
SETTINGS = {
    "ours": {},
    "ours, PRISM": {"remask_strategy": "prism", "num_remask": 4},
    "ours, prefix cache": {"cache_implementation": "prefix"},
    "ours, dual cache": {"cache_implementation": "dual"},
    "ours, left to right": {"order": "left_to_right"},
    "ours, left to right, dual cache": {"order": "left_to_right", "cache_implementation": "dual"},
    "ours, plain last layer and head": {},
    "ours, dual cache, plain last layer and head": {"cache_implementation": "dual"},
    "ours, left to right, dual cache, plain last layer and head": {
        "order": "left_to_right",
        "cache_implementation": "dual",
    },
    "ours, bfloat16": {},
    "ours, bfloat16, dual cache": {"cache_implementation": "dual"},
}
LITERAL = "literal loop"
# By the cache that they have; the model, attention and cache are ours, so that the loop alone is compared.
PEERS = {"peer": None, "peer, prefix cache": "prefix", "peer, dual cache": "dual"}
# The row that a side is compared with: the same order and nothing else.
EXACT = dict.fromkeys((LITERAL, *PEERS), "ours") | {
    side: "ours, left to right" if "order" in settings else "ours" for side, settings in SETTINGS.items()
}
# Every remasking strategy against none; the critic is the model itself, and each of its forwards counts.
STRATEGIES = {
    "none": {},
    "random": {"remask_strategy": "random", "num_remask": 4},
    "prism": {"remask_strategy": "prism", "num_remask": 4},
    "ancestral": {"remask_strategy": "ancestral"},
    "remdm_cap": {"remask_strategy": "remdm_cap"},
    "remdm_rescale": {"remask_strategy": "remdm_rescale"},
    "remdm_conf": {"remask_strategy": "remdm_conf"},
    "remdm_loop": {"remask_strategy": "remdm_loop"},
    "forward_backward": {"remask_strategy": "forward_backward"},
    "dfm": {"remask_strategy": "dfm"},
    "p2": {"remask_strategy": "p2"},
    "token_critic": {"remask_strategy": "token_critic"},
    # The whole block is filled and verified in turn, as much as WINO can have to do; over 0.6 these weights are never.
    "wino": {"remask_strategy": "wino", "fill_threshold": 0.0, "verify_threshold": 1.0},
}
# What is varied in the tables of growth, one thing at a time; prompts of 96 to 992 and a block of 32 make 128 to 1024.
GROWTH = {
    "prompt": (96, 224, 480, 992),
    "batch": (1, 2, 4, 8, 16),
    "block": (8, 16, 32, 64),
    "vocabulary": (15808, 31616, 63232, 126464),
}


def build_model(shape: Shape) -> PrismForMaskedDiffusion:
    backbone = LladaConfig(
        d_model=shape.width,
        n_layers=shape.layers,
        n_heads=shape.width // 64,
        mlp_hidden_size=3 * shape.width,
        vocab_size=shape.vocabulary,
        mask_token_id=shape.vocabulary - 1,
    )
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # tokens should depend on the canvas, as those of small initial weights hardly do
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                std = 1.0 if "embed" in name else parameter.shape[1] ** -0.5
                parameter.normal_(std=std, generator=generator)
    return model.eval()


@torch.no_grad()
def literal(model: PrismForMaskedDiffusion, prompts: torch.Tensor, shape: Shape) -> torch.Tensor:
    """Low-confidence unmasking in blocks, with no attention to cost."""
    mask = model.config.mask_token_id
    canvas = torch.cat([prompts, prompts.new_full((shape.batch, shape.new), mask)], dim=1)
    block_steps = shape.steps // (shape.new // shape.block)
    for start in range(shape.prompt, canvas.shape[1], shape.block):
        for step in range(block_steps):
            logits = model.backbone(input_ids=canvas).logits
            logits[..., mask] = -torch.inf
            drawn = logits.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, drawn[..., None])[..., 0]
            confidence = confidence.masked_fill(canvas != mask, -torch.inf)
            confidence[:, start + shape.block :] = -torch.inf
            count = shape.block // block_steps + (step < shape.block % block_steps)
            for row in range(shape.batch):
                chosen = confidence[row].topk(count).indices
                canvas[row, chosen] = drawn[row, chosen]
    return canvas


@torch.no_grad()
def peer(model: PrismForMaskedDiffusion, prompts: torch.Tensor, shape: Shape, kind: str | None) -> torch.Tensor:
    """Low-confidence unmasking in blocks as published with Fast-dLLM (arXiv 2505.22618): its plain loop, or a cache.

    The first step of a block reads the whole canvas. With a cache, the others read the block (`"dual"`), or it and what
    follows (`"prefix"`). All that is read is mapped to the vocabulary.
    """
    mask = model.config.mask_token_id
    canvas = torch.cat([prompts, prompts.new_full((shape.batch, shape.new), mask)], dim=1)
    block_steps = shape.steps // (shape.new // shape.block)
    for start in range(shape.prompt, canvas.shape[1], shape.block):
        end, cache = start + shape.block, CanvasCache()
        for step in range(block_steps):
            first, last = 0, canvas.shape[1]
            if kind is not None and step > 0:
                first, last = start, end if kind == "dual" else canvas.shape[1]
                cache.positions = torch.arange(first, last).expand(shape.batch, -1)
            read = canvas[:, first:last]
            logits = model.backbone(input_ids=read, **({} if kind is None else {"cache": cache})).logits
            logits[..., mask] = -torch.inf
            drawn = logits.argmax(-1)
            confidence = logits.double().softmax(-1).gather(-1, drawn[..., None])[..., 0]
            confidence = confidence.masked_fill(read != mask, -torch.inf)
            confidence[:, end - first :] = -torch.inf
            count = shape.block // block_steps + (step < shape.block % block_steps)
            for row in range(shape.batch):
                chosen = confidence[row].topk(count).indices
                canvas[row, first + chosen] = drawn[row, chosen]
    return canvas


def generate(
    model: PrismForMaskedDiffusion, prompts: torch.Tensor, shape: Shape, side: str, **settings
) -> torch.Tensor:
    if side == LITERAL:
        return literal(model, prompts, shape)
    if side in PEERS:
        return peer(model, prompts, shape, PEERS[side])
    return model.generate(
        prompts, max_new_tokens=shape.new, block_length=shape.block, steps=shape.steps, **SETTINGS[side], **settings
    )


def strategies(name: str, rounds: int) -> None:
    """Let every strategy take turns in this process, and print the seconds that a forward takes."""
    shape = SHAPES[name]
    # The last block alone, in as many steps as it has when all are generated.
    shape = replace(
        shape,
        prompt=shape.prompt + shape.new - shape.block,
        new=shape.block,
        steps=shape.steps * shape.block // shape.new,
    )
    model, seconds = build_model(shape), {name: [] for name in STRATEGIES}
    prompts = torch.randint(shape.vocabulary - 1, (shape.batch, shape.prompt))
    print(f"{name}, every strategy: {describe(shape)}, float32, {torch.get_num_threads()} threads\n", flush=True)
    turns = [(strategy, 2) for strategy in STRATEGIES]  # a warm-up
    turns += [(strategy, shape.steps) for _ in range(rounds) for strategy in STRATEGIES]
    for strategy, steps in tqdm(turns, unit="run"):
        critic = {"critic": model} if strategy == "token_critic" else {}
        began = time.perf_counter()
        output = model.generate(
            prompts,
            max_new_tokens=shape.new,
            block_length=shape.block,
            steps=steps,
            return_dict_in_generate=True,
            **STRATEGIES[strategy],
            **critic,
        )
        seconds[strategy].append((time.perf_counter() - began) / output.num_forwards)
    best = {strategy: min(values[1:]) for strategy, values in seconds.items()}
    print("| strategy | seconds a forward (best) | to none |\n|---|---|---|")
    for strategy, value in best.items():
        print(f"| {strategy} | {value:.4f} | {value / best['none']:.2f} |")
    print(flush=True)


def memory(field: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS now, VmHWM at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/self/status")


def measure(shape: Shape, side: str) -> None:
    """Run one side in this process, after a warm-up of two steps a block: seconds a step, extra memory, tokens."""
    model = build_model(shape)
    if "bfloat16" in side:
        model = model.to(torch.bfloat16)
    if "plain last layer and head" in side:
        LmHead.forward = nn.Linear.forward
        LladaModel._supports_states_to_keep = False
    generator = torch.Generator().manual_seed(1)
    prompts = torch.randint(shape.vocabulary - 1, (shape.batch, shape.prompt), generator=generator)
    generate(model, prompts, replace(shape, steps=2 * shape.new // shape.block), side)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    began = time.perf_counter()
    tokens = generate(model, prompts, shape, side)
    seconds = (time.perf_counter() - began) / shape.steps
    peak = memory("VmHWM") - before
    print(json.dumps({"seconds": seconds, "peak": peak, "tokens": tokens[:, shape.prompt :].tolist()}))


def run(shape: Shape, side: str, environment: dict | None = None) -> dict:
    """What `measure` prints, in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps({"side": side} | asdict(shape))]
    output = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | (environment or {}),
    )
    return json.loads(output.stdout.splitlines()[-1])


def describe(shape: Shape) -> str:
    return ", ".join(f"{name} {value}" for name, value in asdict(shape).items())


def compare(name: str, rounds: int, sides: list[str]) -> None:
    """Let the sides take turns at a shape, and print the table, with ratios to the first of them."""
    shape, base = SHAPES[name], sides[0]
    print(f"{name}: {describe(shape)}, float32 unless said, {torch.get_num_threads()} threads\n", flush=True)
    timed = [(side, shape, {}) for _ in range(rounds) for side in sides]
    # Every step holds the same tensors, so a few show the peak.
    short = replace(shape, steps=4 * shape.new // shape.block)
    lean = [(side, short, {"MALLOC_MMAP_THRESHOLD_": "65536"}) for side in sides]
    results = [(side, bool(env), run(shape, side, env)) for side, shape, env in tqdm([*timed, *lean], unit="run")]
    seconds, peak, tokens = {}, {}, {}
    for side in sides:
        ran = [result for which, is_lean, result in results if which == side and not is_lean]
        seconds[side] = statistics.median(result["seconds"] for result in ran)
        tokens[side] = torch.tensor(ran[0]["tokens"])
        peak[side] = next(result["peak"] for which, is_lean, result in results if which == side and is_lean) / 2**20
    print(f"| | seconds a step | {base} / it | exact / it | extra memory at the peak | tokens as exact |")
    print("|---|---|---|---|---|---|")
    for side in sides:
        exact = EXACT[side] if EXACT[side] in sides else base
        ratios = f"{seconds[base] / seconds[side]:.2f} | {seconds[exact] / seconds[side]:.2f}"
        same = (tokens[side] == tokens[exact]).float().mean().item()
        print(f"| {side} | {seconds[side]:.4f} | {ratios} | {peak[side]:.0f} MiB | {same:.1%} |")
    print("\nexact: ours of the same order, without cache and remasking\n", flush=True)


class Clock:
    """A streamer that notes when each step of a block is done."""

    def __init__(self):
        self.times = []

    def put(self, value: torch.Tensor) -> None:
        self.times.append(time.perf_counter())

    put_draft = put

    def end(self) -> None:
        pass


def growth(name: str, rounds: int) -> None:
    """Print seconds a step where one thing of the shape grows, all in this process.

    A block is made in a few steps, the first of which warms up and fills the cache, and is left out. Of each step the
    best round counts.
    """
    base = replace(SHAPES[name], new=32, block=32, steps=4)
    sides = [side for side in SETTINGS if "PRISM" not in side and "prefix" not in side]  # with one block, as dual
    print(f"{name}, growth from {describe(base)}, float32, {torch.get_num_threads()} threads\n", flush=True)
    shapes = [(field, replace(base, **{field: value})) for field, values in GROWTH.items() for value in values]
    rows, model = {field: [] for field in GROWTH}, None
    for field, shape in tqdm(shapes, unit="shape"):
        shape = replace(shape, new=shape.block)
        if model is None or model.config.backbone_config.vocab_size != shape.vocabulary:
            model = build_model(shape)
        prompts = torch.randint(shape.vocabulary - 1, (shape.batch, shape.prompt))
        taken = {side: [] for side in sides}
        for side in sides * rounds:
            clock = Clock()
            generate(model, prompts, shape, side, streamer=clock)
            taken[side].append([after - before for before, after in pairwise(clock.times)])
        best = {side: [min(times) for times in zip(*taken[side], strict=True)] for side in sides}
        rows[field].append([getattr(shape, field), *(statistics.mean(best[side][1:]) for side in sides)])
    for field, measured in rows.items():
        print(f"| {field} | {' | '.join(sides)} |")
        print("|---" * (len(sides) + 1) + "|")
        for value, *seconds in measured:
            print(f"| {value} | {' | '.join(f'{second:.4f}' for second in seconds)} |")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=None)
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--sides", nargs="+", choices=list(EXACT), default=list(EXACT), help="these alone")
    parser.add_argument("--growth", action="store_true", help="instead, how time grows with each part of the shape")
    parser.add_argument("--strategies", action="store_true", help="instead, every remasking strategy against none")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(Shape(**{name: value for name, value in args.measure.items() if name != "side"}), args.measure["side"])
        return
    for name in args.shape or (["small"] if args.growth else ["small", "long"]):
        if args.growth:
            growth(name, args.rounds)
        elif args.strategies:
            strategies(name, args.rounds)
        else:
            compare(name, args.rounds, args.sides)


if __name__ == "__main__":
    main()
