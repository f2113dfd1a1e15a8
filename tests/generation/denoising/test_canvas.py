"""A canvas of a fixed length, prompt included: rows of a batch, blocks, steps and endings."""

import pytest
import torch
from transformers import BertConfig

from prism_hf.generation import generate_with_retries, remask_generate
from prism_hf.models.mdlm import MdlmConfig, MdlmForMaskedDiffusion

MASK, PAD = 0, 1
MDLM = {"vocab_size": 40, "hidden_dim": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 4}
BERT = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BACKBONES = {"bert": lambda: BertConfig(**BERT, max_position_embeddings=20), "mdlm": lambda: MdlmConfig(**MDLM)}
PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [20, MASK, 21, 22, MASK], [14]]


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 6},
        {"block_length": 5, "remask_strategy": "prism", "num_remask": 2},
        {"steps": 17, "block_length": 3, "remask_strategy": "prism", "num_remask": 2, "refill": "remasked"},
        {"steps": 12, "block_length": 4, "confidence_threshold": 0.3},
        {"steps": 15, "block_length": 4, "remask_strategy": "p2"},
        {"steps": 15, "block_length": 4, "remask_strategy": "wino"},
        {"steps": 20, "remask_strategy": "prism", "num_remask": 1, "cfg_scale": 0.7},
    ],
)
def test_a_row_is_what_it_is_alone(prism, pad, name, side, settings):
    model = prism(BACKBONES[name]())
    ids, attention_mask = pad(PROMPTS, side)
    settings = settings | {"max_length": 20, "pad_token_id": PAD}
    together = model.generate(ids, attention_mask=attention_mask, **settings)
    assert together.shape == (4, 7 + 19)
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = model.generate(torch.tensor([prompt]), **settings)[0]
        before = 7 - len(prompt)
        assert len(alone) == 20 and not (alone == MASK).any()
        assert torch.equal(row[before : before + 20], alone)
        assert (row[:before] == PAD).all() and (row[before + 20 :] == PAD).all()


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_cache_is_refreshed_at_the_same_steps_in_any_batch(pad, randomised, cache):
    model = randomised(MdlmForMaskedDiffusion(MdlmConfig(**MDLM, mask_token_id=MASK)))
    ids, attention_mask = pad(PROMPTS, "left")
    settings = {"max_length": 20, "block_length": 5, "cache_implementation": cache, "pad_token_id": PAD}
    together = model.generate(ids, attention_mask=attention_mask, **settings)
    for row, prompt in zip(together, PROMPTS, strict=True):
        alone = model.generate(torch.tensor([prompt]), **settings)[0]
        assert torch.equal(row[7 - len(prompt) :][:20], alone)


@pytest.mark.parametrize("refill", ["planned", "remasked"])
def test_blocks_begin_at_the_prompts_end_and_have_the_steps_of_a_whole_canvas(table_model, pad, refill):
    """Against PRISM's loop for LLaDA, written out: a canvas of 24 in blocks of 6, 20 steps."""
    model = table_model(24, seed=3)
    prompts = [[3, 4, 5, 2, 3], [6, 2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3], [3]]
    ids, attention_mask = pad(prompts, "left")
    settings = {"max_length": 24, "block_length": 6, "steps": 20, "remask_strategy": "prism", "num_remask": 3}
    settings |= {"refill": refill, "return_dict_in_generate": True, "output_trajectory": True, "pad_token_id": PAD}
    out = remask_generate(model, ids, attention_mask=attention_mask, **settings)
    assert out.num_forwards == 20  # the last prompt leaves 23 masks, in 4 blocks of 5 steps
    for number, prompt in enumerate(prompts):
        row, forwards = torch.tensor(prompt + [MASK] * (24 - len(prompt))), 0
        for start in range(len(prompt), 24, 6):
            block = range(start, min(start + 6, 24))
            for step in range(5):
                logits, quality = _read(model, row)
                masked = [i for i in block if row[i] == MASK]
                clean = [i for i in block if row[i] != MASK]
                planned = 1 if step in (1, 2, 3) else 0
                worst = sorted(clean, key=lambda i: quality[i].item())[:planned]
                share = len(block) // 5 + (step < len(block) % 5)
                count = share + (len(worst) if refill == "remasked" else planned)
                best = sorted(masked, key=lambda i: -logits[i].softmax(-1).max().item())
                row[worst] = MASK
                for i in best if step == 4 else best[:count]:
                    row[i] = logits[i].argmax()
                forwards += 1
        alone = remask_generate(model, torch.tensor([prompt]), **settings)
        assert alone.num_forwards == forwards == 5 * -(-(24 - len(prompt)) // 6)
        assert torch.equal(alone.sequences[0], row)
        assert torch.equal(out.sequences[number, 13 - len(prompt) :][:24], row)


def _read(model, row):
    out = model(row[None])
    logits = out.logits[0].clone()
    logits[:, MASK] = -torch.inf
    return logits, out.quality_logits[0].sigmoid()


def test_rows_end_where_they_end_alone(prism, pad):
    model = prism(BACKBONES["mdlm"]())
    ids, attention_mask = pad(PROMPTS, "left")
    settings = {"max_length": 20, "block_length": 4, "steps": 20, "pad_token_id": PAD}
    whole = model.generate(ids, attention_mask=attention_mask, **settings)
    settings["eos_token_id"] = [whole[0, 7 + 5].item(), whole[1, 7 + 15].item()]
    together = model.generate(ids, attention_mask=attention_mask, **settings)
    alone = [model.generate(torch.tensor([prompt]), **settings)[0] for prompt in PROMPTS]
    for row, prompt, expected in zip(together, PROMPTS, alone, strict=True):
        assert torch.equal(row[7 - len(prompt) :][:20], expected)
    assert (alone[0] == PAD).sum() >= 7


def test_a_row_without_room_is_left_as_it_is(table_model, pad):
    ids, attention_mask = pad([[3, 4, 5, 6], [2]], "left")
    settings = {"max_length": 4, "pad_token_id": PAD, "return_dict_in_generate": True}
    out = remask_generate(table_model(8), ids, attention_mask=attention_mask, block_length=2, **settings)
    assert out.sequences[0].tolist() == [3, 4, 5, 6, PAD, PAD, PAD]
    assert out.tokens_per_forward[0] == 0 and out.num_forwards == 4


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"max_length": 2}, "Row 0 has 3 tokens, more than max_length=2: raise it"),
        ({"max_length": 30}, "more than the 20 that the model has positions for: shorten it or lower max_length"),
        ({"max_length": 12, "block_length": 4, "steps": 2, "pad_token_id": PAD}, "raise steps to 3"),
    ],
)
def test_mistakes_are_named(prism, pad, settings, message):
    ids, attention_mask = pad([[3, 4, 5], [2]], "left")
    with pytest.raises(ValueError, match=message):
        prism(BACKBONES["bert"]()).generate(ids, attention_mask=attention_mask, **settings)


def test_padding_needs_a_token_and_retries_need_rows_alike(table_model, prism, pad):
    ids, attention_mask = pad([[3, 4, 5], [2]], "left")
    with pytest.raises(ValueError, match="max_length with prompts of unequal length needs pad_token_id"):
        remask_generate(table_model(8), ids, attention_mask=attention_mask, max_length=8)
    with pytest.raises(ValueError, match="max_length gives the rows unequal numbers of masks"):
        settings = {"max_length": 8, "pad_token_id": PAD, "remask_strategy": "prism"}
        generate_with_retries(prism(BACKBONES["mdlm"]()), ids, [{}], attention_mask=attention_mask, **settings)
