"""Every remasking strategy on a distribution that is known: 4 positions, 3 symbols, exact posteriors and qualities.

    python scripts/toy_distribution.py [--samples 100000] [--steps 128] [--seed 0]

Prints a Markdown table: how far the samples of each strategy are from the data in total variation (half the sum of
absolute differences over the 81 words), beside what as many draws from the data itself would give.
"""

import argparse
import itertools
import time
from types import SimpleNamespace

import torch
from torch import nn

from prism_hf.generation import remask_generate

POSITIONS, SYMBOLS, MASK = 4, 3, 3
WORDS = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=POSITIONS)))  # (81, 4)
CANVASES = torch.tensor(list(itertools.product(range(SYMBOLS + 1), repeat=POSITIONS)))  # (256, 4)

SETTINGS = {
    "ancestral": {"remask_strategy": "ancestral"},
    "remdm_cap, eta 0.04": {"remask_strategy": "remdm_cap", "eta": 0.04},
    "remdm_cap, eta 1": {"remask_strategy": "remdm_cap", "eta": 1.0},
    "remdm_rescale, eta 0.015": {"remask_strategy": "remdm_rescale", "eta": 0.015},
    "remdm_rescale, eta 0.2": {"remask_strategy": "remdm_rescale", "eta": 0.2},
    "remdm_loop": {"remask_strategy": "remdm_loop"},
    "forward_backward": {"remask_strategy": "forward_backward"},
    "dfm": {"remask_strategy": "dfm"},
    "remdm_conf": {"remask_strategy": "remdm_conf"},
    "none, random order": {"order": "random"},
    "random, 1 a step": {"order": "random", "remask_strategy": "random", "num_remask": 1},
    "prism, 1 a step": {"order": "random", "remask_strategy": "prism", "num_remask": 1},
    "prism, eta 0.04": {"order": "random", "remask_strategy": "prism", "eta": 0.04},
    "p2": {"remask_strategy": "p2"},
    "token_critic": {"remask_strategy": "token_critic"},
}


def joint_table(seed: int = 0) -> torch.Tensor:
    """A random joint distribution over the 81 words, (81,) float64; every word is possible."""
    weights = torch.rand(len(WORDS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).pow(2)
    return weights / weights.sum()


class ExactModel(nn.Module):
    """Posteriors and qualities of all 256 canvases, by summing the joint distribution (81,).

    The posterior at position i is Pr[x_i | the other positions that are not masked], and the quality of a token is that
    of the token: Pr[x_i = y_i | y with i masked].
    """

    def __init__(self, joint: torch.Tensor):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK)
        self.posterior = torch.zeros(len(CANVASES), POSITIONS, SYMBOLS + 1, dtype=torch.float64)
        for i in range(POSITIONS):
            others = [j for j in range(POSITIONS) if j != i]
            seen = CANVASES[:, None, others]
            agrees = ((seen == WORDS[:, others]) | (seen == MASK)).all(-1).double()  # (256, 81)
            for symbol in range(SYMBOLS):
                self.posterior[:, i, symbol] = agrees @ (joint * (WORDS[:, i] == symbol))
        self.posterior /= self.posterior.sum(-1, keepdim=True)
        self.quality = self.posterior.gather(-1, CANVASES[..., None])[..., 0]

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        code = (input_ids * (SYMBOLS + 1) ** torch.arange(POSITIONS - 1, -1, -1)).sum(-1)
        quality_logits = self.quality[code].logit().float() if return_quality else None
        return SimpleNamespace(logits=self.posterior[code].log().float(), quality_logits=quality_logits)


def word_shares(words: torch.Tensor) -> torch.Tensor:
    """How often each of the 81 words occurs among `words` (N, 4), as shares (81,)."""
    code = (words * SYMBOLS ** torch.arange(POSITIONS - 1, -1, -1)).sum(-1)
    return torch.bincount(code, minlength=len(WORDS)).double() / len(words)


def total_variation(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first - second).abs().sum().item() / 2


def sampling_noise(joint: torch.Tensor, samples: int) -> float:
    """The expected total variation between `joint` and as many independent draws from it (normal approximation)."""
    return (2 * joint * (1 - joint) / (torch.pi * samples)).sqrt().sum().item() / 2


def sample(model: ExactModel, samples: int, steps: int, seed: int, **settings) -> torch.Tensor:
    """Words (N, 4) that a strategy generates from nothing."""
    if settings.get("remask_strategy") == "token_critic":
        settings["critic"] = model
    return remask_generate(
        model,
        torch.full((samples, POSITIONS), MASK),
        steps=steps,
        do_sample=True,
        generator=torch.Generator().manual_seed(seed),
        **settings,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    joint = joint_table()
    model = ExactModel(joint)
    print(f"{args.samples} samples, {args.steps} steps, exact posteriors\n")
    print("| strategy | total variation to the data | seconds |\n|---|---|---|")
    print(f"| draws from the data (expected) | {sampling_noise(joint, args.samples):.4f} | |", flush=True)
    for name, settings in SETTINGS.items():
        began = time.perf_counter()
        words = sample(model, args.samples, args.steps, args.seed, **settings)
        distance = total_variation(word_shares(words), joint)
        print(f"| {name} | {distance:.4f} | {time.perf_counter() - began:.1f} |", flush=True)


if __name__ == "__main__":
    main()
