"""Instructions and code as rows of a prompt and its completion, and the canvases that a trainer makes of them."""

import logging
import math

import datasets
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.data import code_answers, code_prompt, code_target, load_code, load_code_datasets, split_code

# As recipes/configs/llada_8b_opc.yaml has it.
CANVAS = {"learn_padding": True, "tokenize_prompt_alone": True}


@pytest.fixture
def trainer_of(tmp_path, tokenizer):
    """A trainer of canvases of a length, of which so many tokens are learned."""

    def build(train, held_out=None, length=200, learned=40, **arguments):
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, pad_token_id=None, **size)
        canvas = CANVAS | {"max_length": length, "pad_to_multiple_of": length, "max_target_length": learned}
        common = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "max_steps": 2}
        args = MaskedDiffusionTrainingArguments(str(tmp_path / "run"), **canvas | common | arguments)
        datasets_given = {"train_dataset": train, "eval_dataset": held_out}
        return MaskedDiffusionTrainer(BertForMaskedLM(config), args, processing_class=tokenizer, **datasets_given)

    return build


def collated(trainer):
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch.keys() == {"input_ids", "maskable"}
    assert batch["input_ids"].dtype == torch.long and batch["maskable"].dtype == torch.bool
    return list(zip(batch["input_ids"].tolist(), batch["maskable"].tolist(), strict=True))


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


def rows_of(rows, tokenizer, **kwargs):
    return code_answers(datasets.Dataset.from_list(rows), tokenizer, **kwargs)


def test_canvases_are_prompt_target_and_eos(tokenizer, code_rows, trainer_of):
    made = collated(trainer_of(rows_of(code_rows, tokenizer)))
    assert made == [canvas(tokenizer, row, 200, 40) for row in code_rows]
    text = code_prompt(code_rows[3]["instruction"], "add_3") + "\n<py>\n" + code_rows[3]["code"] + "\n</py>"
    assert tokenizer.decode(made[3][0]) == text + "<|endoftext|>" * (200 - len(ids(tokenizer, text)))


def test_a_prompt_stays_itself_where_its_end_and_the_answer_are_one_token(tokenizer, code_rows, trainer_of):
    """As in LLaDA's vocabulary, which has a token for a full stop before a line break."""
    tokenizer.add_tokens([".\n"])
    trainer = trainer_of(rows_of(code_rows, tokenizer))
    assert collated(trainer) == [canvas(tokenizer, row, 200, 40) for row in code_rows]
    joint = trainer_of(rows_of(code_rows, tokenizer), tokenize_prompt_alone=False)
    assert collated(joint) != collated(trainer)


def test_target_is_cut_at_the_end_of_the_canvas(tokenizer, trainer_of):
    row = {"instruction": "Count.", "code": "def count():\n" + "    x = 1\n" * 100, "entry_point": "count"}
    assert collated(trainer_of(rows_of([row], tokenizer), length=120, learned=512)) == [
        canvas(tokenizer, row, 120, 512)
    ]


def test_code_past_the_learned_tokens_stays_in_sight(tokenizer, trainer_of):
    row = {"instruction": "Count.", "code": "def count():\n" + "    x = 1\n" * 20, "entry_point": "count"}
    ((input_ids, maskable),) = collated(trainer_of(rows_of([row], tokenizer), length=400, learned=10))
    assert sum(maskable) == 10
    assert tokenizer.decode(input_ids).replace("<|endoftext|>", "").endswith("x = 1\n\n</py>")


def test_entry_point_is_the_first_function_where_it_is_missing(tokenizer, code_rows):
    rows = rows_of([{**row, "entry_point": None} for row in code_rows], tokenizer)
    expected = [
        {"prompt": code_prompt(row["instruction"], row["entry_point"]), "completion": code_target(row["code"])}
        for row in code_rows
    ]
    assert list(rows) == expected
    without = [{name: row[name] for name in ("instruction", "code")} for row in code_rows]
    assert list(rows_of(without, tokenizer)) == expected


