"""Adapters of a model with a quality head: what a folder holds, and what loads from it."""

import copy
import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PromptTuningConfig,
    VBLoRAConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from prism_hf import AutoPeftModelForPrism, PrismConfig, PrismForMaskedDiffusion, RemaskGenerationConfig
from prism_hf.models.prism.peft_model import PeftModelForPrism

MDLM = Path(__file__).parents[2] / "fixtures" / "mdlm_tiny" / "hub"
CANVAS = torch.tensor([[4, 5, 6, 0, 7, 0]])


@pytest.fixture
def bare(tmp_path):
    """A folder with a backbone that has no head and whose config names no mask token."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "bare")
    return str(tmp_path / "bare")


def lora(**kwargs):
    return LoraConfig(**{"target_modules": ["query"], "modules_to_save": ["quality_head"]} | kwargs)


def stir(model):
    """Give every weight of the adapter, LoRA's zeros and the head's too, another value."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            if "lora_" in name or "modules_to_save" in name:
                generator = torch.Generator().manual_seed(index)
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model.eval()


def outputs(model, canvas=CANVAS):
    with torch.no_grad():
        output = model(input_ids=canvas)
    return output.logits, output.quality_logits


def assert_same(left, right):
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("head_type", ["linear", "mlp"])
def test_a_folder_loads_as_it_was_saved(bare, tmp_path, head_type):
    base = PrismForMaskedDiffusion.from_pretrained(bare, head_type=head_type, mask_token_id=0)
    base.generation_config = RemaskGenerationConfig(remask_strategy="prism", num_remask=1, steps=3)
    model = stir(PeftModelForPrism(base, lora(base_model_name_or_path=bare)))
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter")
    assert_same(outputs(loaded), outputs(model))
    assert loaded.get_base_model().generation_config == base.generation_config
    assert torch.equal(loaded.generate(CANVAS), model.generate(CANVAS))
    with loaded.disable_adapter():
        assert torch.equal(outputs(loaded)[0], BertForMaskedLM.from_pretrained(bare).eval()(CANVAS).logits)


