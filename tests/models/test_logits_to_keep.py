"""Where logits are wanted: one argument, `logits_to_keep`, of all native models, and who is known to take it."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertForMaskedLM

from prism_hf import (
    LladaConfig,
    LladaForMaskedDiffusion,
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    MdlmConfig,
    MdlmForMaskedDiffusion,
    PrismConfig,
    PrismForMaskedDiffusion,
    remask_generate,
)
from prism_hf.backbones import takes_positions
from prism_hf.generation.denoising.caching import CanvasCache
from prism_hf.models.lm_head import keep_positions

IDS = torch.tensor([[5, 6, 7, 4], [8, 4, 4, 9]])
MASK = 4
SMALL = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
LLADA = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 48, "vocab_size": 40, "mask_token_id": MASK}
MDLM = {"hidden_dim": 32, "cond_dim": 16, "n_blocks": 1, "n_heads": 2, "vocab_size": 40, "mask_token_id": MASK}
OURS = {
    "llada": lambda: LladaForMaskedDiffusion(LladaConfig(**LLADA)),
    "mdlm": lambda: MdlmForMaskedDiffusion(MdlmConfig(**MDLM)),
    "prism": lambda: PrismForMaskedDiffusion(PrismConfig(backbone_config=BertConfig(**SMALL), mask_token_id=MASK)),
}


class OwnBert(BertForMaskedLM):
    """A model whose `logits_to_keep` is transformers' own: how many of the last positions."""

    def forward(self, input_ids, attention_mask=None, logits_to_keep: int = 0, **kwargs):
        assert isinstance(logits_to_keep, int)
        output = super().forward(input_ids, attention_mask, **kwargs)
        output.logits = output.logits[:, -logits_to_keep:]
        return output


def test_a_mask_gives_rows_and_columns_give_their_shape():
    states = torch.arange(24.0).view(2, 4, 3)
    mask, columns = IDS == MASK, torch.tensor([[3, 0, 0], [1, 2, 1]])
    assert torch.equal(keep_positions(states, mask), torch.stack([states[0, 3], states[1, 1], states[1, 2]]))
    expected = torch.stack([row[at] for row, at in zip(states, columns, strict=True)])
    assert torch.equal(keep_positions(states, columns), expected)
    assert keep_positions(states, torch.zeros_like(mask)).shape == (0, 3)
    assert keep_positions(states, columns[:, :0]).shape == (2, 0, 3)
    assert keep_positions(states, None) is states


@pytest.mark.parametrize(
    "wrong, given",
    [
        (1, "logits_to_keep is 1:"),
        (torch.tensor([1, 2]), r"torch.int64 of shape \(2,\)"),
        (torch.zeros(3, 1, dtype=torch.int64), r"torch.int64 of shape \(3, 1\)"),
        (torch.zeros(2, 1, dtype=torch.int32), r"torch.int32 of shape \(2, 1\)"),
        (torch.zeros(2, 3, dtype=torch.bool), r"torch.bool of shape \(2, 3\)"),
    ],
)
@pytest.mark.parametrize("name", OURS)
def test_anything_else_is_refused(name, wrong, given):
    with pytest.raises(ValueError, match=given + r".*boolean mask of shape \(2, 4\).*int64 columns"):
        OURS[name]()(IDS, logits_to_keep=wrong)


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_no_position_may_be_asked_for(name):
    model = OURS[name]().eval()
    assert model(IDS, logits_to_keep=IDS < 0).logits.shape == (0, 40)
    assert model(IDS, logits_to_keep=IDS[:, :0]).logits.shape == (2, 0, 40)


@pytest.mark.parametrize("name", OURS)
@torch.no_grad()
def test_the_old_name_serves_with_a_warning(name):
    model, columns = OURS[name]().eval(), torch.tensor([[3, 0], [1, 2]])
    with pytest.warns(FutureWarning, match="logits_at .*is now called logits_to_keep"):
        old = model(IDS, logits_at=columns).logits
    assert torch.equal(old, model(IDS, logits_to_keep=columns).logits)


@torch.no_grad()
def test_prediction_states_have_the_shape_of_the_logits():
    model = OURS["prism"]().eval()
    for kept in (IDS == MASK, torch.tensor([[3, 0], [1, 2]])):
        output = model(IDS, logits_to_keep=kept)
        assert torch.equal(model.decoder(output.prediction_states), output.logits)
        assert torch.equal(
            model(IDS, logits_to_keep=kept, return_logits=False).prediction_states, output.prediction_states
        )


