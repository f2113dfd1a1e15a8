import ast
import json
import logging
import math

import datasets
import huggingface_hub.constants
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import (
    code_prompt,
    code_target,
    encode_code,
    first_function_name,
    load_code,
    load_code_datasets,
    split_code,
    train_byte_level_bpe,
)

ROWS = [
    {
        "instruction": f"Write a function that adds {n} to a number. " + "Please. " * (n % 7),
        "output": "unused",
        "code": f"def add_{n}(x):\n    return x + {n}" + f"\n\n\n# note {n}" * (n % 5),
        "entry_point": f"add_{n}",
    }
    for n in range(60)
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A small byte-level BPE with LLaDA's special tokens, learned on the file that defines ``ast``."""
    return train_byte_level_bpe([ast.__file__], vocab_size=400)


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def canvas(tokenizer, row, length, max_target_length):
    """The same item, put together token by token."""
    prompt = ids(tokenizer, code_prompt(row["instruction"], row["entry_point"]))
    target = ids(tokenizer, code_target(row["code"]))
    input_ids, maskable = [], []
    for position in range(length):
        if position < len(prompt):
            input_ids.append(prompt[position])
        elif position - len(prompt) < len(target):
            input_ids.append(target[position - len(prompt)])
        else:
            input_ids.append(tokenizer.eos_token_id)
        maskable.append(0 <= position - len(prompt) < max_target_length)
    return input_ids, maskable


def pairs(items):
    return [(item["input_ids"].tolist(), item["maskable"].tolist()) for item in items]


# Texts


def test_prompt_and_target():
    prompt = code_prompt("Write a function that adds one.\n", "add_one")
    assert prompt.startswith("Write a function that adds one.\n\n")
    assert all(part in prompt for part in ("code only", "<py>", "</py>", "top-level function", "`add_one`"))
    assert code_target("def f():\n    pass") == "\n<py>\ndef f():\n    pass\n</py>"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import re\r\n\r\ndef find(x):\r\n    pass\r\ndef other(): pass", "find"),
        ("class A:\n    def inner(self): pass\n\nasync def outer(): pass", "outer"),
        ("def broken(x):\nprint 'Python 2'", "broken"),
        ("x = 1\n    def nested(): pass", None),
    ],
)
def test_first_function_name(code, name):
    assert first_function_name(code) == name


# Items


def test_items_are_prompt_target_and_eos(tokenizer):
    items = encode_code(datasets.Dataset.from_list(ROWS), tokenizer, canvas_length=200, max_target_length=40)
    assert pairs(items) == [canvas(tokenizer, row, 200, 40) for row in ROWS]
    item = items[3]
    assert item.keys() == {"input_ids", "maskable"}
    assert item["input_ids"].dtype == torch.long and item["maskable"].dtype == torch.bool
    text = code_prompt(ROWS[3]["instruction"], "add_3") + "\n<py>\n" + ROWS[3]["code"] + "\n</py>"
    assert tokenizer.decode(item["input_ids"]) == text + "<|endoftext|>" * (200 - len(ids(tokenizer, text)))
    learned = tokenizer.decode(item["input_ids"][item["maskable"]])
    assert learned.startswith("\n<py>\ndef add_3(x):")


def test_defaults_are_those_published(tokenizer):
    item = encode_code(datasets.Dataset.from_list(ROWS[:1]), tokenizer)[0]
    prompt = len(ids(tokenizer, code_prompt(ROWS[0]["instruction"], "add_0")))
    assert item["input_ids"].shape == (1024,)
    assert item["maskable"].nonzero().flatten().tolist() == list(range(prompt, prompt + 512))
    assert (item["input_ids"][prompt + 512 :] == tokenizer.eos_token_id).all()


def test_target_is_cut_at_the_end_of_the_canvas(tokenizer):
    row = {"instruction": "Count.", "code": "def count():\n" + "    x = 1\n" * 100, "entry_point": "count"}
    item = encode_code(datasets.Dataset.from_list([row]), tokenizer, canvas_length=120, max_target_length=512)[0]
    prompt = ids(tokenizer, code_prompt("Count.", "count"))
    assert item["input_ids"].tolist() == (prompt + ids(tokenizer, code_target(row["code"])))[:120]
    assert item["maskable"].tolist() == [False] * len(prompt) + [True] * (120 - len(prompt))


def test_code_past_the_learned_tokens_stays_in_sight(tokenizer):
    row = {"instruction": "Count.", "code": "def count():\n" + "    x = 1\n" * 20, "entry_point": "count"}
    item = encode_code(datasets.Dataset.from_list([row]), tokenizer, canvas_length=400, max_target_length=10)[0]
    assert item["maskable"].sum() == 10
    assert tokenizer.decode(item["input_ids"]).replace("<|endoftext|>", "").endswith("x = 1\n\n</py>")


