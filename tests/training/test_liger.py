"""Liger's kernels: refused where they cannot run, and where they can, LLaDA trains as without them."""

import copy
import importlib.util

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from prism_hf import (
    LladaConfig,
    LladaForMaskedDiffusion,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismConfig,
    PrismForMaskedDiffusion,
)
from prism_hf.training.liger import apply_liger

LLADA = LladaConfig(
    d_model=32,
    n_layers=2,
    n_heads=2,
    mlp_hidden_size=48,
    vocab_size=64,
    mask_token_id=63,
    eos_token_id=0,
    pad_token_id=0,
)
ON_GPU = torch.cuda.is_available() and importlib.util.find_spec("liger_kernel") is not None


def test_a_cpu_is_told_before_anything_is_loaded(tmp_path):
    args = MaskedDiffusionTrainingArguments(str(tmp_path), use_liger_kernel=True, use_cpu=True, report_to="none")
    with pytest.raises(ValueError, match="use_liger_kernel=True needs a GPU"):
        MaskedDiffusionTrainer("no/model", args, train_dataset=[{"input_ids": [1, 2]}])


@pytest.mark.skipif(not ON_GPU, reason="Liger's kernels need an accelerator")
def test_llada_under_a_quality_head_computes_the_same():
    torch.manual_seed(0)
    plain = PrismForMaskedDiffusion(PrismConfig(backbone_config=LLADA)).cuda()
    with_liger = copy.deepcopy(plain)
    apply_liger(with_liger, None)
    layer = with_liger.backbone.model.layers[0]
    assert layer.mlp._get_name() == "LigerSwiGLUMLP" and layer.input_layernorm._get_name() == "LigerRMSNorm"
    ids, gradients = torch.randint(63, (2, 9), device="cuda"), []
    for model in (plain, with_liger):
        output = model(ids)
        (output.logits.logsumexp(-1).sum() + output.quality_logits.sum()).backward()
        gradients.append([each.grad for each in model.parameters() if each.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not ON_GPU, reason="Liger's kernels need an accelerator")
def test_a_family_without_kernels_is_named(caplog):
    apply_liger(BertForMaskedLM(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)), None)
    assert "Liger has no kernels for models of 'bert'" in caplog.text
    model = LladaForMaskedDiffusion(LLADA)
    apply_liger(model, {"swiglu": False})
    assert model.model.layers[0].mlp._get_name() == "LlamaMLP"
