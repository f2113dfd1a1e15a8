import pytest
import torch

from prism_hf.diffusion.drafting import draft, invert_cdf, nucleus, select_lowest, select_positions
from prism_hf.diffusion.losses import (
    CHUNK_ELEMENTS,
    linear_unmasking_loss,
    quality_loss,
    token_losses,
    unmasking_loss,
    weighted_sum,
)
from prism_hf.diffusion.noising import mask_tokens
from prism_hf.diffusion.schedules import SCHEDULES, antithetic_timesteps


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_ends_and_derivative(name):
    alpha, derivative = SCHEDULES[name]
    t = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(alpha(t)[[0, -1]], torch.tensor([1.0, 0.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(alpha(t).sum(), t)
    torch.testing.assert_close(derivative(t.detach()), gradient)


def test_antithetic_timesteps_put_one_in_each_stratum():
    t = antithetic_timesteps(torch.rand(1, generator=seeded()), torch.arange(8), 8, earliest=0.0)
    assert (t.mul(8).floor().sort().values == torch.arange(8)).all()


@pytest.mark.parametrize("num_rows", [2, 5, None])
def test_each_timestep_is_uniform_by_itself(num_rows):
    shifts = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    for row in (0, 1, 4):
        t = torch.cat([antithetic_timesteps(u, torch.tensor([row]), num_rows, 0.2, 0.7) for u in shifts])
        assert 0.2 <= t.min() < 0.201 and 0.699 < t.max() < 0.7
        torch.testing.assert_close(t.sort().values.diff(), torch.full((999,), 0.0005, dtype=torch.float64))


def test_timesteps_of_a_stream_are_spread_evenly():
    t = antithetic_timesteps(torch.rand(1, generator=seeded()), torch.arange(100), None, earliest=0.0)
    for first in (10, 33, 100):
        counted = (t[:first] < torch.linspace(0, 1, 101)[:, None]).sum(-1)
        assert (counted - first * torch.linspace(0, 1, 101)).abs().max() < 3


def test_mask_tokens_only_where_allowed_and_at_the_right_rate():
    x = torch.randint(1, 9, (2, 20000), generator=seeded())
    maskable = torch.rand(x.shape, generator=seeded(1)) < 0.5
    z, masked = mask_tokens(x, torch.tensor([0.2, 0.7]), 0, torch.rand(x.shape, generator=seeded(2)), maskable)
    assert not (masked & ~maskable).any()
    assert ((z == 0) == masked).all() and (z[~masked] == x[~masked]).all()
    rates = masked.sum(1) / maskable.sum(1)
    torch.testing.assert_close(rates, torch.tensor([0.2, 0.7]), atol=0.02, rtol=0)


def test_select_lowest_against_a_loop():
    scores = torch.rand(50, 13, generator=seeded())
    candidates = torch.rand(50, 13, generator=seeded(1)) < 0.5
    k = torch.randint(0, 8, (50,), generator=seeded(2))
    chosen = select_lowest(scores, candidates, k)
    for row in range(50):
        places = sorted(candidates[row].nonzero().flatten().tolist(), key=lambda i: scores[row, i].item())
        assert set(chosen[row].nonzero().flatten().tolist()) == set(places[: k[row]])


def test_nucleus_against_a_loop():
    logits = torch.randn(30, 9, generator=seeded())
    kept = nucleus(logits, 0.8).isfinite()
    for row, probabilities in enumerate(logits.softmax(-1).tolist()):
        total, expected = 0.0, set()
        for token in sorted(range(9), key=lambda v: -probabilities[v]):
            expected.add(token)
            total += probabilities[token]
            if total >= 0.8:
                break
        assert set(kept[row].nonzero().flatten().tolist()) == expected


def test_invert_cdf_follows_the_posterior():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    uniform = torch.rand(40000, generator=seeded(), dtype=torch.float64)
    drawn = invert_cdf(probabilities.log().expand(40000, 4), uniform)
    torch.testing.assert_close(torch.bincount(drawn) / 40000, probabilities, atol=0.01, rtol=0)


def test_invert_cdf_never_draws_an_impossible_token():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]] * 3)
    uniform = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert invert_cdf(logits, uniform).tolist() == [1, 3, 3]


def test_random_selection_is_uniform_over_masked():
    masked = torch.tensor([[True, False, True, True, True]]).expand(20000, 5)
    chosen = select_positions(masked, torch.zeros(80000), 2, torch.rand(20000, 5, generator=seeded()))
    assert (chosen.sum(1) == 2).all()
    torch.testing.assert_close(chosen.float().mean(0), torch.tensor([0.5, 0, 0.5, 0.5, 0.5]), atol=0.02, rtol=0)


def test_semi_autoregressive_takes_the_most_confident_of_the_leftmost():
    masked = torch.tensor([[True, True, False, True, True], [False, False, False, True, False]])
    confidence = torch.tensor([0.1, 0.9, 0.5, 0.99, 0.3])
    chosen = select_positions(masked, confidence, 2, torch.rand(2, 5), "semi_autoregressive", window=3)
    assert chosen.tolist() == [[False, True, False, True, False], [False, False, False, True, False]]


def test_unknown_selection_is_refused():
    with pytest.raises(ValueError, match="'randm'.*semi_autoregressive"):
        select_positions(torch.ones(1, 2, dtype=torch.bool), torch.ones(2), 1, torch.rand(1, 2), "randm")


