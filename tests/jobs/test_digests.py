"""Digests are those that files of results hold already."""

import torch

from prism_hf.jobs.digests import digest, json_digest, weights_digest


def test_digests_do_not_change():
    assert digest(torch.arange(6).view(2, 3)) == "4d3cd88d15068443"
    assert digest(torch.tensor([[0.5]]), torch.tensor([True])) == "23080699d09d88ea"
    assert (
        json_digest({"b": [1, 2.5, None], "a": "é"})
        == json_digest({"a": "é", "b": [1, 2.5, None]})
        == "fc10ba9755cfc69c"
    )


def test_another_training_has_another_digest():
    model = torch.nn.Linear(100, 2)
    before = weights_digest(model)
    assert weights_digest(model) == before
    with torch.no_grad():
        model.bias.add_(1)
    assert weights_digest(model) != before
