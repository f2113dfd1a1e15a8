import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from prism_hf.evaluation import auroc, expected_calibration_error, reliability_bins


def sample(n=400, decimals=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(n, generator=generator)
    if decimals is not None:
        probabilities = probabilities.round(decimals=decimals)
    labels = torch.rand(n, generator=generator) < probabilities**2
    return probabilities, labels


@pytest.mark.parametrize("decimals", [None, 1])
def test_auroc_counts_pairs(decimals):
    scores, labels = sample(decimals=decimals)
    difference = scores[labels][:, None] - scores[~labels][None, :]
    pairs = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean().item()
    assert auroc(scores, labels) == pytest.approx(pairs, abs=1e-12)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - pairs, abs=1e-12)
    assert auroc(scores.view(20, 20), labels.view(20, 20).long()) == pytest.approx(pairs, abs=1e-12)


def test_auroc_of_one_class_is_nan_and_of_constant_scores_one_half():
    assert math.isnan(auroc(torch.rand(4), torch.ones(4)))
    assert math.isnan(auroc(torch.rand(4), torch.zeros(4)))
    assert auroc(torch.zeros(4), torch.tensor([0, 1, 1, 0])) == 0.5


@pytest.mark.parametrize("num_bins", [1, 10, 15])
@pytest.mark.parametrize("decimals", [None, 1])
def test_calibration_error_bin_by_bin(num_bins, decimals):
    probabilities, labels = sample(decimals=decimals)
    probabilities = probabilities.double()
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    bins, expected = reliability_bins(probabilities, labels, num_bins), 0.0
    for i in range(num_bins):
        inside = (probabilities > edges[i]) & (probabilities <= edges[i + 1])
        if i == 0:
            inside |= probabilities == 0
        assert bins["count"][i] == inside.sum()
        if inside.any():
            confidence, accuracy = probabilities[inside].mean(), labels[inside].double().mean()
            assert bins["confidence"][i].item() == pytest.approx(confidence.item())
            assert bins["accuracy"][i].item() == pytest.approx(accuracy.item())
            expected += (inside.double().mean() * (confidence - accuracy).abs()).item()
        else:
            assert bins["confidence"][i].isnan() and bins["accuracy"][i].isnan()
    assert expected_calibration_error(probabilities, labels, num_bins) == pytest.approx(expected)


def test_calibration_error_of_known_cases():
    labels = torch.tensor([1, 0, 0, 0])
    assert expected_calibration_error(torch.full((4,), 0.25), labels) == pytest.approx(0)
    assert expected_calibration_error(torch.full((4,), 0.75), labels) == pytest.approx(0.5)
    assert expected_calibration_error(labels.float(), labels) == 0
    assert expected_calibration_error(1 - labels.float(), labels) == 1


def test_bad_values_are_refused():
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="sigmoid"):
        expected_calibration_error(torch.tensor([0.5, 2.0]), labels)
    with pytest.raises(ValueError, match="one label for each"):
        auroc(torch.rand(3), labels)
    with pytest.raises(ValueError, match="0 or 1"):
        auroc(torch.rand(2), torch.tensor([-100, 1]))
    with pytest.raises(ValueError, match="nan"):
        auroc(torch.tensor([0.5, float("nan")]), labels)
    with pytest.raises(ValueError, match="num_bins=0 must be"):
        reliability_bins(torch.rand(2), labels, 0)
    with pytest.raises(ValueError, match="no probabilities"):
        reliability_bins(torch.rand(0), torch.zeros(0))