def test_entry_point_is_the_first_function_where_it_is_missing(tokenizer):
    rows = [{**row, "entry_point": None} for row in ROWS]
    without = datasets.Dataset.from_list(rows)
    expected = [canvas(tokenizer, row, 200, 40) for row in ROWS]
    assert pairs(encode_code(without, tokenizer, 200, 40)) == expected
    assert pairs(encode_code(without.remove_columns("entry_point"), tokenizer, 200, 40)) == expected


def test_chat_template(tokenizer):
    rows = datasets.Dataset.from_list(ROWS[:1])
    item = encode_code(rows, tokenizer, 200, 100, apply_chat_template=True)[0]
    prompt = (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n"
        + code_prompt(ROWS[0]["instruction"], "add_0")
        + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    # This template, as LLaDA's, strips what it is given.
    target = "<py>\ndef add_0(x):\n    return x + 0\n</py><|eot_id|>"
    kept = item["input_ids"][~item["maskable"]][: len(ids(tokenizer, prompt))]
    assert tokenizer.decode(kept) == prompt
    assert tokenizer.decode(item["input_ids"][item["maskable"]]).startswith(target + "<|endoftext|>")


# Loading


def test_every_source_gives_the_same_rows(tmp_path):
    jsonl = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS), encoding="utf-8")
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "folder").mkdir()
    write_jsonl(tmp_path / "folder" / "train.jsonl", ROWS)
    expected = [{name: row[name] for name in ("instruction", "code", "entry_point")} for row in ROWS]
    for path in (jsonl, str(jsonl), tmp_path / "rows.json", tmp_path / "rows.parquet", tmp_path / "folder"):
        for streaming in (False, True):
            rows = load_code(path, streaming=streaming)
            assert isinstance(rows, datasets.IterableDataset if streaming else datasets.Dataset)
            assert list(rows) == expected, (path, streaming)


def test_columns_can_be_renamed(tmp_path):
    path = write_jsonl(tmp_path / "mbpp.jsonl", [{"text": "Add.", "code": "def add(): pass", "task_id": 1}])
    for streaming in (False, True):
        rows = load_code(path, streaming=streaming, rename_columns={"text": "instruction"})
        assert list(rows) == [{"instruction": "Add.", "code": "def add(): pass"}]


def test_streams_give_the_items_of_tables(tmp_path, tokenizer):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    kwargs = {"held_out": 0.3, "canvas_length": 150, "max_target_length": 30}
    tables = load_code_datasets(path, tokenizer, **kwargs)
    streams = load_code_datasets(path, tokenizer, streaming=True, **kwargs)
    for table, stream in zip(tables, streams, strict=True):
        assert isinstance(stream, datasets.IterableDataset)
        assert pairs(table) == pairs(stream) == pairs(stream)
    assert len(tables[0]) + len(tables[1]) == len(ROWS)


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


# The report


def test_report_by_brute_force(tokenizer, caplog):
    rows = [
        *ROWS,
        {"instruction": "Long. " * 100, "code": "def long(): pass", "entry_point": "long"},
        {"instruction": None, "code": "def none(): pass", "entry_point": "none"},
        {"instruction": "Nothing.", "code": " ", "entry_point": "nothing"},
        {"instruction": "No function.", "code": "x = 1", "entry_point": None},
        {"instruction": "Fill <|mdm_mask|>.", "code": "def fill(): pass", "entry_point": "fill"},
        {"instruction": "Hold.", "code": "def hold(): return '<|mdm_mask|>'", "entry_point": "hold"},
    ]
    length, learned = 160, 35
    with caplog.at_level(logging.INFO):
        items = encode_code(datasets.Dataset.from_list(rows), tokenizer, length, learned, label="rows")
    complete = [row for row in rows if row["instruction"] and row["code"].strip() and row["entry_point"]]
    prompts = [len(ids(tokenizer, code_prompt(row["instruction"], row["entry_point"]))) for row in complete]
    targets = [len(ids(tokenizer, code_target(row["code"]))) for row in complete]
    fits = range(60)
    cut = sum(prompts[i] + targets[i] > length for i in fits)
    over = sum(targets[i] > learned for i in fits)
    assert 0 < cut < 60 and 0 < over < 60  # the example is one
    assert pairs(items) == [canvas(tokenizer, row, length, learned) for row in ROWS]

    def summary(lengths):
        ranked = sorted(lengths)
        median, p95 = (ranked[math.ceil(share * len(ranked)) - 1] for share in (0.5, 0.95))
        return f"min {ranked[0]}, median {median}, p95 {p95}, max {ranked[-1]}"

    assert caplog.messages[-1].split("\n  ") == [
        f"rows: 60 canvases of 160 tokens from {len(rows)} rows.",
        f"Tokens of a prompt: {summary(prompts)}.",
        f"Tokens of a target: {summary(targets)}.",
        f"{cut} targets are cut at the end of the canvas.",
        f"{over} targets are longer than the 35 tokens that are learned.",
        "Dropped: 3 rows have no instruction, code or function name.",
        "Dropped: 1 rows have a prompt that leaves no room for code.",
        "Dropped: 2 rows have the mask token in their text.",
    ]
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    assert pairs(encode_code(stream, tokenizer, length, learned, label="rows")) == pairs(items)
    table_report, stream_report = (message.split("\n  ") for message in caplog.messages[-2:])
    assert stream_report[0] == table_report[0].replace("rows.", "rows, the first of a stream.")
    assert stream_report[1:] == table_report[1:]


