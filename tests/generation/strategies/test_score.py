import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.generation import (
    STRATEGIES,
    PrismRemasking,
    RemaskGenerationConfig,
    ScoreStrategy,
    StepState,
    remask_generate,
)

MASK, VOCAB = 0, 7


class PlainModel(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table, self.config = table, table.config

    def forward(self, input_ids, attention_mask=None, **kwargs):
        return SimpleNamespace(logits=self.table(input_ids).logits)


def puzzle(rows=((9, 12), (4, 12), (12, 12)), seed=1):
    """Rows of 12 tokens with the given number of masks at random places."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCAB, (len(rows), rows[0][1]), generator=g)
    for row, (masks, length) in enumerate(rows):
        ids[row, torch.randperm(length, generator=g)[:masks]] = MASK
    return ids


@pytest.fixture
def reference_row(score_of):
    def of(model, row, steps, order, n):
        """The static sampler of arXiv 2510.01384, one position at a time. Returns the canvas after each step."""
        row = row.clone()
        given = [i for i in range(len(row)) if row[i] != MASK]
        total = len(row) - len(given)
        history = []
        for i in range(steps):
            out = model(row[None], return_quality=True)
            logits, quality = out.logits[0].clone(), out.quality_logits[0]
            logits[:, MASK] = -float("inf")
            masked = [j for j in range(len(row)) if row[j] == MASK]
            generated = [j for j in range(len(row)) if row[j] != MASK and j not in given]
            target = -((-total * (i + 1)) // steps)
            remask = []
            if n < len(generated) < total - n:
                remask = sorted(generated, key=lambda j: (quality[j].item(), j))[: min(n, total - target)]
            fill = target - len(generated) + len(remask)
            best = sorted(masked, key=lambda j: (-score_of(order, logits[j].softmax(-1)), j))[:fill]
            for j in best:
                row[j] = logits[j].argmax()
            for j in remask:
                row[j] = MASK
            history.append(row.clone())
        return history

    return of


@pytest.mark.parametrize("order", ["confidence", "margin", "entropy", "left_to_right"])
@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("steps", [4, 7])
def test_equal_to_the_literal_loop(table_model, reference_row, order, n, steps):
    ids, model = puzzle(((9, 12), (7, 12), (12, 12))), table_model(12)
    settings = {"remask_strategy": "prism", "num_remask": n} if n else {}
    out = remask_generate(
        model, ids, steps=steps, order=order, return_dict_in_generate=True, output_trajectory=True, **settings
    )
    for b, row in enumerate(ids):
        expected = torch.stack(reference_row(model, row, steps, order, n))
        assert torch.equal(out.trajectory.canvas[:, b], expected)
    assert torch.equal(out.sequences, out.trajectory.canvas[-1])


def test_published_window_one_token_a_step(table_model, reference_row):
    ids, model = puzzle(((12, 12),) * 6, seed=3), table_model(12, seed=4)
    out = remask_generate(
        model,
        ids,
        steps=12,
        remask_strategy="prism",
        num_remask=2,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    for b, row in enumerate(ids):
        assert torch.equal(out.trajectory.canvas[:, b], torch.stack(reference_row(model, row, 12, "confidence", 2)))
    counts = out.trajectory.remasked.sum(-1)
    assert (counts == torch.tensor([0, 0, 0] + [2] * 7 + [0, 0])[:, None]).all()
    assert out.num_forwards == 12


STRATEGY_CASES = [
    {},
    {"remask_strategy": "random", "num_remask": 3},
    {"remask_strategy": "prism", "num_remask": 2},
    {"remask_strategy": "prism", "num_remask": 2, "quality_threshold": 0.4},
    {"remask_strategy": "prism", "eta": 0.5},
    {"remask_strategy": "prism", "num_remask": 1, "remask_start": 0.3, "remask_end": 0.8},
    {"remask_strategy": "prism", "num_remask": 1, "loop_start": 3, "loop_steps": 4, "num_remask_loop": 2},
    {"loop_start": 5, "loop_steps": 3, "num_remask_loop": 30},
]


@pytest.mark.parametrize("settings", STRATEGY_CASES)
@pytest.mark.parametrize("steps", [1, 5, 12, 40, None])
@pytest.mark.parametrize("order", ["random", "confidence"])
def test_givens_stay_and_no_mask_is_left(table_model, settings, steps, order):
    settings = dict(settings)
    if steps is not None and "loop_start" in settings:
        settings["loop_start"] = min(settings["loop_start"], steps)
    ids = puzzle(((9, 12), (1, 12), (12, 12), (0, 12), (5, 12)))
    out = remask_generate(
        table_model(12),
        ids,
        generator=torch.Generator().manual_seed(0),
        steps=steps,
        order=order,
        do_sample=True,
        return_dict_in_generate=True,
        output_trajectory=True,
        **settings,
    )
    assert not (out.sequences == MASK).any()
    canvases, given = out.trajectory.canvas, ids != MASK
    assert (canvases[:, given] == ids[given]).all()
    before = torch.cat([ids[None], canvases[:-1]])
    # Tokens change only by being remasked or filled, and only where a mask was to be filled.
    changed = canvases != before
    assert not (changed & ~(out.trajectory.filled | out.trajectory.remasked)).any()
    was_masked = before == MASK
    loop = out.trajectory.filled & out.trajectory.remasked
    assert not (out.trajectory.filled & ~was_masked & ~loop).any()
    if not settings.get("loop_steps"):
        assert not loop.any()


@pytest.mark.parametrize("settings", [s for s in STRATEGY_CASES if not s.get("loop_steps")])
def test_count_follows_the_schedule(table_model, settings):
    ids, steps = puzzle(((9, 12), (12, 12), (10, 12))), 9
    out = remask_generate(
        table_model(12), ids, steps=steps, return_dict_in_generate=True, output_trajectory=True, **settings
    )
    masks = (ids == MASK).sum(-1)
    held = masks - (out.trajectory.canvas == MASK).sum(-1)
    expected = [[math.ceil(m.item() * (i + 1) / steps) for m in masks] for i in range(steps)]
    assert held.tolist() == expected


def test_loop_holds_the_count(table_model):
    ids = puzzle(((12, 12), (6, 12)))
    out = remask_generate(
        table_model(12),
        ids,
        steps=6,
        loop_start=3,
        loop_steps=4,
        num_remask_loop=2,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    held = (ids == MASK).sum(-1) - (out.trajectory.canvas == MASK).sum(-1)
    assert held[:, 0].tolist() == [2, 4, 6, 6, 6, 6, 6, 8, 10, 12]
    assert out.trajectory.remasked.sum(-1)[:, 0].tolist() == [0, 0, 0, 2, 2, 2, 2, 0, 0, 0]
    assert out.num_forwards == 10


def test_extra_steps_correct_to_the_end(table_model):
    ids, n = puzzle(((12, 12),)), 2
    out = remask_generate(
        table_model(12),
        ids,
        steps=48,
        remask_strategy="prism",
        num_remask=n,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    held = (out.trajectory.canvas != MASK).sum(-1)[:, 0].tolist()
    scheduled = [min(math.ceil(12 * (i + 1) / 48), 12 - n) for i in range(47)] + [12]
    assert held == scheduled
    remasked, filled = out.trajectory.remasked[:, 0], out.trajectory.filled[:, 0]
    # From 3 generated tokens on (step 9), every step but the last remasks, and those travelling holes are filled next.
    assert remasked.sum(-1).tolist() == [0] * 9 + [n] * 38 + [0]
    first_held = scheduled.index(12 - n) + 1
    assert torch.equal(filled[first_held + 1 :], remasked[first_held:-1])


def test_extra_steps_with_a_threshold_nothing_is_below_complete_early(table_model):
    ids = puzzle(((12, 12),))
    out = remask_generate(
        table_model(12),
        ids,
        steps=24,
        remask_strategy="prism",
        num_remask=2,
        quality_threshold=0.0,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    plain = remask_generate(table_model(12), ids, steps=24)
    assert not out.trajectory.remasked.any()
    assert torch.equal(out.sequences, plain)


def test_quality_threshold_remasks_only_below(table_model):
    ids = puzzle(((12, 12),) * 8, seed=5)
    out = remask_generate(
        table_model(12),
        ids,
        steps=12,
        remask_strategy="prism",
        num_remask=3,
        quality_threshold=0.3,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    assert out.trajectory.remasked.any()
    assert (out.trajectory.quality[out.trajectory.remasked] < 0.3).all()


def test_window_in_fractions_of_the_steps(table_model):
    ids = puzzle(((12, 12),))
    out = remask_generate(
        table_model(12),
        ids,
        steps=12,
        remask_strategy="random",
        num_remask=1,
        remask_start=0.5,
        remask_end=0.75,
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    assert out.trajectory.remasked.sum(-1)[:, 0].tolist() == [0] * 6 + [1] * 3 + [0] * 3


@pytest.mark.parametrize("eta", [0.1, 0.9])
def test_binomial_counts(table_model, eta):
    batch, length, steps = 3000, 40, 40
    ids = torch.zeros(batch, length, dtype=torch.long)
    out = remask_generate(
        table_model(length),
        ids,
        steps=steps,
        order="left_to_right",
        remask_strategy="random",
        eta=eta,
        generator=torch.Generator().manual_seed(0),
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    counts = out.trajectory.remasked.sum(-1).double()
    for i in (10, 20, 30):
        generated, room = i, length - (i + 1)
        p = min(eta, (steps - i - 1) / i)
        law = torch.distributions.Binomial(generated, torch.tensor(p, dtype=torch.float64))
        k = torch.arange(generated + 1, dtype=torch.float64)
        mass, k = law.log_prob(k).exp(), k.clamp(max=room)
        mean = (mass * k).sum()
        variance = (mass * k**2).sum() - mean**2
        assert abs(counts[i].mean() - mean) < 5 * (variance / batch).sqrt()
        assert abs(counts[i].var() / variance.clamp(min=1e-9) - 1) < 0.2 or variance < 1e-6


def test_reproducible_under_a_generator(table_model):
    ids, model = puzzle(((12, 12),) * 4), table_model(12)
    settings = {"order": "random", "do_sample": True, "remask_strategy": "random", "eta": 0.3}
    first, second, other = (
        remask_generate(model, ids, generator=torch.Generator().manual_seed(seed), **settings) for seed in (7, 7, 8)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_sampled_tokens_follow_temperature_and_nucleus():
    logits = torch.tensor([9.0, 2.0, 1.5, 1.0, 0.0, -1.0, -2.0])

    class Constant(nn.Module):
        config = SimpleNamespace(mask_token_id=MASK)

        def forward(self, input_ids, attention_mask=None):
            return SimpleNamespace(logits=logits.expand(*input_ids.shape, VOCAB))

    ids = torch.zeros(400, 50, dtype=torch.long)
    out = remask_generate(
        Constant(), ids, steps=2, do_sample=True, temperature=0.7, top_p=0.8, generator=torch.Generator().manual_seed(0)
    )
    p = (logits[1:] / 0.7).softmax(-1)
    kept, total = [], 0.0
    for token, mass in enumerate(p.tolist()):  # already in descending order
        if total < 0.8:
            kept.append(token)
        total += mass
    expected = torch.zeros(VOCAB)
    expected[[t + 1 for t in kept]] = p[kept] / p[kept].sum()
    share = torch.bincount(out.flatten(), minlength=VOCAB) / out.numel()
    assert (share[expected == 0] == 0).all()
    assert (share - expected).abs().max() < 0.02


def test_the_mask_token_is_never_drawn_however_likely():
    class Stubborn(nn.Module):
        config = SimpleNamespace(mask_token_id=MASK)

        def forward(self, input_ids, attention_mask=None):
            logits = torch.full((*input_ids.shape, VOCAB), -60.0)
            logits[..., MASK] = 60.0
            return SimpleNamespace(logits=logits)

    ids = torch.zeros(50, 20, dtype=torch.long)
    for settings in ({}, {"do_sample": True}, {"do_sample": True, "top_p": 0.5}):
        assert not (remask_generate(Stubborn(), ids, steps=3, **settings) == MASK).any()


def test_max_new_tokens_appends_and_padding_is_never_filled(table_model):
    ids = torch.tensor([[MASK, 3, 4], [MASK, MASK, 5]])
    attention = torch.tensor([[0, 1, 1], [0, 1, 1]])
    out = remask_generate(table_model(8), ids, attention_mask=attention, max_new_tokens=5, steps=3)
    assert out.shape == (2, 8)
    assert (out[:, 0] == MASK).all() and not (out[:, 1:] == MASK).any()
    assert out[0, 1:3].tolist() == [3, 4] and out[1, 2] == 5


def test_a_row_does_not_depend_on_its_batch(table_model):
    ids, model = puzzle(((9, 12), (4, 12), (12, 12))), table_model(12)
    settings = {"steps": 20, "remask_strategy": "prism", "num_remask": 1}
    together = remask_generate(model, ids, **settings)
    alone = torch.cat([remask_generate(model, row[None], **settings) for row in ids])
    assert torch.equal(together, alone)


def test_plain_model_without_quality(table_model):
    ids, model = puzzle(), PlainModel(table_model(12))
    assert not (remask_generate(model, ids, remask_strategy="random", num_remask=1) == MASK).any()
    with pytest.raises(ValueError, match="quality head"):
        remask_generate(model, ids, remask_strategy="prism", num_remask=1)


def test_callable_instance_and_name_agree(table_model):
    class Mine(ScoreStrategy):
        needs = ("quality",)

        def __call__(self, state: StepState):
            return state.quality

    results = [
        remask_generate(table_model(12), puzzle(), remask_strategy=s, num_remask=2)
        for s in ("prism", PrismRemasking(), Mine(), {"name": "prism"})
    ]
    assert all(torch.equal(results[0], r) for r in results[1:])
    assert set(STRATEGIES) >= {"none", "random", "prism"}


def test_a_strategy_that_reads_the_posterior(table_model):
    """Remask the tokens that the model itself now finds least likely; nothing else asks for the whole posterior."""
    seen = []

    class LeastLikely(ScoreStrategy):
        needs = ("probs",)

        def __call__(self, state: StepState):
            seen.append(state)
            return state.probs.gather(-1, state.canvas[..., None])[..., 0]

    model, ids = table_model(12), puzzle(((12, 12),))
    out = remask_generate(
        model, ids, remask_strategy=LeastLikely(), num_remask=2, return_dict_in_generate=True, output_trajectory=True
    )
    for state, remasked in zip(seen, out.trajectory.remasked, strict=True):
        logits = model(state.canvas).logits
        logits[..., MASK] = -torch.inf
        torch.testing.assert_close(state.probs, logits.softmax(-1))
        own = logits.softmax(-1)[0, torch.arange(12), state.canvas[0]].masked_fill(~state.generated[0], 2.0)
        assert set(remasked[0].nonzero().flatten().tolist()) == set(own.argsort()[: remasked.sum()].tolist())
    remask_generate(model, ids, remask_strategy=lambda s: seen.append(s) or s.canvas.float(), num_remask=2)
    assert seen[-1].probs is None


def test_one_forward_a_step_and_input_unchanged(table_model):
    ids, model = puzzle(), table_model(12)
    before = ids.clone()
    out = remask_generate(model, ids, steps=6, remask_strategy="prism", num_remask=2, return_dict_in_generate=True)
    assert model.calls == out.num_forwards == 6 and out.trajectory is None
    assert torch.equal(ids, before)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"stpes": 3}, "'steps'"),
        ({"remask_strategy": "prsim", "num_remask": 1}, "'prism'"),
        ({"order": "confidense"}, "'confidence'"),
        ({"remask_strategy": "random", "num_remask": 1, "quality_threshold": 0.5}, "reads quality"),
        ({"num_remask": 1, "eta": 0.1}, "both"),
        ({"steps": 0}, "at least 1"),
        ({"top_p": 0}, "above 0"),
        ({"loop_steps": 2}, "loop_start"),
        ({"steps": 4, "loop_steps": 2, "loop_start": 5}, "lower it"),
        ({"loop_steps": 2, "loop_start": 50}, "lower it"),
        ({"remask_start": 0.9, "remask_end": 0.1}, "exchange"),
        ({"output_trajectory": True}, "return_dict_in_generate"),
        ({"attention_mask": torch.ones(1, 2)}, "attention_mask"),
    ],
)
def test_mistakes_are_named_before_any_forward(table_model, wrong, message):
    model = table_model(12)
    with pytest.raises(ValueError, match=message):
        remask_generate(model, puzzle(), **wrong)
    assert model.calls == 0


def test_nothing_to_fill(table_model):
    with pytest.raises(ValueError, match="no mask token"):
        remask_generate(table_model(12), torch.ones(1, 12, dtype=torch.long))


def test_call_arguments_win_over_the_model_and_the_config(table_model):
    model = table_model(12)
    model.generation_config = RemaskGenerationConfig(steps=5, remask_strategy="prism", num_remask=1)
    kw = {"return_dict_in_generate": True, "output_trajectory": True}
    assert remask_generate(model, puzzle(), **kw).num_forwards == 5
    assert remask_generate(model, puzzle(), RemaskGenerationConfig(steps=6), **kw).num_forwards == 6
    assert remask_generate(model, puzzle(), RemaskGenerationConfig(steps=6), steps=7, **kw).num_forwards == 7
    assert remask_generate(model, puzzle(), eta=0.5, **kw).num_forwards == 5
    assert not remask_generate(model, puzzle(), remask_strategy=None, **kw).trajectory.remasked.any()
    assert not remask_generate(model, puzzle(), remask_strategy="none", **kw).trajectory.remasked.any()
