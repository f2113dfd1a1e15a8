"""The task infill on a file of texts and tiny models."""

import json

import pytest
import torch

from prism_hf.evaluation import compare, evaluate, expand_grid, load_task
from prism_hf.evaluation.tasks.task import PADDING

TEXTS = ["def f(x):", "import torch", "return", "for row in rows", "x = 1", "return", "yield y", "class Head:"]
DISTINCT = list(dict.fromkeys(TEXTS))


@pytest.fixture
def model(text_model, text_tokenizer, tmp_path):
    model = text_model()
    model.name_or_path = str(tmp_path / "model")
    text_tokenizer.save_pretrained(model.name_or_path)
    return model


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"said": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return {"dataset_name": str(path), "dataset_text_field": "said"}


def known_tokens(text_tokenizer, texts, width):
    rows = [text_tokenizer(text).input_ids for text in texts]
    return torch.tensor([[PADDING] * (width - len(ids)) + ids for ids in rows])


def test_a_share_of_each_text_is_masked_and_the_rest_is_given(model, texts, text_tokenizer):
    task = load_task("infill", model, **texts, masked_share=0.4, num_samples=4, num_tuning_samples=3)
    examples = torch.cat([task.examples, task.tuning_examples])
    known = known_tokens(text_tokenizer, DISTINCT, examples.shape[1])
    masked = examples == model.config.mask_token_id
    assert torch.equal(examples, known.masked_fill(masked, model.config.mask_token_id))
    special = torch.isin(known, torch.tensor([PADDING, *text_tokenizer.all_special_ids]))
    assert not (masked & special).any()
    lengths = (~special).sum(-1)
    assert masked.sum(-1).tolist() == [max(round(0.4 * length), 1) for length in lengths.tolist()]
    assert set(text_tokenizer.all_special_ids) <= {*task.never_drawn, model.config.mask_token_id}


def test_masks_depend_on_the_seed_and_those_of_a_small_share_are_of_a_large_one(model, texts):
    def masked(**kwargs):
        return load_task("infill", model, **texts, num_samples=7, **kwargs).examples == model.config.mask_token_id

    few, many = masked(masked_share=0.2), masked(masked_share=0.99)
    assert not (few & ~many).any() and not (few == masked(masked_share=0.2, mask_seed=1)).all()
    assert torch.equal(few, masked(masked_share=0.2))
    assert (masked(masked_share=0.01).sum(-1) == 1).all()


def test_a_score_is_the_share_of_masked_tokens_that_are_the_texts_own(model, texts, text_tokenizer):
    task = load_task("infill", model, **texts, masked_share=0.7, num_samples=4, num_tuning_samples=3)
    for examples, names in ((task.examples, DISTINCT[:4]), (task.tuning_examples, DISTINCT[4:])):
        known = known_tokens(text_tokenizer, names, examples.shape[1])
        whole = task.judged(known, examples)
        assert whole.scores.tolist() == [1.0] * len(names)
        assert [row["text"] for row in whole.completions] == names
        wrong, expected = known.clone(), []
        for row, masks in zip(wrong, examples == model.config.mask_token_id, strict=True):
            first = masks.nonzero()[0]
            row[first] = (row[first] + 1) % 300
            expected.append(1 - 1 / masks.sum().item())
        assert task.judged(wrong, examples).scores.tolist() == pytest.approx(expected)


def test_arguments_are_chosen_on_the_texts_that_follow(model, texts, tmp_path):
    task = load_task("infill", model, **texts, num_samples=4, num_tuning_samples=3)
    points = expand_grid([{"name": "random", "num_remask": [1, 2]}], ["random"], [1.0], [4])
    (row,) = compare(model, task, points, tmp_path / "rows.jsonl")
    assert row["measured"] == "recovered" and len(row["scores"]) == 4 and len(row["candidates"]) == 2
    (direct,) = evaluate(model, task, [row["setting"]], tmp_path / "direct.jsonl")
    assert torch.equal(direct["scores"], row["scores"])


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"masked_share": 1.0}, "masked_share"),
        ({"num_samples": 8}, "has 7 different texts, fewer than num_samples"),
        ({"dataset_text_field": "text"}, "has no column 'text'"),
        ({"max_length": 1}, "Text 1 has 1 tokens that could be masked, of 1"),
        ({"dataset_split": "test"}, "test"),
    ],
)
def test_what_cannot_be_is_told(model, texts, wrong, message):
    with pytest.raises(ValueError, match=message):
        load_task("infill", model, **{**texts, "num_samples": 7, **wrong})


def test_a_text_with_a_mask_is_refused(model, texts, text_tokenizer, tmp_path):
    (tmp_path / "masks.txt").write_text(f"x = 1 {text_tokenizer.mask_token}", encoding="utf-8")
    with pytest.raises(ValueError, match="Text 1 holds the mask token"):
        load_task("infill", model, dataset_name=str(tmp_path / "masks.txt"), num_samples=1)
