"""Probability-scheduled strategies against their closed forms: one step, the whole run, and the edges."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binom, chi2
from torch import nn

from prism_hf.generation import RemaskGenerationConfig, StepState, remask_generate
from prism_hf.generation.configuration_remask import prepare_generation_config
from prism_hf.generation.generation_remask import prepare_generation
from prism_hf.generation.strategies.base import resolve_strategy
from prism_hf.generation.strategies.transition import TransitionStrategy, most_unmasked

MASK = 3
POSTERIOR = [0.5, 0.3, 0.2]


class Constant(nn.Module):
    """The same posterior everywhere, whatever the canvas."""

    def __init__(self, posterior=POSTERIOR):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK)
        self.row = torch.tensor([*posterior, 1.0]).log()

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.row.expand(*input_ids.shape, 4))


def loop_alpha(t, t_on=0.55, t_off=0.05, alpha_on=0.9):
    if t > t_on:
        return alpha_on * (1 - t) / (1 - t_on)
    return alpha_on if t > t_off else 1 - (1 - alpha_on) * t / t_off


def closed_form(strategy, t, s):
    """(probability that a token is remasked, that a mask is filled) from time t to s, by the papers' formulas."""
    name, eta = strategy["name"], strategy.get("eta")
    a_t, a_s = (loop_alpha(t), loop_alpha(s)) if name == "remdm_loop" else (1 - t, 1 - s)
    if s == 0:
        return 0.0, 1.0
    most = min(1.0, (1 - a_s) / a_t) if a_t > 0 else 1.0
    if name == "dfm":
        u = 1 - t
        a = 1 + 10 * u**0.25 * (1 - u) ** 0.25
        remask = (a - 1) * (a_s - a_t) / a_t if a_t > 0 else 0.0
        fill = a * (a_s - a_t) / (1 - a_t)
        shorter = min(1.0, 1 / max(remask, fill))
        return remask * shorter, fill * shorter
    sigma = {
        "ancestral": lambda: 0.0,
        "remdm_cap": lambda: min(eta, most),
        "remdm_rescale": lambda: eta * most,
        "remdm_loop": lambda: min(0.02, most) if 0.05 < t <= 0.55 else 0.0,
        "forward_backward": lambda: (a_s - a_t) / a_t if a_t > 0 else most,
    }[name]()
    return sigma, (a_s - (1 - sigma) * a_t) / (1 - a_t)


STRATEGIES = [
    {"name": "ancestral"},
    {"name": "remdm_cap", "eta": 0.0},
    {"name": "remdm_cap", "eta": 0.04},
    {"name": "remdm_cap", "eta": 1.0},
    {"name": "remdm_rescale", "eta": 0.0},
    {"name": "remdm_rescale", "eta": 0.3},
    {"name": "remdm_rescale", "eta": 1.0},
    {"name": "remdm_loop"},
    {"name": "forward_backward"},
    {"name": "dfm"},
]


def label(strategy):
    return "-".join(str(value) for value in strategy.values())


