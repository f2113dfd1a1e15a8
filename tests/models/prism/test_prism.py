"""A quality head around every kind of backbone."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    ModernBertConfig,
    RobertaConfig,
    RobertaPreLayerNormConfig,
)

from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion
from prism_hf.models.prism import QUALITY_HEADS, PrismConfig, PrismForMaskedDiffusion
from prism_hf.models.prism.convert_lightning_checkpoint import convert_lightning_checkpoint

FIXTURE = Path(__file__).parents[2] / "fixtures" / "mdlm_tiny"
SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BACKBONES = {
    "bert": BertConfig(**SMALL),
    "modernbert": ModernBertConfig(
        **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "roberta": RobertaConfig(**SMALL),
    "roberta-prelayernorm": RobertaPreLayerNormConfig(**SMALL),
    "mdlm": MdlmConfig(vocab_size=40, hidden_dim=32, cond_dim=16, n_blocks=2, n_heads=4),
}
IDS = torch.randint(5, 39, (3, 11), generator=torch.Generator().manual_seed(0))


def randomised(model, seed=0):
    """Away from the zero initialisation, so that a mistake shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def build(name, head_type="mlp"):
    return randomised(
        PrismForMaskedDiffusion(PrismConfig(backbone_config=BACKBONES[name], head_type=head_type, mask_token_id=4))
    )


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_logits_are_the_backbones_own(name, tmp_path):
    backbone = randomised(AutoModelForMaskedLM.from_config(BACKBONES[name]))
    backbone.save_pretrained(tmp_path)
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path, mask_token_id=4)
    for own, original in zip(model.backbone.parameters(), backbone.parameters(), strict=True):
        assert torch.equal(own, original)
    output = model(IDS)
    torch.testing.assert_close(output.logits, backbone(IDS).logits)
    assert output.quality_logits.shape == IDS.shape


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_kept_logits_are_rows_of_all_logits(name):
    model = build(name)
    keep = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    full, kept = model(IDS), model(IDS, logits_to_keep=keep)
    torch.testing.assert_close(kept.logits, full.logits[keep])
    torch.testing.assert_close(kept.quality_logits, full.quality_logits)
    positions = torch.tensor([[0, 10, 3], [4, 4, 9], [2, 1, 0]])
    placed = model(IDS, logits_to_keep=positions)
    expected = torch.stack([row[at] for row, at in zip(full.logits, positions, strict=True)])
    torch.testing.assert_close(placed.logits, expected)
    assert model(IDS, return_logits=False).logits is None
    assert model(IDS, return_quality=False).quality_logits is None


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("head_type", ["linear", "mlp", "dit"])
@torch.no_grad()
def test_save_and_load(name, head_type, tmp_path):
    if head_type == "dit" and name != "mdlm":
        with pytest.raises(ValueError, match="use 'mlp' or 'linear'"):
            build(name, head_type)
        return
    model = build(name, head_type)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    expected = model(IDS)
    for loaded in (PrismForMaskedDiffusion.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        output = loaded(IDS)
        torch.testing.assert_close(output.logits, expected.logits, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(output.quality_logits, expected.quality_logits, atol=1e-6, rtol=1e-6)
    assert AutoConfig.from_pretrained(tmp_path).backbone_config.model_type == name


@torch.no_grad()
def test_golden_numbers_of_the_published_layout():
    golden = load_file(FIXTURE / "expected.safetensors")
    _, adapter, _ = convert_lightning_checkpoint(FIXTURE / "prism.ckpt")
    model = PrismForMaskedDiffusion.from_pretrained(FIXTURE / "hub", head_type="dit", head_num_blocks=1)
    model.quality_head.load_state_dict(adapter)
    output = model(golden["input_ids"])
    torch.testing.assert_close(output.logits, golden["logits"], atol=1e-5, rtol=0)
    torch.testing.assert_close(output.quality_logits, golden["quality_logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", BACKBONES)
def test_gradient_checkpointing_changes_no_gradient(name):
    model = build(name).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if name == "mdlm":
        model.backbone.config.dropout = 0.0
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        output = model(IDS)
        (output.logits.square().sum() + output.quality_logits.sum()).backward()
        gradients.append([None if p.grad is None else p.grad.clone() for p in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_fresh_backbone_weights_survive(tmp_path):
    MdlmForMaskedDiffusion(BACKBONES["mdlm"]).save_pretrained(tmp_path)
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path, head_type="linear")
    assert model.config.mask_token_id == 39
    assert model.config.name_or_path == str(tmp_path)
    model.save_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    stored = load_file(tmp_path / "model.safetensors")
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, stored[name])


def test_shifted_logits_come_from_the_left_neighbour():
    model = build("bert")
    plain = model(IDS).logits
    model.adapter = replace(model.adapter, shifted_logits=True)
    torch.testing.assert_close(model(IDS).logits[:, 1:], plain[:, :-1])


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="mask_token_id=tokenizer.mask_token_id"):
        PrismForMaskedDiffusion(PrismConfig(backbone_config=BertConfig(**SMALL)))
    with pytest.raises(ValueError, match="'mpl'"):
        PrismConfig(backbone_config=BertConfig(**SMALL), mask_token_id=4, head_type="mpl")
    model = build("bert")
    with pytest.raises(ValueError, match="boolean"):
        model(IDS, logits_to_keep=torch.ones(11, dtype=torch.bool))
    with pytest.raises(ValueError, match="leave logits_at out"):
        model(IDS, logits_to_keep=IDS > 0, logits_at=IDS)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="already"):
        PrismForMaskedDiffusion.from_pretrained(tmp_path, head_type="linear")


@pytest.mark.parametrize(("own", "other"), [("eager", "sdpa"), ("sdpa", "eager")])
@torch.no_grad()
def test_the_backbone_keeps_its_attention_until_the_model_is_given_another(own, other):
    backbone = BertForMaskedLM._from_config(copy.deepcopy(BACKBONES["bert"]), attn_implementation=own).eval()
    expected = backbone(IDS).logits
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config, mask_token_id=4), backbone)
    assert backbone.config._attn_implementation == model.config._attn_implementation == own
    torch.testing.assert_close(model(IDS).logits, expected)
    model.set_attn_implementation(other)
    assert backbone.config._attn_implementation == model.config._attn_implementation == other
    torch.testing.assert_close(model(IDS).logits, expected)