def test_draft_greedy_places_each_rows_tokens():
    masked = torch.tensor([[True, False, True], [False, True, True]])
    z = torch.tensor([[0, 7, 0], [8, 0, 0]])
    logits = torch.full((4, 9), -5.0)
    logits[:, 0] = 50.0  # the mask token must lose however likely it is
    logits[torch.arange(4), torch.tensor([1, 2, 3, 4])] = 1.0
    y, filled = draft(z, masked, logits.__getitem__, 0, num_positions=5, uniform=torch.rand(2, 2, 2, 3), sample=False)
    assert y.tolist() == [[1, 7, 2], [8, 3, 4]] * 2
    assert (filled == torch.cat([masked, masked])).all()


def test_draft_leaves_unfilled_positions_masked():
    masked = torch.rand(64, 12, generator=seeded()) < 0.6
    z = torch.full((64, 12), 5).masked_fill(masked, 0)
    logits = torch.randn(int(masked.sum()), 9, generator=seeded(1))
    uniform = torch.rand(2, 2, 64, 12, generator=seeded(2), dtype=torch.float64)
    y, filled = draft(z, masked, logits.__getitem__, 0, num_positions=3, uniform=uniform)
    z, masked = z.repeat(2, 1), masked.repeat(2, 1)
    assert (filled.sum(1) == masked.sum(1).clamp(max=3)).all()
    assert (y[~filled] == z[~filled]).all() and (y[filled] != 0).all()
    assert not torch.equal(filled[:64], filled[64:])
    own_logits = logits[masked[:5].sum() : masked[:6].sum()]
    alone, _ = draft(z[5:6], masked[5:6], own_logits.__getitem__, 0, 3, uniform[:, :, 5:6])
    assert torch.equal(alone, y[[5, 69]])  # a row's draft does not depend on its batch


def test_draft_in_steps_reads_what_earlier_steps_wrote():
    masked = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    z = torch.full((2, 7), 8).masked_fill(masked, 0)

    def count_tokens(y, positions):
        """A model that is sure of one token: how many of its row are not masked."""
        logits = torch.nn.functional.one_hot((y != 0).sum(1), 9).float()
        return logits[:, None].expand(2, 7, 9)[positions]

    seen = []
    y, filled = draft(
        z,
        masked,
        lambda index: count_tokens(z, masked)[index],
        0,
        num_positions=6,
        sample=False,
        num_steps=3,
        uniform=torch.rand(1, 2, 2, 7, generator=seeded(), dtype=torch.float64),
        reread=lambda y, positions: seen.append(y.clone()) or count_tokens(y, positions),
    )
    assert [(canvas == 0).sum(1).tolist() for canvas in seen] == [[5, 1], [3, 0]]
    # Of seven masks, six are filled: two while there is no token, which cannot be the mask's 0, then two by two.
    assert y[0].sort().values.tolist() == [0, 1, 1, 2, 2, 4, 4]
    assert y[1].sort().values.tolist() == [4, 4, 6, 8, 8, 8, 8]
    assert (filled == (masked & (y != 0))).all()


def test_losses_against_the_written_out_sums():
    logits = torch.randn(6, 5, generator=seeded())
    targets = torch.randint(0, 5, (6,), generator=seeded(1))
    weights = torch.rand(6, generator=seeded(2))
    terms = [-torch.log_softmax(logits[i], -1)[targets[i]] for i in range(6)]
    losses = token_losses(logits, targets)
    torch.testing.assert_close(losses, torch.stack(terms))
    torch.testing.assert_close(weighted_sum(losses, None), sum(terms))
    weighted = sum(w * term for w, term in zip(weights, terms, strict=True)) / 10
    torch.testing.assert_close(weighted_sum(losses, weights) / 10, weighted)
    with pytest.warns(FutureWarning, match="unmasking_loss is now called weighted_sum"):
        torch.testing.assert_close(unmasking_loss(logits, targets, weights, 10), weighted)

    scores = torch.randn(6, generator=seeded(3))
    correct = torch.tensor([1, 0, 1, 1, 0, 0], dtype=torch.bool)
    q = scores.sigmoid()
    expected = -torch.where(correct, q.log(), (1 - q).log()).sum() / 8
    torch.testing.assert_close(quality_loss(scores, correct, 8), expected)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_loss_equals_the_loss_of_full_logits(frozen, weighted, monkeypatch):
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 3 * 11)  # chunks of 3 rows, the last one short
    decoder = torch.nn.Linear(6, 11, dtype=torch.float64).requires_grad_(not frozen)
    states = torch.randn(10, 6, generator=seeded(), dtype=torch.float64, requires_grad=True)
    targets = torch.randint(1, 11, (10,), generator=seeded(1))
    weights = torch.rand(10, generator=seeded(2), dtype=torch.float64) if weighted else None
    inputs = [states, *(() if frozen else decoder.parameters())]

    logits = decoder(states).masked_fill(torch.arange(11) == 0, -torch.inf)
    terms = -torch.log_softmax(logits, -1)[torch.arange(10), targets]
    expected = (terms if weights is None else weights * terms).sum() / 7
    loss, confidence, losses = linear_unmasking_loss(states, decoder, targets, weights, 7, mask_token_id=0)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(confidence.double(), logits.softmax(-1).amax(-1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(losses.double(), terms, atol=1e-5, rtol=1e-5)
    for got, want in zip(torch.autograd.grad(3 * loss, inputs), torch.autograd.grad(3 * expected, inputs), strict=True):
        torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-4)


def test_linear_loss_of_no_positions_is_zero():
    decoder, states = torch.nn.Linear(6, 11), torch.zeros(0, 6, requires_grad=True)
    loss, confidence, _ = linear_unmasking_loss(states, decoder, torch.zeros(0, dtype=torch.long), None, 1, 0)
    loss.backward()
    assert loss == 0 and confidence.shape == (0,) and states.grad.shape == (0, 6)
