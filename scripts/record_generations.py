"""What every strategy, order, cache and sampler generates at a fixed seed, to compare a change with what was before it.

    python scripts/record_generations.py FILE           # writes
    python scripts/record_generations.py FILE --check   # compares, and names what differs

The models are tiny and of float64, with weights so large that tokens depend on the canvas: no machine rounds them into
another token. What a setting is refused for is recorded too.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

import torch

from prism_hf import LladaConfig, PrismConfig, PrismForMaskedDiffusion, remask_generate
from prism_hf.generation import STRATEGIES

MASK, VOCABULARY = 30, 32
LOOP = {"loop_start": 6, "loop_steps": 3, "num_remask_loop": 2}
SAMPLED = {"do_sample": True, "temperature": 1.3, "top_p": 0.9, "top_k": 12}
SAMPLERS = {
    "static": {"steps": 10},
    "every": {"steps": 20},
    "blocks": {"steps": 12, "block_length": 6},
    "blocks, prefix": {"steps": 12, "block_length": 6, "cache_implementation": "prefix"},
    "blocks, dual": {
        "steps": 12,
        "block_length": 6,
        "cache_implementation": "dual",
        "cache_refresh_interval": 3,
    },
    "threshold": {"confidence_threshold": 0.35},
    "threshold, blocks, dual": {
        "confidence_threshold": 0.35,
        "steps": 16,
        "block_length": 8,
        "cache_implementation": "dual",
    },
}
EXTRAS = {
    "window": {"remask_start": 0.2, "remask_end": 0.7},
    "num_remask": {"num_remask": 3},
    "eta": {"eta": 0.3},
    "verified": {"confidence_threshold": 0.3, "quality_threshold": 0.6},
    "verified, num_remask": {"confidence_threshold": 0.3, "quality_threshold": 0.6, "num_remask": 2},
    "loop": LOOP,
    "guidance": {"cfg_scale": 0.7},
    "suppress": {"suppress_tokens": [1, 2, 3], "bad_words_ids": [[4], [5, 6]]},
    "endings": {"eos_token_id": [7, 8], "pad_token_id": 0},
    "several": {"num_return_sequences": 2, "do_sample": True},
    "trajectory": {"output_trajectory": True},
}


def cases() -> dict[str, dict]:
    """The settings of every case by its name."""
    named = {}
    for strategy, (sampler, settings) in itertools.product(STRATEGIES, SAMPLERS.items()):
        for drawing, drawn in (("greedy", {}), ("sampled", SAMPLED)):
            named[f"{strategy}; {sampler}; {drawing}"] = {"remask_strategy": strategy} | settings | drawn
    for order, sampler in itertools.product(
        ("random", "margin", "entropy", "left_to_right"), ("static", "blocks, dual")
    ):
        for strategy in ("none", "prism", "p2"):
            named[f"{strategy}; {sampler}; {order}"] = {"remask_strategy": strategy, "order": order} | SAMPLERS[sampler]
    for extra, sampler in itertools.product(EXTRAS, ("static", "blocks")):
        for strategy in ("none", "random", "prism", "remdm_cap", "p2", "wino"):
            settings = {"remask_strategy": strategy} | SAMPLERS[sampler] | EXTRAS[extra]
            named[f"{strategy}; {sampler}; {extra}"] = settings
    return named


def build_model() -> PrismForMaskedDiffusion:
    backbone = LladaConfig(
        d_model=32, n_layers=2, n_heads=4, mlp_hidden_size=64, vocab_size=VOCABULARY, mask_token_id=MASK, rope_theta=1e4
    )
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone)).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                std = 1.0 if parameter.shape[0] == VOCABULARY else 1.5 * parameter.shape[1] ** -0.5
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(std * drawn)
    return model


def inputs() -> dict[str, torch.Tensor]:
    """Three prompts of different lengths, padded on the left, the longest with masks in place."""
    tokens = torch.randint(10, MASK, (3, 7), generator=torch.Generator().manual_seed(1))
    tokens[0, 2:4] = MASK
    attention_mask = torch.ones_like(tokens)
    attention_mask[1, :3], attention_mask[2, :1] = 0, 0
    return {"input_ids": tokens, "attention_mask": attention_mask}


def generate(model: PrismForMaskedDiffusion, settings: dict) -> dict | str:
    """What a call gives, or the kind of the error that refuses it."""
    critic = {"critic": model} if settings["remask_strategy"] == "token_critic" else {}
    generator = torch.Generator().manual_seed(2)
    try:
        output = remask_generate(
            model,
            **inputs(),
            max_new_tokens=14,
            generator=generator,
            return_dict_in_generate=True,
            **settings,
            **critic,
        )
    except ValueError as error:
        return type(error).__name__
    recorded = {
        "sequences": output.sequences.tolist(),
        "num_forwards": output.num_forwards,
        "tokens_per_forward": [round(value, 6) for value in output.tokens_per_forward.tolist()],
    }
    if output.trajectory is not None:
        recorded["filled"] = output.trajectory.filled.sum(-1).tolist()
        recorded["remasked"] = output.trajectory.remasked.sum(-1).tolist()
        recorded["corrections"] = output.trajectory.corrections().sum(-1).tolist()
        if output.trajectory.quality is not None:
            recorded["quality"] = [
                [round(value, 5) for value in row] for row in output.trajectory.quality.nanmean(-1).tolist()
            ]
    return recorded


def record() -> dict[str, dict | str]:
    """What every case gives."""
    model = build_model()
    return {name: generate(model, settings) for name, settings in cases().items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    recorded = record()
    if not args.check:
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in recorded.items())
        args.file.write_text("{\n" + lines + "\n}\n", encoding="utf-8")
        return
    before = json.loads(args.file.read_text(encoding="utf-8"))
    differing = [name for name in before | recorded if before.get(name) != recorded.get(name)]
    print(f"{len(before) - len(differing)} of {len(before)} as recorded.", *differing, sep="\n")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