def test_the_attention_asked_for_reaches_a_bare_backbone(tmp_path):
    AutoModelForMaskedLM.from_config(BACKBONES["bert"]).save_pretrained(tmp_path)
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path, mask_token_id=4, attn_implementation="eager")
    assert model.backbone.config._attn_implementation == model.config._attn_implementation == "eager"


# Damaged checkpoints


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


QUERY = "bert.encoder.layer.1.attention.self.query.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop("quality_head.linear.weight"), r"missing: quality_head\.linear\.weight\."),
        (lambda weights: weights.pop(f"backbone.{QUERY}"), rf"missing: backbone\.{QUERY}\."),
        (
            lambda weights: weights.update({"quality_head.third.weight": torch.ones(1)}),
            r"left over: quality_head\.third\.weight\.",
        ),
        (lambda weights: weights.update({"backbone.extra": torch.ones(1)}), r"left over: backbone\.extra\."),
    ],
)
def test_a_saved_model_that_is_not_whole_is_refused_by_name(tmp_path, edit, message):
    build("bert").save_pretrained(tmp_path)
    edit_weights(tmp_path, edit)
    for cls in (PrismForMaskedDiffusion, AutoModelForMaskedLM):
        with pytest.raises(ValueError, match=message):
            cls.from_pretrained(tmp_path)


def test_a_saved_model_of_another_vocabulary_or_without_a_shard_is_refused_by_name(tmp_path):
    build("bert").save_pretrained(tmp_path, max_shard_size="20KB")
    config = json.loads((tmp_path / "config.json").read_text())
    config["backbone_config"]["vocab_size"] = 41
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"another size: .*word_embeddings\.weight \(\(40, 32\), the config says \(41, 32\)"
    ):
        PrismForMaskedDiffusion.from_pretrained(tmp_path)
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(OSError, match=gone.name):
        PrismForMaskedDiffusion.from_pretrained(tmp_path)


def test_fields_of_a_backbones_config_are_taken_as_arguments(tmp_path):
    AutoModelForMaskedLM.from_config(BACKBONES["bert"]).save_pretrained(tmp_path)
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path, mask_token_id=4, hidden_dropout_prob=0.25)
    assert model.config.backbone_config.hidden_dropout_prob == model.backbone.bert.embeddings.dropout.p == 0.25
    model.save_pretrained(tmp_path / "prism")
    model = PrismForMaskedDiffusion.from_pretrained(tmp_path / "prism", hidden_dropout_prob=0.5)
    assert model.config.backbone_config.hidden_dropout_prob == model.backbone.bert.embeddings.dropout.p == 0.5
    with pytest.raises(TypeError, match="hidden_dropout"):
        PrismForMaskedDiffusion.from_pretrained(tmp_path, mask_token_id=4, hidden_dropout=0.25)


def test_a_bare_backbone_lacks_nothing_but_the_head(tmp_path):
    """Heads of other tasks, as BERT's checkpoints have them, may be left over."""
    AutoModelForMaskedLM.from_config(BACKBONES["bert"]).save_pretrained(tmp_path)
    edit_weights(tmp_path, lambda weights: weights.update({"cls.seq_relationship.weight": torch.ones(2, 32)}))
    PrismForMaskedDiffusion.from_pretrained(tmp_path, mask_token_id=4)
    edit_weights(tmp_path, lambda weights: weights.pop(QUERY))
    with pytest.raises(ValueError, match=rf"no whole BertForMaskedLM; weights missing: {QUERY}\."):
        PrismForMaskedDiffusion.from_pretrained(tmp_path, mask_token_id=4)


def test_a_config_without_a_backbone_makes_no_model():
    with pytest.raises(ValueError, match="no backbone_config: give PrismConfig"):
        PrismForMaskedDiffusion(PrismConfig(mask_token_id=0))


def test_a_head_of_ones_own_serves_by_its_name(monkeypatch, tmp_path):
    class CountingHead(torch.nn.Module):
        def __init__(self, config):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(config.hidden_size))

        def forward(self, hidden_states, conditioning=None, attention_mask=None, **kwargs):
            return (hidden_states * self.scale).sum(-1)

    monkeypatch.setitem(QUALITY_HEADS, "own", CountingHead)
    model = PrismForMaskedDiffusion(
        PrismConfig(backbone_config=BertConfig(**SMALL), head_type="own", mask_token_id=4)
    ).eval()
    model.save_pretrained(tmp_path)
    loaded = PrismForMaskedDiffusion.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(IDS).quality_logits, model(IDS).quality_logits)
