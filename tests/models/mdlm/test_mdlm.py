"""MDLM against the golden tensors of a tiny published-layout checkpoint."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion, MdlmModel
from prism_hf.models.prism import PrismForMaskedDiffusion
from prism_hf.models.prism.convert_lightning_checkpoint import convert_lightning_checkpoint
from prism_hf.models.prism.quality_heads import MdlmQualityHead

QKV = "backbone.blocks.1.attn_qkv.weight"
FIXTURE = Path(__file__).parents[2] / "fixtures" / "mdlm_tiny"
HUB, CKPT = FIXTURE / "hub", FIXTURE / "prism.ckpt"


@pytest.fixture(scope="module")
def golden():
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture(scope="module")
def model():
    return MdlmForMaskedDiffusion.from_pretrained(HUB).eval()


def quality_head(config):
    _, adapter, _ = convert_lightning_checkpoint(CKPT)
    head = MdlmQualityHead(config, n_blocks=1).eval()
    head.load_state_dict(adapter)
    return head


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_golden_numbers(golden, attention):
    model = MdlmForMaskedDiffusion.from_pretrained(HUB, attn_implementation=attention).eval()
    outputs = model.backbone(golden["input_ids"])
    quality = quality_head(model.config)(outputs.last_hidden_state, outputs.conditioning)
    found = {
        "logits": model(golden["input_ids"]).logits,
        "last_hidden_state": outputs.last_hidden_state,
        "conditioning": outputs.conditioning,
        "quality_logits": quality,
    }
    for name, value in found.items():
        torch.testing.assert_close(value, golden[name], atol=1e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
def test_flex_attention_agrees(golden):
    model = MdlmForMaskedDiffusion.from_pretrained(HUB, attn_implementation="flex_attention").eval()
    padding = torch.ones_like(golden["input_ids"])
    torch.testing.assert_close(model(golden["input_ids"], padding).logits, golden["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("auto, cls", [(AutoModel, MdlmModel), (AutoModelForMaskedLM, MdlmForMaskedDiffusion)])
def test_auto_classes_load_every_weight(auto, cls):
    model, info = auto.from_pretrained(HUB, output_loading_info=True)
    assert type(model) is cls
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


def test_config_reads_published_fields():
    config = AutoConfig.from_pretrained(HUB)
    about = json.loads((FIXTURE / "about.json").read_text())
    assert isinstance(config, MdlmConfig)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (48, 2, 4)
    assert config.mask_token_id == about["mask_token_id"]
    assert MdlmConfig(vocab_size=11, mask_token_id=0).mask_token_id == 0
    assert MdlmConfig.from_dict(MdlmConfig(vocab_size=11, mask_token_id=0).to_dict()).mask_token_id == 0


@pytest.mark.parametrize("wrong", [{"hidden_dim": 50, "n_heads": 4}, {"hidden_dim": 12, "n_heads": 4}])
def test_config_refuses_odd_heads(wrong):
    with pytest.raises(ValueError, match="even head dimension"):
        MdlmConfig(**wrong)


def test_config_refuses_mask_outside_vocabulary():
    with pytest.raises(ValueError, match="mask_token_id=11"):
        MdlmConfig(vocab_size=11, mask_token_id=11)


def test_save_keeps_the_published_layout(model, tmp_path):
    model.save_pretrained(tmp_path)
    saved, published = load_file(tmp_path / "model.safetensors"), load_file(HUB / "model.safetensors")
    assert saved.keys() == published.keys()
    for key, value in published.items():
        torch.testing.assert_close(saved[key], value, atol=0, rtol=0)
    saved_config = json.loads((tmp_path / "config.json").read_text())
    for field in ("model_type", "vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads"):
        assert saved_config[field] == json.loads((HUB / "config.json").read_text())[field]


@torch.no_grad()
def test_logits_to_keep(model, golden):
    input_ids = golden["input_ids"]
    keep = input_ids == model.config.mask_token_id
    torch.testing.assert_close(model(input_ids, logits_to_keep=keep).logits, golden["logits"][keep], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="boolean"):
        model(input_ids, logits_to_keep=keep.float())


@torch.no_grad()
def test_logits_at_positions(model, golden):
    positions = torch.tensor([[5, 0, 2], [1, 1, 7]])
    expected = torch.stack([row[at] for row, at in zip(golden["logits"], positions, strict=True)])
    torch.testing.assert_close(model(golden["input_ids"], logits_to_keep=positions).logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_does_not_change_real_positions(golden, attention, side):
    model = MdlmForMaskedDiffusion.from_pretrained(HUB, attn_implementation=attention).eval()
    input_ids = golden["input_ids"]
    pad = torch.full((2, 7), 3)
    parts = [pad, input_ids] if side == "left" else [input_ids, pad]
    padded = torch.cat(parts, dim=1)
    attention_mask = torch.cat([torch.zeros_like(p) if p is pad else torch.ones_like(p) for p in parts], dim=1)
    real = attention_mask.bool()
    outputs = model.backbone(padded, attention_mask=attention_mask)
    quality = quality_head(model.config)(outputs.last_hidden_state, outputs.conditioning, attention_mask)
    logits = model(padded, attention_mask=attention_mask).logits
    torch.testing.assert_close(logits[real].view_as(golden["logits"]), golden["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        quality[real].view_as(golden["quality_logits"]), golden["quality_logits"], atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_attention_is_bidirectional_and_length_is_free(model):
    input_ids = torch.randint(0, 50, (1, 2 * model.config.model_length), generator=torch.Generator().manual_seed(0))
    changed = input_ids.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 50
    assert not torch.equal(model(input_ids).logits[0, 0], model(changed).logits[0, 0])


def test_gradient_checkpointing_gives_the_same_gradients(golden):
    def gradients(checkpointing):
        model = MdlmForMaskedDiffusion.from_pretrained(HUB, dropout=0.0)
        if checkpointing:
            model.activation_checkpointing_enable()
        model.train()
        model(golden["input_ids"]).logits.logsumexp(-1).sum().backward()
        assert all(block.gradient_checkpointing is checkpointing for block in model.backbone.blocks)
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    plain, checkpointed = gradients(False), gradients(True)
    assert all(grad is not None and grad.abs().sum() > 0 for name, grad in plain.items() if "blocks" in name)
    for name, grad in plain.items():
        torch.testing.assert_close(checkpointed[name], grad, msg=lambda m, name=name: f"{name}: {m}")


@torch.no_grad()
def test_bfloat16_is_close_and_keeps_rotary_exact(golden, tmp_path):
    model = MdlmForMaskedDiffusion.from_pretrained(HUB, dtype=torch.bfloat16).eval()
    logits = model(golden["input_ids"]).logits
    assert logits.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: two digits of logits of size 4 survive a few layers
    assert (logits.float() - golden["logits"]).abs().max() < 0.15
    model.save_pretrained(tmp_path)
    inv_freq = load_file(tmp_path / "model.safetensors")["backbone.rotary_emb.inv_freq"]
    published = load_file(HUB / "model.safetensors")["backbone.rotary_emb.inv_freq"]
    torch.testing.assert_close(inv_freq, published, atol=0, rtol=0)


@torch.no_grad()
def test_hidden_states_are_one_a_block_and_the_embedding(model, golden):
    hidden_states = model(golden["input_ids"], output_hidden_states=True).hidden_states
    assert len(hidden_states) == model.config.n_blocks + 1
    torch.testing.assert_close(hidden_states[0], model.backbone.vocab_embed.embedding[golden["input_ids"]])
    torch.testing.assert_close(hidden_states[-1], golden["last_hidden_state"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_sigma_counts_only_with_time_conditioning(model, golden):
    sigma = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(model(golden["input_ids"], sigma=sigma).logits, golden["logits"], atol=1e-5, rtol=0)

    timed = MdlmForMaskedDiffusion.from_pretrained(HUB, time_conditioning=True).eval()
    at_zero = timed(golden["input_ids"], sigma=torch.zeros(2)).logits
    torch.testing.assert_close(at_zero, golden["logits"], atol=1e-5, rtol=0)
    assert not torch.allclose(timed(golden["input_ids"], sigma=sigma).logits, golden["logits"], atol=1e-2)
    with pytest.raises(ValueError, match="time_conditioning"):
        timed(golden["input_ids"])


@torch.no_grad()
def test_fresh_blocks_are_the_identity():
    torch.manual_seed(0)
    config = MdlmConfig(vocab_size=11, hidden_dim=16, cond_dim=8, n_blocks=2, n_heads=2, mask_token_id=0)
    model = MdlmForMaskedDiffusion(config).eval()
    input_ids = torch.arange(11)[None]
    hidden_states = model.backbone(input_ids).last_hidden_state
    torch.testing.assert_close(hidden_states, model.backbone.vocab_embed.embedding[input_ids], atol=0, rtol=0)
    assert 0.01 < hidden_states.std() < 0.03
    assert not model(input_ids).logits.any()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop(QKV), rf"missing: {QKV}\."),
        (lambda weights: weights.update({QKV.replace("1", "7"): torch.ones(1)}), r"left over: backbone\.blocks\.7\."),
    ],
)
@pytest.mark.parametrize("cls", [MdlmForMaskedDiffusion, PrismForMaskedDiffusion])
def test_a_checkpoint_that_is_not_whole_is_refused_by_name(tmp_path, cls, edit, message):
    shutil.copytree(HUB, tmp_path, dirs_exist_ok=True)
    weights = load_file(HUB / "model.safetensors")
    edit(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        cls.from_pretrained(tmp_path)


def test_another_vocabulary_or_a_missing_shard_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    config = json.loads((tmp_path / "config.json").read_text())
    vocab_size = config["vocab_size"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size + 1}))
    with pytest.raises(
        ValueError, match=rf"another size: .*\({vocab_size}, \d+\), the config says \({vocab_size + 1},"
    ):
        MdlmForMaskedDiffusion.from_pretrained(tmp_path)
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(OSError, match=gone.name):
        MdlmForMaskedDiffusion.from_pretrained(tmp_path)


def test_the_quality_head_is_found_at_its_old_place_with_a_warning():
    with pytest.warns(FutureWarning, match="prism_hf.models.prism.quality_heads"):
        from prism_hf.models.mdlm import MdlmQualityHead as moved
    assert moved is MdlmQualityHead
