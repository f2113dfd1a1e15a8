"""Prompts to token ids: the one way for generation, tasks, chat and training, so that all read the same."""

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from .files import read_bytes, read_object, text_lines


def read_prompts(path: str | Path | None = None) -> list[dict[str, Any]]:
    """Rows with a `prompt` and whatever else they hold, one from each line that is not blank.

    Lines are JSON objects where the file ends in .jsonl or .json, or where its first line is one; else each line is the
    text of a prompt.

    Args:
        path: of a UTF-8 file; standard input if None.

    Raises:
        ValueError: with the number of the line, where one is no such row or its prompt is empty; where there are none.
    """
    if path is None:
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name, data = str(path), read_bytes(path)
    lines = text_lines(data, name)
    if not lines:
        raise ValueError(f"{name} has no prompts: give one a line, as text or as JSON with a field 'prompt'.")
    as_json = name.endswith((".jsonl", ".json")) or is_object(next(iter(lines.values())))
    if not as_json:
        return [{"prompt": line} for line in lines.values()]
    return [read_row(line, f"{name}, line {number}") for number, line in lines.items()]


def is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read_row(line: str, where: str) -> dict[str, Any]:
    row = read_object(line, where, ", as the file's name or first line promises", " with a field 'prompt'")
    if "prompt" not in row:
        near = get_close_matches("prompt", row, n=1)
        hint = f" Rename {near[0]!r}." if near else ""
        raise ValueError(f"{where} has no field 'prompt', only {', '.join(map(repr, row)) or 'none'}.{hint}")
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ValueError(f"{where}: the prompt must be text that is not empty, got {row['prompt']!r}.")
    return row


def encode_prompts(
    prompts: Sequence[str | list[dict[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    apply_chat_template: bool = False,
    appends: bool = True,
    mask_token_id: int | None = None,
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """Token ids of each prompt, after which an answer can be appended.

    What a tokenizer puts before a text (`[CLS]`, `<s>`) stays. What it puts after one (`[SEP]`, an end of text) would
    stand between prompt and answer, and is left out, unless nothing is appended and masks are filled in place.

    Args:
        prompts: texts, or conversations (lists of messages) for the template.
        apply_chat_template: a text becomes a user's turn in the tokenizer's template, which has its own special tokens,
            and a conversation is rendered, each with what precedes an answer.
        appends: whether tokens are appended.
        mask_token_id: the model's mask; is to be in no prompt if tokens are appended, and in each if not. None: not
            looked at.
        names: of the prompts, in messages; by default "Prompt 1" and so on.

    Raises:
        ValueError: if there is no template, a prompt is no text, or a mask is where it should not be, or nowhere.
    """
    names = names or [f"Prompt {number}" for number in range(1, len(prompts) + 1)]
    check_prompts(prompts, tokenizer, apply_chat_template, names)
    if not prompts:
        return []
    texts = list(prompts)
    if apply_chat_template:
        chats = [[{"role": "user", "content": each}] if isinstance(each, str) else each for each in prompts]
        texts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    encoded = encode_texts(texts, tokenizer, rendered=apply_chat_template, appends=appends)
    if mask_token_id is None:
        return encoded
    for name, ids in zip(names, encoded, strict=True):
        if appends and mask_token_id in ids:
            raise ValueError(
                f"{name} holds the mask token, which is filled in place only where nothing is appended "
                "(max_new_tokens=0)."
            )
        if not appends and mask_token_id not in ids:
            raise ValueError(f"{name} has no mask to fill: set max_new_tokens, to append some.")
    return encoded


def encode_texts(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, rendered: bool = False, appends: bool = True
) -> list[list[int]]:
    """Token ids of texts, which a template has `rendered` with its own special tokens or not; see `encode_prompts`."""
    encoded = tokenizer(texts, add_special_tokens=not rendered).input_ids
    closing = num_closing_tokens(tokenizer, texts[0]) if appends and not rendered else 0
    return [ids[: len(ids) - closing] for ids in encoded]


def check_prompts(prompts, tokenizer, apply_chat_template: bool, names: Sequence[str]) -> None:
    """Raise ValueError unless the prompts are texts, or conversations for the template that is to be applied."""
    if apply_chat_template and tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template: leave apply_chat_template off, or set "
            "tokenizer.chat_template."
        )
    for name, prompt in zip(names, prompts, strict=True):
        if not isinstance(prompt, str) and not (apply_chat_template and isinstance(prompt, list)):
            remedy = "set apply_chat_template" if isinstance(prompt, list) else "give a string"
            raise ValueError(f"{name} is no text but {prompt!r}: {remedy}.")


def num_closing_tokens(tokenizer: PreTrainedTokenizerBase, text: str = "") -> int:
    """How many tokens the tokenizer puts after a text, seen on the mask, `text` or a letter, whichever it knows."""
    for probe in (tokenizer.mask_token, text, "a"):
        if not probe:
            continue
        bare = tokenizer(probe, add_special_tokens=False).input_ids
        whole = tokenizer(probe).input_ids
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return len(whole) - start - len(bare)
    return 0


def tokens_without_text(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None, mask_token_id: int) -> list[int]:
    """The ids below `vocab_size`, the mask apart, that the tokenizer lacks: what fills a vocabulary up, and holes."""
    return sorted(set(range(vocab_size or 0)) - set(tokenizer.get_vocab().values()) - {mask_token_id})
