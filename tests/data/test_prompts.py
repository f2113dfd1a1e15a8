"""Prompts from files and pipes, and of every kind of tokenizer, each as it is before a completion."""

import io
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from prism_hf.data import SudokuTokenizer, decode_completions, encode_prompts, read_prompts, tokens_without_text
from prism_hf.training.data_preparation.raw_rows import RowTokenizer

WORDS = ["[MASK]", "[PAD]", "[CLS]", "[SEP]", "[UNK]", "<s>", "</s>", "<|user|>", "<|assistant|>", "a", "b", "c", "d"]
ID = {word: index for index, word in enumerate(WORDS)}
TEMPLATES = {
    "bert": ("[CLS] $A [SEP]", {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}),
    "roberta": ("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>", "mask_token": "[MASK]"}),
    "gpt2": ("$A", {"eos_token": "</s>"}),
    "llama": ("<s> $A", {"bos_token": "<s>", "eos_token": "</s>"}),
    "llama with eos": ("<s> $A </s>", {"bos_token": "<s>", "eos_token": "</s>"}),
    "t5": ("$A </s>", {"eos_token": "</s>"}),
    "xlnet": ("$A [SEP] [CLS]", {"sep_token": "[SEP]", "cls_token": "[CLS]", "mask_token": "[MASK]"}),
}
BEFORE = {"bert": ["[CLS]"], "roberta": ["<s>"], "llama": ["<s>"], "llama with eos": ["<s>"]}
AFTER = {
    "bert": ["[SEP]"],
    "roberta": ["</s>"],
    "llama with eos": ["</s>"],
    "t5": ["</s>"],
    "xlnet": ["[SEP]", "[CLS]"],
}
CHAT = (
    "{% for message in messages %}<|{{ message.role }}|> {{ message.content }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build(kind, words=WORDS):
    template, special = TEMPLATES[kind]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(template, special_tokens=[(w, ID[w]) for w in WORDS[:7]])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", chat_template=CHAT, **special
    )


def ids(*words):
    return [ID[word] for word in words]


def test_prompts_are_lines_of_text_or_of_json(tmp_path, monkeypatch):
    text = tmp_path / "prompts.txt"
    text.write_bytes("\ufeffone\r\n\n  two\u2028still\n".encode())
    assert read_prompts(text) == [{"prompt": "one"}, {"prompt": "  two\u2028still"}]
    rows = b'{"prompt": "one", "id": 1}\n\n{"id": [2], "prompt": "two\xe2\x80\xa8still"}'
    (tmp_path / "prompts.jsonl").write_bytes(rows)
    expected = [{"prompt": "one", "id": 1}, {"prompt": "two\u2028still", "id": [2]}]
    assert read_prompts(tmp_path / "prompts.jsonl") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(rows)))
    assert read_prompts() == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", "no prompts"),
        ("a.txt", b"\xff", "no UTF-8"),
        ("a.jsonl", b'{"prompt": "a"}\n\n{"prompt', "line 3 is no JSON"),
        ("a.jsonl", b"text", "line 1 is no JSON"),
        ("a.txt", b'{"prompt": "a"}\n[1]', "line 2 must be a JSON object"),
        ("a.txt", b'{"promt": "a"}', "Rename 'promt'"),
        ("a.txt", b'{"prompt": " "}', "line 1: the prompt must be text"),
        ("a.txt", b'{"prompt": 3}', "got 3"),
        ("other.txt", b"x", r"no file .*a\.txt"),
        ("a.tx", b"x", r"Did you mean .*a\.tx\?"),
    ],
)
def test_what_is_no_prompt_is_named_with_its_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    path = tmp_path / ("a.jsonl" if name == "a.jsonl" else "a.txt")
    with pytest.raises(ValueError, match=message):
        read_prompts(path)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_nothing_closes_a_prompt_that_an_answer_follows(kind):
    tokenizer, before, after = build(kind), BEFORE.get(kind, []), AFTER.get(kind, [])
    texts = ["a b", "", "c [SEP]", "</s> d </s>"]
    expected = [ids(*before, *text.split()) for text in texts]
    assert encode_prompts(texts, tokenizer) == expected
    assert encode_prompts([""], tokenizer) == [ids(*before)]
    in_place = encode_prompts(texts, tokenizer, appends=False)
    assert in_place == [each + ids(*after) for each in expected] == tokenizer(texts).input_ids


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_template_brings_its_own_special_tokens(kind):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    expected = ids("<|user|>", "a", "</s>", "<|assistant|>", "b", "</s>", "<|user|>", "c", "</s>", "<|assistant|>")
    encoded = encode_prompts([chat, "d"], build(kind), apply_chat_template=True)
    assert encoded == [expected, ids("<|user|>", "d", "</s>", "<|assistant|>")]


