"""`load_model` on everything that its name may stand for, and the config of a new model for a tokenizer."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from prism_hf import PrismForMaskedDiffusion, load_model, remask_generate
from prism_hf.data import SudokuTokenizer
from prism_hf.evaluation import weights_digest
from prism_hf.models.auto import new_config
from prism_hf.models.prism.peft_model import PeftModelForPrism

CANVAS = torch.tensor([[4, 5, 6, 0, 7, 0]])


@pytest.fixture
def folders(tmp_path):
    """`bare`, `adapter` on it, and `merged` of the two."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
        mask_token_id=0,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path / "bare")
    base = PrismForMaskedDiffusion.from_pretrained(str(tmp_path / "bare"))
    lora = LoraConfig(
        target_modules=["query"], modules_to_save=["quality_head"], base_model_name_or_path=str(tmp_path / "bare")
    )
    model = PeftModelForPrism(base, lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    return tmp_path


def test_an_adapter_is_told_by_what_it_computes_with(folders):
    first, second, bare = (weights_digest(load_model(folders / name)) for name in ("adapter", "adapter", "bare"))
    assert first == second != bare


def test_a_model_whose_config_names_no_mask_gets_its_tokenizers(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertForMaskedLM(BertConfig(vocab_size=12, **sizes)).save_pretrained(tmp_path)
    assert load_model(tmp_path).config.mask_token_id is None
    with pytest.raises(ValueError, match="names no mask token"):
        PrismForMaskedDiffusion.from_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ABCDEFG"]))
    BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config.mask_token_id == 4
    filled = remask_generate(model, torch.tensor([[2, 5, 4, 4, 3]]), remask_strategy="random")
    assert 4 not in filled and filled[0, [0, 1, 4]].tolist() == [2, 5, 3]


@torch.no_grad()
def test_adapter_merged_model_and_bare_backbone_are_ready_to_generate(folders):
    adapter, merged, bare = (load_model(folders / name) for name in ("adapter", "merged", "bare"))
    assert [type(model) for model in (adapter, merged, bare)] == [
        PeftModelForPrism,
        PrismForMaskedDiffusion,
        BertForMaskedLM,
    ]
    assert not (adapter.training or merged.training or bare.training)
    one, two = adapter(input_ids=CANVAS), merged(CANVAS)
    torch.testing.assert_close(one.logits, two.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.quality_logits, two.quality_logits, atol=1e-5, rtol=1e-5)
    with adapter.disable_adapter():
        assert torch.equal(adapter(input_ids=CANVAS).logits, bare(CANVAS).logits)
    settings = {"steps": 2, "remask_strategy": "prism", "num_remask": 1}
    assert torch.equal(remask_generate(adapter, CANVAS, **settings), remask_generate(merged, CANVAS, **settings))
    filled = remask_generate(bare, CANVAS, steps=2)
    assert (filled != 0).all() and torch.equal(filled[CANVAS != 0], CANVAS[CANVAS != 0])
    with pytest.raises(ValueError, match="head"):
        remask_generate(bare, CANVAS, **settings)


def test_a_name_that_leads_nowhere_is_told(folders):
    for wrong, dtype, message in ((None, None, "name_or_path=None must be text"), ("x", "flot32", "mean 'float32'")):
        with pytest.raises(ValueError, match=message):
            load_model(wrong, dtype=dtype)
    with pytest.raises(OSError, match="nothing_here"):
        load_model(folders / "nothing_here")
    (folders / "empty").mkdir()
    with pytest.raises((OSError, ValueError), match="empty"):
        load_model(folders / "empty")
    shutil.rmtree(folders / "bare")
    with pytest.raises(OSError, match="bare"):
        load_model(folders / "adapter")
    config = folders / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="names no base model"):
        load_model(folders / "adapter")


def test_ids_are_those_of_the_tokenizer_where_nothing_else_is_said():
    config = new_config("mdlm", SudokuTokenizer(), {"hidden_dim": 8, "n_heads": 2, "cond_dim": 4, "n_blocks": 1})
    assert config.vocab_size == 11 and config.mask_token_id == 0
    assert new_config("bert", SudokuTokenizer(), {"mask_token_id": 3, "hidden_size": 24}).mask_token_id == 3


@pytest.mark.parametrize(
    "model_type, settings, message",
    [
        ("mdml", {}, "Unknown model_type 'mdml'. Did you mean 'mdlm'?"),
        ("bert", {"hiden_size": 8}, "Unknown field of model_config 'hiden_size'.*'hidden_size'"),
        ("bert", {"hidden_size": "8"}, "model_config=.*hidden_size"),
        ("mdlm", {"n_heads": 0}, "n_heads=0 of MdlmConfig must be an integer of at least 1"),
        ("mdlm", {"dropout": 1.5}, "dropout=1.5 of MdlmConfig must be a number from 0 to 1"),
        ("llada", {"attention_dropout": float("nan")}, "attention_dropout=nan"),
        ("llada", {"n_layers": 0}, "n_layers=0 of LladaConfig"),
    ],
)
def test_mistakes_in_a_new_config_are_named(model_type, settings, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        new_config(model_type, SudokuTokenizer(), settings)
