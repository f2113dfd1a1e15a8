"""Training on a stream goes on in the middle of an epoch, without reading anew what came before."""

import datasets
import pytest
import torch

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import encode_text
from prism_hf.training.data_preparation.resumed_stream import ResumedStream

READ = []


def read(row):
    READ.append(row["text"])
    return row


@pytest.fixture
def train(text_model, text_tokenizer, arguments, tmp_path):
    """Trains on 24 documents of one block each, three batches of eight, for eight steps."""
    texts = [f"{n:02d}" + "ab" * 40 for n in range(24)]
    length = 2 + len(text_tokenizer(texts[0]).input_ids) + 1

    def run(folder, resume=None, wrapped=True, skips=False, texts=texts, **kwargs):
        documents = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset(num_shards=2).map(read)
        rows = encode_text(documents, text_tokenizer, length, wrap=wrapped)
        settings = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "output_dir": str(tmp_path / folder)}
        settings |= {"ignore_data_skip": not skips, "learning_rate": 1e-3, "per_device_train_batch_size": 8}
        args = arguments(MaskedDiffusionTrainingArguments, **settings | kwargs)
        trainer = MaskedDiffusionTrainer(text_model(), args, train_dataset=rows, processing_class=text_tokenizer)
        READ.clear()
        trainer.train(resume_from_checkpoint=resume and str(tmp_path / resume))
        return [row["loss"] for row in trainer.state.log_history if "loss" in row], trainer.model.state_dict()

    return run


@pytest.mark.parametrize("wrapped", [True, False])
def test_it_goes_on_in_any_epoch_bit_for_bit(train, wrapped):
    losses, weights = train("whole", wrapped=wrapped)
    assert len(losses) == 8 and len(set(READ)) == 24
    for step in (1, 3, 5, 7):
        resumed = train(f"from_{step}", f"whole/checkpoint-{step}", wrapped)
        assert resumed[0] == losses
        assert all(torch.equal(resumed[1][name], weight) for name, weight in weights.items())


def test_it_reads_nothing_anew(text_tokenizer, tmp_path):
    texts = [f"{n:04d}" + "ab" * 10 for n in range(3000)]

    def stream():
        documents = datasets.Dataset.from_dict({"text": texts}).to_iterable_dataset().map(read)
        return ResumedStream(encode_text(documents, text_tokenizer, 8), rows=10)

    first, second = stream(), stream()
    rows = [row["input_ids"].tolist() for row in first]
    batches = len(rows) * 3 // 4 // 10
    for _ in zip(range(batches * 10), first, strict=False):
        pass
    first.save(tmp_path, batches)
    READ.clear()
    second.restore(tmp_path)
    assert [row["input_ids"].tolist() for row in second] == rows[batches * 10 :]
    assert min(READ) == texts[2000]  # datasets maps 1,000 rows at a time


def test_by_default_it_is_read_anew_to_the_same_end(train):
    losses, weights = train("whole", skips=True, max_steps=3)
    resumed = train("resumed", "whole/checkpoint-2", skips=True, max_steps=3)
    assert resumed[0] == losses
    assert all(torch.equal(resumed[1][name], weight) for name, weight in weights.items())


def test_a_checkpoint_that_does_not_say_where_the_stream_was(train):
    train("whole", skips=True, max_steps=1)
    with pytest.raises(ValueError, match="does not say where the stream was, as it was written without ignore_data"):
        train("resumed", "whole/checkpoint-1")


def test_a_state_that_was_cut(text_tokenizer, tmp_path):
    (tmp_path / "stream_state.json").write_text('{"epoch": 0, "sta')
    stream = ResumedStream(datasets.Dataset.from_dict({"text": ["a"]}).to_iterable_dataset(), rows=1)
    with pytest.raises(ValueError, match=r"stream_state.json is damaged: .* resume an earlier checkpoint, or"):
        stream.restore(tmp_path)