def test_what_a_model_trains_on_begins_as_what_it_completes():
    read = RowTokenizer(build("roberta"), prompt_alone=True)({"prompt": "a b", "completion": "c"})
    assert read["input_ids"] == encode_prompts(["a b"], build("roberta"))[0] + ids("c", "</s>")
    assert read["maskable"] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("words", [["[UNK]", "x"], ["[UNK]", "a"]])
def test_a_tokenizer_that_knows_few_words(words):
    """The letter that is looked at first may be unknown to it."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*words, "<e>"])}))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing("$A <e>", special_tokens=[("<e>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>")
    assert encode_prompts([words[1]], tokenizer) == [[1]]


def test_a_slow_tokenizer():
    assert encode_prompts(["12.4"], SudokuTokenizer(), appends=False, mask_token_id=0) == [[1, 2, 0, 4]]
    assert encode_prompts(["124"], SudokuTokenizer(), mask_token_id=0) == [[1, 2, 4]]


@pytest.mark.parametrize(
    "prompts, settings, message",
    [
        (["a", "b [MASK]"], {"mask_token_id": 0}, "Prompt 2 holds the mask token"),
        (["[MASK]", "b"], {"mask_token_id": 0, "appends": False}, "Prompt 2 has no mask to fill"),
        (["a", 3], {}, "Prompt 2 is no text but 3: give a string"),
        (["a", None], {"apply_chat_template": True}, "Prompt 2 is no text but None"),
        ([[{"role": "user", "content": "a"}]], {}, "Prompt 1 is no text .*set apply_chat_template"),
        (["a", "b [MASK]"], {"mask_token_id": 0, "names": ["one", "two"]}, "two holds the mask"),
    ],
)
def test_prompts_that_cannot_be_completed_are_named(prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        encode_prompts(prompts, build("bert"), **settings)


def test_a_template_that_is_missing():
    tokenizer = build("bert")
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        encode_prompts(["a"], tokenizer, apply_chat_template=True)


@pytest.mark.parametrize(
    ("ends", "texts"),
    [
        (None, ["a b c", "d"]),
        ("</s>", ["a", "d"]),
        (["</s>", "b"], ["a", "d"]),
        (["b", "c"], ["a b", "d"]),
        ([], ["a b c", "d"]),
    ],
)
def test_a_completion_is_text_up_to_its_first_end(ends, texts):
    tokenizer = build("llama")
    eos = ID[ends] if isinstance(ends, str) else ends and [ID[word] for word in ends]
    rows = [ids("a", "</s>", "b", "c"), ids("d", "</s>", "</s>", "[PAD]")]
    assert decode_completions(rows, tokenizer, eos) == texts


def test_ids_without_text():
    tokenizer = build("bert")
    tokenizer.add_tokens(["new"])
    assert tokens_without_text(tokenizer, 18, 0) == [14, 15, 16, 17]
    assert tokens_without_text(tokenizer, 18, 17) == [14, 15, 16]  # the mask is never drawn anyway
    assert tokens_without_text(tokenizer, 10, 0) == tokens_without_text(tokenizer, None, 0) == []
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 3}, unk_token="a"))
    assert tokens_without_text(PreTrainedTokenizerFast(tokenizer_object=backend), 6, 5) == [1, 2, 4]
