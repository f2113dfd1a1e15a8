"""Raw rows become the tokens that SFTTrainer makes of them; what is learned of them is what the arguments say."""

import re
from dataclasses import fields

import pytest
import torch
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments
from prism_hf.training.arguments import NOT_TAKEN

WORDS = [
    "[MASK]",
    "[PAD]",
    "<s>",
    "</s>",
    "[UNK]",
    "<user>",
    "<assistant>",
    "<end>",
    *"abcdefgh",
    "dummy",
]  # the last is in what TRL asks of a template
IDS = {word: number for number, word in enumerate(WORDS)}
HEADER = "{{ '<' + message['role'] + '> ' }}"
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
}
NOT_HERE = {
    "padding_free": True,
    "loss_type": "dft",
    "router_aux_loss_coef": 0.1,
    "activation_offloading": True,
    "pad_token": "[PAD]",
    "truncation_mode": "keep_end",
}
TAGS = "{% generation %}", "{% endgeneration %}"


def template(before="", after="", end="<end> "):
    """Turns of `<role> content <end>`; answers stand between `before` and `after`."""
    answer = f"{before}{{{{ message['content'] + ' ' }}}}{after}{end}"
    other = f"{{{{ message['content'] + ' ' }}}}{end}"
    return (
        f"<s> {{% for message in messages %}}{HEADER}{{% if message['role'] == 'assistant' %}}{answer}"
        f"{{% else %}}{other}{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}<assistant> {{% endif %}}"
    )


@pytest.fixture
def tokenizer():
    tokenizer = Tokenizer(models.WordLevel(IDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("</s>", "isolated")]
    )
    names = {"mask_token": "[MASK]", "pad_token": "[PAD]", "bos_token": "<s>", "unk_token": "[UNK]"}
    names |= {"eos_token": "</s>", "extra_special_tokens": ["<end>"]}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    tokenizer.chat_template = template()
    return tokenizer


@pytest.fixture
def model():
    config = BertConfig(**SIZES, max_position_embeddings=32, mask_token_id=0)
    return BertForMaskedLM(config)


def turns(*contents):
    return [
        {"role": "assistant" if number % 2 else "user", "content": content} for number, content in enumerate(contents)
    ]


TEXTS = [{"text": "<s> a b c"}, {"text": "d zoo </s>"}]  # with special tokens
MESSAGES = [{"messages": turns("a b", "c")}, {"messages": turns("a", "b c d", "e", "f g")}]
ANSWERS = [{"prompt": "a b", "completion": " c d"}, {"prompt": "e", "completion": " f</s>"}]
ANSWERED = [
    {"prompt": turns("a b"), "completion": [{"role": "assistant", "content": "c d"}]},
    {"prompt": turns("a", "b", "c"), "completion": [{"role": "assistant", "content": "d"}]},
]


class ListDataset(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


@pytest.fixture
def trainer(model, tokenizer, arguments):
    def build(rows, formatting_func=None, eval_dataset=None, **options):
        args = arguments(MaskedDiffusionTrainingArguments, **options)
        datasets = {"train_dataset": rows, "eval_dataset": eval_dataset}
        return MaskedDiffusionTrainer(
            model, args, processing_class=tokenizer, formatting_func=formatting_func, **datasets
        )

    return build


@pytest.fixture
def sft(tokenizer, tmp_path):
    def build(rows, formatting_func=None, **options):
        config = LlamaConfig(**SIZES)
        args = SFTConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **options)
        return SFTTrainer(
            LlamaForCausalLM(config),
            args,
            None,
            Dataset.from_list(rows),
            None,
            tokenizer,
            formatting_func=formatting_func,
        )

    return build


def learned(row):
    """The labels that a row amounts to."""
    return [token if bit else -100 for token, bit in zip(row["input_ids"], row["maskable"], strict=True)]


