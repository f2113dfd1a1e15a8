"""Instructions and the Python functions that answer them, to rows of a prompt and its completion.

A row has an `instruction`, the `code` that answers it and, where known, its `entry_point`, the function's name: the
columns of OpenCoder-LLM/opc-sft-stage2, educational_instruct, on which PRISM fine-tuned LLaDA-8B (arXiv 2510.01384). A
trainer tokenizes what becomes of it as it does any rows; `recipes/configs/llada_8b_opc.yaml` has the published canvas.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.data.loading import Rows
from prism_hf.data.tokenizers import check_tokenizer

from .loading import check_code_columns, load_code, split_code
from .texts import code_prompt, code_target, first_function_name

logger = logging.get_logger(__name__)

INCOMPLETE = "have no instruction, code or function name"
HOLDS_MASK = "have the mask token in their text"


def load_code_datasets(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    rename_columns: dict[str, str] | None = None,
    held_out: float = 0.05,
    seed: int = 0,
    apply_chat_template: bool = False,
) -> tuple[Rows, Rows | None]:
    """Rows to train on and rows held out: `load_code`, then `split_code`, then `code_answers`.

    A stream keeps its order; shuffle it with `train.shuffle(seed=..., buffer_size=...)`.

    Example:
        ```python
        train, held_out = load_code_datasets("rows.jsonl", tokenizer)
        args = PrismTrainingArguments("runs/code", max_length=512, pad_to_multiple_of=512, learn_padding=True)
        trainer = PrismTrainer(model, args, train_dataset=train, eval_dataset=held_out, processing_class=tokenizer)
        ```
    """
    check_tokenizer(tokenizer, apply_chat_template)
    rows = load_code(path, name, split, streaming, rename_columns)
    return split_answers(rows, tokenizer, held_out, seed, apply_chat_template, str(path))


def split_answers(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, held_out: float, seed: int, apply_chat_template: bool, label: str
) -> tuple[Rows, Rows | None]:
    """Rows as `code_answers` makes them: those to train on, and those held out, by `split_code`."""
    train, evaluation = split_code(rows, held_out, seed)
    answers = code_answers(train, tokenizer, apply_chat_template, f"{label}, training")
    if evaluation is None:
        return answers, None
    return answers, code_answers(evaluation, tokenizer, apply_chat_template, f"{label}, held out")


def code_answers(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, apply_chat_template: bool = False, label: str = "code"
) -> Rows:
    """Rows with `prompt` and `completion`, texts or a user's and an assistant's message.

    Rows without instruction or code, or with the mask token in their text, are left out; of a table, a warning tells
    how many. Where `entry_point` is missing, the code's first top-level function stands in.

    Args:
        rows (`Dataset | IterableDataset`): As `load_code` returns them.
        tokenizer (`PreTrainedTokenizerBase`): With a mask and an EOS token.
        apply_chat_template (`bool`, *optional*, defaults to `False`): Give messages, for the tokenizer's template.
        label (`str`, *optional*, defaults to `"code"`): Names the rows in the warning.

    Raises:
        ValueError: if the tokenizer lacks a mask token, an EOS token or the template, or no row is left.

    Example:
        ```python
        rows = code_answers(load_code("functions.jsonl"), tokenizer)
        trainer = PrismTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        ```
    """
    check_tokenizer(tokenizer, apply_chat_template)
    columns = check_code_columns(rows, label)
    read = rows.map(
        answer,
        remove_columns=columns,
        fn_kwargs={"mask_token": tokenizer.mask_token, "apply_chat_template": apply_chat_template},
    )
    kept = read.filter(lambda problem: problem == "", input_columns="problem")
    if not isinstance(read, IterableDataset):
        _report(Counter(read["problem"]), label)
    return kept.remove_columns("problem")


def answer(row: dict[str, Any], mask_token: str, apply_chat_template: bool) -> dict[str, Any]:
    """Prompt and completion of a row, and what is wrong with it, if anything."""
    instruction, code = row["instruction"], row["code"]
    name = row.get("entry_point") or (first_function_name(code) if isinstance(code, str) else None)
    problem = ""
    if not all(isinstance(text, str) and text.strip() for text in (instruction, code, name)):
        prompt = completion = ""
        problem = INCOMPLETE
    else:
        prompt, completion = code_prompt(instruction, name), code_target(code)
        problem = HOLDS_MASK if mask_token in prompt + completion else ""
    if not apply_chat_template:
        return {"prompt": prompt, "completion": completion, "problem": problem}
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": completion}],
        "problem": problem,
    }


def _report(problems: Counter[str], label: str) -> None:
    """Tell how many rows are left out, and why. Raises ValueError if none is left."""
    dropped = [f"{number} rows {problem}" for problem, number in problems.items() if problem]
    if not problems[""]:
        raise ValueError(f"{label}: no row of code is left of {problems.total()}. {'. '.join(dropped)}.".rstrip())
    if dropped:
        logger.warning(f"{label}: of {problems.total()} rows are left out: {', '.join(dropped)}.")
