"""Instructions and the Python functions that answer them, from the Hub or from files, to canvases to denoise.

A row has an `instruction`, the `code` that answers it and, where known, its `entry_point`, the function's name: the
columns of OpenCoder-LLM/opc-sft-stage2, educational_instruct, on which PRISM fine-tuned LLaDA-8B (arXiv 2510.01384).
"""

import difflib
import re
from pathlib import Path

import numpy as np
import pyarrow
from datasets import Dataset, Features, IterableDataset, List, Value, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.fields import Positive, Seed, Share, check_arguments, did_you_mean

from .files import check_utf8
from .prompts import encode_texts
from .splits import is_held_out, is_trained_on

logger = logging.get_logger(__name__)

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
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


def code_prompt(instruction: str, entry_point: str) -> str:
    """The prompt for a function: the instruction, and how to answer it."""
    return (
        f"{instruction.strip()}\n\nAnswer with Python code only, between <py> and </py>. The code must define one "
        f"top-level function with the name `{entry_point}`."
    )


def code_target(code: str) -> str:
    """What follows the prompt."""
    return f"\n<py>\n{code}\n</py>"


def first_function_name(code: str) -> str | None:
    """The name of the first top-level function, None if there is none. The code need not be valid Python."""
    match = re.search(r"^(?:async +)?def +(\w+)", code, re.MULTILINE)
    return match and match[1]


def load_code(
    path: str | Path,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    rename_columns: dict[str, str] | None = None,
) -> Dataset | IterableDataset:
    """Rows with `instruction`, `code` and perhaps `entry_point`, as they are.

    Args:
        path: a JSON, JSONL or Parquet file, a folder of such files, or the name of a dataset on the Hub.
        name: the configuration, where the dataset has several.
        rename_columns: from the names in the data to those above.

    Raises:
        ValueError: if nothing readable is there, it has no rows, or a column is missing.
    """
    local = Path(path).expanduser()
    try:
        if local.is_file():
            if local.suffix not in BUILDERS:
                raise ValueError(f"{path} is no {', '.join(BUILDERS)} file; convert it, or give its folder.")
            if BUILDERS[local.suffix] == "json":
                check_utf8(local)
            rows = load_dataset(BUILDERS[local.suffix], data_files=str(local), split=split, streaming=streaming)
        else:
            check_hub_name(path, local)
            rows = load_dataset(str(local), name, split=split, streaming=streaming)
        columns = columns_of(rows, path)
    except StopIteration as error:
        raise ValueError(f"{path}: there are no rows; give more data.") from error
    except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    except OSError as error:
        raise ValueError(f"{path} is neither a file or folder with data nor to be had from the Hub: {error}") from error
    for old, new in (rename_columns or {}).items():
        check_column(path, old, columns)
        rows = rows.rename_column(old, new)
        columns[columns.index(old)] = new
    for column in ("instruction", "code"):
        check_column(path, column, columns)
    return rows.select_columns([column for column in ("instruction", "code", "entry_point") if column in columns])


def columns_of(rows: Dataset | IterableDataset, label: str | Path) -> list[str]:
    """The names of the columns; a stream may know them from its first row only."""
    columns = rows.column_names or list(next(iter(rows), {}))
    if not columns or (isinstance(rows, Dataset) and len(rows) == 0):
        raise ValueError(f"{label}: there are no rows; give more data.")
    return columns


def check_hub_name(path: str | Path, local: Path) -> None:
    """A path that is not there, and cannot be meant as a name on the Hub, is a mistake to report at once."""
    if local.exists() or (local.suffix not in BUILDERS and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(path))):
        return
    siblings = local.parent.iterdir() if local.parent.is_dir() else []
    raise ValueError(f"There is no file or folder {path}.{did_you_mean(local, siblings)}")


def check_column(path: str | Path, column: str, columns: list[str]) -> None:
    if column not in columns:
        nearest = difflib.get_close_matches(column, columns, n=1) or [columns[0]]
        raise ValueError(
            f"{path} has no column {column!r}, only {', '.join(columns)}; map another one to it, as in "
            f"rename_columns={{{nearest[0]!r}: {column!r}}}."
        )


def split_code(
    rows: Dataset | IterableDataset, held_out: Share = 0.05, seed: Seed = 0
) -> tuple[Dataset | IterableDataset, Dataset | IterableDataset | None]:
    """Rows to train on and rows held out, by a hash of the instruction, so that equal instructions stay together.

    About ``held_out`` of the rows are held out; with 0, none (None).
    """
    check_arguments(split_code, locals())
    if held_out == 0:
        return rows, None
    kwargs = {"input_columns": "instruction", "fn_kwargs": {"share": held_out, "seed": seed}}
    return rows.filter(is_trained_on, **kwargs), rows.filter(is_held_out, **kwargs)