@pytest.mark.parametrize("name", OURS)
def test_ours_take_positions_also_when_they_are_wrapped(name):
    model = OURS[name]()
    assert takes_positions(model) and takes_positions(torch.compile(model))
    assert takes_positions(get_peft_model(model, LoraConfig(target_modules="all-linear")))


def test_an_argument_of_that_name_alone_says_nothing():
    model = OwnBert(BertConfig(**SMALL)).eval()
    assert not takes_positions(model)
    remask_generate(model, IDS, mask_token_id=MASK)  # asserts that it was given no positions


def test_a_class_that_took_positions_by_the_old_name_is_told():
    class Old(OwnBert):
        def forward(self, input_ids, attention_mask=None, logits_at=None):
            assert logits_at is None
            return BertForMaskedLM.forward(self, input_ids, attention_mask)

    with pytest.warns(FutureWarning, match="logits_at of Old is now called logits_to_keep, under _supports_logit_pos"):
        remask_generate(Old(BertConfig(**SMALL)).eval(), IDS, mask_token_id=MASK)


def test_a_trainer_gives_no_mask_to_an_argument_of_that_name_alone(tmp_path):
    args = MaskedDiffusionTrainingArguments(
        str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    rows = [{"input_ids": [5, 6, 7, 8]}] * 4
    config = BertConfig(**SMALL, pad_token_id=0, mask_token_id=MASK)
    trainer = MaskedDiffusionTrainer(OwnBert(config), args, train_dataset=Dataset.from_list(rows))
    assert trainer.train().training_loss > 0 and not trainer.keeps_logits
    trainer = MaskedDiffusionTrainer(OURS["llada"](), args, train_dataset=Dataset.from_list(rows))
    assert trainer.keeps_logits


def deep(name: str, attention: str) -> torch.nn.Module:
    """A native model of two layers, alone or under a quality head, whose tokens depend on one another."""
    torch.manual_seed(0)
    llada, mdlm = LladaConfig(**LLADA | {"n_layers": 2}), MdlmConfig(**MDLM | {"n_blocks": 2})
    build = {
        "llada": lambda: LladaForMaskedDiffusion(llada),
        "mdlm": lambda: MdlmForMaskedDiffusion(mdlm),
        "prism llada": lambda: PrismForMaskedDiffusion(PrismConfig(backbone_config=llada)),
        "prism mdlm": lambda: PrismForMaskedDiffusion(PrismConfig(backbone_config=mdlm, head_type="dit")),
    }
    model = build[name]().double().eval()
    model.set_attn_implementation(attention)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llada", "mdlm", "prism llada", "prism mdlm"])
@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_the_last_layer_computes_the_asked_columns_alone_and_gives_the_same(name, attention, padded):
    model = deep(name, attention)
    last = [module for path, module in model.named_modules() if path.endswith((".layers.1", ".blocks.1"))][0]
    widths = []
    last.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[1]))
    columns = torch.tensor([[3, 1], [1, 2]])
    inputs = {"input_ids": IDS, "attention_mask": torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]]) if padded else None}
    if "prism" in name:
        inputs["return_quality"] = False
    whole = model(**inputs)
    kept = model(**inputs, logits_to_keep=columns)
    assert widths == [4, 2]
    rows = torch.arange(2)[:, None]
    torch.testing.assert_close(kept.logits, whole.logits[rows, columns], rtol=0, atol=1e-12)
    # What the last layer gives is asked for: it is whole, and so are the states and the qualities.
    recorded = model(**inputs, logits_to_keep=columns, output_hidden_states=True)
    assert recorded.hidden_states[-1].shape[:2] == (2, 4)
    torch.testing.assert_close(recorded.logits, kept.logits, rtol=0, atol=1e-12)
    if "prism" in name:
        judged = model(**inputs | {"return_quality": True}, logits_to_keep=columns)
        assert judged.quality_logits.shape == (2, 4) and widths == [4, 2, 4, 4]


@pytest.mark.parametrize("name", ["llada", "mdlm"])
@torch.no_grad()
def test_the_last_layer_computes_columns_of_a_cached_block_alone(name):
    model, cache = deep(name, "sdpa"), CanvasCache()
    model(IDS, cache=cache)
    cache.positions = torch.tensor([[1, 2, 3], [0, 1, 3]])
    block = IDS.gather(1, cache.positions)
    block[:, 0] = 11  # what the kept keys and values do not know yet
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    whole = model(block, attention_mask=mask, cache=cache).logits
    columns = torch.tensor([[2, 0], [1, 2]])
    kept = model(block, attention_mask=mask, cache=cache, logits_to_keep=columns).logits
    torch.testing.assert_close(kept, whole[torch.arange(2)[:, None], columns], rtol=0, atol=1e-12)