@pytest.mark.parametrize(
    "rows, options",
    [
        (TEXTS, {}),
        ([{"story": row["text"]} for row in TEXTS], {"dataset_text_field": "story"}),
        (TEXTS, {"max_length": 2}),
        (TEXTS, {"formatting_func": lambda row: f"e {row['text']}"}),
        (MESSAGES, {}),
        ([{"conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]}], {}),
        (ANSWERS, {}),
        (ANSWERS, {"completion_only_loss": False}),
        (ANSWERED, {}),
        (ANSWERED, {"max_length": 7}),  # leaves a row without its answer
    ],
)
def test_tokens_are_those_of_sft_trainer(rows, options, trainer, sft):
    ours, theirs = trainer(Dataset.from_list(rows), **options).train_dataset, sft(rows, **options).train_dataset
    assert list(ours["input_ids"]) == list(theirs["input_ids"])
    assert [learned(row) for row in ours] == list(theirs["labels"])


@pytest.mark.parametrize("rows", [MESSAGES, ANSWERED])
def test_what_the_assistant_says_is_that_of_sft_trainer_by_tags(rows, trainer, sft, tokenizer):
    tokenizer.chat_template = template(before=TAGS[0], after="", end="<end> ").replace(
        "<end> {% else %}", f"<end> {TAGS[1]}{{% else %}}"
    )
    ours = trainer(Dataset.from_list(rows), assistant_only_loss=True).train_dataset
    theirs = sft(rows, assistant_only_loss=True).train_dataset
    assert [learned(row) for row in ours] == list(theirs["labels"])


@pytest.mark.parametrize("text", [template(), template(*TAGS)], ids=["no tags", "tags without the end of the turn"])
def test_answers_are_learned_with_their_end(text, trainer, tokenizer):
    tokenizer.chat_template = text
    dataset = trainer(Dataset.from_list(MESSAGES), assistant_only_loss=True).train_dataset
    marked = [[WORDS[token] for token in learned(row) if token != -100] for row in dataset]
    assert marked == [["c", "<end>"], ["b", "c", "d", "<end>", "f", "g", "<end>"]]


@pytest.mark.parametrize("rows", [TEXTS, MESSAGES, ANSWERS])
def test_a_stream_and_a_list_and_two_processes_give_the_same(rows, trainer):
    num_proc = 2 if rows is TEXTS else None
    expected = trainer(Dataset.from_list(rows), eval_dataset={"own": rows}, dataset_num_proc=num_proc)
    stream = IterableDataset.from_generator(lambda: iter(rows))  # which does not know its columns
    for given in (stream, Dataset.from_list(rows).to_iterable_dataset()):
        assert list(trainer(given).train_dataset) == list(expected.train_dataset)
    assert list(expected.eval_dataset["own"]) == list(expected.train_dataset)


def test_a_stream_is_trained_and_evaluated_on(trainer):
    stream = IterableDataset.from_generator(lambda: iter(8 * ANSWERED))
    built = trainer(stream, max_steps=2)
    built.train()
    tokens = list(built.train_dataset)
    of_tokens = IterableDataset.from_generator(lambda: iter(tokens))
    assert built.evaluate(stream)["eval_loss"] == built.evaluate(of_tokens)["eval_loss"]
    assert built.evaluate(8 * ANSWERED)["eval_loss"] == built.evaluate(tokens)["eval_loss"]
    assert built.predict(ANSWERED).metrics["test_loss"] > 0


def test_padding_is_learned_where_asked_for(trainer):
    built = trainer(Dataset.from_list(MESSAGES), assistant_only_loss=True, learn_padding=True)
    batch = built.data_collator(list(built.train_dataset))
    short = len(built.train_dataset[0]["input_ids"])
    added = len(built.train_dataset[1]["input_ids"]) - short
    assert "attention_mask" not in batch
    assert batch["input_ids"][0, short:].tolist() == added * [IDS["</s>"]]
    assert batch["maskable"][0].tolist() == [label != -100 for label in learned(built.train_dataset[0])] + added * [
        True
    ]


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("rows", [4 * TEXTS, 4 * MESSAGES, 4 * ANSWERED])
def test_rows_are_packed_as_sft_trainer_packs_them(rows, strategy, trainer, sft):
    options = {"packing": True, "packing_strategy": strategy, "max_length": 12}
    ours, theirs = trainer(rows, **options).train_dataset, sft(rows, **options).train_dataset
    assert list(ours["input_ids"]) == list(theirs["input_ids"])
    assert [learned(row) for row in ours] == list(theirs["labels"])
    own = [[len(ids)] for ids in ours["input_ids"]]  # what is cut from one text is one document
    assert list(ours["seq_lengths"]) == (own if strategy == "wrapped" else list(theirs["seq_lengths"]))
    of_tokens = [dict(row) for row in trainer(rows, max_length=None).train_dataset]
    again = trainer(Dataset.from_list(of_tokens), **options).train_dataset
    assert list(again) == list(ours) == list(trainer(again, **options).train_dataset)
    stream = IterableDataset.from_generator(lambda: iter(rows))
    assert list(trainer(stream, **options, max_steps=1).train_dataset) == list(ours)


def test_packed_rows_are_trained_and_evaluated_on(trainer):
    stream = IterableDataset.from_generator(lambda: iter(20 * ANSWERED))
    for rows in (20 * ANSWERED, stream):
        built = trainer(rows, eval_dataset=8 * ANSWERED, packing=True, max_length=20, max_steps=3, eval_packing=False)
        assert "seq_lengths" not in built.eval_dataset.column_names
        assert built.train().global_step == 3
        built.args.eval_packing = True
        assert built.evaluate(8 * ANSWERED)["eval_loss"] > 0
    with pytest.raises(ValueError, match="train_dataset cannot be trained on. packing=True needs a datasets.Dataset"):
        trainer(ListDataset([{"input_ids": [8, 9]}]), packing=True)


@pytest.mark.parametrize("kind", [list, Dataset.from_list])
def test_rows_of_tokens_are_cut_as_sft_trainer_cuts_them(kind, trainer, sft):
    rows = [
        {"input_ids": [8, 9, 10], "labels": [-100, 9, 10]},
        {"input_ids": [8, 9, 10], "labels": [-100, -100, 10]},
        {"input_ids": [9], "labels": [9]},
    ]
    theirs = sft(rows, max_length=2).train_dataset
    built = trainer(kind(rows), max_length=2)
    batch = built.data_collator(list(built.train_dataset))
    assert batch["input_ids"].tolist() == [[8, 9], [8, 9], [9, IDS["[PAD]"]]]
    kept = [row["labels"] for row in theirs]  # which drops the row that has nothing left to learn
    assert [kept[0], [-100, -100], kept[1]] == [[-100, 9], [-100, -100], [9]]
    assert batch["maskable"].tolist() == [[False, True], [False, False], [True, False]]


def test_datasets_are_taken_as_they_are_where_asked_for(trainer):
    skip = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    rows = Dataset.from_list([{"input_ids": [8, 9], "text": "a b"}])
    assert trainer(rows, **skip).train_dataset is rows
    with pytest.raises(ValueError, match="no input_ids, only text"):
        trainer(Dataset.from_list(TEXTS), **skip)
    with pytest.raises(ValueError, match="Unknown key of dataset_kwargs 'skip'"):
        trainer(rows, dataset_kwargs={"skip": True})


def test_batches_are_padded_to_a_multiple(trainer):
    built = trainer([{"input_ids": [8, 9, 10]}, {"input_ids": [8]}], pad_to_multiple_of=4)
    batch = built.data_collator(built.train_dataset)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize("kind", [Dataset.from_list, lambda rows: Dataset.from_list(rows).to_iterable_dataset()])
def test_datasets_are_shuffled_where_asked_for(kind, trainer, sft):
    rows = [{"text": f"a {letter}"} for letter in "abcdefgh"]
    shuffled = [row["input_ids"] for row in trainer(kind(rows), shuffle_dataset=True, max_steps=1).train_dataset]
    assert shuffled == list(sft(rows, shuffle_dataset=True, seed=0).train_dataset["input_ids"])


def test_eos_and_template_are_those_of_the_arguments(trainer, tokenizer, tmp_path):
    path = tmp_path / "chat.jinja"
    path.write_text(template(end="</s> "))
    built = trainer(MESSAGES, eos_token="<end>", chat_template_path=str(path))
    assert built.processing_class.chat_template == template(end="</s> ")
    assert built.model.config.eos_token_id == IDS["<end>"]
    assert built.train_dataset[0]["input_ids"][-1] == IDS["</s>"]
    assert trainer(TEXTS, eos_token="<end>").train_dataset[0]["input_ids"][-1] == IDS["<end>"]
    with pytest.raises(ValueError, match="eos_token='zoo' is not in the vocabulary"):
        trainer(TEXTS, eos_token="zoo")
    with pytest.raises(ValueError, match="is no Jinja file.*clone_chat_template"):
        trainer(TEXTS, chat_template_path=str(tmp_path))


def test_every_field_of_sft_config_is_known():
    ours = {field.name: field for field in fields(MaskedDiffusionTrainingArguments)}
    theirs = {field.name: field.default for field in fields(SFTConfig)}
    assert not theirs.keys() - ours
    refused = [name for name in theirs if ours[name].metadata.get("help") == NOT_TAKEN]
    MaskedDiffusionTrainingArguments(**{name: theirs[name] for name in refused}, use_cpu=True)  # as they stand there
    for name, value in NOT_HERE.items():
        with pytest.raises(
            ValueError, match=re.escape(f"{name}={value!r} of MaskedDiffusionTrainingArguments must be")
        ):
            MaskedDiffusionTrainingArguments(**{name: value})
    assert NOT_HERE.keys() - {"truncation_mode"} == set(refused)


def test_rows_are_cut_to_what_the_model_reads(trainer):
    assert len(trainer([{"text": 40 * "a "}]).train_dataset[0]["input_ids"]) == 32


def test_the_tokenizer_is_found_beside_a_model_given_by_name(model, tokenizer, arguments, tmp_path):
    folder = str(tmp_path / "model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    args = arguments(MaskedDiffusionTrainingArguments, model_init_kwargs={"dtype": "bfloat16"})
    built = MaskedDiffusionTrainer(folder, args, train_dataset=Dataset.from_list(TEXTS))
    assert built.model.dtype.itemsize == 2
    assert built.processing_class.mask_token == "[MASK]"
    assert built.train_dataset[0]["input_ids"] == [IDS[word] for word in ("<s>", "a", "b", "c", "</s>")]


@pytest.mark.parametrize(
    "rows, options, problem",
    [
        ([{"text": None, "prompt": "a"}], {}, "completion None, which is no text"),
        (TEXTS, {"assistant_only_loss": True}, "needs rows of messages, got text"),
        (TEXTS, {"completion_only_loss": True, "formatting_func": str}, "leave one of them out"),
        (
            ANSWERS,
            {"max_length": 1},
            "train_dataset cannot be trained on. No row has a token to learn within max_length=1",
        ),
        ([{"content": "a"}], {}, "no input_ids, only content.*dataset_text_field"),
    ],
)
def test_what_cannot_be_read_is_told_before_training(rows, options, problem, trainer):
    with pytest.raises(ValueError, match=problem):
        trainer(Dataset.from_list(rows), **options)


def test_without_template_or_tokenizer_there_is_a_remedy(trainer, model, tokenizer, arguments):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="set tokenizer.chat_template"):
        trainer(Dataset.from_list(MESSAGES))
    with pytest.raises(ValueError, match="pass the tokenizer as processing_class"):
        MaskedDiffusionTrainer(model, arguments(MaskedDiffusionTrainingArguments), train_dataset=TEXTS)
