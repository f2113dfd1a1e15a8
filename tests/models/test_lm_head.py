"""The LM head on few rows, against the plain linear map in double precision."""

import pytest
import torch
from torch import nn

from prism_hf import remask_generate
from prism_hf.models.llada import LladaConfig, LladaForMaskedDiffusion
from prism_hf.models.lm_head import LEAST_WEIGHTS, MOST_ROWS, LmHead
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion

VOCABULARY, WIDTH = 40000, 64


def small_llada(**fields):
    return LladaConfig(d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=48, eos_token_id=1, pad_token_id=1, **fields)


@pytest.fixture(scope="module", params=[False, True], ids=["no bias", "bias"])
def head(request):
    torch.manual_seed(0)
    head = LmHead(WIDTH, VOCABULARY, bias=request.param)
    assert head.weight.numel() >= LEAST_WEIGHTS
    return head


@pytest.mark.parametrize("shape", [(n,) for n in (0, 1, 2, 3, 4, 5, 8, 9, 33, MOST_ROWS, MOST_ROWS + 1)] + [(3, 7)])
def test_equals_a_linear_map(head, shape):
    states = torch.randn(*shape, WIDTH)
    with torch.no_grad():
        found = head(states)
    bias = None if head.bias is None else head.bias.double()
    expected = nn.functional.linear(states.double(), head.weight.double(), bias)
    assert found.is_contiguous() and found.shape == (*shape, VOCABULARY)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_takes_states_that_are_not_contiguous_and_writes_into_none(head):
    states = torch.randn(WIDTH, 3).t()
    kept = states.clone()
    expected = nn.functional.linear(states, head.weight, head.bias)
    with torch.no_grad():
        torch.testing.assert_close(head(states), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(states, kept)


def test_gradients_are_those_of_a_linear_map(head):
    states = torch.randn(2, WIDTH, requires_grad=True)
    head(states).square().sum().backward()
    (expected,) = torch.autograd.grad(nn.functional.linear(states, head.weight, head.bias).square().sum(), states)
    assert torch.equal(states.grad, expected)


def test_autocast_and_half_precision_keep_their_dtype(head):
    states = torch.randn(2, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert head(states).dtype == torch.bfloat16
    with torch.no_grad():
        assert head.to(torch.bfloat16)(states.bfloat16()).dtype == torch.bfloat16
    head.float()


def test_every_model_of_ours_has_it():
    llada = LladaForMaskedDiffusion(small_llada(vocab_size=20, mask_token_id=19))
    mdlm = MdlmForMaskedDiffusion(MdlmConfig(vocab_size=20, hidden_dim=16, cond_dim=8, n_blocks=1, n_heads=2))
    assert all(isinstance(model.get_output_embeddings(), LmHead) for model in (llada, mdlm))


def test_generated_tokens_are_those_of_a_linear_map(monkeypatch):
    """At a vocabulary where it acts, for every order, with and without a cache."""
    torch.manual_seed(0)
    model = LladaForMaskedDiffusion(small_llada(vocab_size=70000, mask_token_id=69999)).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_()
        model.lm_head.weight.normal_()
    ids = torch.randint(69999, (2, 6))
    settings = [{"order": order} for order in ("confidence", "margin", "left_to_right")] + [
        {"cache_implementation": "dual"}
    ]
    settings = [{"max_new_tokens": 8, "block_length": 4} | each for each in settings]
    found = [remask_generate(model, ids, **each) for each in settings]
    monkeypatch.setattr(LmHead, "forward", nn.Linear.forward)
    for each, tokens in zip(settings, found, strict=True):
        assert torch.equal(tokens, remask_generate(model, ids, **each)), each
