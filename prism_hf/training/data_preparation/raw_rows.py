"""Rows of text, messages, or prompts and completions to rows of tokens, as TRL's `SFTTrainer` makes them.

Token ids are those of `SFTTrainer`. Decisions that are not obvious from the code:

- All that `SFTTrainer` makes labels of is `maskable`, special tokens too. Of rows that were tokenized before and say
  nothing, special tokens are not learned.
- What ends an answer is learned, as a canvas must be told where the text stops. So assistant spans are the differences
  of prefixes where the chat template has no generation tags, or has them around less than the end of the turn.
- A row without a token to learn is left out, where `SFTTrainer` raises for some of them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features, IterableDataset, List, Value
from transformers.utils import logging
from trl.chat_template_utils import (
    get_training_chat_template,
    has_generation_markers,
    is_chat_template_stop_token_trained,
)
from trl.data_utils import common_prefix_length, is_conversational, maybe_convert_to_chatml

from prism_hf.data.prompts import encode_texts

from .rows import described

logger = logging.get_logger(__name__)


@dataclass
class RowTokenizer:
    """Makes `input_ids` of a raw row, and `maskable`, which says what is learned.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Encodes text, and writes messages with its chat template.
        text_column (`str`, *optional*, defaults to `"text"`): Holds the text of a row without prompt and messages.
        formatting_func (`Callable`, *optional*): Makes a text of a row, instead of its columns.
        completion_only (`bool`, *optional*, defaults to `True`): Learn the completion and not the prompt.
        assistant_only (`bool`, *optional*, defaults to `False`): Learn what the assistant says.
        max_length (`int`, *optional*): Rows are cut after so many tokens.
        prompt_alone (`bool`, *optional*, defaults to `False`): Tokenize a prompt that is text by itself, as a
            generation does, and the completion after it.
    """

    tokenizer: Any
    text_column: str = "text"
    formatting_func: Callable[[Mapping[str, Any]], str] | None = None
    completion_only: bool = True
    assistant_only: bool = False
    max_length: int | None = None
    prompt_alone: bool = False

    def __post_init__(self) -> None:
        self.chat_template, self.has_tags = None, False
        if self.assistant_only:
            self.chat_template, self.has_tags = _template_with_tags(self.tokenizer)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        if self.formatting_func is not None:
            row = {self.text_column: self.formatting_func(row)}
        row = maybe_convert_to_chatml(dict(row))
        is_chat = is_conversational(row)
        if self.assistant_only and not is_chat:
            raise ValueError(f"assistant_only_loss=True needs rows of messages, got {', '.join(row)}.")
        if row.get("prompt") is not None:
            read = self.of_answered_messages(row) if is_chat else self.of_answered_text(row)
        elif is_chat:
            read = self.of_messages(row["messages"], _template_arguments(row))
        else:
            read = {"input_ids": self.encoded(self.with_eos(_text(row, self.text_column)))}
        ids = read.pop("input_ids")
        masks = zip(*read.values(), strict=True) if read else [()] * len(ids)
        return {
            "input_ids": ids[: self.max_length],
            "maskable": [int(all(bits)) for bits in masks][: self.max_length],
        }

    def of_messages(self, messages: list[dict], arguments: dict[str, Any]) -> dict[str, list[int]]:
        """The tokens of a conversation, with `assistant_masks` if those are asked for."""
        tags = {"return_assistant_tokens_mask": True} if self.assistant_only and self.has_tags else {}
        read = self.rendered(messages, arguments | tags)
        ids = list(read["input_ids"])
        if not self.assistant_only:
            return {"input_ids": ids}
        masks = read["assistant_masks"] if self.has_tags else self.prefix_differences(messages, ids, arguments)
        return {"input_ids": ids, "assistant_masks": list(masks)}

    def prefix_differences(self, messages: list[dict], ids: list[int], arguments: dict[str, Any]) -> list[int]:
        """1 for what an assistant's message adds to the messages before it and the header of its turn."""
        masks = [0] * len(ids)
        for number, message in enumerate(messages):
            if message["role"] == "assistant":
                begins = arguments | {"add_generation_prompt": True}
                before = self.rendered(messages[:number], begins)["input_ids"] if number else []
                after = self.rendered(messages[: number + 1], arguments)["input_ids"]
                start, end = common_prefix_length(before, ids), common_prefix_length(after, ids)
                masks[start:end] = [1] * max(end - start, 0)
        return masks

    def of_answered_messages(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        arguments = _template_arguments(row)
        prompt = self.rendered(row["prompt"], arguments | {"add_generation_prompt": True})["input_ids"]
        return self.completed(prompt, self.of_messages(row["prompt"] + row["completion"], arguments))

    def of_answered_text(self, row: Mapping[str, Any]) -> dict[str, list[int]]:
        prompt, completion = _text(row, "prompt"), self.with_eos(_text(row, "completion"))
        if self.prompt_alone:
            (alone,) = encode_texts([prompt], self.tokenizer)
            answer = self.tokenizer(text=completion, add_special_tokens=False)["input_ids"]
            return self.completed(alone, {"input_ids": alone + answer})
        return self.completed(self.encoded(prompt), {"input_ids": self.encoded(prompt + completion)})

    def completed(self, prompt: list[int], read: dict[str, list[int]]) -> dict[str, list[int]]:
        """What was read of prompt and completion, which begins where the tokens of the prompt alone differ."""
        if not self.completion_only:
            return read
        ids = read["input_ids"]
        start = common_prefix_length(prompt, ids)
        if start < len(prompt):
            logger.warning_once(
                "A prompt alone has other tokens than before its completion, so a generation will see other ones than "
                f"training: {self.tokenizer.decode(prompt[start:])!r} is left out. Let prompts end where a token ends."
            )
        return read | {"completion_mask": [0] * start + [1] * (len(ids) - start)}

    def rendered(self, messages: list[dict], arguments: dict[str, Any]) -> Mapping[str, Any]:
        if self.tokenizer.chat_template is None:
            raise ValueError("The tokenizer has no chat_template to write messages with: set tokenizer.chat_template.")
        return self.tokenizer.apply_chat_template(
            messages, **{"tokenize": True, "return_dict": True, "chat_template": self.chat_template} | arguments
        )

    def encoded(self, text: str) -> list[int]:
        return self.tokenizer(text=text)["input_ids"]

    def with_eos(self, text: str) -> str:
        eos = self.tokenizer.eos_token
        return text if eos is None or text.endswith(eos) else text + eos


def _template_with_tags(tokenizer: Any) -> tuple[str | None, bool]:
    """A chat template instead of the tokenizer's own, if needed, and whether tags in it mark all that is learned."""
    template = None
    if not has_generation_markers(tokenizer.chat_template or ""):
        try:
            template = get_training_chat_template(tokenizer)
        except ValueError:  # a template that TRL does not know
            return None, False
    return template, is_chat_template_stop_token_trained(tokenizer, chat_template=template)


def _template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    tools = row.get("tools")
    tools = json.loads(tools) if isinstance(tools, str) else tools
    return {"tools": tools} | (row.get("chat_template_kwargs") or {})


def _text(row: Mapping[str, Any], column: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        raise ValueError(
            f"A row has {column} {described(text)}, which is no text. A row holds text, messages, or prompt and "
            "completion, both texts or both messages; formatting_func makes text of any other."
        )
    return text


def has_target(row: Mapping[str, Any]) -> bool:
    """Whether a row of tokens has one to learn."""
    return any(row["maskable"])


def tokenize_dataset(
    dataset: Any,
    row: Mapping[str, Any],
    name: str,
    tokenize: RowTokenizer,
    num_proc: int | None,
) -> Dataset | IterableDataset:
    """The rows of a dataset as tokens, without those that have nothing to learn.

    Args:
        dataset (`Dataset`, `IterableDataset` or `list`): Raw rows.
        row (`Mapping[str, Any]`): The first of them, whose columns go.
        name (`str`): What the dataset is called to the user.
        tokenize (`RowTokenizer`): Makes tokens of a row.
        num_proc (`int`, *optional*): Processes that do it; a stream is read by its own.

    Raises:
        ValueError: for a row that cannot be read, or if no row of a dataset has a token to learn.
    """
    tokenize(row)  # of a stream, this tells before training that rows cannot be read
    dataset = Dataset.from_list(dataset) if isinstance(dataset, list) else dataset.with_format(None)
    features = Features({"input_ids": List(Value("int64")), "maskable": List(Value("int8"))})
    if isinstance(dataset, IterableDataset):
        columns = list(row) if dataset.column_names is None else dataset.column_names
        return dataset.map(tokenize, remove_columns=columns, features=features).filter(has_target)
    tokens = dataset.map(
        tokenize,
        remove_columns=dataset.column_names,
        features=features,
        num_proc=num_proc,
        desc=f"Tokenizing {name}",
    )
    kept = tokens.filter(has_target, num_proc=num_proc, desc=f"Leaving out rows of {name} without a target")
    if not len(kept):
        raise ValueError(
            f"No row has a token to learn within max_length={tokenize.max_length}. Remedy: a larger "
            "max_length, or rows that hold an answer."
        )
    if len(kept) < len(tokens):
        logger.warning(
            f"{name}: {len(tokens) - len(kept)} of {len(tokens)} rows are left out, as they have no token to learn "
            f"within max_length={tokenize.max_length}."
        )
    return kept
