"""What strategies sample from a distribution that is known, with exact posteriors (ReMDM, arXiv 2503.00307).

The law of the words that a strategy generates is computed as well, step by step over all 256 canvases: samples must
have it up to the noise of sampling, and it tells how far the strategy is from the data, free of that noise.
"""

import importlib.util
import itertools
import math
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[3] / "scripts" / "toy_distribution.py"
spec = importlib.util.spec_from_file_location("toy_distribution", SCRIPT)
toy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toy)

JOINT, MASK, CANVASES = toy.joint_table(), toy.MASK, toy.CANVASES
MODEL = toy.ExactModel(JOINT)
START = len(CANVASES) - 1  # all masks
COMPLETE = (CANVASES != MASK).all(-1)
SAMPLES = 100_000


def loop_alpha(t):
    if t > 0.55:
        return 0.9 * (1 - t) / 0.45
    return 0.9 if t > 0.05 else 1 - 0.1 * t / 0.05


def probabilities(name, eta, t, s):
    """(remasking, filling) by the formulas, as in test_transition."""
    a_t, a_s = (loop_alpha(t), loop_alpha(s)) if name == "remdm_loop" else (1 - t, 1 - s)
    if s == 0:
        return 0.0, 1.0
    most = min(1.0, (1 - a_s) / a_t) if a_t > 0 else 1.0
    if name == "dfm":
        b = 10 * (t * (1 - t)) ** 0.25
        remask, fill = (b * (a_s - a_t) / a_t if a_t > 0 else 0.0), (1 + b) * (a_s - a_t) / (1 - a_t)
        return remask / max(1.0, remask, fill), fill / max(1.0, remask, fill)
    sigma = {
        "ancestral": 0.0,
        "remdm_cap": eta,
        "remdm_rescale": (eta or 0) * most,
        "remdm_loop": (eta or 0.02) if 0.05 < t <= 0.55 else 0.0,
        "forward_backward": (a_s - a_t) / a_t if a_t > 0 else 1.0,
    }[name]
    sigma = min(sigma, most)
    return sigma, (a_s - (1 - sigma) * a_t) / (1 - a_t)


def law_of_probabilities(name, eta, steps):
    """The law (81,) of the words: each step multiplies the law of the canvas by the product of the four positions."""
    law = torch.zeros(len(CANVASES), dtype=torch.float64)
    law[START] = 1
    before, after = CANVASES[:, None], CANVASES[None]  # (256, 1, 4), (1, 256, 4)
    drawn = MODEL.posterior.gather(-1, CANVASES.T[None].expand(len(CANVASES), -1, -1)).transpose(1, 2)
    for i in range(steps):
        remask, fill = probabilities(name, eta, 1 - i / steps, 1 - (i + 1) / steps)
        of_token = (after == before).double() * (1 - remask) + (after == MASK) * remask
        of_mask = torch.where(after == MASK, 1 - fill, fill * drawn)
        law = law @ torch.where(before == MASK, of_mask, of_token).prod(-1)
    assert law.sum() == pytest.approx(1) and law[~COMPLETE].sum() == pytest.approx(0, abs=1e-12)
    return law[COMPLETE]


def law_of_counts(steps, remask):
    """The law (81,) for the static sampler with one remasked a step, in random order.

    `remask` is "prism" (the lowest quality), "random" or None. Works through who is remasked and what is filled.
    """
    law = torch.zeros(len(CANVASES), dtype=torch.float64)
    law[START] = 1
    code = {tuple(canvas): i for i, canvas in enumerate(CANVASES.tolist())}
    moves = {}

    def move(i, target, may_remask):
        """Where canvas `i` goes in a step: [(canvas, probability)]."""
        canvas = CANVASES[i].tolist()
        masks = [j for j in range(4) if canvas[j] == MASK]
        tokens = [j for j in range(4) if canvas[j] != MASK]
        removed = [None]
        if may_remask and remask and len(tokens) > 1:
            removed = [min(tokens, key=lambda j: MODEL.quality[i, j].item())] if remask == "prism" else tokens
        out = []
        for gone in removed:
            count = min(target - len(tokens) + (gone is not None), len(masks))
            choices = list(itertools.combinations(masks, count))
            for choice in choices:
                for symbols in itertools.product(range(3), repeat=count):
                    new = list(canvas)
                    p = 1 / len(removed) / len(choices)
                    for j, symbol in zip(choice, symbols, strict=True):
                        new[j], p = symbol, p * MODEL.posterior[i, j, symbol].item()
                    if gone is not None:
                        new[gone] = MASK
                    out.append((code[tuple(new)], p))
        return out

    for step in range(steps):
        target, may_remask = math.ceil(4 * (step + 1) / steps), step < steps - 1
        new = torch.zeros_like(law)
        for i in law.nonzero().flatten().tolist():
            key = i, target, may_remask
            if key not in moves:
                moves[key] = move(*key)
            for j, p in moves[key]:
                new[j] += law[i] * p
        law = new
    assert law[~COMPLETE].sum() == 0
    return law[COMPLETE]


