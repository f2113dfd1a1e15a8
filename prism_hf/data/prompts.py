"""Prompts to token ids: the one way for generation, tasks, chat and training, so that all read the same."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase


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
