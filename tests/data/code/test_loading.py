"""Rows from the Hub or from files."""

import json

import datasets
import huggingface_hub.constants
import pytest

from prism_hf.data import load_code, split_code


def test_every_source_gives_the_same_rows(tmp_path, code_rows, write_jsonl):
    jsonl = write_jsonl(tmp_path / "rows.jsonl", code_rows)
    (tmp_path / "rows.json").write_text(json.dumps(code_rows), encoding="utf-8")
    datasets.Dataset.from_list(code_rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl", code_rows)
    expected = [{name: row[name] for name in ("instruction", "code", "entry_point")} for row in code_rows]
    for path in (jsonl, str(jsonl), tmp_path / "rows.json", tmp_path / "rows.parquet", tmp_path / "folder"):
        for streaming in (False, True):
            rows = load_code(path, streaming=streaming)
            assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
            assert list(rows) == expected, (path, streaming)


def test_columns_can_be_renamed(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "mbpp.jsonl", [{"text": "Add.", "code": "def add(): pass", "task_id": 1}])
    for streaming in (False, True):
        rows = load_code(path, streaming=streaming, rename_columns={"text": "instruction"})
        assert list(rows) == [{"instruction": "Add.", "code": "def add(): pass"}]


def test_split_depends_on_the_instruction_and_the_seed_only():
    rows = datasets.Dataset.from_list(
        [{"instruction": f"Task {n // 2}", "code": f"def f{n}(): pass"} for n in range(4000)]
    )
    train, held_out = split_code(rows, 0.05, seed=1)
    assert len(train) + len(held_out) == len(rows)
    assert not set(train["instruction"]) & set(held_out["instruction"])
    # 2,000 instructions; the share's standard deviation is 0.5%.
    assert abs(len(held_out) / len(rows) - 0.05) < 0.02
    again = split_code(rows.shuffle(seed=0).select(range(3000)), 0.05, seed=1)[1]
    assert set(again["instruction"]) <= set(held_out["instruction"])
    assert set(split_code(rows, 0.05, seed=2)[1]["instruction"]) != set(held_out["instruction"])
    assert split_code(rows, 0)[1] is None


def test_unknown_paths_and_names(tmp_path, monkeypatch, code_rows, write_jsonl):
    write_jsonl(tmp_path / "rows.jsonl", code_rows)
    with pytest.raises(ValueError, match=r"no file or folder .*rowz\.jsonl\. Did you mean .*rows\.jsonl"):
        load_code(tmp_path / "rowz.jsonl")
    with pytest.raises(ValueError, match="There is no file or folder rows_elsewhere.jsonl"):
        load_code("rows_elsewhere.jsonl")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    for streaming in (False, True):
        with pytest.raises(ValueError, match="nobody/nothing is neither a file or folder"):
            load_code("nobody/nothing", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_unreadable_data(tmp_path, streaming):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "broken.jsonl").write_text('{"instruction": "a", "code": "b"}\n{"instruction": ')
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "rows.csv").write_text("instruction,code\n")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("empty.jsonl", "there are no rows"),
        ("broken.jsonl", "broken.jsonl(: Expected object| cannot be read: .*JSON)"),  # by the version of datasets
        ("broken.parquet", "broken.parquet cannot be read"),
        ("rows.csv", r"no \.json, \.jsonl, \.parquet file"),
        ("folder", "neither a file or folder with data"),
    ):
        with pytest.raises(ValueError, match=message):
            load_code(tmp_path / name, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_column(tmp_path, streaming, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"instructions": "a", "code": "b"}])
    with pytest.raises(ValueError, match=r"no column 'instruction', only .*\{'instructions': 'instruction'\}"):
        load_code(path, streaming=streaming)
    with pytest.raises(ValueError, match="no column 'text'"):
        load_code(path, streaming=streaming, rename_columns={"text": "instruction"})


def test_rows_that_are_no_utf8_are_named_with_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = '{"instruction": "a", "code": "b"}\n{"instruction": "\u00e9", "code": "b"}\n'
    path.write_bytes(rows.encode("latin-1"))
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2 is no UTF-8 text .*; save the file as UTF-8"):
        load_code(path)