def one_step(strategy, step, steps, tokens, masked, confidence=None, seed=0):
    """The canvas (B, L) after one step of the sampler from a given canvas."""
    model = Constant()
    config, strategy = prepare_generation_config(model, None, remask_strategy=strategy, do_sample=True, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    generation = prepare_generation(model, config, strategy, torch.full_like(tokens, MASK), generator=generator)
    planned = generation.begin(generation.schedule[step])
    generation.tokens, generation.masked, generation.confidence = tokens, masked, confidence
    changes = strategy.step(generation, planned)
    assert torch.equal(generation.masked, generation.tokens == MASK)
    assert torch.equal(changes.unmasked, masked & ~generation.masked)
    assert torch.equal(changes.remasked, ~masked & generation.masked)
    return generation.tokens


def agrees(counts, probabilities):
    """Chi-square test of counts against probabilities, at p > 0.001; what cannot happen has not happened."""
    total = sum(counts)
    possible = [(c, p) for c, p in zip(counts, probabilities, strict=True) if p > 1e-12]
    assert sum(c for c, _ in possible) == total and math.isclose(sum(probabilities), 1, abs_tol=1e-6)
    statistic = sum((c - total * p) ** 2 / (total * p) for c, p in possible)
    return len(possible) == 1 or chi2.sf(statistic, len(possible) - 1) > 0.001


@pytest.mark.parametrize("strategy", STRATEGIES, ids=label)
@pytest.mark.parametrize("step", [0, 1, 7, 10, 15])
def test_one_step_is_the_closed_form(strategy, step):
    """200,000 positions, half of them masks; step 0 starts at t = 1, step 15 of 16 ends at s = 0."""
    tokens = torch.arange(4).repeat(50_000).view(200, 1000)
    tokens = torch.where(torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.33, MASK, tokens)
    after = one_step(strategy, step, 16, tokens, tokens == MASK)
    sigma, fill = closed_form(strategy, 1 - step / 16, 1 - (step + 1) / 16)
    assert 0 <= sigma <= 1 and 0 <= fill <= 1
    for token in range(3):
        of = after[tokens == token]
        assert ((of == token) | (of == MASK)).all()
        assert agrees([(of == token).sum().item(), (of == MASK).sum().item()], [1 - sigma, sigma])
    counts = torch.bincount(after[tokens == MASK], minlength=4).tolist()
    assert agrees(counts, [*(fill * p for p in POSTERIOR), 1 - fill])


def test_one_step_of_conf_is_the_closed_form():
    step, steps, length = 9, 16, 10
    tokens = torch.tensor([0, 1, 2, 0, 1, 2, 0, MASK, MASK, MASK]).expand(20_000, length)
    psi = torch.tensor([0.9, 0.1, 0.5, 0.2, 0.7, 1.0, 0.0, 0.4, 0.4, 0.4])
    after = one_step({"name": "remdm_conf"}, step, steps, tokens, tokens == MASK, psi.expand(20_000, length))
    alpha_t, alpha_s = step / steps, (step + 1) / steps
    weights = [math.exp(-p) for p in psi[:7].tolist()]
    for i in range(7):
        sigma = weights[i] / sum(weights) * min(1, (1 - alpha_s) / alpha_t)
        lost = (after[:, i] == MASK).sum().item()
        assert agrees([len(after) - lost, lost], [1 - sigma, sigma])
    fill = (alpha_s - alpha_t) / (1 - alpha_t)
    counts = torch.bincount(after[:, 7:].flatten(), minlength=4).tolist()
    assert agrees(counts, [*(fill * p for p in POSTERIOR), 1 - fill])


def run(strategy, batch=1500, length=24, steps=16, posterior=POSTERIOR, **settings):
    return remask_generate(
        Constant(posterior),
        torch.full((batch, length), MASK),
        steps=steps,
        remask_strategy=strategy,
        do_sample=True,
        generator=torch.Generator().manual_seed(0),
        return_dict_in_generate=True,
        output_trajectory=True,
        **settings,
    ).trajectory


@pytest.mark.parametrize("strategy", STRATEGIES, ids=label)
def test_masks_follow_alpha_over_the_whole_run(strategy):
    steps = 16
    held = (run(strategy, steps=steps).canvas != MASK).double().mean((1, 2)).tolist()
    expected = 0.0
    for i in range(steps):
        t, s = 1 - i / steps, 1 - (i + 1) / steps
        sigma, fill = closed_form(strategy, t, s)
        expected = expected * (1 - sigma) + (1 - expected) * fill
        alpha = loop_alpha(s) if strategy["name"] == "remdm_loop" else 1 - s
        if strategy["name"] != "dfm":  # whose shortened steps fall behind alpha
            assert expected == pytest.approx(alpha, abs=1e-9)
        assert abs(held[i] - expected) <= 4.5 * math.sqrt(expected * (1 - expected) / (1500 * 24))


def test_masks_of_dfm_follow_alpha_where_no_step_is_shortened():
    held, steps = 0.0, 4096
    for i in range(steps):
        sigma, fill = closed_form({"name": "dfm"}, 1 - i / steps, 1 - (i + 1) / steps)
        held = held * (1 - sigma) + (1 - held) * fill
        if steps // 64 < i < steps - 1:
            assert held == pytest.approx((i + 1) / steps, abs=1e-4)


def test_conf_has_more_masks_than_alpha_says():
    """With equally sure tokens, n of them lose Binomial(n, sigma_max / n), which gives the law of their number."""
    steps, length, batch = 16, 24, 1500
    held = (run({"name": "remdm_conf"}, posterior=[1.0, 0.0, 0.0]).canvas != MASK).sum(-1).double()  # (S, B)
    law = [1.0] + [0.0] * length
    for i in range(steps - 1):
        alpha_t, alpha_s = i / steps, (i + 1) / steps
        most = min(1.0, (1 - alpha_s) / alpha_t) if alpha_t else 1.0
        new = [0.0] * (length + 1)
        for n, mass in enumerate(law):
            lost = binom.pmf(range(n + 1), n, most / max(n, 1))
            won = binom.pmf(range(length - n + 1), length - n, (alpha_s - alpha_t) / (1 - alpha_t))
            for k, p in enumerate(lost):
                for m, q in enumerate(won):
                    new[n - k + m] += mass * p * q
        law = new
        mean = sum(n * p for n, p in enumerate(law))
        spread = math.sqrt(sum(n * n * p for n, p in enumerate(law)) - mean**2)
        assert abs(held[i].mean().item() - mean) < 4.5 * spread / math.sqrt(batch)
        assert mean < length * alpha_s - 0.5 or i == 0
    assert (held[-1] == length).all()


@pytest.mark.parametrize("strategy", [*STRATEGIES, {"name": "remdm_conf"}], ids=label)
@pytest.mark.parametrize("steps", [1, 2, 3, 100])
def test_probabilities_are_probabilities(strategy, steps):
    t = 1 - torch.arange(steps)[:, None] / steps
    generated = torch.tensor([[True, False, False]]).expand(steps, 3)
    state = StepState(
        torch.zeros_like(generated, dtype=torch.long),
        generated,
        None,
        None,
        0,
        steps,
        t=t,
        s=1 - (torch.arange(steps)[:, None] + 1) / steps,
        confidence=torch.ones(steps, 3),
    )
    for tokens in (generated, ~generated, torch.zeros_like(generated)):
        chance = resolve_strategy(strategy)(StepState(**vars(state) | {"generated": tokens}))
        assert chance.shape == generated.shape and ((chance >= 0) & (chance <= 1)).all()  # no NaN either


def test_the_planned_width_is_the_quantile():
    widths = most_unmasked(resolve_strategy("ancestral"), 32, 32)
    assert widths[-1] == 32
    for i in (0, 5, 20, 30):
        assert binom.sf(widths[i], 32, 1 / (32 - i)) <= 1e-12 < binom.sf(widths[i] - 1, 32, 1 / (32 - i))
    assert most_unmasked(TransitionStrategy(), 7, 3) == [7, 7, 7]


@pytest.mark.parametrize("strategy", [*STRATEGIES, {"name": "remdm_conf"}], ids=label)
def test_a_window_of_remasking(strategy):
    if strategy["name"] == "remdm_loop":
        with pytest.raises(ValueError, match="t_on"):
            run(strategy, remask_start=0.5)
        return
    trajectory = run(strategy, batch=100, remask_start=0.25, remask_end=0.75)
    remasked = trajectory.remasked.sum((1, 2))
    assert remasked[:4].sum() == remasked[12:].sum() == 0
    assert (remasked[5:11] > 0).all() or strategy["name"] == "ancestral" or strategy.get("eta") == 0
    assert not (trajectory.canvas[-1] == MASK).any()


def test_blocks_run_their_own_time():
    """Two rows with two and three blocks: in each, all is filled by its last step, and nothing changes after."""
    ids = torch.full((2, 12), MASK)
    ids[0, :4] = 0
    trajectory = remask_generate(
        Constant(),
        ids,
        steps=12,
        block_length=4,
        remask_strategy="remdm_cap",
        eta=0.5,
        do_sample=True,
        generator=torch.Generator().manual_seed(0),
        return_dict_in_generate=True,
        output_trajectory=True,
    ).trajectory
    canvas = trajectory.canvas
    assert (canvas[:, 0, :4] == 0).all()
    for row, first, each in ((0, 4, 6), (1, 0, 4)):
        for block in range((12 - first) // 4):
            here, end = slice(first + 4 * block, first + 4 * block + 4), (block + 1) * each - 1
            assert (canvas[: block * each, row, here] == MASK).all()
            assert not (canvas[end, row, here] == MASK).any()
            assert (canvas[end:, row, here] == canvas[end, row, here]).all()


def test_confidence_is_the_probability_of_the_draw():
    seen = []

    class Watching(TransitionStrategy):
        needs = ("confidence",)

        def __call__(self, state):
            seen.append(state)
            return torch.full(state.canvas.shape, 0.5)

    for settings, expected in (
        ({}, [0.5, 0.3, 0.2]),
        ({"top_p": 0.75}, [0.625, 0.375, 0.0]),
        ({"temperature": 0.5}, [p**2 / 0.38 for p in POSTERIOR]),
        ({"do_sample": False}, [0.5, 0.3, 0.2]),
    ):
        seen.clear()
        remask_generate(
            Constant(),
            torch.full((3, 9), MASK),
            steps=5,
            remask_strategy=Watching(),
            **({"do_sample": True} | settings),
        )
        for state in seen:
            own = torch.tensor([*expected, 0.0])[state.canvas]
            torch.testing.assert_close(state.confidence[state.generated], own[state.generated])
        assert any(state.generated.any() for state in seen)


def test_a_strategy_that_reads_the_model_is_asked_after_the_forward():
    """PRISM's quality as a probability: remask with 1 - quality, fill by the linear schedule."""

    class ByQuality(TransitionStrategy):
        needs = ("quality", "token_probs")

        def __call__(self, state):
            assert state.token_probs[state.generated].sub(0.5).abs().max() < 1e-6 if state.generated.any() else True
            assert state.token_probs[~state.generated].isnan().all()
            return torch.where(state.generated, 1 - state.quality, (state.t - state.s) / state.t)

    class WithQuality(Constant):
        def forward(self, input_ids, attention_mask=None, return_quality=True):
            quality = torch.where(torch.arange(input_ids.shape[1]) < 5, torch.inf, -torch.inf)
            return SimpleNamespace(
                logits=super().forward(input_ids).logits, quality_logits=quality.expand(input_ids.shape)
            )

    out = remask_generate(
        WithQuality(),
        torch.full((4, 10), MASK),
        steps=20,
        remask_strategy=ByQuality(),
        return_dict_in_generate=True,
        output_trajectory=True,
        generator=torch.Generator().manual_seed(0),
    )
    remasked = out.trajectory.remasked
    assert not remasked[..., :5].any() and remasked[..., 5:].any()
    # Quality 0: what one step fills, the next removes, but in the last.
    assert torch.equal(remasked[1:-1, :, 5:], out.trajectory.filled[:-2, :, 5:])
    assert not (out.sequences == MASK).any()


def test_eta_reaches_the_strategy_each_way():
    def settings(**kwargs):
        config, strategy = prepare_generation_config(Constant(), kwargs.pop("config", None), **kwargs)
        return strategy.eta, config.eta, config.order

    expected = (0.2, None, "random")
    assert settings(remask_strategy="remdm_cap", eta=0.2) == expected
    assert settings(remask_strategy={"name": "remdm_cap", "eta": 0.2}) == expected
    assert settings(config=RemaskGenerationConfig(remask_strategy="remdm_cap", eta=0.2)) == expected
    assert settings(config=RemaskGenerationConfig(remask_strategy="remdm_cap", eta=0.7), eta=0.2) == expected
    assert settings(config=RemaskGenerationConfig(order="margin", num_remask=2), remask_strategy="remdm_cap", eta=0.2)
    assert settings(remask_strategy="remdm_cap") == (0.04, None, "random")