def test_chat_template(tokenizer, code_rows, trainer_of):
    rows = rows_of(code_rows[:1], tokenizer, apply_chat_template=True)
    ((input_ids, maskable),) = collated(trainer_of(rows, learned=100))
    prompt = (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n"
        + code_prompt(code_rows[0]["instruction"], "add_0")
        + "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    # This template, as LLaDA's, strips what it is given.
    target = "<py>\ndef add_0(x):\n    return x + 0\n</py><|eot_id|>"
    written = ids(tokenizer, prompt) + ids(tokenizer, target)
    assert input_ids == written + [tokenizer.eos_token_id] * (200 - len(written))
    start = len(ids(tokenizer, prompt))
    assert [n for n, learned in enumerate(maskable) if learned] == list(range(start, min(start + 100, 200)))


def test_streams_give_the_rows_of_tables(tmp_path, tokenizer, code_rows, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", code_rows)
    tables = load_code_datasets(path, tokenizer, held_out=0.3)
    streams = load_code_datasets(path, tokenizer, held_out=0.3, streaming=True)
    for table, stream in zip(tables, streams, strict=True):
        assert isinstance(stream, datasets.IterableDataset)
        assert list(table) == list(stream) == list(stream)
    assert len(tables[0]) + len(tables[1]) == len(code_rows)


def test_what_is_left_out_is_told(tokenizer, caplog, code_rows):
    rows = [
        *code_rows,
        {"instruction": None, "code": "def none(): pass", "entry_point": "none"},
        {"instruction": "Nothing.", "code": " ", "entry_point": "nothing"},
        {"instruction": "No function.", "code": "x = 1", "entry_point": None},
        {"instruction": "Fill <|mdm_mask|>.", "code": "def fill(): pass", "entry_point": "fill"},
        {"instruction": "Hold.", "code": "def hold(): return '<|mdm_mask|>'", "entry_point": "hold"},
    ]
    with caplog.at_level(logging.WARNING):
        kept = rows_of(rows, tokenizer, label="rows")
    assert list(kept) == list(rows_of(code_rows, tokenizer))
    assert caplog.messages[-1] == (
        "rows: of 65 rows are left out: 3 rows have no instruction, code or function name, 2 rows have the mask token "
        "in their text."
    )
    stream = datasets.Dataset.from_list(rows).to_iterable_dataset()
    assert list(code_answers(stream, tokenizer)) == list(kept)


def test_a_prompt_without_room_for_code_is_left_out(tokenizer, caplog, code_rows, trainer_of):
    rows = [*code_rows, {"instruction": "Long. " * 100, "code": "def long(): pass", "entry_point": "long"}]
    with caplog.at_level(logging.WARNING):
        assert len(trainer_of(rows_of(rows, tokenizer)).train_dataset) == len(code_rows)
    assert any("1 of 61 rows are left out" in message for message in caplog.messages)


def test_a_stream_is_read_only_a_little_ahead(tokenizer):
    read = []

    def rows():
        for n in range(10**9):
            read.append(n)
            yield {"instruction": f"Task {n}.", "code": f"def f{n}(): pass", "entry_point": f"f{n}"}

    answers = code_answers(datasets.IterableDataset.from_generator(rows), tokenizer)
    assert len(list(answers.take(3))) == 3
    assert len(read) < 5000


@pytest.mark.parametrize("streaming", [False, True])
def test_training_step(tmp_path, tokenizer, streaming, code_rows, write_jsonl, trainer_of):
    path = write_jsonl(tmp_path / "rows.jsonl", code_rows)
    train, held_out = load_code_datasets(path, tokenizer, streaming=streaming, held_out=0.2)
    trainer = trainer_of(train, held_out, length=192, learned=32, per_device_train_batch_size=4)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch.keys() == {"input_ids", "maskable"} and batch["input_ids"].shape == (4, 192)
    z = trainer.noised(batch, training=True)
    prompt = ~batch["maskable"]
    assert (z.z[prompt] == batch["input_ids"][prompt]).all() and z.masked.any()
    assert math.isfinite(trainer.train().training_loss)
    assert math.isfinite(trainer.evaluate()["eval_loss"])


def test_nothing_left(tmp_path, tokenizer, code_rows, write_jsonl):
    with pytest.raises(ValueError, match=r"rows: no row of code is left of 2. 2 rows have no instruction"):
        rows_of([{"instruction": "", "code": "x"}] * 2, tokenizer, label="rows")
    few = write_jsonl(tmp_path / "few.jsonl", code_rows[:1])
    with pytest.raises(ValueError, match="few.jsonl, held out: there are no rows"):
        load_code_datasets(few, tokenizer, held_out=1e-9)


def test_wrong_shares(code_rows):
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"held_out={share}"):
            split_code(datasets.Dataset.from_list(code_rows), share)


def test_tokenizer_without_what_is_needed(tokenizer, code_rows):
    backend = tokenizer.backend_tokenizer
    with pytest.raises(ValueError, match=r"no mask token: set tokenizer.mask_token = '<\|mdm_mask\|>', which its voc"):
        rows_of(code_rows, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>"))
    with pytest.raises(ValueError, match="no EOS token .* set tokenizer.eos_token"):
        rows_of(code_rows, PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<|mdm_mask|>"))
    plain = PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<|mdm_mask|>", eos_token="<|endoftext|>")
    assert len(rows_of(code_rows, plain)) == len(code_rows)
    with pytest.raises(ValueError, match="no chat template"):
        rows_of(code_rows, plain, apply_chat_template=True)


def test_files_give_what_lists_do(tmp_path, tokenizer, code_rows, write_jsonl):
    rows = load_code(write_jsonl(tmp_path / "rows.jsonl", code_rows))
    assert list(code_answers(rows, tokenizer)) == list(rows_of(code_rows, tokenizer))
