"""The posterior in parts against the whole, written out; and what it must leave alone."""

import pytest
import torch
from torch import nn

from prism_hf.generation import remask_generate
from prism_hf.generation.denoising import reading as module
from prism_hf.generation.denoising.orders import POSTERIOR_ORDERS
from prism_hf.generation.denoising.reading import posterior_of
from prism_hf.generation.denoising.unmasking import probability_of
from prism_hf.models.llada import LladaConfig

MASK = 0

EXCLUDED = [9, 2]


@pytest.fixture(params=[1, 25, 2**20])
def at_once(request, monkeypatch):
    """One position at a time (fewer than one fit), two, and all."""
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", request.param)


def example():
    logits = torch.randn(3, 5, 10, generator=torch.Generator().manual_seed(0))
    allowed = logits.clone()
    allowed[..., EXCLUDED] = -torch.inf
    return logits, allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_the_whole(at_once, dtype):
    logits, allowed = example()
    logits, allowed = logits.to(dtype), allowed.to(dtype).float()
    kept = logits.clone()
    posterior = posterior_of(logits, torch.tensor(EXCLUDED))
    columns = torch.tensor([[4, 0], [1, 1], [2, 3]])
    taken = torch.stack([row[at] for row, at in zip(allowed, columns, strict=True)])
    for each, expected in ((posterior, allowed), (posterior.take(columns), taken)):
        assert each.allowed().dtype == torch.float32 and torch.equal(each.allowed(), expected)
        assert torch.equal(each.map(lambda logits: logits.argmax(-1)), expected.argmax(-1))
        for order in POSTERIOR_ORDERS.values():
            whole = order(expected.softmax(-1))
            torch.testing.assert_close(each.map(lambda logits, order=order: order(logits.softmax(-1))), whole)
        tokens = expected.argsort(-1)[..., 4]
        by_hand = (expected - expected.exp().sum(-1, keepdim=True).log()).exp().gather(-1, tokens[..., None])[..., 0]
        torch.testing.assert_close(each.map(probability_of, tokens), by_hand)
    assert torch.equal(logits, kept)


def test_no_positions():
    posterior = posterior_of(torch.empty(2, 0, 10), torch.tensor(EXCLUDED))
    assert posterior.allowed().shape == (2, 0, 10) and posterior.map(lambda logits: logits.amax(-1)).shape == (2, 0)


class Table(nn.Module):
    """Gives the same tensors at each call, and keeps them."""

    _supports_logit_positions = True

    def __init__(self, logits):
        super().__init__()
        self.logits, self.config = logits, type("Config", (), {"mask_token_id": MASK})()

    def forward(self, input_ids, attention_mask, logits_to_keep):
        return type("Output", (), {"logits": self.logits[:, : logits_to_keep.shape[1]]})()


@pytest.mark.parametrize("settings", [{}, {"suppress_tokens": [1]}, {"bad_words_ids": [[3, 4]]}, {"steps": 1}])
def test_a_model_may_keep_its_logits(settings):
    table = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(0))
    kept = table.clone()
    remask_generate(Table(table), torch.full((2, 6), MASK), **settings)
    assert torch.equal(table, kept)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "margin", "suppress_tokens": [3, 4]},
        {"order": "random", "do_sample": True, "top_p": 0.9},
        {"remask_strategy": "p2", "do_sample": True},
        {"remask_strategy": "remdm_conf", "do_sample": True},
        {"remask_strategy": "wino", "fill_threshold": 0.02},
    ],
)
def test_tokens_do_not_depend_on_how_many_positions_are_read_at_once(prism, settings, monkeypatch):
    backbone = LladaConfig(
        d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, mlp_hidden_size=48, vocab_size=40, mask_token_id=MASK
    )
    model, prompts = prism(backbone), torch.arange(10, 20).view(2, 5)

    def run():
        generator = torch.Generator().manual_seed(0)
        return remask_generate(model, prompts, max_new_tokens=8, steps=6, generator=generator, **settings)

    expected = run()
    monkeypatch.setattr(module, "ELEMENTS_AT_ONCE", 100)
    assert torch.equal(run(), expected)
