"""Raw rows become the tokens that SFTTrainer makes of them; what is learned of them is what the arguments say."""

import pytest
from datasets import Dataset, IterableDataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from prism_hf import (
    MaskedDiffusionTrainer,
    MaskedDiffusionTrainingArguments,
    PrismConfig,
    PrismForMaskedDiffusion,
    PrismTrainer,
    PrismTrainingArguments,
)

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


TEXTS = [{"text": "a b c"}, {"text": "d </s>"}]
MESSAGES = [{"messages": turns("a b", "c")}, {"messages": turns("a", "b c d", "e", "f g")}]
ANSWERS = [{"prompt": "a b", "completion": " c d"}, {"prompt": "e", "completion": " f</s>"}]
ANSWERED = [
    {"prompt": turns("a b"), "completion": [{"role": "assistant", "content": "c d"}]},
    {"prompt": turns("a", "b", "c"), "completion": [{"role": "assistant", "content": "d"}]},
]


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
    """The labels that the masks of a row amount to."""
    masks = [row[name] for name in row if name != "input_ids"]
    return [each if all(bits) else -100 for each, *bits in zip(row["input_ids"], *masks, strict=True)]


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


def test_rows_of_tokens_stay_as_they_are(trainer):
    for rows in (Dataset.from_list([{"input_ids": [8, 9], "text": "a b"}]), [{"input_ids": [8, 9]}]):
        built = trainer(rows, max_length=1)
        assert built.train_dataset is rows


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
    assert built.train_dataset[0]["input_ids"] == [IDS[word] for word in ("a", "b", "c", "</s>")]


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


def test_two_lines_turn_a_script_of_sft_trainer_into_one_of_prism(model, tokenizer, sft, arguments):
    dataset = Dataset.from_list(4 * MESSAGES)
    common = {"train_dataset": dataset, "processing_class": tokenizer}
    options = {"max_steps": 2, "assistant_only_loss": True}
    tokenizer.chat_template = template(before=TAGS[0]).replace("<end> {% else %}", f"<end> {TAGS[1]}{{% else %}}")

    decoder = LlamaForCausalLM(LlamaConfig(**SIZES))
    trainer = SFTTrainer(decoder, arguments(SFTConfig, bf16=False, **options), **common)
    assert trainer.train().global_step == 2

    model = PrismForMaskedDiffusion(PrismConfig(backbone_config=model.config))
    trainer = PrismTrainer(model, arguments(PrismTrainingArguments, **options), **common)
    assert trainer.train().global_step == 2
