"""Lightning checkpoints of MDLM and PRISM against the golden tensors of a tiny one: averaged, raw, damaged."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM

from prism_hf.models.convert_checkpoint import main
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion
from prism_hf.models.prism import PrismForMaskedDiffusion
from prism_hf.models.prism.convert_lightning_checkpoint import convert_lightning_checkpoint
from prism_hf.models.prism.quality_heads import MdlmQualityHead

QKV, EMBEDDING = "backbone.blocks.1.attn_qkv.weight", "backbone.vocab_embed.embedding"
FIXTURE = Path(__file__).parents[2] / "fixtures" / "mdlm_tiny"
HUB, CKPT = FIXTURE / "hub", FIXTURE / "prism.ckpt"


@pytest.fixture(scope="module")
def golden():
    return load_file(FIXTURE / "expected.safetensors")


def edited_checkpoint(path, edit):
    checkpoint = torch.load(CKPT, weights_only=True)
    edit(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_ckpt_average_equals_hub_weights_and_raw_does_not():
    hub = load_file(HUB / "model.safetensors")
    averaged, adapter, config = convert_lightning_checkpoint(CKPT)
    raw, raw_adapter, _ = convert_lightning_checkpoint(CKPT, use_ema=False)
    assert averaged.keys() == hub.keys() == raw.keys()
    for key, value in hub.items():
        torch.testing.assert_close(averaged[key], value, atol=0, rtol=0)
    assert any(not torch.equal(raw[key], value) for key, value in hub.items())
    assert adapter.keys() == MdlmQualityHead(config, n_blocks=1).state_dict().keys()
    assert all(torch.equal(adapter[key], value) for key, value in raw_adapter.items())
    published = MdlmConfig.from_pretrained(HUB)
    for field in ("vocab_size", "hidden_dim", "cond_dim", "n_blocks", "n_heads", "mask_token_id"):
        assert getattr(config, field) == getattr(published, field)


def test_ckpt_average_that_covers_the_adapter_is_used(tmp_path):
    def cover(checkpoint):
        adapter = [v for k, v in checkpoint["state_dict"].items() if k.startswith("adapter.") and "inv_freq" not in k]
        checkpoint["ema"]["shadow_params"] += [value + 1 for value in adapter]

    _, averaged, _ = convert_lightning_checkpoint(edited_checkpoint(tmp_path / "covered.ckpt", cover))
    _, raw, _ = convert_lightning_checkpoint(CKPT, use_ema=False)
    for key, value in raw.items():
        torch.testing.assert_close(averaged[key], value if key.endswith("inv_freq") else value + 1)


def test_ckpt_without_adapter(tmp_path):
    def strip(checkpoint):
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("backbone.")}

    _, adapter, _ = convert_lightning_checkpoint(edited_checkpoint(tmp_path / "plain.ckpt", strip))
    assert adapter is None


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda c: c["ema"]["shadow_params"].pop(), "the EMA has 29 parameters"),
        (lambda c: c["ema"]["shadow_params"].reverse(), "EMA parameter 0 has shape"),
        (lambda c: c.pop("ema"), "use_ema=False"),
        (lambda c: c["state_dict"].pop("backbone.blocks.1.norm1.weight"), "missing .*blocks.1.norm1.weight"),
        (lambda c: c["state_dict"].update({"adapter.extra": torch.zeros(1)}), "unexpected .*adapter.extra"),
        (lambda c: c.pop("state_dict"), "no Lightning checkpoint"),
        (lambda c: c.update(state_dict=[]), "no Lightning checkpoint"),
        (lambda c: c["state_dict"].clear(), "no MDLM weights"),
        (lambda c: c["state_dict"].update({QKV: "text"}), "is no dense tensor but a str"),
        (lambda c: c["state_dict"].update({EMBEDDING: torch.zeros(8)}), "not those of matrices and a list"),
        (lambda c: c["state_dict"].update({EMBEDDING: torch.zeros(1).expand(2**30, 2**30)}), "tensors of it claim"),
        (lambda c: c.update(ema={"shadow_params": 3}), "use_ema=False"),
        (lambda c: c["ema"]["shadow_params"].__setitem__(1, "text"), "EMA parameter 1 has no shape but is a str"),
    ],
)
def test_ckpt_mismatch_is_refused(tmp_path, edit, message):
    with pytest.raises(ValueError, match=message):
        convert_lightning_checkpoint(edited_checkpoint(tmp_path / "wrong.ckpt", edit))


def test_ckpt_with_another_config_is_refused():
    config = MdlmConfig.from_pretrained(HUB, hidden_dim=32)
    with pytest.raises(ValueError, match="does not fit the config"):
        convert_lightning_checkpoint(CKPT, config=config)


@torch.no_grad()
def test_command_line_writes_a_prism_model(tmp_path, golden):
    main([str(CKPT), str(tmp_path / "out")])
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    output = model(golden["input_ids"])
    torch.testing.assert_close(output.logits, golden["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.quality_logits, golden["quality_logits"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_command_line_writes_an_mdlm_model_where_there_is_no_head(tmp_path, golden):
    def strip(checkpoint):
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("backbone.")}

    main([str(edited_checkpoint(tmp_path / "plain.ckpt", strip)), str(tmp_path / "out")])
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert type(model) is MdlmForMaskedDiffusion
    torch.testing.assert_close(model(golden["input_ids"]).logits, golden["logits"], atol=1e-5, rtol=0)


def test_command_line_takes_the_mask_token(tmp_path):
    main([str(CKPT), str(tmp_path), "--no-ema", "--mask-token-id", "0"])
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path)
    assert model.config.mask_token_id == 0
    raw, _, _ = convert_lightning_checkpoint(CKPT, use_ema=False)
    saved = model.backbone.state_dict()
    assert saved.keys() == raw.keys()
    assert all(torch.equal(saved[key], value) for key, value in raw.items())
