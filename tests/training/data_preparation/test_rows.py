"""What a row says is learned, and nothing else; rows that contradict themselves are named."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerFast

from prism_hf.data import SolvedGrids, SudokuGrids
from prism_hf.resources import resource_path
from prism_hf.training import MaskedDiffusionCollator, MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.training.data_preparation import rows
from prism_hf.training.data_preparation.rows import RowReader, unlearned_ids

WORDS = {word: number for number, word in enumerate(["[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d"])}
IDS = [2, 5, 6, 7]


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("mask", "pad", "cls", "sep", "unk")}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


@pytest.fixture
def collate(backbone, sequences, arguments, tokenizer):
    """The batch that a trainer makes of rows, by a collator of ours or of another."""

    def build(rows, data_collator=None):
        args = arguments(MaskedDiffusionTrainingArguments, per_device_train_batch_size=len(rows))
        trainer = MaskedDiffusionTrainer(
            backbone,
            args,
            train_dataset=sequences(8),
            processing_class=tokenizer,
            data_collator=data_collator,
        )
        return trainer.data_collator(rows)

    return build


def learned(batch):
    return batch["maskable"].int().tolist()


@pytest.mark.parametrize(
    "row, expected",
    [
        ({}, [0, 1, 1, 1]),  # [CLS]
        ({"maskable": None, "labels": None}, [0, 1, 1, 1]),
        ({"maskable": [1, 0, 1, 0]}, [1, 0, 1, 0]),  # the row rules
        ({"labels": [2, -100, -100, 7]}, [1, 0, 0, 1]),
        ({"completion_mask": [0, 0, 1, 1]}, [0, 0, 1, 1]),
        ({"assistant_masks": [0, 1, 0, 1]}, [0, 1, 0, 1]),
        ({"completion_mask": [0, 0, 1, 1], "assistant_masks": [0, 1, 0, 1]}, [0, 0, 0, 1]),
        ({"maskable": [1, 1, 0, 0], "labels": [-100, 5, 6, -100]}, [0, 1, 0, 0]),
        ({"attention_mask": [1, 1, 0, 0]}, [0, 1, 0, 0]),
        ({"attention_mask": [0, 0, 1, 1], "maskable": [1, 1, 1, 1]}, [0, 0, 1, 1]),
        ({"attention_mask": [1, 1, 1, 0], "labels": [2, 5, 6, 0]}, [1, 1, 1, 0]),
        ({"special_tokens_mask": [0, 0, 0, 1]}, [1, 1, 1, 0]),
        ({"special_tokens_mask": [1, 0, 0, 1], "completion_mask": [0, 0, 1, 1]}, [0, 0, 1, 1]),
        ({"input_ids": [2, 0, 6, 7]}, [0, 0, 1, 1]),  # the mask token says nothing of what was there
        ({"input_ids": [2, 0, 6, 7], "maskable": [0, 1, 1, 1]}, [0, 0, 1, 1]),
        ({"input_ids": [2, 5, 3, 1]}, [0, 1, 0, 0]),
        ({"text": "a b c", "id": 3}, [0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_row_says_what_is_learned(collate, row, expected, kind):
    row = {"input_ids": IDS} | row
    row = {name: kind(value) if isinstance(value, list) else value for name, value in row.items()}
    batch = collate([row, {"input_ids": kind([5, 6])}, row])
    assert learned(batch) == [expected, [1, 1, 0, 0], expected]
    assert batch["maskable"].dtype == torch.bool and batch["input_ids"].dtype == torch.long
    mask = list(row.get("attention_mask", [1] * 4))
    assert batch["attention_mask"].tolist() == [mask, [1, 1, 0, 0], mask]
    assert set(batch) == {"input_ids", "maskable", "attention_mask"}
    alone = collate([row])
    assert learned(alone) == [expected] and ("attention_mask" in alone) == ("attention_mask" in row)


@pytest.mark.parametrize(
    "row, message",
    [
        ({"maskable": [0, 0, 0, 0]}, "no token to be learned.*filter"),
        ({"attention_mask": [0, 0, 0, 0]}, "no token to be learned"),
        ({"assistant_masks": [0, 0, 0, 0]}, r"no token to be learned.*\{% generation %\}"),
        ({"input_ids": [2, 3]}, "no token to be learned"),
        ({"input_ids": [0, 0]}, "no token to be learned"),
        ({"maskable": [1, 1, 1]}, "3 maskable and 4 input_ids"),
        ({"maskable": [1] * 5}, "5 maskable and 4 input_ids"),
        ({"labels": [5, 6, 7]}, "3 labels and 4 input_ids"),
        ({"attention_mask": [1] * 7}, "7 attention_mask and 4 input_ids"),
        ({"labels": [5, 6, 7, 2]}, r"labels\[0\] 5 is another token.*unshifted"),
        ({"labels": 3}, "labels 3, which is no flat list"),
        ({"labels": [-100, -100, 1.5, -100]}, "labels .*no flat list of whole numbers"),
        ({"maskable": [0.0, 0.5, 1.0, 1.0]}, r"maskable\[1\] 0.5 is neither 0 nor 1"),
        ({"attention_mask": [0.0, -1e4, 0.0, 0.0]}, r"attention_mask\[1\] -10000.0 is neither 0 nor 1"),
        ({"attention_mask": [float("nan")] * 4}, r"attention_mask\[0\] nan is neither"),
        ({"maskable": ["yes", "no", "no", "no"]}, "maskable .*no flat list of 0 and 1"),
        ({"input_ids": [2, -100, 5]}, r"input_ids\[1\] -100 is no token.*labels"),
        ({"input_ids": [2, -1]}, r"input_ids\[1\] -1 is no token"),
        ({"input_ids": [2, 9]}, r"input_ids\[1\] 9 is not in the model's vocabulary of 9.*resize_token_embeddings"),
        ({"input_ids": []}, "is empty"),
        ({"input_ids": 5}, "input_ids 5, which is no flat list"),
        ({"input_ids": [2.0, 5.0]}, "no flat list of whole numbers"),
        ({"input_ids": [True, False]}, "no flat list of whole numbers"),
        ({"input_ids": [[2, 5]]}, r"no flat list of whole numbers.*ids\[0\]"),
        ({"input_ids": [[2], [5, 6]]}, "no flat list of whole numbers"),
        ({"input_ids": [2, None]}, "no flat list of whole numbers"),
        ({"input_ids": "a b c"}, "no flat list of whole numbers"),
        ({"input_ids": [10**30]}, "no flat list of whole numbers"),
        ({"input_ids": None, "text": "a b"}, "no input_ids, only input_ids, text.*tokenize first"),
    ],
)
def test_a_row_that_cannot_be_learned_is_named(collate, row, message):
    with pytest.raises(ValueError, match=rf"Row 2 of 3 in the batch \(input_ids .*{message}"):
        collate([{"input_ids": IDS}, {"input_ids": IDS} | row, {"input_ids": IDS}])


@pytest.mark.parametrize("rows", [[(2, 5)], ["a b"], [{"text": "a b"}], [{}]])
def test_what_is_no_row_is_named(collate, rows):
    with pytest.raises(ValueError, match="Row 1 of 1 in the batch .*Remedy"):
        collate(rows)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_rows_of_one_batch_do_not_see_each_other(data):
    """A batch of random rows is its rows one by one, and each token is decided by itself."""
    reader = RowReader(mask_token_id=0, vocab_size=9, special_token_ids=(1, 2))
    rows, expected = [], []
    bits = st.integers(0, 1)
    for _ in range(data.draw(st.integers(1, 5))):
        length = data.draw(st.integers(1, 6))
        ids = data.draw(st.lists(st.integers(0, 8), min_size=length, max_size=length))
        row = {"input_ids": ids}
        for name in ("attention_mask", "maskable", "completion_mask", "assistant_masks", "special_tokens_mask"):
            if data.draw(st.booleans()):
                row[name] = data.draw(st.lists(bits, min_size=length, max_size=length))
        if data.draw(st.booleans()):
            row["labels"] = [token if data.draw(st.booleans()) else -100 for token in ids]
        says = [name for name in ("maskable", "completion_mask", "assistant_masks", "labels") if name in row]
        wanted = []
        for i, token in enumerate(ids):
            ok = token != 0 and row.get("attention_mask", [1] * length)[i] == 1
            for name in says:
                ok = ok and (row[name][i] != -100 if name == "labels" else row[name][i] == 1)
            if not says:
                special = row["special_tokens_mask"][i] if "special_tokens_mask" in row else token in (1, 2)
                ok = ok and not special
            wanted.append(int(ok))
        if any(wanted):
            rows.append(row)
            expected.append(wanted)
        else:
            with pytest.raises(ValueError, match="no token to be learned"):
                MaskedDiffusionCollator(1, reader)([row])
    if rows:
        batch = MaskedDiffusionCollator(1, reader)(rows)
        width = max(map(len, expected))
        assert learned(batch) == [wanted + [0] * (width - len(wanted)) for wanted in expected]


def test_the_end_of_a_text_is_learned_and_other_special_tokens_are_not(tokenizer):
    def special(**tokens):
        return unlearned_ids(type("Tokenizer", (), {f"{name}_token_id": value for name, value in tokens.items()}))

    assert unlearned_ids(tokenizer) == (1, 2, 3, 4)
    assert special(bos=1, eos=2, pad=2) == (1,)  # LLaDA
    assert special(bos=7, eos=7, unk=7, pad=None) == ()  # GPT-2
    assert special(bos=0, cls=0, eos=2, sep=2, pad=1, unk=3, mask=9) == (0, 1, 3)  # RoBERTa
    assert unlearned_ids(None) == ()
    assert unlearned_ids(type("Processor", (), {"tokenizer": tokenizer})) == (1, 2, 3, 4)


@pytest.mark.parametrize("given", [{"maskable": [[1] * 4, [0, 1, 1, 0]]}, {"labels": [IDS, [-100, 5, 6, -100]]}, {}])
def test_batches_of_another_collator_are_read_alike(collate, given):
    columns = {"input_ids": [IDS, IDS], "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]]} | given
    rows = [{name: values[i] for name, values in columns.items()} for i in range(2)]
    ours = collate(rows)
    theirs = collate(
        rows, lambda examples: {name: torch.tensor([row[name] for row in examples]) for name in examples[0]}
    )
    assert learned(theirs) == learned(ours) and torch.equal(theirs["attention_mask"], ours["attention_mask"])


def test_a_collator_of_transformers_and_a_batch_that_no_collator_saw(
    backbone, sequences, arguments, tokenizer, tmp_path
):
    rows = [{"input_ids": [2, 5, 6, 3], "labels": [-100, -100, 6, 3]}, {"input_ids": [2, 5, 3], "labels": [-100, 5, 3]}]
    trainer = MaskedDiffusionTrainer(
        backbone,
        arguments(MaskedDiffusionTrainingArguments, per_device_train_batch_size=2, max_steps=1),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    (batch,) = trainer.get_train_dataloader()
    order = [0, 1] if batch["attention_mask"][0].all() else [1, 0]
    assert learned({"maskable": batch["maskable"][order]}) == [[0, 0, 1, 1], [0, 1, 1, 0]]
    trainer.train()
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    raw = {"input_ids": torch.tensor([[2, 5, 6, 7]] * 64), "attention_mask": torch.tensor([[1, 1, 1, 0]] * 64)}
    for batch in (raw, raw | {"maskable": torch.ones(64, 4, dtype=torch.bool)}):
        trainer.compute_loss(trainer.model, batch)
        assert (seen.pop() == 0).any(0).tolist() == [True, True, True, False]


def test_removing_unused_columns_keeps_what_says_what_is_learned(backbone, arguments, tokenizer):
    rows = Dataset.from_dict({"input_ids": [IDS] * 8, "completion_mask": [[0, 0, 1, 1]] * 8, "text": ["a"] * 8})
    args = arguments(MaskedDiffusionTrainingArguments, remove_unused_columns=True)
    trainer = MaskedDiffusionTrainer(backbone, args, train_dataset=rows, processing_class=tokenizer)
    (batch,) = trainer.get_train_dataloader()
    assert learned(batch) == [[0, 0, 1, 1]] * 8


@pytest.mark.parametrize(
    "columns, told",
    [
        ({"loss_mask": [0, 0, 1, 1]}, "loss_mask"),
        ({"prompt_lengths": 2, "position_ids": torch.arange(4)}, "position_ids, prompt_lengths"),
        ({"token_type_ids": [0] * 4, "text": "a b c", "words": ["a", "b", "c", "d"], "id": 4}, None),
    ],
)
def test_columns_that_are_not_read_are_told(backbone, arguments, monkeypatch, columns, told):
    warnings = []
    monkeypatch.setattr(rows.logger, "warning", warnings.append)
    args = arguments(MaskedDiffusionTrainingArguments)
    MaskedDiffusionTrainer(backbone, args, train_dataset=[{"input_ids": IDS} | columns])
    assert [text.split(" are not read")[0] for text in warnings] == ([f"train_dataset: {told}"] if told else [])


@pytest.mark.parametrize("which", ["train_dataset", "eval_dataset", r"eval_dataset\['b'\]"])
@pytest.mark.parametrize("kind", [list, Dataset.from_list, lambda rows: Dataset.from_list(rows).to_iterable_dataset()])
def test_untokenized_data_is_named_before_training(backbone, arguments, sequences, which, kind):
    text = kind([{"content": "a b"}])
    datasets = {"train_dataset": sequences(8)}
    datasets |= {"eval_dataset": {"a": sequences(8), "b": text}} if "b" in which else {which: text}
    with pytest.raises(ValueError, match=f"{which} cannot be trained on.*no input_ids, only content.*tokenize"):
        MaskedDiffusionTrainer(backbone, arguments(MaskedDiffusionTrainingArguments), **datasets)


@pytest.mark.parametrize(
    "data",
    [
        lambda: SolvedGrids(resource_path("sudoku/solutions.csv")),
        lambda: SudokuGrids(4, seed=0, layout=89, blanks=20, num_puzzles=2),
    ],
)
def test_our_own_data_is_collated_as_it_is(data):
    data = data()
    rows = [data[i] for i in range(4)]
    batch = MaskedDiffusionCollator(None, RowReader(0, 11))(rows)
    assert batch.keys() == {"input_ids", "maskable"}
    for name, value in batch.items():
        assert torch.equal(value, torch.stack([row[name] for row in rows])), name
