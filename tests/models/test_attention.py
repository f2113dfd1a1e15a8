"""The table of docs/attention.md: its yes computes what eager attention does, its no is refused."""

import copy
import re
from pathlib import Path

import pytest
import torch

from prism_hf import LladaConfig, LladaForMaskedDiffusion, MdlmConfig, PrismConfig, PrismForMaskedDiffusion
from prism_hf.models.attention import available_attention
from prism_hf.training.packing import PackedRows, packed_index

PAGE = (Path(__file__).parents[2] / "docs" / "attention.md").read_text(encoding="utf-8")
HEADS, *ROWS = (
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in re.findall(r"^\|.*\|$", PAGE.split("## Choosing")[0], re.MULTILINE)
    if not line.startswith("|---")
)
TABLE = {row[0]: dict(zip(HEADS[1:], row[1:], strict=True)) for row in ROWS}
MASK = 39
SPECIAL = {"mask_token_id": MASK, "eos_token_id": 1, "pad_token_id": 1}
LLADA = LladaConfig(d_model=32, n_layers=2, n_heads=2, mlp_hidden_size=24, vocab_size=40, embedding_size=40, **SPECIAL)
MDLM = MdlmConfig(vocab_size=40, hidden_dim=32, cond_dim=8, n_blocks=2, n_heads=2, mask_token_id=MASK)
BUILD = {
    "llada": lambda: LladaForMaskedDiffusion(copy.deepcopy(LLADA)),
    "prism llada": lambda: PrismForMaskedDiffusion(PrismConfig(backbone_config=copy.deepcopy(LLADA))),
    "prism mdlm": lambda: PrismForMaskedDiffusion(
        PrismConfig(backbone_config=copy.deepcopy(MDLM), head_type="dit", head_num_blocks=1)
    ),
}
IDS = torch.tensor([[5, 6, 7, 8], [1, 6, 7, 8]])
PADDING = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])


def build(name, attention):
    torch.manual_seed(0)
    model = BUILD[name]()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.set_attn_implementation(attention)
    return model.eval()


def generating(attention_mask=None, **settings):
    def run(model):
        if "wino" not in settings.values():
            settings["steps"] = 4
        ids = IDS if attention_mask is not None else IDS[:1]
        return model.generate(ids, attention_mask=attention_mask, max_new_tokens=8, block_length=4, **settings)

    return run


def training(model):
    output = model.train()(IDS, attention_mask=PADDING)
    output.logits[PADDING.bool()][:, :MASK].logsumexp(-1).sum().backward()
    return torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None])


def packed(model):
    rows = PackedRows(packed_index([[4, 3]], 4), (2, 4))
    ids = torch.tensor([[5, 6, 7, 8], [6, 7, 8, 1]])
    return rows.by_row(model(**rows.inputs(ids, model)).logits[..., :MASK].logsumexp(-1)[..., None]).flatten()[:7]


RUNS = {
    "generation, and `remask_strategy` with a quality head": generating(),
    "rows of different lengths (padding on the left)": generating(PADDING),
    '`cache_implementation="prefix"` or `"dual"`': generating(cache_implementation="dual"),
    "a cache, and rows of different lengths": generating(PADDING, cache_implementation="prefix"),
    "strategies with shadow tokens (`wino`)": generating(remask_strategy="wino"),
    "training, whole or with LoRA": training,
    "packed rows (`packing=True`)": packed,
    "a `dit` head with blocks of its own, and MDLM": lambda model: model(IDS, attention_mask=PADDING).logits[:1],
    "`output_attentions=True`": lambda model: model(IDS[:1], output_attentions=True).attentions[0],
    "weights in float32 without autocast": lambda model: model(IDS).logits,
}


def test_the_table_has_what_is_tested():
    assert TABLE.keys() == RUNS.keys()


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("feature", [feature for feature, cells in TABLE.items() if cells["sdpa"] == "yes"])
def test_sdpa_computes_what_eager_does(feature, name):
    with torch.set_grad_enabled(feature.startswith("training")):
        found = [RUNS[feature](build(name, attention)) for attention in ("eager", "sdpa")]
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)


# What transformers itself refuses is not ours to test.
OURS = (
    "a cache, and rows of different lengths",
    "strategies with shadow tokens (`wino`)",
)
REFUSED = [(feature, name) for feature in OURS for name in HEADS[3:] if TABLE[feature][name] == "no"]


@pytest.mark.parametrize(("feature", "attention"), REFUSED)
def test_what_would_compute_something_else_is_refused(feature, attention):
    name = attention.split(",")[0]
    model = build("llada", "sdpa")
    model.config._attn_implementation = name  # as on a machine that has it
    with pytest.raises(ValueError, match=name):
        RUNS[feature](model)


def test_attention_can_be_set_on_a_model_that_is_there():
    """The weights that eager attention alone gives tell which one ran."""
    feature = RUNS["`output_attentions=True`"]
    for name in ("llada", "prism llada"):
        assert feature(build(name, "eager")) is not None


@pytest.mark.parametrize("asked", ["flash_attention_2", "flash_attention_3", "flash_attention_4"])
def test_a_recipe_takes_sdpa_where_flash_attention_cannot_be_had(asked, caplog, monkeypatch):
    assert available_attention(asked, use_cpu=True) == "sdpa"
    assert f"'{asked}' is not to be had, as the model runs on the CPU: 'sdpa' is taken instead" in caplog.text
    for kept in ("eager", "sdpa", "flex_attention", "kernels-community/flash-attn2", None):
        assert available_attention(kept, use_cpu=True) == kept
    if not torch.accelerator.is_available():
        assert available_attention(asked) == "sdpa" and "there is no GPU" in caplog.text
