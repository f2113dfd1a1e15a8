"""Prompts: from a file or a pipe, to token ids, and from the tokens appended to them back to text.

A prompt is encoded in this one place, for generation, tasks, chat and training alike, so that all read the same:
without the token that closes a text for the tokenizer where a completion follows.
"""

import json
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from .files import read_bytes, read_object, text_lines
from .tokenizers import check_chat_template


def read_prompts(path: str | Path | None = None) -> list[dict[str, Any]]:
    """Prompts from a file or a pipe, one from each line that is not blank.

    Lines are JSON objects where the file ends in .jsonl or .json, or where its first line is one; else each line is the
    text of a prompt.

    Args:
        path (`str | Path`, *optional*): Of a UTF-8 file; standard input if not given.

    Returns:
        Dicts with a `prompt` and whatever else the line holds.

    Raises:
        ValueError: with the number of the line, where one is no such row or its prompt is empty; where there are none.

    Example:
        ```python
        rows = read_prompts("prompts.jsonl")
        generate_to_jsonl(model, tokenizer, rows, "completions.jsonl", max_new_tokens=256)
        ```
    """
    if path is None:
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name, data = str(path), read_bytes(path)
    lines = text_lines(data, name)
    if not lines:
        raise ValueError(f"{name} has no prompts: give one a line, as text or as JSON with a field 'prompt'.")
    as_json = name.endswith((".jsonl", ".json")) or _is_object(next(iter(lines.values())))
    if not as_json:
        return [{"prompt": line} for line in lines.values()]
    return [_read_row(line, f"{name}, line {number}") for number, line in lines.items()]


def _is_object(line: str) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _read_row(line: str, where: str) -> dict[str, Any]:
    """The row of a line of JSON. Raises ValueError, which begins with `where`, if it has no prompt that is text."""
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
    add_special_tokens: bool = True,
) -> list[list[int]]:
    """Token ids of each prompt, after which a completion can be appended.

    What a tokenizer puts before a text (`[CLS]`, `<s>`) stays. What it puts after one (`[SEP]`, an end of text) would
    stand between prompt and completion, and is left out, unless nothing is appended and masks are filled in place.

    Args:
        prompts (`Sequence[str | list[dict]]`): Texts, or conversations (lists of messages) for the template.
        tokenizer (`PreTrainedTokenizerBase`): The model's.
        apply_chat_template (`bool`, *optional*, defaults to `False`): A text becomes a user's turn in the tokenizer's
            template, which has its own special tokens, and a conversation is rendered, each with what precedes an
            answer.
        appends (`bool`, *optional*, defaults to `True`): Whether tokens are appended.
        mask_token_id (`int`, *optional*): The model's mask, which is to be in no prompt if tokens are appended, and in
            each if not; not looked at if not given.
        names (`Sequence[str]`, *optional*): Of the prompts, in messages; "Prompt 1" and so on if not given.
        add_special_tokens (`bool`, *optional*, defaults to `True`): Whether a text gets what the tokenizer puts before
            one; without it an empty prompt has no token.

    Returns:
        A list of ids for each prompt.

    Raises:
        ValueError: if there is no template, a prompt is no text, or a mask is where it should not be, or nowhere.

    Example:
        ```python
        prompts = encode_prompts(["Write a haiku."], tokenizer, apply_chat_template=True)
        output = model.generate(torch.tensor(prompts), max_new_tokens=64)
        ```
    """
    names = names or [f"Prompt {number}" for number in range(1, len(prompts) + 1)]
    _check_prompts(prompts, tokenizer, apply_chat_template, names)
    if not prompts:
        return []
    texts = [_rendered(prompt, tokenizer) for prompt in prompts] if apply_chat_template else prompts
    rendered = apply_chat_template or not add_special_tokens
    encoded = encode_texts(cast(list[str], texts), tokenizer, rendered, appends)
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
    """Token ids of texts, which a template has `rendered`, so that they get no special tokens; see `encode_prompts`."""
    encoded = tokenizer(texts, add_special_tokens=not rendered).input_ids
    closing = num_closing_tokens(tokenizer, texts[0]) if appends and not rendered else 0
    return [ids[: len(ids) - closing] for ids in encoded]


def _rendered(prompt: str | list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> str:
    """A text as a user's turn, or a conversation, in the tokenizer's template, with what precedes an answer."""
    chat = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return cast(str, tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def _check_prompts(
    prompts: Sequence[Any], tokenizer: PreTrainedTokenizerBase, apply_chat_template: bool, names: Sequence[str]
) -> None:
    """Raise ValueError unless the prompts are texts, or conversations for the template that is to be applied."""
    if apply_chat_template:
        check_chat_template(tokenizer)
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


def decode_completions(
    completions: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase, eos_token_id: int | list[int] | None
) -> list[str]:
    """The texts of appended tokens, each up to the first token that ends it, without special tokens.

    Args:
        completions (`Sequence[Sequence[int]]`): The tokens that were appended to each prompt.
        tokenizer (`PreTrainedTokenizerBase`): The model's.
        eos_token_id (`int | list[int]`, *optional*): Ends a text; a list holds several that do.

    Example:
        ```python
        output = model.generate(prompts, max_new_tokens=64)
        texts = decode_completions(output[:, prompts.shape[1] :].tolist(), tokenizer, tokenizer.eos_token_id)
        ```
    """
    return tokenizer.batch_decode([up_to_end(row, eos_token_id) for row in completions], skip_special_tokens=True)


def up_to_end(ids: Sequence[int], eos_token_id: int | list[int] | None) -> list[int]:
    """Tokens up to the first that ends a text, with that one."""
    ends = {eos_token_id} if isinstance(eos_token_id, int) else set(eos_token_id or ())
    return list(ids[: next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))])


def decode_with_ends(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase, end_of_text: str) -> str:
    """The text of tokens, in which `end_of_text` stands for the EOS token, and no other special token."""
    parts: list[list[int]] = [[]]
    for token in ids:
        if token == tokenizer.eos_token_id:
            parts.append([])
        else:
            parts[-1].append(token)
    return end_of_text.join(tokenizer.batch_decode(parts, skip_special_tokens=True))


def tokens_without_text(tokenizer: PreTrainedTokenizerBase, vocab_size: int | None, mask_token_id: int) -> list[int]:
    """The ids that a model has and its tokenizer lacks: what fills a vocabulary up, and holes.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's.
        vocab_size (`int`, *optional*): How many ids the model has; none is named if not given.
        mask_token_id (`int`): The model's mask, which is not among them.
    """
    return sorted(set(range(vocab_size or 0)) - set(tokenizer.get_vocab().values()) - {mask_token_id})
