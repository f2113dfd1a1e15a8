"""Another number of tokens: rows, config and the mask's id, with and without a quality head, and after a refusal."""

import copy
import pickle

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from prism_hf.models.llada import LladaConfig, LladaForMaskedDiffusion
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion
from prism_hf.models.prism.peft_model import AutoPeftModelForPrism, PeftModelForPrism

VOCAB, MASK = 11, 10
IDS = torch.tensor([[1, 2, MASK, 3, 4, 5]])
BACKBONES = {
    "mdlm": (MdlmForMaskedDiffusion, MdlmConfig(vocab_size=VOCAB, hidden_dim=8, cond_dim=4, n_blocks=1, n_heads=2)),
    "llada": (
        LladaForMaskedDiffusion,
        LladaConfig(
            vocab_size=VOCAB,
            d_model=8,
            n_layers=1,
            n_heads=2,
            mlp_hidden_size=8,
            mask_token_id=MASK,
            pad_token_id=0,
            eos_token_id=0,
        ),
    ),
    "bert": (
        BertForMaskedLM,
        BertConfig(
            vocab_size=VOCAB,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=16,
            mask_token_id=MASK,
        ),
    ),
}


def stirred(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    return model.eval()


@pytest.fixture(params=["mdlm", "llada", "prism on mdlm", "prism on llada", "prism on bert"])
def model(request):
    cls, config = BACKBONES[request.param.split()[-1]]
    backbone = cls(copy.deepcopy(config))
    if "prism" not in request.param:
        return stirred(backbone)
    return stirred(PrismForMaskedDiffusion(PrismConfig(backbone_config=backbone.config), backbone))


def rows(model):
    return next(model.get_input_embeddings().parameters()), model.get_output_embeddings().weight


@torch.no_grad()
@pytest.mark.parametrize("mean_resizing", [True, False])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"new_num_tokens": 13}, 13), ({"pad_to_multiple_of": 8}, 16), ({"new_num_tokens": 11}, 11)],
)
def test_tokens_keep_their_rows_and_the_mask_its_id(model, arguments, expected, mean_resizing, tmp_path):
    before, old = model(IDS).logits, [each.clone() for each in rows(model)]
    returned = model.resize_token_embeddings(**arguments, mean_resizing=mean_resizing)
    assert returned is model.get_input_embeddings()
    for new, each in zip(rows(model), old, strict=True):
        assert len(new) == expected and torch.equal(new[:VOCAB], each)
        if mean_resizing and expected > VOCAB:
            torch.testing.assert_close(new[VOCAB:], each.mean(0).expand_as(new[VOCAB:]), atol=1e-3, rtol=0)
    logits = model(IDS).logits
    assert logits.shape[-1] == expected
    torch.testing.assert_close(logits[..., :VOCAB], before)
    assert (model.config.vocab_size, model.config.mask_token_id) == (expected, MASK)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert (loaded.config.vocab_size, loaded.config.mask_token_id) == (expected, MASK)
    torch.testing.assert_close(loaded(IDS).logits, logits)
    if isinstance(loaded, PrismForMaskedDiffusion):
        assert loaded.config.backbone_config.mask_token_id == MASK
        assert torch.equal(loaded.generate(IDS, steps=1), model.generate(IDS, steps=1))


def test_gradients_and_freezing_follow(model):
    model.get_output_embeddings().weight.requires_grad_(False)
    model.resize_token_embeddings(13)
    assert not model.get_output_embeddings().weight.requires_grad
    embedding = next(model.get_input_embeddings().parameters()).requires_grad_(True)
    model(IDS).logits.sum().backward()
    assert embedding.grad.shape[0] == 13


@pytest.mark.parametrize(
    "arguments",
    [
        {"new_num_tokens": MASK},
        {"new_num_tokens": 0},
        {"new_num_tokens": -3},
        {"new_num_tokens": 12.0},
        {"new_num_tokens": "12"},
        {"new_num_tokens": True},
        {"new_num_tokens": 12, "pad_to_multiple_of": 0},
        {"pad_to_multiple_of": 2.5},
    ],
)
def test_a_refusal_leaves_the_model_as_it_was(model, arguments):
    before, config = pickle.dumps(model.state_dict()), model.config.to_dict()
    with pytest.raises(ValueError, match="an integer of at least 1|drop the mask token"):
        model.resize_token_embeddings(**arguments)
    assert pickle.dumps(model.state_dict()) == before and model.config.to_dict() == config


def test_without_a_number_nothing_changes(model):
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert model.config.vocab_size == VOCAB


@pytest.mark.parametrize("vocab_size", [50258, 300])
def test_the_mask_of_a_config_survives_a_larger_vocabulary(vocab_size, tmp_path):
    """50258 is the default size: a field equal to the default one is left out of config.json."""
    config = MdlmConfig(vocab_size=vocab_size)
    mask = config.mask_token_id
    config.vocab_size += 6
    config.save_pretrained(tmp_path)
    assert MdlmConfig.from_pretrained(tmp_path).mask_token_id == mask
    PrismConfig(backbone_config=config).save_pretrained(tmp_path)
    loaded = PrismConfig.from_pretrained(tmp_path)
    assert loaded.mask_token_id == loaded.backbone_config.mask_token_id == mask


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
def test_a_resized_base_under_peft(name, tmp_path):
    cls, config = BACKBONES[name]
    stirred(cls(copy.deepcopy(config))).save_pretrained(tmp_path / "base")
    base = PrismForMaskedDiffusion.from_pretrained(tmp_path / "base")
    lora = LoraConfig(target_modules="all-linear", modules_to_save=["quality_head"], init_lora_weights=False)
    lora.base_model_name_or_path = str(tmp_path / "base")
    model = PeftModelForPrism(base, lora).eval()
    before = model(input_ids=IDS).logits
    model.resize_token_embeddings(13)
    logits = model(input_ids=IDS).logits
    torch.testing.assert_close(logits[..., :VOCAB], before)
    assert logits.shape[-1] == model.config.vocab_size == 13
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded(input_ids=IDS).logits, logits)


def test_a_wrapped_embedding_is_refused():
    cls, config = BACKBONES["bert"]
    base = PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(config)))
    model = PeftModelForPrism(base, LoraConfig(target_modules=["word_embeddings"], modules_to_save=["quality_head"]))
    before = pickle.dumps(model.state_dict())
    with pytest.raises(TypeError, match="Embedding is no plain embedding.*before PEFT"):
        model.resize_token_embeddings(13)
    assert pickle.dumps(model.state_dict()) == before and model.config.vocab_size == VOCAB
