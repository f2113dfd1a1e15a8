"""LLaDA against the golden tensors of a tiny checkpoint in the published layout, and the real shapes on `meta`."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from prism_hf.models.llada import LladaConfig, LladaForMaskedDiffusion, LladaModel
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

FIXTURE = Path(__file__).parents[2] / "fixtures" / "llada_tiny"


@pytest.fixture(scope="module")
def golden():
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture(scope="module")
def model():
    return LladaForMaskedDiffusion.from_pretrained(FIXTURE).eval()


def tiny(**fields):
    torch.manual_seed(0)
    fields = {"d_model": 32, "n_layers": 2, "n_heads": 4, "mlp_hidden_size": 48, "vocab_size": 40} | fields
    return LladaForMaskedDiffusion(LladaConfig(mask_token_id=39, eos_token_id=38, pad_token_id=38, **fields)).eval()


def published_shapes(d_model=4096, n_layers=32, mlp=12288, vocab=126464):
    """Keys and shapes of LLaDA-8B as published, written out from the facts."""
    shapes = {
        "model.transformer.wte.weight": (vocab, d_model),
        "model.transformer.ln_f.weight": (d_model,),
        "model.transformer.ff_out.weight": (vocab, d_model),
    }
    for n in range(n_layers):
        block = f"model.transformer.blocks.{n}."
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            shapes[f"{block}{name}.weight"] = (d_model, d_model)
        for name in ("ff_proj", "up_proj"):
            shapes[f"{block}{name}.weight"] = (mlp, d_model)
        shapes[f"{block}ff_out.weight"] = (d_model, mlp)
        shapes[f"{block}attn_norm.weight"] = shapes[f"{block}ff_norm.weight"] = (d_model,)
    return shapes


@pytest.mark.parametrize("attention", ["sdpa", "eager", "flex_attention"])
@torch.no_grad()
def test_golden_numbers(golden, attention):
    model = LladaForMaskedDiffusion.from_pretrained(FIXTURE, attn_implementation=attention).eval()
    torch.testing.assert_close(model(golden["input_ids"]).logits, golden["logits"], atol=1e-5, rtol=0)
    hidden = model.model(golden["input_ids"]).last_hidden_state
    torch.testing.assert_close(hidden, golden["last_hidden_state"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_changes_no_real_position(golden, attention, side):
    model = LladaForMaskedDiffusion.from_pretrained(FIXTURE, attn_implementation=attention).eval()
    padding, real = torch.full((2, 5), model.config.pad_token_id), golden["input_ids"]
    zeros, ones = torch.zeros_like(padding), torch.ones_like(real)
    if side == "left":
        ids, mask, kept = torch.cat([padding, real], 1), torch.cat([zeros, ones], 1), slice(5, None)
    else:
        ids, mask, kept = torch.cat([real, padding], 1), torch.cat([ones, zeros], 1), slice(0, -5)
    torch.testing.assert_close(model(ids, mask).logits[:, kept], golden["logits"], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_last_token_reaches_the_first_position(model, golden):
    changed = golden["input_ids"].clone()
    changed[:, -1] = (changed[:, -1] + 1) % 100
    assert not torch.allclose(model(changed).logits[:, 0], golden["logits"][:, 0], atol=1e-4)


@torch.no_grad()
def test_grouped_query_attention_is_attention_with_repeated_heads():
    grouped, full = tiny(n_kv_heads=2), tiny(n_kv_heads=4)
    weights = grouped.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            weights[name] = weight.view(2, 8, 32).repeat_interleave(2, dim=0).reshape(32, 32)
    full.load_state_dict(weights)
    ids = torch.randint(38, (2, 12))
    torch.testing.assert_close(grouped(ids).logits, full(ids).logits)


@torch.no_grad()
def test_logits_to_keep_are_rows_of_all_logits(model, golden):
    keep = torch.rand(golden["input_ids"].shape, generator=torch.Generator().manual_seed(0)) < 0.3
    full, kept = golden["logits"], model(golden["input_ids"], logits_to_keep=keep).logits
    torch.testing.assert_close(kept, golden["logits"][keep], atol=1e-5, rtol=0)
    positions = torch.tensor([[3, 0], [1, 5]])
    placed = model(golden["input_ids"][:2], logits_to_keep=positions).logits
    torch.testing.assert_close(placed, full[:2][torch.arange(2)[:, None], positions], atol=1e-5, rtol=0)


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, checkpointed = tiny().train(), tiny().train()
    checkpointed.activation_checkpointing_enable()
    ids = torch.randint(38, (2, 12))
    for model in (plain, checkpointed):
        model(ids).logits.square().mean().backward()
    for (name, one), two in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, msg=name)


@pytest.mark.parametrize("auto, cls", [(AutoModel, LladaModel), (AutoModelForMaskedLM, LladaForMaskedDiffusion)])
def test_auto_classes_load_every_weight(auto, cls):
    model, info = auto.from_pretrained(FIXTURE, output_loading_info=True)
    assert type(model) is cls
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


@pytest.mark.parametrize("shards", [1, 5])
def test_saving_writes_the_published_layout_back(model, golden, tmp_path, shards):
    size = sum(p.numel() * 4 for p in model.parameters())
    model.save_pretrained(tmp_path, max_shard_size=size // shards + 4096)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert (len(files) > 1) == (shards > 1)
    saved = {name: tensor for file in files for name, tensor in load_file(file).items()}
    published = load_file(FIXTURE / "model.safetensors")
    assert saved.keys() == published.keys()
    assert all(torch.equal(saved[name], published[name]) for name in saved)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (FIXTURE, tmp_path))
    computed = {name for name in before if name in after} - {"architectures", "transformers_version", "dtype"}
    assert {name: before[name] for name in computed} == {name: after[name] for name in computed}
    assert {"d_model", "n_heads", "n_layers", "mlp_hidden_size", "rope_theta", "block_type"} <= computed
    again = LladaForMaskedDiffusion.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(again(golden["input_ids"]).logits, model(golden["input_ids"]).logits)


def test_a_tied_head_is_the_embedding_and_is_not_saved(tmp_path):
    model = tiny(weight_tying=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    assert "model.transformer.ff_out.weight" not in load_file(tmp_path / "model.safetensors")
    again = LladaForMaskedDiffusion.from_pretrained(tmp_path)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_other_dtypes_and_mask_tokens(tmp_path):
    """iLLaDA has the layout of LLaDA and another mask token."""
    tiny().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"mask_token_id": 5}))
    model = AutoModelForMaskedLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert model.config.mask_token_id == 5 and model.dtype == torch.bfloat16
    assert PrismForMaskedDiffusion.from_pretrained(tmp_path).config.mask_token_id == 5
    low = model(torch.arange(12)[None]).logits.float()
    high = LladaForMaskedDiffusion.from_pretrained(tmp_path)(torch.arange(12)[None]).logits
    torch.testing.assert_close(low, high, atol=0.02, rtol=0.05)


def test_resizing_the_embedding_survives_a_round_trip(tmp_path):
    model = tiny()
    model.resize_token_embeddings(50)
    model.save_pretrained(tmp_path)
    assert LladaForMaskedDiffusion.from_pretrained(tmp_path)(torch.arange(4)[None]).logits.shape == (1, 4, 50)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"block_type": "sequential"}, "block_type='sequential' is not supported"),
        ({"include_bias": True}, "include_bias=True is not supported"),
        ({"n_heads": 5}, "d_model=32 over n_heads=5"),
        ({"n_kv_heads": 3}, "n_kv_heads=3 must divide n_heads=4"),
        ({"embedding_size": 39}, "embedding_size=39 has no row"),
    ],
)
def test_a_config_that_cannot_be_computed_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


def test_exactly_one_input(model):
    with pytest.raises(ValueError, match="exactly one"):
        model()


# Damaged checkpoints


def damaged(tmp_path, edit):
    shutil.copytree(FIXTURE, tmp_path / "checkpoint")
    weights = load_file(FIXTURE / "model.safetensors")
    edit(weights)
    save_file(weights, tmp_path / "checkpoint" / "model.safetensors")
    return tmp_path / "checkpoint"


def test_a_missing_weight_is_named(tmp_path):
    path = damaged(tmp_path, lambda weights: weights.pop("model.transformer.blocks.1.q_proj.weight"))
    with pytest.raises(ValueError, match=r"missing: .*layers\.1\.self_attn\.q_proj\.weight"):
        LladaForMaskedDiffusion.from_pretrained(path)
    with pytest.raises(ValueError, match=r"missing: .*layers\.1\.self_attn\.q_proj\.weight"):
        PrismForMaskedDiffusion.from_pretrained(path)


def test_a_weight_left_over_is_named(tmp_path):
    path = damaged(
        tmp_path, lambda weights: weights.update({"model.transformer.blocks.2.q_proj.weight": torch.ones(1)})
    )
    with pytest.raises(ValueError, match=r"left over: .*layers\.2\.self_attn\.q_proj|left over: .*blocks\.2\.q_proj"):
        LladaForMaskedDiffusion.from_pretrained(path)


def test_a_wrong_vocabulary_size_is_named(tmp_path):
    path = damaged(tmp_path, lambda weights: None)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"embedding_size": 300}))
    with pytest.raises(
        ValueError, match=r"of another size: lm_head\.weight \(\(208, 64\), the config says \(300, 64\)\)"
    ):
        LladaForMaskedDiffusion.from_pretrained(path)


def test_a_missing_shard_is_named(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    gone = sorted(tmp_path.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(OSError, match=gone.name):
        LladaForMaskedDiffusion.from_pretrained(tmp_path)


# The real shapes


def test_the_8b_configuration_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = LladaForMaskedDiffusion(LladaConfig())
    published = published_shapes()
    assert sum(torch.Size(shape).numel() for shape in published.values()) == 8_015_581_184
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_015_581_184
    assert sorted(tuple(p.shape) for p in model.parameters()) == sorted(published.values())


def test_every_published_key_of_32_layers_is_consumed(tmp_path):
    """The sharded layout of LLaDA-8B with its 291 keys, at a small width."""
    shapes = published_shapes(d_model=8, mlp=12, vocab=16)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: files[i % 2] for i, name in enumerate(shapes)}
    for file in files:
        save_file({name: torch.randn(shapes[name]) for name in shapes if weight_map[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = json.loads((FIXTURE / "config.json").read_text())
    config |= {"d_model": 8, "n_heads": 2, "n_kv_heads": 2, "n_layers": 32, "mlp_hidden_size": 12}
    config |= {"vocab_size": 16, "embedding_size": 16, "mask_token_id": 15, "eos_token_id": 14, "pad_token_id": 14}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(AutoConfig.from_pretrained(tmp_path), LladaConfig)
    model, info = LladaForMaskedDiffusion.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()) and len(weight_map) == 291
    loaded = {name: p for file in files for name, p in load_file(tmp_path / file).items()}
    assert torch.equal(model.model.layers[31].mlp.down_proj.weight, loaded["model.transformer.blocks.31.ff_out.weight"])


def test_lora_of_the_published_recipe_lands_on_96_modules():
    with torch.device("meta"):
        model = PrismForMaskedDiffusion(PrismConfig(backbone_config=LladaConfig()))
        lora = LoraConfig(
            r=256, lora_alpha=256, target_modules=["q_proj", "k_proj", "v_proj"], modules_to_save=["quality_head"]
        )
        adapted = get_peft_model(model, lora)
    assert sum(name.endswith("lora_A.default.weight") for name, _ in adapted.named_parameters()) == 96
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    head = 2 * 4096 + 4096 * 4096 + 4096 + 4096 + 1
    assert trained == 96 * 2 * 256 * 4096 + head


# Of every config of transformers, or of a class that has no more to say.
OF_TRANSFORMERS = (
    "transformers_version",
    "architectures",
    "output_hidden_states",
    "return_dict",
    "dtype",
    "chunk_size_feed_forward",
    "is_encoder_decoder",
    "id2label",
    "label2id",
    "problem_type",
    "_name_or_path",
    "output_attentions",
)


def test_a_fresh_config_is_saved_with_every_published_field(tmp_path):
    """So that LLaDA's own tools build the same model: the fields and, of those with a default, the published values."""
    published = json.loads((FIXTURE / "config.json").read_text())
    shape = ("d_model", "n_heads", "n_kv_heads", "n_layers", "mlp_hidden_size", "max_sequence_length", "vocab_size")
    shape += ("embedding_size", "eos_token_id", "pad_token_id", "mask_token_id")
    LladaConfig(**{name: published[name] for name in shape}).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    wanted = {name: value for name, value in published.items() if name not in OF_TRANSFORMERS}
    assert {name: saved.get(name, "missing") for name in wanted} == wanted


def test_a_published_value_wins_over_our_own(tmp_path):
    LladaConfig(init_device="meta", precision="amp_bf16", d_model=8, n_heads=2).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["init_device"], saved["precision"]) == ("meta", "amp_bf16")


def test_the_names_of_transformers_build_the_same_model():
    theirs = LladaConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=1, intermediate_size=64)
    assert theirs.to_dict() == LladaConfig(d_model=32, n_heads=4, n_layers=1, mlp_hidden_size=64).to_dict()
    assert theirs.num_key_value_heads == 4
