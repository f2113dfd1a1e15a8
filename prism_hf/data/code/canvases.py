"""Instructions and the Python functions that answer them, to canvases to denoise.

A row has an `instruction`, the `code` that answers it and, where known, its `entry_point`, the function's name: the
columns of OpenCoder-LLM/opc-sft-stage2, educational_instruct, on which PRISM fine-tuned LLaDA-8B (arXiv 2510.01384).
"""

from pathlib import Path
from typing import Any

import numpy as np
from datasets import Features, IterableDataset, List, Value
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.data.prompts import encode_texts, render_answer
from prism_hf.data.tokenizers import check_tokenizer
from prism_hf.fields import Positive, check_arguments

from .loading import Rows, check_column, columns_of, load_code, split_code
from .texts import code_prompt, code_target, first_function_name

logger = logging.get_logger(__name__)

# Rows of a stream that are read ahead of training, for statistics.
STREAM_SAMPLE = 1000

INCOMPLETE = "have no instruction, code or function name"
NO_ROOM = "have a prompt that leaves no room for code"
HOLDS_MASK = "have the mask token in their text"
PROBLEMS = (INCOMPLETE, NO_ROOM, HOLDS_MASK)
ENCODED = Features(
    {
        "input_ids": List(Value("int32")),
        "maskable": List(Value("bool")),
        "prompt_length": Value("int32"),
        "target_length": Value("int32"),
        "problem": Value("string"),
    }
)


def load_code_datasets(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    rename_columns: dict[str, str] | None = None,
    held_out: float = 0.05,
    seed: int = 0,
    **kwargs: Any,
) -> tuple[Rows, Rows | None]:
    """Canvases to train on and canvases held out: `load_code`, then `split_code`, then `encode_code` (kwargs).

    A stream keeps its order; shuffle it with `train.shuffle(seed=..., buffer_size=...)`.

    Example:
        ```python
        train, held_out = load_code_datasets("rows.jsonl", tokenizer, canvas_length=512)
        trainer = PrismTrainer(model, args, train_dataset=train, eval_dataset=held_out)
        ```
    """
    check_tokenizer(tokenizer, kwargs.get("apply_chat_template", False))
    train, evaluation = split_code(load_code(path, name, split, streaming, rename_columns), held_out, seed)
    train = encode_code(train, tokenizer, label=f"{path}, training", **kwargs)
    if evaluation is not None:
        evaluation = encode_code(evaluation, tokenizer, label=f"{path}, held out", **kwargs)
    return train, evaluation


def encode_code(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    canvas_length: Positive = 1024,
    max_target_length: Positive = 512,
    apply_chat_template: bool = False,
    label: str = "code",
) -> Rows:
    """Canvases to denoise, with a report of lengths and of what was cut or dropped, logged before this returns.

    An item holds `input_ids` (canvas_length,) long: the prompt, the target, EOS up to the end; and `maskable`
    (canvas_length,) bool, True from the end of the prompt on for `max_target_length` tokens, EOS among them, since a
    model must learn where code ends. What follows those tokens is seen and never masked, code and EOS alike. There is
    no `attention_mask`: as in the published recipe, and in generation, the whole canvas is attended.

    A target that outgrows the canvas is cut. Rows whose prompt leaves no room are dropped, as TRL's SFTTrainer does,
    and so are those without instruction or code, or with the mask token in their text. Where `entry_point` is missing,
    the code's first top-level function stands in. A stream stays one: its report is of its first 1,000 rows.

    Args:
        rows (`Dataset | IterableDataset`): As `load_code` returns them.
        tokenizer (`PreTrainedTokenizerBase`): With a mask and an EOS token.
        canvas_length (`int`, *optional*, defaults to 1024): Tokens of an item.
        max_target_length (`int`, *optional*, defaults to 512): Tokens that are learned.
        apply_chat_template (`bool`, *optional*, defaults to `False`): Prompt and target become a user's and an
            assistant's turn in the tokenizer's template; else they follow one another.
        label (`str`, *optional*, defaults to `"code"`): Names the rows in the report.

    Raises:
        ValueError: if the tokenizer lacks a mask token, an EOS token or the template, a length makes no sense, or no
            row is left.

    Example:
        ```python
        canvases = encode_code(load_code("functions.jsonl"), tokenizer, canvas_length=512)
        ```
    """
    check_tokenizer(tokenizer, apply_chat_template)
    check_arguments(encode_code, locals())
    columns = columns_of(rows, label)
    for column in ("instruction", "code"):
        check_column(label, column, columns)
    encoded = rows.map(
        encode_batch,
        batched=True,
        remove_columns=columns,
        features=ENCODED,
        fn_kwargs={
            "tokenizer": tokenizer,
            "canvas_length": canvas_length,
            "max_target_length": max_target_length,
            "apply_chat_template": apply_chat_template,
        },
    )
    _report_lengths(encoded, canvas_length, max_target_length, label)
    kept = encoded.filter(lambda problem: problem is None, input_columns="problem")
    return kept.select_columns(["input_ids", "maskable"]).with_format("torch")


