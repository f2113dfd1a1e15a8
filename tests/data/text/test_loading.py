"""Documents from the Hub or from files, and their split."""

import gzip
import json

import datasets
import pytest

from prism_hf.data import load_text, split_text


def write_jsonl(path, texts, column="text"):
    rows = [json.dumps({column: text, "n": n}) + "\n" for n, text in enumerate(texts)]
    path.write_text("".join(rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_every_source_gives_the_same_documents(tmp_path, streaming):
    texts = ["One line.", "Two\nlines, \u00e9.", "A third."]
    jsonl = write_jsonl(tmp_path / "rows.jsonl", texts)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(jsonl.read_bytes()))
    (tmp_path / "rows.txt").write_text("\n\n".join(texts), encoding="utf-8")
    datasets.Dataset.from_dict({"text": texts, "n": [1, 2, 3]}).to_parquet(tmp_path / "rows.parquet")
    for folder in ("jsonl", "txt", "parquet"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"part.{folder}").write_bytes((tmp_path / f"rows.{folder}").read_bytes())
    (tmp_path / "jsonl" / "notes.txt").write_text("Not data.")
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.txt", "rows.parquet", "jsonl", "txt", "parquet"):
        rows = load_text(tmp_path / name, streaming=streaming)
        assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
        assert list(rows) == [{"text": text} for text in texts], name


def test_what_a_document_of_a_text_file_is(tmp_path):
    (tmp_path / "a.txt").write_text("A\nb\n\nC\n")
    for sample_by, expected in (("paragraph", ["A\nb", "C\n"]), ("line", ["A", "b", "", "C"])):
        assert list(load_text(tmp_path / "a.txt", sample_by=sample_by)["text"]) == expected
    (tmp_path / "b.txt").write_text("D")
    assert list(load_text(tmp_path, sample_by="document")["text"]) == ["A\nb\n\nC\n", "D"]


def test_a_column_of_another_name(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ["a", "b"], column="article")
    for streaming in (False, True):
        assert list(load_text(path, streaming=streaming, column="article")) == [{"text": "a"}, {"text": "b"}]
        with pytest.raises(ValueError, match=r"no column 'text', only article, n: name the one"):
            load_text(path, streaming=streaming)


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "rows.csv").write_text("text\na\n")
    with pytest.raises(ValueError, match=r"no \.json, \.jsonl, \.parquet, \.txt file"):
        load_text(tmp_path / "rows.csv")
    with pytest.raises(ValueError, match=r"no file or folder .*rows\.cs\. Did you mean"):
        load_text(tmp_path / "rows.cs")
    (tmp_path / "latin.txt").write_bytes("\u00e9t\u00e9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt cannot be read: .*utf-8"):
        load_text(tmp_path / "latin.txt")
    with pytest.raises(ValueError, match="sample_by='word' must be"):
        load_text(tmp_path / "latin.txt", sample_by="word")


def test_a_share_is_held_out_by_its_text(documents):
    stream = documents.to_iterable_dataset()
    train, held_out = split_text(documents, 0.2, seed=1)
    assert len(train) + len(held_out) == len(documents)
    assert not set(train["text"]) & set(held_out["text"])
    for part, streamed in zip((train, held_out), split_text(stream, 0.2, seed=1), strict=True):
        assert list(streamed) == list(part)
    assert list(split_text(documents, 0.2, seed=2)[1]) != list(held_out)
    with pytest.raises(ValueError, match="held_out=1.5 must be a share below 1, or a whole number"):
        split_text(documents, 1.5)
    assert split_text(documents, 0) == (documents, None)


def test_the_last_documents_are_held_out(tmp_path, texts):
    path = write_jsonl(tmp_path / "rows.jsonl", texts)
    for streaming in (True, False):
        rows = load_text(path, streaming=streaming)
        if streaming:  # as the Hub tells it
            with pytest.raises(ValueError, match="held_out=10: the stream does not say how many"):
                split_text(rows, 10)
            rows.info.splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=len(texts))})
            for fewer in (rows.filter(len), rows.take(20), rows.skip(1), rows.map(dict, batched=True)):
                with pytest.raises(ValueError, match="held_out=10: the stream does not say how many"):
                    split_text(fewer, 10)
            rows = rows.rename_column("text", "words").select_columns("words").rename_column("words", "text")
        train, held_out = split_text(rows, 10)
        assert [row["text"] for row in train] == texts[:-10]
        assert [row["text"] for row in held_out] == texts[-10:]
        with pytest.raises(ValueError, match="held_out=60 of 60 documents leaves none"):
            split_text(rows, 60)
