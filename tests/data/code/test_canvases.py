"""Instructions and code as canvases to denoise."""

import logging
import math

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import code_prompt, code_target, encode_code, load_code, load_code_datasets, split_code


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


def test_items_are_prompt_target_and_eos(tokenizer, code_rows):
    items = encode_code(datasets.Dataset.from_list(code_rows), tokenizer, canvas_length=200, max_target_length=40)
    assert pairs(items) == [canvas(tokenizer, row, 200, 40) for row in code_rows]
    item = items[3]
    assert item.keys() == {"input_ids", "maskable"}
    assert item["input_ids"].dtype == torch.long and item["maskable"].dtype == torch.bool
    text = code_prompt(code_rows[3]["instruction"], "add_3") + "\n<py>\n" + code_rows[3]["code"] + "\n</py>"
    assert tokenizer.decode(item["input_ids"]) == text + "<|endoftext|>" * (200 - len(ids(tokenizer, text)))
    learned = tokenizer.decode(item["input_ids"][item["maskable"]])
    assert learned.startswith("\n<py>\ndef add_3(x):")


def test_defaults_are_those_published(tokenizer, code_rows):
    item = encode_code(datasets.Dataset.from_list(code_rows[:1]), tokenizer)[0]
    prompt = len(ids(tokenizer, code_prompt(code_rows[0]["instruction"], "add_0")))
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


def test_entry_point_is_the_first_function_where_it_is_missing(tokenizer, code_rows):
    rows = [{**row, "entry_point": None} for row in code_rows]
    without = datasets.Dataset.from_list(rows)
    expected = [canvas(tokenizer, row, 200, 40) for row in code_rows]
    assert pairs(encode_code(without, tokenizer, 200, 40)) == expected
    assert pairs(encode_code(without.remove_columns("entry_point"), tokenizer, 200, 40)) == expected


def test_chat_template(tokenizer, code_rows):
    rows = datasets.Dataset.from_list(code_rows[:1])
    item = encode_code(rows, tokenizer, 200, 100, apply_chat_template=True)[0]
    prompt = (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n"
        + code_prompt(code_rows[0]["instruction"], "add_0")
        + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    # This template, as LLaDA's, strips what it is given.
    target = "<py>\ndef add_0(x):\n    return x + 0\n</py><|eot_id|>"
    kept = item["input_ids"][~item["maskable"]][: len(ids(tokenizer, prompt))]
    assert tokenizer.decode(kept) == prompt
    assert tokenizer.decode(item["input_ids"][item["maskable"]]).startswith(target + "<|endoftext|>")


def test_streams_give_the_items_of_tables(tmp_path, tokenizer, code_rows, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", code_rows)
    kwargs = {"held_out": 0.3, "canvas_length": 150, "max_target_length": 30}
    tables = load_code_datasets(path, tokenizer, **kwargs)
    streams = load_code_datasets(path, tokenizer, streaming=True, **kwargs)
    for table, stream in zip(tables, streams, strict=True):
        assert isinstance(stream, datasets.IterableDataset)
        assert pairs(table) == pairs(stream) == pairs(stream)
    assert len(tables[0]) + len(tables[1]) == len(code_rows)


def test_report_by_brute_force(tokenizer, caplog, code_rows):
    rows = [
        *code_rows,
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
    assert pairs(items) == [canvas(tokenizer, row, length, learned) for row in code_rows]

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


@pytest.mark.parametrize("streaming", [False, True])
def test_training_step(tmp_path, tokenizer, streaming, code_rows, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", code_rows)
    train, held_out = load_code_datasets(
        path, tokenizer, streaming=streaming, held_out=0.2, canvas_length=192, max_target_length=32
    )
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=192,
        pad_token_id=None,
    )
    args = MaskedDiffusionTrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
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


@pytest.mark.parametrize("streaming", [False, True])
def test_nothing_left(tmp_path, tokenizer, streaming, code_rows, write_jsonl):
    rows = load_code(write_jsonl(tmp_path / "rows.jsonl", code_rows), streaming=streaming)
    with pytest.raises(ValueError, match=r"(?s)canvas_length=20 .*60 rows have a prompt that leaves no room"):
        encode_code(rows, tokenizer, canvas_length=20)
    few = write_jsonl(tmp_path / "few.jsonl", code_rows[:1])
    with pytest.raises(ValueError, match="few.jsonl, held out: (there are no rows|no canvas .* from 0 rows)"):
        load_code_datasets(few, tokenizer, streaming=streaming, held_out=1e-9)


def test_wrong_numbers(tmp_path, tokenizer, code_rows):
    rows = datasets.Dataset.from_list(code_rows)
    for name in ("canvas_length", "max_target_length"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            encode_code(rows, tokenizer, **{name: 0})
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"held_out={share}"):
            split_code(rows, share)


def test_tokenizer_without_what_is_needed(tokenizer, tmp_path, code_rows):
    rows = datasets.Dataset.from_list(code_rows)
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
