import pytest
import torch
from scipy import stats

from prism_hf.evaluation import (
    bootstrap_interval,
    bootstrap_ratio,
    mcnemar_test,
    paired_bootstrap,
    paired_bootstrap_ratio,
    wilson_interval,
)


def pairs(both, only_first, only_second, neither):
    first = torch.tensor([1] * both + [1] * only_first + [0] * only_second + [0] * neither, dtype=torch.bool)
    second = torch.tensor([1] * both + [0] * only_first + [1] * only_second + [0] * neither, dtype=torch.bool)
    return first, second


@pytest.mark.parametrize("only_first, only_second", [(1, 0), (2, 8), (8, 2), (5, 5), (0, 12), (700, 600)])
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(only_first, only_second):
    expected = stats.binomtest(only_first, only_first + only_second, 0.5).pvalue
    assert mcnemar_test(*pairs(30, only_first, only_second, 7)) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_by_hand():
    # 2 of 8 heads or fewer: (1 + 8 + 28) / 256, and as many again on the other side.
    assert mcnemar_test(*pairs(3, 2, 6, 1)) == 2 * 37 / 256
    assert mcnemar_test(*pairs(4, 0, 0, 4)) == 1.0


def test_bootstrap_intervals_cover_the_mean_as_often_as_they_say():
    generator = torch.Generator().manual_seed(0)
    covered, repeats = 0, 400
    for _ in range(repeats):
        hard = 5 * torch.randn(80, generator=generator, dtype=torch.float64)
        first = hard + torch.empty(80, dtype=torch.float64).exponential_(generator=generator)
        second = hard + torch.randn(80, generator=generator, dtype=torch.float64) - 0.5
        low, high = paired_bootstrap(first, second, num_resamples=1000)
        covered += low <= 1.5 <= high
    # 0.95 within four standard errors of 400 repeats, less a point that the percentile interval is known to lack.
    assert 0.90 <= covered / repeats <= 0.99


def test_pairing_takes_out_what_makes_an_example_hard():
    generator = torch.Generator().manual_seed(0)
    hard = 10 * torch.randn(200, generator=generator, dtype=torch.float64)
    first = hard + 0.1 * torch.randn(200, generator=generator, dtype=torch.float64)
    low, high = paired_bootstrap(first + 0.1, hard)
    assert 0 < low < high < 0.2
    wide_low, wide_high = bootstrap_interval(first)
    assert wide_high - wide_low > 20 * (high - low)


def test_the_interval_is_that_of_the_mean():
    scores = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low, high = bootstrap_interval(scores, level=0.9)
    expected = stats.t.interval(0.9, 399, scores.mean().item(), scores.std().item() / 20)
    assert (low, high) == pytest.approx(expected, abs=0.01)
    assert bootstrap_interval(scores) == bootstrap_interval(scores)


def test_scores_of_different_examples_are_refused():
    for wrong in (("1", 2), (3, 2), (0, 0), (1.5, 2)):
        with pytest.raises(ValueError, match="must be an integer"):
            wilson_interval(*wrong)
    with pytest.raises(ValueError, match="first=.* must be Tensor"):
        paired_bootstrap([1.0], [0.0])
    with pytest.raises(ValueError, match="must be bool, got torch.float32"):
        mcnemar_test(torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="two scores for each example"):
        mcnemar_test(*(torch.ones(n, dtype=torch.bool) for n in (3, 4)))
    with pytest.raises(ValueError, match="N > 0"):
        bootstrap_interval(torch.ones(0))


@pytest.mark.parametrize("successes, trials, level", [(8, 10, 0.95), (0, 7, 0.8), (7, 7, 0.99), (481, 500, 0.95)])
def test_wilsons_interval_holds_the_rates_that_the_observed_one_is_near(successes, trials, level):
    z = stats.norm.ppf((1 + level) / 2)
    interval = wilson_interval(successes, trials, level)
    for rate in interval:  # whose own standard error puts the observed rate z away
        assert abs(successes / trials - rate) == pytest.approx(z * (rate * (1 - rate) / trials) ** 0.5, abs=1e-9)
    with pytest.warns(FutureWarning, match="z of wilson_interval is now called level"):
        assert wilson_interval(successes, trials, z=z) == pytest.approx(interval, rel=1e-9, abs=1e-12)


def test_one_score_has_an_interval_of_one_point():
    assert bootstrap_interval(torch.ones(1)) == bootstrap_interval(torch.ones(3)) == (1.0, 1.0)


def test_a_ratio_of_equal_numbers_is_the_mean_and_its_interval_that_of_the_delta_method():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(20, 60, (400,), generator=generator)
    totals = numbers * (3 + 0.5 * torch.randn(400, generator=generator, dtype=torch.float64))
    same = torch.full((400,), 20)
    expected = [end / 20 for end in bootstrap_interval(totals)]
    assert bootstrap_ratio(totals, same) == pytest.approx(expected, abs=0.01)
    ratio = (totals.sum() / numbers.sum()).item()
    error = 1.96 * (totals - ratio * numbers).std().item() / numbers.double().mean().item() / 20
    assert bootstrap_ratio(totals, numbers) == pytest.approx((ratio - error, ratio + error), abs=0.1 * error)
    # What pairs have in common cancels out.
    shifted = (totals + 0.25 * numbers, numbers)
    assert paired_bootstrap_ratio(shifted, (totals, numbers)) == pytest.approx((0.25, 0.25))
    assert bootstrap_ratio(totals[:1], numbers[:1]) == pytest.approx([(totals[0] / numbers[0]).item()] * 2)
    with pytest.raises(ValueError, match="two scores for each example"):
        paired_bootstrap_ratio(shifted, (totals[1:], numbers[1:]))
