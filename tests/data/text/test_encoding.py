"""Documents to rows of tokens."""

import copy
import json

import datasets
import pytest
import torch

from prism_hf.data import encode_text, load_text_datasets

LENGTH = 16


@pytest.fixture(scope="module")
def expected(texts, text_tokenizer):
    """All documents as one list of tokens, cut by hand."""
    tokens = []
    for text in texts:
        tokens += text_tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        tokens.append(text_tokenizer.eos_token_id)
    size = LENGTH - 2
    bos, eos = text_tokenizer.bos_token_id, text_tokenizer.eos_token_id
    return [[bos, *tokens[i : i + size], eos] for i in range(0, len(tokens) - size + 1, size)]


def ids(rows):
    return [row["input_ids"].tolist() for row in rows]


def test_blocks_are_cut_from_all_documents_in_a_row(documents, text_tokenizer, expected):
    blocks = encode_text(documents, text_tokenizer, LENGTH)
    assert ids(blocks[i] for i in range(len(blocks))) == expected
    assert ids([blocks[-1]]) == [expected[-1]]
    assert blocks[0]["input_ids"].dtype == torch.int64
    assert all(row["maskable"].all() and len(row["maskable"]) == LENGTH for row in blocks)
    assert text_tokenizer.mask_token_id not in sum(expected, [])
    with pytest.raises(IndexError, match="none with the number"):
        blocks[len(blocks)]


@pytest.mark.parametrize("length", [3, 700])
def test_a_block_may_have_many_documents_and_a_document_many_blocks(documents, text_tokenizer, length):
    blocks = encode_text(documents, text_tokenizer, length)
    whole = torch.cat([row["input_ids"][1:-1] for row in blocks])
    longest = encode_text(documents, text_tokenizer, int(blocks.ends[-1]) + 2)
    assert torch.equal(whole, longest[0]["input_ids"][1:-1][: len(whole)])
    assert len(longest) == 1 and int(blocks.ends[-1]) - len(whole) < length - 2


def test_a_stream_and_several_processes_give_the_same_blocks(documents, text_tokenizer, expected):
    stream = encode_text(documents.to_iterable_dataset(num_shards=3), text_tokenizer, LENGTH)
    assert ids(stream) == expected
    assert ids(stream) == expected  # another epoch
    assert ids(encode_text(documents, text_tokenizer, LENGTH, num_proc=2)) == expected


@pytest.mark.parametrize("epoch", [0, 3])  # datasets shuffles the shards of later ones
@pytest.mark.parametrize("consumed", [1, 7, 40, 10_000])
def test_a_stream_goes_on_where_another_was(documents, text_tokenizer, expected, consumed, epoch):
    stream, whole, other = (
        encode_text(documents.to_iterable_dataset(num_shards=3), text_tokenizer, LENGTH) for _ in range(3)
    )
    rows, state = [], {}
    stream.set_epoch(epoch)
    for _, row in zip(range(consumed), stream, strict=False):
        rows, state = [*rows, row], json.loads(json.dumps(stream.state_dict()))
    whole.set_epoch(epoch)
    other.load_state_dict(state)
    assert ids(rows) + ids(other) == ids(whole)
    assert ids(other) == expected  # the next epoch is whole


def test_workers_of_a_loader_share_a_stream(documents, text_tokenizer):
    stream = encode_text(documents.to_iterable_dataset(num_shards=2), text_tokenizer, LENGTH)
    halves = [ids(encode_text(documents.shard(2, n, contiguous=True), text_tokenizer, LENGTH)) for n in range(2)]
    loader = torch.utils.data.DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(ids(loader)) == sorted(halves[0] + halves[1])


@pytest.mark.parametrize("streaming", [False, True])
def test_one_row_a_document(texts, documents, text_tokenizer, streaming):
    rows = encode_text(documents.to_iterable_dataset() if streaming else documents, text_tokenizer, LENGTH, wrap=False)
    bos, eos = text_tokenizer.bos_token_id, text_tokenizer.eos_token_id
    encoded = text_tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    assert ids(rows) == [[bos, *document[: LENGTH - 2], eos] for document in encoded]
    assert all(len(row["maskable"]) == len(row["input_ids"]) and all(row["maskable"]) for row in rows)


def test_what_was_tokenized_is_found_again(tmp_path, texts, text_tokenizer):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    files = [
        {file["filename"] for file in load_text_datasets(path, text_tokenizer, length=LENGTH)[0].documents.cache_files}
        for _ in range(2)
    ]
    assert files[0] == files[1] and files[0]


def test_training_and_held_out_rows(tmp_path, texts, text_tokenizer):
    path = tmp_path / "rows.txt"
    path.write_text("\n".join(text.replace("\n", "") for text in texts))
    for streaming in (False, True):
        train, held_out = load_text_datasets(
            path, text_tokenizer, sample_by="line", held_out=0.2, streaming=streaming, length=8
        )
        tokens = sum(len(row["input_ids"]) - 2 for part in (train, held_out) for row in part)
        everything, none = load_text_datasets(path, text_tokenizer, sample_by="line", held_out=0, length=8)
        assert none is None and everything.ends[-1] - 12 < tokens <= everything.ends[-1]


def test_detokenized_before_it_is_tokenized(text_tokenizer):
    rows = datasets.Dataset.from_dict({"text": ["Ants , bees ."]})
    (row,) = encode_text(rows, text_tokenizer, 100, wrap=False, detokenizer="lm1b")
    assert text_tokenizer.decode(row["input_ids"], skip_special_tokens=True) == "Ants, bees."


def test_a_tokenizer_without_bos_or_eos_gives_cls_and_sep(text_tokenizer):
    tokenizer = copy.deepcopy(text_tokenizer)
    tokenizer.bos_token = None
    rows = datasets.Dataset.from_dict({"text": ["ant"]})
    assert encode_text(rows, tokenizer, 3)[0]["input_ids"][0] == tokenizer.eos_token_id
    tokenizer.cls_token, tokenizer.sep_token, tokenizer.eos_token = "<|eot_id|>", "<|end_header_id|>", None
    first, _, last = encode_text(rows, tokenizer, 3)[0]["input_ids"]
    assert (first, last) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    tokenizer.sep_token = None
    with pytest.raises(ValueError, match="neither an EOS nor a SEP token to end documents with"):
        encode_text(rows, tokenizer, 3)


def test_what_cannot_be_encoded(text_tokenizer):
    rows = datasets.Dataset.from_dict({"text": ["ant"]})
    with pytest.raises(ValueError, match=r"1 documents give \d+ tokens, less than a block of length=100"):
        encode_text(rows, text_tokenizer, 100)
    with pytest.raises(ValueError, match="length=2 must be .* It counts the BOS"):
        encode_text(rows, text_tokenizer, 2)
    with pytest.raises(ValueError, match=r"detokenizer 'wikitxt'.*wikitext"):
        encode_text(rows, text_tokenizer, 100, detokenizer="wikitxt")
    with pytest.raises(ValueError, match="text: a document is None, which is no text"):
        encode_text(datasets.Dataset.from_dict({"text": ["ant", None]}), text_tokenizer, 3)