def encode_batch(
    batch: dict[str, list],
    tokenizer: PreTrainedTokenizerBase,
    canvas_length: int,
    max_target_length: int,
    apply_chat_template: bool,
) -> dict[str, list]:
    """Columns `ENCODED` of a batch of rows; lengths are those before any cut."""
    texts = []
    for instruction, code, name in zip(
        batch["instruction"], batch["code"], batch.get("entry_point") or [None] * len(batch["code"]), strict=True
    ):
        if not name and isinstance(code, str):
            name = first_function_name(code)
        complete = all(isinstance(text, str) and text.strip() for text in (instruction, code, name))
        text = (code_prompt(instruction, name), code_target(code)) if complete else ("", "")
        texts.append(render_answer(*text, tokenizer) if complete and apply_chat_template else text)
    # The prompt is tokenized by itself, as it is in generation.
    prompts = encode_texts([prompt for prompt, _ in texts], tokenizer, rendered=apply_chat_template)
    targets = tokenizer([target for _, target in texts], add_special_tokens=False).input_ids

    rows = []
    for prompt, target in zip(prompts, targets, strict=True):
        problem = None
        if not target:
            problem = INCOMPLETE
        elif tokenizer.mask_token_id in prompt + target:
            problem = HOLDS_MASK
        elif len(prompt) >= canvas_length:
            problem = NO_ROOM
        canvas = (prompt + target)[:canvas_length]
        learned = max(0, min(max_target_length, canvas_length - len(prompt)))
        maskable = np.zeros(canvas_length, dtype=bool)
        maskable[len(prompt) : len(prompt) + learned] = True
        canvas += [tokenizer.eos_token_id] * (canvas_length - len(canvas))
        rows.append((canvas, maskable, len(prompt), len(target), problem))
    return {name: [row[column] for row in rows] for column, name in enumerate(ENCODED)}


def _report_lengths(encoded: Rows, canvas_length: int, max_target_length: int, label: str) -> None:
    """Log lengths, cuts and drops of rows with columns `ENCODED`. Raises ValueError if no row is left."""
    selected, which = encoded.select_columns(["prompt_length", "target_length", "problem"]), "rows"
    if isinstance(selected, IterableDataset):
        selected, which = selected.take(STREAM_SAMPLE), "rows, the first of a stream"
    rows = list(selected)
    prompts, targets, problems = (
        np.array([row[name] for row in rows], dtype=kind)
        for name, kind in (("prompt_length", int), ("target_length", int), ("problem", object))
    )
    complete, kept = problems != INCOMPLETE, np.array([problem is None for problem in problems], dtype=bool)
    dropped = [f"Dropped: {(problems == p).sum()} rows {p}." for p in PROBLEMS if p in problems]
    if not kept.any():
        message = (
            f"{label}: no canvas of canvas_length={canvas_length} tokens from {len(rows)} {which}; give more or other "
            "rows, or a longer canvas."
        )
        raise ValueError("\n  ".join([message, *dropped]))
    cut, longer = (prompts + targets > canvas_length) & kept, (targets > max_target_length) & kept
    lines = [
        f"{label}: {kept.sum()} canvases of {canvas_length} tokens from {len(rows)} {which}.",
        f"Tokens of a prompt: {_summarize(prompts[complete])}.",
        f"Tokens of a target: {_summarize(targets[complete])}.",
        f"{cut.sum()} targets are cut at the end of the canvas.",
        f"{longer.sum()} targets are longer than the {max_target_length} tokens that are learned.",
    ]
    # A warning, since information is silent by default and this is to be read before hours of training.
    logger.warning("\n  ".join([*lines, *dropped]))


def _summarize(lengths: np.ndarray) -> str:
    """Minimum, median, 95th percentile and maximum, percentiles by nearest rank."""
    smallest, median, p95, largest = np.percentile(lengths, [0, 50, 95, 100], method="inverted_cdf")
    return f"min {smallest}, median {median}, p95 {p95}, max {largest}"