VARIANTS = ["ancestral", "remdm_cap", "remdm_rescale", "remdm_loop", "forward_backward", "dfm"]


@pytest.mark.parametrize("name", VARIANTS)
def test_with_exact_posteriors_the_law_goes_to_the_data(name):
    """The error of filling several positions at once falls as 1 / steps, if what a step remasks does, too."""
    coarse, fine = (toy.total_variation(law_of_probabilities(name, 4 / steps, steps), JOINT) for steps in (64, 256))
    assert fine < 0.008 and fine < coarse / 3


def settings_of(name, eta):
    return {"remask_strategy": name} | ({} if eta is None else {"eta": eta})


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, eta, steps",
    [
        ("ancestral", None, 48),
        ("remdm_cap", 0.01, 64),
        ("remdm_rescale", 0.03, 64),
        ("remdm_loop", None, 60),
        ("forward_backward", None, 80),
    ],
)
def test_samples_are_the_data(name, eta, steps):
    law, noise = law_of_probabilities(name, eta, steps), toy.sampling_noise(JOINT, SAMPLES)
    assert noise < 0.01 and toy.total_variation(law, JOINT) < 0.01
    shares = toy.word_shares(toy.sample(MODEL, SAMPLES, steps, seed=0, **settings_of(name, eta)))
    # Half a sum of 81 nearly independent terms: its own spread is a tenth of its mean.
    assert toy.total_variation(shares, law) < 1.4 * noise
    assert toy.total_variation(shares, JOINT) < 0.02


@pytest.mark.parametrize("name, eta", [("remdm_cap", 1.0), ("remdm_rescale", 1.0), ("remdm_loop", 1.0), ("dfm", None)])
def test_samples_have_the_law_however_coarse(name, eta):
    law = law_of_probabilities(name, eta, 8)
    shares = toy.word_shares(toy.sample(MODEL, SAMPLES, 8, seed=0, **settings_of(name, eta)))
    assert toy.total_variation(shares, law) < 1.4 * toy.sampling_noise(law, SAMPLES)


@pytest.mark.parametrize("remask", [None, "random", "prism"])
def test_one_remasked_a_step_has_its_law(remask):
    """Random remasking is Gibbs sampling, but for the steps that fill two holes. PRISM's choice depends on the token
    itself, so that likely words are kept: with exact posteriors there is nothing to correct, and it seeks the mode."""
    settings = {"order": "random"} | ({"remask_strategy": remask, "num_remask": 1} if remask else {})
    law = law_of_counts(10, remask)
    shares = toy.word_shares(toy.sample(MODEL, SAMPLES, 10, seed=0, **settings))
    assert toy.total_variation(shares, law) < 1.4 * toy.sampling_noise(law, SAMPLES)
    long = law_of_counts(64, remask)
    if remask == "prism":
        print(f"total variation of PRISM to the data: {toy.total_variation(law, JOINT):.4f} after 10 steps")
        entropies = [-(each * each.clamp(min=1e-300).log()).sum() for each in (JOINT, law, long)]
        assert entropies[0] > entropies[1] > entropies[2]
    else:
        assert toy.total_variation(long, JOINT) < 1e-4


def test_conf_goes_to_the_data_more_slowly():
    """Nothing makes up for what it remasks, so that its last step fills several positions at once, independently."""
    coarse, fine = (
        toy.total_variation(
            toy.word_shares(toy.sample(MODEL, 20_000, steps, seed=0, remask_strategy="remdm_conf")), JOINT
        )
        for steps in (16, 128)
    )
    assert coarse > 1.5 * toy.total_variation(law_of_probabilities("ancestral", None, 16), JOINT)
    assert fine < 0.6 * coarse
