"""Shadow tokens against forwards with a single one, written out; and WINO's rule by hand (arXiv 2507.18578)."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from prism_hf.generation import RemaskGenerationConfig, WinoRemasking, remask_generate
from prism_hf.generation.denoising.reading import add_shadows
from prism_hf.models.llada import LladaConfig, LladaForMaskedDiffusion
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion
from prism_hf.models.prism import PrismConfig, PrismForMaskedDiffusion

MASK, VOCAB, LENGTH = 19, 20, 9
RECORD = {"return_dict_in_generate": True, "output_trajectory": True}
MODELS = ("llada", "mdlm", "bert", "distilbert", "electra", "prism")
BERT = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LENGTH,
}


def build(name, attention="sdpa"):
    torch.manual_seed(0)
    mdlm = MdlmConfig(vocab_size=VOCAB, hidden_dim=16, cond_dim=8, n_blocks=2, n_heads=2, mask_token_id=MASK)
    mdlm._attn_implementation = attention
    if name == "llada":
        config = LladaConfig(
            d_model=16,
            n_layers=2,
            n_heads=4,
            n_kv_heads=2,
            mlp_hidden_size=24,
            vocab_size=VOCAB,
            embedding_size=VOCAB,
            mask_token_id=MASK,
        )
        model = LladaForMaskedDiffusion._from_config(config, attn_implementation=attention)
    elif name == "mdlm":
        model = MdlmForMaskedDiffusion._from_config(mdlm, attn_implementation=attention)
    elif name == "bert":
        model = BertForMaskedLM._from_config(BertConfig(**BERT), attn_implementation=attention)
    elif name == "electra":
        config = ElectraConfig(**BERT, embedding_size=8)
        model = ElectraForMaskedLM._from_config(config, attn_implementation=attention)
    elif name == "distilbert":
        config = DistilBertConfig(
            vocab_size=VOCAB, dim=16, n_layers=2, n_heads=2, hidden_dim=24, max_position_embeddings=LENGTH
        )
        model = DistilBertForMaskedLM._from_config(config, attn_implementation=attention)
    else:
        config = PrismConfig(backbone_config=mdlm, head_type="dit", head_num_blocks=1, mask_token_id=MASK)
        model = PrismForMaskedDiffusion._from_config(config, attn_implementation=attention)
    for parameter in model.parameters():  # the published initialisation is the same at all positions
        nn.init.normal_(parameter, std=0.25)
    return model.eval()


def canvases():
    tokens = torch.randint(0, MASK, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    tokens[0, [3, 6]] = tokens[1, 2] = MASK
    padding = torch.ones(2, LENGTH, dtype=torch.long)
    padding[1, 7:] = 0
    return tokens, padding


@torch.no_grad()
def hidden_from_itself(model, row, real, position):
    """The logits (V,) of one mask token, appended to the `real` tokens of a row, in place of that at `position`."""
    row = row[real.bool()]
    count = len(row)
    sees = [[key < count for key in range(count + 1)] for _ in range(count)]
    sees.append([key != position for key in range(count + 1)])
    mask = torch.tensor(sees)
    if model.config._attn_implementation == "eager":
        mask = torch.where(mask, 0.0, -1e30)
    return model(
        input_ids=torch.cat([row, torch.tensor([MASK])])[None],
        position_ids=torch.tensor([[*range(count), position]]),
        attention_mask=mask[None, None],
    ).logits[0, -1]


@torch.no_grad()
def with_shadows(model, tokens, shadowed, padding):
    inputs = add_shadows(tokens, shadowed, padding, MASK, torch.float32)
    return model(**inputs).logits.split([tokens.shape[1], shadowed.shape[1]], dim=1)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", MODELS)
def test_equal_to_a_forward_for_each_token(name, attention):
    model, (tokens, padding) = build(name, attention), canvases()
    shadowed = torch.tensor([[1, 2, 3, 8], [0, 2, 5, 6]])
    of_tokens, of_shadows = with_shadows(model, tokens, shadowed, padding)
    for row in range(2):
        for logits, position in zip(of_shadows[row], shadowed[row].tolist(), strict=True):
            torch.testing.assert_close(
                logits, hidden_from_itself(model, tokens[row], padding[row], position), atol=1e-5, rtol=0
            )
    with torch.no_grad():
        plain = model(input_ids=tokens, attention_mask=padding).logits
    real = padding.bool()
    torch.testing.assert_close(of_tokens[real], plain[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_shadow_knows_all_tokens_but_its_own(name):
    """Exactly so with one layer; in later ones the others pass on what they have seen of it."""
    model, (tokens, _) = build(name), canvases()
    blocks = next(module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == 2)
    del blocks[1]
    shadowed = torch.tensor([[2, 4]]).expand(2, 2)
    before = with_shadows(model, tokens, shadowed, None)[1]
    changed = tokens.clone()
    changed[:, 2] = (tokens[:, 2] + 1) % MASK
    after = with_shadows(model, changed, shadowed, None)[1]
    torch.testing.assert_close(after[:, 0], before[:, 0], atol=1e-6, rtol=0)
    assert (after[:, 1] - before[:, 1]).abs().amax() > 1e-4


class Chain(nn.Module):
    """Position 0 should be 2, and each other position one more than the token on its left, of which a mask is none.

    `sure[j]` is the probability of the likeliest token at position j; it is `missing`, and the token 9, where the left
    neighbour is a mask. The posterior of a shadow is that of its position.
    """

    def __init__(self, sure, missing=0.7):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=MASK, model_type="llada", _attn_implementation="eager")
        self.sure, self.missing, self.dtype, self.calls = torch.tensor(sure), missing, torch.float32, 0

    def forward(self, input_ids, attention_mask=None, position_ids=None):
        self.calls += 1
        length = len(self.sure)
        if position_ids is None:
            position_ids = torch.arange(length).expand_as(input_ids)
        left = torch.cat([torch.ones_like(input_ids[:, :1]), input_ids[:, : length - 1]], 1)
        known = left != MASK
        likeliest = torch.where(known, left + 1, 9)
        likely = torch.where(known, self.sure, self.missing)
        probs = ((1 - likely) / (VOCAB - 2))[..., None].expand(-1, -1, VOCAB)
        probs = probs.scatter(-1, likeliest[..., None], likely[..., None])
        return SimpleNamespace(logits=probs.log().gather(1, position_ids[..., None].expand(-1, -1, VOCAB)))


def test_the_rule_by_hand():
    """All four are filled at once, at 0.7 or more. A 9 is likely only where the left neighbour is 8 or a mask."""
    model = Chain([0.95, 0.95, 0.95, 0.95])
    out = remask_generate(model, torch.full((1, 4), MASK), remask_strategy="wino", steps=12, **RECORD)
    history = [
        [2, 9, 9, 9],  # four filled, so three may go back
        [2, MASK, MASK, MASK],  # not one of them says 9 again: after 2 it is 3, after 9 it is 10
        [2, 3, 9, 9],  # three filled, so two may go back
        [2, 3, MASK, MASK],
        [2, 3, 4, 9],  # two filled, one may go back
        [2, 3, 4, MASK],
        [2, 3, 4, 5],  # one filled: none may go back, so that it is over
    ]
    assert out.trajectory.canvas[:, 0].tolist() == history
    assert out.num_forwards == model.calls == 7


def test_thresholds():
    """The first position is filled at its 0.65 only under `fill_threshold` or as the likeliest one."""
    ids = torch.full((1, 3), MASK)

    def run(sure, **settings):
        out = remask_generate(Chain(sure), ids, remask_strategy="wino", steps=12, **settings, **RECORD)
        assert not (out.sequences == MASK).any()
        return out

    assert run([0.65, 0.95, 0.95]).trajectory.filled[0].tolist() == [[True, True, True]]
    assert run([0.65, 0.95, 0.95], fill_threshold=0.68).trajectory.filled[0].tolist() == [[False, True, True]]
    assert run([0.65, 0.95, 0.95], fill_threshold=0.8).trajectory.filled[0].sum() == 1
    assert run([0.95, 0.95, 0.95], verify_threshold=0.0).num_forwards == 2  # the second verifies and finds nothing
    # Two may go back; of the three below the threshold the least likely do.
    verified = run([0.65, 0.95, 0.95]).trajectory.remasked[1]
    assert verified.tolist() == [[False, True, True]]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("blocks", [{}, {"block_length": 3, "steps": 20}, {"steps": 4}])
def test_a_row_gets_in_a_batch_what_it_gets_alone(name, blocks):
    model, (tokens, padding) = build(name), canvases()
    tokens[:, 1:7] = MASK
    tokens[1, 4] = 5
    settings = {"remask_strategy": "wino", "fill_threshold": 0.06, "verify_threshold": 1.0, "mask_token_id": MASK}
    settings |= {"steps": 12} | blocks
    out = remask_generate(model, tokens, attention_mask=padding, **settings, **RECORD)
    assert out.num_forwards <= settings["steps"] and not (out.sequences == MASK).any()
    given = tokens != MASK
    assert torch.equal(out.sequences[given], tokens[given]) and (out.trajectory.remasked.any() or blocks)
    for row in range(2):
        real = padding[row].bool()
        alone = remask_generate(model, tokens[row][real][None], **settings, return_dict_in_generate=True)
        assert torch.equal(out.sequences[row][real], alone.sequences[0])
        assert out.tokens_per_forward[row] == alone.tokens_per_forward[0]


def test_what_goes_back_is_below_the_threshold_and_less_than_was_filled():
    model, length = build("llada"), 9
    out = remask_generate(
        model,
        torch.full((3, length), MASK),
        remask_strategy="wino",
        fill_threshold=0.06,
        verify_threshold=0.5,
        steps=40,
        do_sample=True,
        generator=torch.Generator().manual_seed(0),
        **RECORD,
    )
    filled, remasked = (changes.sum(-1) for changes in (out.trajectory.filled, out.trajectory.remasked))
    assert remasked.any() and (remasked[1:] < filled[:-1].clamp(min=1)).all()
    before, changed = out.trajectory.canvas, out.trajectory.remasked
    for step, row, position in changed.nonzero().tolist():
        canvas = before[step - 1, row]
        logits = hidden_from_itself(model, canvas, torch.ones(length), position)
        logits[MASK] = -float("inf")
        assert logits.softmax(-1)[canvas[position]] < 0.5


def test_what_cannot_be_is_refused_before_the_first_forward():
    ids = torch.full((1, 4), MASK)
    roberta = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
        )
    )
    with pytest.raises(ValueError, match="RobertaForMaskedLM is of 'roberta'"):
        remask_generate(roberta, ids, mask_token_id=MASK, remask_strategy="wino")
    model = Chain([0.9] * 4)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="flash_attention_2"):
        remask_generate(model, ids, remask_strategy="wino")
    model = build("llada")
    with pytest.raises(ValueError, match="cache_implementation='dual' does not go with remask_strategy='wino'"):
        remask_generate(model, ids, remask_strategy="wino", block_length=2, cache_implementation="dual")
    for settings in ({"num_remask": 2}, {"confidence_threshold": 0.5}, {"order": "margin"}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* does not go with remask_strategy 'wino'"):
            remask_generate(model, ids, remask_strategy="wino", **settings)
    with pytest.raises(ValueError, match="verify_threshold=2 of WinoRemasking must be a number from 0 to 1"):
        WinoRemasking(verify_threshold=2)
    with pytest.raises(ValueError, match="Did you mean 'fill_threshold'"):
        remask_generate(model, ids, remask_strategy="wino", fil_threshold=0.5)
    # Settings of the model's own for another strategy are set aside.
    model.generation_config = RemaskGenerationConfig(
        remask_strategy="random", num_remask=2, order="random", confidence_threshold=None
    )
    assert remask_generate(model, ids, remask_strategy="wino").shape == (1, 4)