def test_head_with_blocks_of_its_own_in_bfloat16(tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(MDLM, head_type="dit", head_num_blocks=1)
    model = stir(PeftModelForPrism(base, lora(target_modules=["attn_qkv"], base_model_name_or_path=str(MDLM))))
    model.save_pretrained(tmp_path)
    assert_same(outputs(AutoPeftModelForPrism.from_pretrained(tmp_path)), outputs(model))
    half = AutoPeftModelForPrism.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.get_base_model().backbone.dtype == torch.bfloat16
    assert {p.dtype for name, p in half.named_parameters() if "quality_head" in name} == {torch.float32}
    torch.testing.assert_close(outputs(half)[1], outputs(model)[1], atol=0.1, rtol=0.1, check_dtype=False)


def test_a_second_adapter_has_its_own_folder_and_loads_from_it(bare, tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(bare, mask_token_id=0)
    model = PeftModelForPrism(base, lora(base_model_name_or_path=bare))
    model.add_adapter("other", lora(base_model_name_or_path=bare))
    stir(model)
    model.set_adapter("other")
    model.save_pretrained(tmp_path / "both")
    loaded = AutoPeftModelForPrism.from_pretrained(tmp_path / "both", subfolder="other")
    assert_same(outputs(loaded), outputs(model))


def test_an_adapter_of_plain_peft(bare, tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(bare, head_type="linear", mask_token_id=0)
    model = stir(get_peft_model(base, lora()))
    model.save_pretrained(tmp_path / "plain")
    loaded = AutoPeftModelForPrism.from_pretrained(tmp_path / "plain", head_type="linear", mask_token_id=0)
    assert_same(outputs(loaded), outputs(model))
    with pytest.raises(ValueError, match="missing: dense.bias, dense.weight; left over: none.*pass the head_type"):
        AutoPeftModelForPrism.from_pretrained(tmp_path / "plain", head_type="mlp", mask_token_id=0)


def test_plain_peft_loads_what_we_save(bare, tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(bare, head_type="linear", mask_token_id=0)
    model = stir(PeftModelForPrism(base, lora(base_model_name_or_path=bare)))
    model.save_pretrained(tmp_path / "adapter")
    fresh = PrismForMaskedDiffusion.from_pretrained(bare, head_type="linear", mask_token_id=0)
    assert_same(outputs(PeftModel.from_pretrained(fresh, tmp_path / "adapter")), outputs(model))


def test_a_head_that_does_not_fit_is_refused(bare, tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(bare, head_type="linear", mask_token_id=0)
    PeftModelForPrism(base, lora(base_model_name_or_path=bare)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="BertForMaskedLM has no quality head"):
        PeftModelForPrism.from_pretrained(BertForMaskedLM.from_pretrained(bare), tmp_path / "adapter")
    other = PrismForMaskedDiffusion.from_pretrained(bare, head_type="mlp", mask_token_id=0)
    with pytest.raises(ValueError, match="trained with {'head_type': 'linear'}, the model has {'head_type': 'mlp'}"):
        PeftModelForPrism.from_pretrained(other, tmp_path / "adapter")
    adapted = PeftModelForPrism(other, lora())
    with pytest.raises(ValueError, match="no whole quality head of head_type='mlp'; weights missing: dense.bias"):
        adapted.load_adapter(tmp_path / "adapter", "second")


def test_an_adapter_without_a_head_needs_a_base_with_one(bare, tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(bare, mask_token_id=0)
    base.save_pretrained(tmp_path / "prism")
    model = PeftModelForPrism(base, lora(modules_to_save=None, base_model_name_or_path=bare))
    stir(model).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="Neither .* has a quality head"):
        AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tmp_path / "prism")}))
    assert_same(outputs(AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter")), outputs(model))


def test_other_mistakes_say_what_to_do(bare, tmp_path):
    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=BertConfig.from_pretrained(bare), mask_token_id=0))
    PeftModelForPrism(model, lora()).save_pretrained(tmp_path / "nameless")
    with pytest.raises(ValueError, match="names no base model"):
        AutoPeftModelForPrism.from_pretrained(tmp_path / "nameless")
    with pytest.raises(ValueError, match="PROMPT_TUNING.*use LoraConfig"):
        PeftModelForPrism(model, PromptTuningConfig(num_virtual_tokens=2))
    with pytest.raises(ValueError, match="pissa_niter_4.*use 'pissa'"):
        PeftModelForPrism(model, lora(init_lora_weights="pissa_niter_4"))


def test_a_resized_vocabulary_is_saved_with_an_adapter_of_other_modules(bare, tmp_path):
    PrismForMaskedDiffusion.from_pretrained(bare, mask_token_id=0).save_pretrained(tmp_path / "base")
    base = PrismForMaskedDiffusion.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(16)
    model = stir(PeftModelForPrism(base, lora()))
    model.save_pretrained(tmp_path / "adapter")
    assert_same(outputs(AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter")), outputs(model))


def test_a_model_card_of_the_folder_is_kept(bare, tmp_path):
    base = PrismForMaskedDiffusion.from_pretrained(bare, mask_token_id=0)
    model = PeftModelForPrism(base, lora(base_model_name_or_path=bare))
    model.save_pretrained(tmp_path / "adapter")
    card = tmp_path / "adapter" / "README.md"
    metadata = yaml.safe_load(card.read_text().split("---")[1])
    assert metadata["library_name"] == "peft" and "base_model" not in metadata  # which the Hub takes as an id only
    card.write_text("# My own words\n")
    model.save_pretrained(tmp_path / "adapter")
    assert "# My own words" in card.read_text() and "```python" not in card.read_text()


LORA_A = "base_model.model.backbone.bert.encoder.layer.0.attention.self.query.lora_A.weight"
HEAD = "base_model.model.quality_head."


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.pop(LORA_A), r"missing: .*layer\.0\.attention\.self\.query\.lora_A"),
        (
            lambda weights: weights.update({LORA_A.replace("layer.0", "layer.7"): torch.ones(8, 16)}),
            r"left over: .*layer\.7\.attention\.self\.query\.lora_A",
        ),
        (lambda weights: weights.pop(f"{HEAD}dense.bias"), r"missing: dense\.bias; left over: none"),
        (
            lambda weights: [weights.pop(name) for name in list(weights) if name.startswith(HEAD)],
            r"missing: dense\.bias, .*norm\.weight; left over: none",
        ),
        (lambda weights: weights.update({f"{HEAD}third": torch.ones(1)}), r"missing: none; left over: third"),
    ],
    ids=["lora missing", "lora left over", "head incomplete", "no head", "head left over"],
)
def test_an_adapter_that_is_not_whole_is_refused_by_name(bare, tmp_path, edit, message):
    base = PrismForMaskedDiffusion.from_pretrained(bare, mask_token_id=0)
    model = stir(PeftModelForPrism(base, lora(base_model_name_or_path=bare)))
    model.save_pretrained(tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    edit(weights)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter")
    before = outputs(model)
    with pytest.raises(ValueError, match=message):
        model.load_adapter(tmp_path / "adapter", "second")
    assert list(model.peft_config) == ["default"]
    assert_same(outputs(model), before)


HEAD_TOO = {"modules_to_save": ["quality_head"]}
OPTIONS = {
    "bias of all": lora(bias="all"),
    "bias of adapted layers": lora(bias="lora_only"),
    "bias of all, all layers": lora(bias="all", target_modules="all-linear"),
    "weight-decomposed": lora(use_dora=True),
    "bias of its own": lora(lora_bias=True),
    "all layers": lora(target_modules="all-linear"),
    "some modules not": lora(target_modules="all-linear", exclude_modules=["dense"]),
    "some layers": lora(layers_to_transform=[0]),
    "the embedding": lora(target_modules=["query", "word_embeddings"]),
    "the decoder": lora(target_modules=["query", "decoder"]),
    "the embedding as a whole": lora(modules_to_save=["quality_head", "word_embeddings"]),
    "the decoder as a whole": lora(modules_to_save=["decoder", "quality_head"]),
    "some tokens": lora(trainable_token_indices=[2, 3]),
    "a task": lora(task_type="TOKEN_CLS"),
    "IA3": IA3Config(target_modules=["query", "output.dense"], feedforward_modules=["output.dense"], **HEAD_TOO),
    "LoHa": LoHaConfig(target_modules=["query"], **HEAD_TOO),
    "OFT": OFTConfig(target_modules=["query"], oft_block_size=4, **HEAD_TOO),
    "VB-LoRA": VBLoRAConfig(target_modules=["query"], num_vectors=8, vector_length=4, **HEAD_TOO),
}


@pytest.mark.parametrize(
    ("name", "adapter_name"), [*((name, "default") for name in OPTIONS), ("bias of all", "mine"), ("VB-LoRA", "mine")]
)
def test_options_of_peft_save_and_load(bare, tmp_path, name, adapter_name):
    base = PrismForMaskedDiffusion.from_pretrained(bare, mask_token_id=0)
    peft_config = copy.deepcopy(OPTIONS[name])
    peft_config.base_model_name_or_path = bare
    model = PeftModelForPrism(base, peft_config).eval()
    plain = outputs(model)
    with torch.no_grad():
        for parameter in (parameter for parameter in model.parameters() if parameter.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.2)
    model.save_pretrained(tmp_path / "adapter")
    expected = outputs(model)
    assert all(not torch.allclose(one, other) for one, other in zip(plain, expected, strict=True))
    assert_same(outputs(AutoPeftModelForPrism.from_pretrained(tmp_path / "adapter", adapter_name)), expected)