def encode_code(
    rows: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    canvas_length: Positive = 1024,
    max_target_length: Positive = 512,
    apply_chat_template: bool = False,
    label: str = "code",
) -> Dataset | IterableDataset:
    """Canvases to denoise, with a report of lengths and of what was cut or dropped, logged before this returns.

    An item holds ``input_ids`` (canvas_length,) long: the prompt, the target, EOS up to the end; and ``maskable``
    (canvas_length,) bool, True from the end of the prompt on for ``max_target_length`` tokens, EOS among them, since a
    model must learn where code ends. What follows those tokens is seen and never masked, code and EOS alike. There is
    no ``attention_mask``: as in the published recipe, and in generation, the whole canvas is attended.

    A target that outgrows the canvas is cut. Rows whose prompt leaves no room are dropped, as TRL's SFTTrainer does,
    and so are those without instruction or code, or with the mask token in their text. Where ``entry_point`` is
    missing, the code's first top-level function stands in. A stream stays one: its report is of its first 1,000 rows.

    Args:
        apply_chat_template: prompt and target become a user's and an assistant's turn in the tokenizer's template;
            else they follow one another.
        label: names the rows in the report.

    Raises:
        ValueError: if the tokenizer lacks a mask token, an EOS token or the template, a length makes no sense, or no
            row is left.
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
    report_lengths(encoded, canvas_length, max_target_length, label)
    kept = encoded.filter(lambda problem: problem is None, input_columns="problem")
    return kept.select_columns(["input_ids", "maskable"]).with_format("torch")


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, apply_chat_template: bool = False) -> None:
    """Raises ValueError, with the remedy, for a tokenizer that cannot make canvases."""
    if tokenizer.mask_token_id is None:
        candidates = [token for token in tokenizer.get_vocab() if re.fullmatch(r"\W+(\w*_)?mask\W+", token, re.I)]
        token = candidates[0] if candidates else "<|mdm_mask|>"
        where = "which its vocabulary has" if candidates else "which is LLaDA's; the model must know it too"
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no mask token: set tokenizer.mask_token = {token!r}, "
            f"{where}."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no EOS token to end and pad the code with: set "
            "tokenizer.eos_token, for a BERT to its sep_token."
        )
    if apply_chat_template and tokenizer.chat_template is None:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} has no chat template: leave apply_chat_template off, or set "
            "tokenizer.chat_template."
        )


def code_texts(
    instruction: str, code: str, entry_point: str, tokenizer: PreTrainedTokenizerBase, apply_chat_template: bool
) -> tuple[str, str]:
    """Prompt and target, in the tokenizer's chat template if so wished."""
    prompt, target = code_prompt(instruction, entry_point), code_target(code)
    if not apply_chat_template:
        return prompt, target
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": target}]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    conversation = tokenizer.apply_chat_template(messages, tokenize=False)
    if not conversation.startswith(prompt):
        raise ValueError(
            f"The chat template of {tokenizer.name_or_path!r} gives a conversation that does not begin with its "
            f"prompt: {conversation!r} and {prompt!r}. Leave apply_chat_template off, or correct "
            "tokenizer.chat_template."
        )
    return prompt, conversation[len(prompt) :]


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
        texts.append(code_texts(instruction, code, name, tokenizer, apply_chat_template) if complete else ("", ""))
    # The prompt is tokenized by itself, as it is in generation.
    prompts = encode_texts([prompt for prompt, _ in texts], tokenizer, rendered=apply_chat_template)
    targets = tokenizer([target for _, target in texts], add_special_tokens=False).input_ids

    columns = {name: [] for name in ENCODED}
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
        columns["input_ids"].append(canvas + [tokenizer.eos_token_id] * (canvas_length - len(canvas)))
        columns["maskable"].append(maskable)
        columns["prompt_length"].append(len(prompt))
        columns["target_length"].append(len(target))
        columns["problem"].append(problem)
    return columns


def report_lengths(encoded: Dataset | IterableDataset, canvas_length: int, max_target_length: int, label: str) -> None:
    """Log lengths, cuts and drops of rows with columns `ENCODED`. Raises ValueError if no row is left."""
    rows, which = encoded.select_columns(["prompt_length", "target_length", "problem"]), "rows"
    if isinstance(rows, IterableDataset):
        rows, which = rows.take(STREAM_SAMPLE), "rows, the first of a stream"
    rows = list(rows)
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
        f"Tokens of a prompt: {summarize_lengths(prompts[complete])}.",
        f"Tokens of a target: {summarize_lengths(targets[complete])}.",
        f"{cut.sum()} targets are cut at the end of the canvas.",
        f"{longer.sum()} targets are longer than the {max_target_length} tokens that are learned.",
    ]
    # A warning, since information is silent by default and this is to be read before hours of training.
    logger.warning("\n  ".join([*lines, *dropped]))


def summarize_lengths(lengths: np.ndarray) -> str:
    """Minimum, median, 95th percentile and maximum, percentiles by nearest rank."""
    smallest, median, p95, largest = np.percentile(lengths, [0, 50, 95, 100], method="inverted_cdf")
    return f"min {smallest}, median {median}, p95 {p95}, max {largest}"


def load_code_datasets(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    rename_columns: dict[str, str] | None = None,
    held_out: float = 0.05,
    seed: int = 0,
    **kwargs,
) -> tuple[Dataset | IterableDataset, Dataset | IterableDataset | None]:
    """Canvases to train on and canvases held out: `load_code`, then `split_code`, then `encode_code` (``kwargs``).

    A stream keeps its order; shuffle it with ``train.shuffle(seed=..., buffer_size=...)``.
    """
    check_tokenizer(tokenizer, kwargs.get("apply_chat_template", False))
    train, evaluation = split_code(load_code(path, name, split, streaming, rename_columns), held_out, seed)
    train = encode_code(train, tokenizer, label=f"{path}, training", **kwargs)
    if evaluation is not None:
        evaluation = encode_code(evaluation, tokenizer, label=f"{path}, held out", **kwargs)
    return train, evaluation