def test_a_stream_is_read_only_a_little_ahead(tokenizer):
    read = []

    def rows():
        for n in range(10**9):
            read.append(n)
            yield {"instruction": f"Task {n}.", "code": f"def f{n}(): pass", "entry_point": f"f{n}"}

    items = encode_code(datasets.IterableDataset.from_generator(rows), tokenizer, 128, 16)
    assert len(list(items.take(3))) == 3
    assert len(read) < 5000


# Training


@pytest.mark.parametrize("streaming", [False, True])
def test_training_step(tmp_path, tokenizer, streaming):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    train, held_out = load_code_datasets(
        path, tokenizer, streaming=streaming, held_out=0.2, canvas_length=192, max_target_length=32
    )
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=192, pad_token_id=None,
    )  # fmt: skip
    args = MaskedDiffusionTrainingArguments(
        str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = MaskedDiffusionTrainer(
        BertForMaskedLM(config), args, train_dataset=train, eval_dataset=held_out, processing_class=tokenizer
    )
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch.keys() == {"input_ids", "maskable"}
    z = trainer.noised(batch, training=True)
    prompt = ~batch["maskable"]
    assert (z.z[prompt] == batch["input_ids"][prompt]).all() and z.masked.any()
    assert math.isfinite(trainer.train().training_loss)
    assert math.isfinite(trainer.evaluate()["eval_loss"])


# Mistakes


def test_unknown_paths_and_names(tmp_path, monkeypatch):
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
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
        ("broken.jsonl", "broken.jsonl cannot be read: .*JSON"),
        ("broken.parquet", "broken.parquet cannot be read"),
        ("rows.csv", r"no \.json, \.jsonl, \.parquet file"),
        ("folder", "neither a file or folder with data"),
    ):
        with pytest.raises(ValueError, match=message):
            load_code(tmp_path / name, streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_column(tmp_path, streaming):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"instructions": "a", "code": "b"}])
    with pytest.raises(ValueError, match=r"no column 'instruction', only .*\{'instructions': 'instruction'\}"):
        load_code(path, streaming=streaming)
    with pytest.raises(ValueError, match="no column 'text'"):
        load_code(path, streaming=streaming, rename_columns={"text": "instruction"})


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_left(tmp_path, tokenizer, streaming):
    rows = load_code(write_jsonl(tmp_path / "rows.jsonl", ROWS), streaming=streaming)
    with pytest.raises(ValueError, match=r"(?s)canvas_length=20 .*60 rows have a prompt that leaves no room"):
        encode_code(rows, tokenizer, canvas_length=20)
    few = write_jsonl(tmp_path / "few.jsonl", ROWS[:1])
    with pytest.raises(ValueError, match="few.jsonl, held out: (there are no rows|no canvas .* from 0 rows)"):
        load_code_datasets(few, tokenizer, streaming=streaming, held_out=1e-9)


def test_wrong_numbers(tmp_path, tokenizer):
    rows = datasets.Dataset.from_list(ROWS)
    for name in ("canvas_length", "max_target_length"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            encode_code(rows, tokenizer, **{name: 0})
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"held_out={share}"):
            split_code(rows, share)


def test_tokenizer_without_what_is_needed(tokenizer, tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    backend = tokenizer.backend_tokenizer
    with pytest.raises(ValueError, match=r"no mask token: set tokenizer.mask_token = '<\|mdm_mask\|>', which its voc"):
        encode_code(rows, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>"))
    with pytest.raises(ValueError, match="no EOS token .* set tokenizer.eos_token"):
        encode_code(rows, PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<|mdm_mask|>"))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<|mdm_mask|>", eos_token="<|endoftext|>")
    assert len(encode_code(rows, plain)) == len(rows)
    with pytest.raises(ValueError, match="no chat template"):
        encode_code(rows, plain, apply_chat_template=True)
    plain.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ add_generation_prompt }}"
    with pytest.raises(ValueError, match="does not begin with its prompt"):
        encode_code(rows, plain, apply_chat_template=True)


def test_rows_that_are_no_utf8_are_named_with_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = '{"instruction": "a", "code": "b"}\n{"instruction": "\u00e9", "code": "b"}\n'
    path.write_bytes(rows.encode("latin-1"))
    with pytest.raises(ValueError, match=r"rows.jsonl, line 2 is no UTF-8 text .*; save the file as UTF-8"):
        load_code(path)
