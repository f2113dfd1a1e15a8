"""What the rows of a batch say: which of their tokens are there, and which of those are to be learned."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from prism_hf._compat import mask_token_of, tokenizer_of, unwrapped

logger = logging.get_logger(__name__)

IGNORED = -100  # the label of a token that is not to be learned, as in torch.nn.CrossEntropyLoss
# Columns that say which tokens are to be learned, and how.
LEARNED: dict[str, Callable[[Tensor], Tensor]] = {
    "maskable": lambda values: values == 1,
    "completion_mask": lambda values: values == 1,
    "assistant_masks": lambda values: values == 1,
    "labels": lambda values: values != IGNORED,
}
MASKS = ("attention_mask", "maskable", "completion_mask", "assistant_masks", "special_tokens_mask")
COLUMNS = ("input_ids", *MASKS, "labels")
LENGTHS = "seq_lengths"  # of the documents in a packed row, as TRL calls them
# Tokens of a tokenizer that are not learned where a row says nothing. The eos is: without it no text would end.
UNLEARNED = ("bos", "cls", "sep", "pad", "unk")


def token_id(processing_class: Any, name: str) -> int | None:
    """The id of a special token, such as `"mask"`, of a tokenizer or of a processor around one; None without it."""
    return getattr(tokenizer_of(processing_class), f"{name}_token_id", None)


def mask_token_id_of(model: PreTrainedModel, processing_class: Any) -> int:
    """The mask token of a model, or else of its tokenizer.

    Raises ValueError if neither names one; where the two differ, a warning tells it.
    """
    own = mask_token_of(model.config)
    named = token_id(processing_class, "mask")
    if own is None and named is None:
        raise ValueError(
            "The mask token is unknown: set model.config.mask_token_id, or pass a processing_class with a mask token "
            "(tokenizer.add_special_tokens({'mask_token': ...}))."
        )
    if None not in (own, named) and own != named:
        logger.warning(
            f"The mask token is {own} for the model (config.mask_token_id), and {named} for the tokenizer: {own} is "
            f"taken. If the tokenizer is right, set model.config.mask_token_id = {named}."
        )
    return named if own is None else own


def row_reader_of(model: PreTrainedModel, processing_class: Any) -> "RowReader":
    """What reads the rows that a model is trained on. Raises ValueError as `mask_token_id_of`."""
    from prism_hf.generation.denoising.canvas import longest_canvas, vocabulary_size

    mask_token_id = mask_token_id_of(model, processing_class)
    special, num_positions = unlearned_ids(processing_class), longest_canvas(unwrapped(model))
    return RowReader(mask_token_id, vocabulary_size(model), special, num_positions)


def unlearned_ids(processing_class: Any) -> tuple[int, ...]:
    """Ids of the tokens `UNLEARNED`, without the eos."""
    ids = {token_id(processing_class, name) for name in UNLEARNED}
    return tuple(sorted(ids - {None, token_id(processing_class, "eos")}))


@dataclass(frozen=True)
class Check:
    """Values of a column that no row may hold. `wrong` gives (B, L) bool; texts may name `column` and `value`."""

    column: str
    wrong: Callable[[dict[str, Tensor], "RowReader"], Tensor]
    problem: str
    remedy: str


def _is_no_mask(column: str) -> Callable[[dict[str, Tensor], "RowReader"], Tensor]:
    return lambda batch, reader: (batch[column] != 0) & (batch[column] != 1)


def _is_another_token(batch: dict[str, Tensor], reader: "RowReader") -> Tensor:
    labels = batch["labels"]
    return (labels != IGNORED) & (labels != batch["input_ids"]) & attended(batch)


CHECKS = (
    Check(
        "input_ids",
        lambda batch, reader: batch["input_ids"] < 0,
        "{value} is no token",
        f"{IGNORED} belongs into labels, which say what is learned; padding takes a token, and 0 in attention_mask",
    ),
    Check(
        "input_ids",
        lambda batch, reader: batch["input_ids"] >= (reader.vocab_size or math.inf),
        "{value} is not in the model's vocabulary of {vocab_size}",
        "tokenize with the model's own tokenizer, or call model.resize_token_embeddings(len(tokenizer))",
    ),
    *(
        Check(
            column,
            _is_no_mask(column),
            "{value} is neither 0 nor 1",
            "a mask says of each token yes or no; nothing is to be added to attention scores here",
        )
        for column in MASKS
    ),
    Check(
        "labels",
        _is_another_token,
        "{value} is another token than input_ids have there",
        f"give clean input_ids, which the trainer masks by itself, and labels that equal them, unshifted, or {IGNORED}",
    ),
)
NOTHING_LEARNED = (
    "has no token to be learned, that is, attended, neither mask nor special token, and marked by all of "
    f"{', '.join(LEARNED)} that the row has. Remedy: drop the row (dataset.filter), or correct what marks its tokens; "
    "assistant_masks are all 0 where the chat template has no {% generation %}."
)


def attended(batch: dict[str, Tensor]) -> Tensor:
    """Where there is no padding, (B, L) bool."""
    if "attention_mask" in batch:
        return batch["attention_mask"] == 1
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)


def check_shapes(batch: dict[str, Tensor]) -> None:
    """Raise ValueError unless the columns of a batch are (B, L) as its input_ids are."""
    shapes = {name: tuple(value.shape) for name, value in batch.items()}
    if len(shapes.get("input_ids", ())) != 2 or len(set(shapes.values())) != 1:
        raise ValueError(f"The columns of a batch must have the shape (B, L) of its input_ids; got {shapes}.")


def described(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    return reprlib.repr(value.tolist() if isinstance(value, torch.Tensor | np.ndarray) else value)


def place(number: int, batch_size: int, row: Any) -> str:
    """What a row is called to the user, who has no number of it after shuffling: its place, and how it begins."""
    begins = row.get("input_ids") if isinstance(row, Mapping) else row
    return f"Row {number + 1} of {batch_size} in the batch (input_ids {described(begins)})"


@dataclass(frozen=True)
class RowReader:
    """Turns what rows say into what may be masked, and checks them against themselves.

    A token may be masked, and is learned then, if all of this holds:

    - it is no padding: its `attention_mask` is 1 or missing;
    - it is not the mask token, which says nothing of what was there;
    - each of `maskable`, `completion_mask`, `assistant_masks` (1) and `labels` (not -100) that its row has marks it;
    - where its row has none of these, it is no special token: as `special_tokens_mask` says, else none of
      `special_token_ids`, which a trainer sets to bos, cls, sep, pad and unk of its tokenizer. The eos is learned,
      since a model writes it to end a text, and so is a token that is the eos too, such as LLaDA's padding.

    Args:
        mask_token_id (`int`, *optional*): None where it is unknown.
        vocab_size (`int`, *optional*): How many tokens the model knows, where that is known.
        special_token_ids (`tuple[int, ...]`, *optional*, defaults to `()`): Not learned where a row says nothing.
        num_positions (`int`, *optional*): How many tokens a row may have, where something limits them.
    """

    mask_token_id: int | None = None
    vocab_size: int | None = None
    special_token_ids: tuple[int, ...] = ()
    num_positions: int | None = None

    def __call__(
        self, batch: Mapping[str, Any], silent: Tensor | None = None, cut: Tensor | None = None
    ) -> dict[str, Any]:
        """A batch with `input_ids` (B, L), `maskable` (B, L) bool and `attention_mask` (B, L) where one is given.

        Other columns than `COLUMNS` are kept.

        Args:
            batch (`Mapping[str, Any]`): Columns (B, L).
            silent (`torch.Tensor`, *optional*): (B,) bool, rows that do not say what is to be learned; all or none, as
                the columns tell, if not given.
            cut (`torch.Tensor`, *optional*): (B,) bool, rows of which the end is missing, so that they may have nothing
                to learn; none if not given.

        Raises:
            ValueError: naming the row, its first tokens, the value and the remedy.
        """
        if not isinstance(batch, Mapping):
            raise ValueError(
                f"A batch is a dict of columns, input_ids among them; the collator gave {described(batch)}."
            )
        others = {name: value for name, value in batch.items() if name not in COLUMNS}
        batch = {name: torch.as_tensor(batch[name]) for name in COLUMNS if batch.get(name) is not None}
        check_shapes(batch)
        input_ids = batch["input_ids"]
        self.check_width(batch)
        for check in CHECKS:
            if check.column in batch:
                self.refuse(check, batch)
        cut = torch.zeros(len(input_ids), dtype=torch.bool) if cut is None else cut
        if silent is None:
            silent = torch.full((len(input_ids),), LEARNED.keys().isdisjoint(batch))
        marked = torch.ones_like(input_ids, dtype=torch.bool)
        for column, is_learned in LEARNED.items():
            if column in batch:
                marked &= is_learned(batch[column])
        special = batch["special_tokens_mask"] == 1 if "special_tokens_mask" in batch else self.is_special(input_ids)
        maskable = marked & attended(batch) & ~(special & silent.to(input_ids.device)[:, None])
        if self.mask_token_id is not None:
            maskable &= input_ids != self.mask_token_id
        nothing = (~maskable.any(1) & ~cut.to(input_ids.device)).nonzero().flatten().tolist()
        if nothing:
            raise ValueError(
                f"{place(nothing[0], len(input_ids), {'input_ids': input_ids[nothing[0]]})} {NOTHING_LEARNED}"
            )
        kept = {"attention_mask": batch["attention_mask"].long()} if "attention_mask" in batch else {}
        return others | {"input_ids": input_ids, "maskable": maskable} | kept

    def check_width(self, batch: dict[str, Tensor]) -> None:
        """Raise ValueError if a row, or its padding, goes past the model's positions."""
        input_ids = batch["input_ids"]
        width = input_ids.shape[1]
        if self.num_positions is not None and width > self.num_positions:
            lengths = attended(batch).sum(1)
            row, length = int(lengths.argmax()), int(lengths.max())
            padded_to = "" if length == width else f", padded to {width}"
            raise ValueError(
                f"{place(row, len(input_ids), {'input_ids': input_ids[row]})} has {length} tokens{padded_to}, and the "
                f"model has positions for {self.num_positions}. Remedy: cut or split such rows, "
                f"tokenizer(..., truncation=True, max_length={self.num_positions}), and pad no further."
            )

    def refuse(self, check: Check, batch: dict[str, Tensor]) -> None:
        """Raise ValueError if a value of the batch is wrong."""
        wrong = check.wrong(batch, self).nonzero()
        if len(wrong):
            row, position = wrong[0].tolist()
            problem = check.problem.format(value=batch[check.column][row, position].item(), vocab_size=self.vocab_size)
            where = place(row, len(batch["input_ids"]), {"input_ids": batch["input_ids"][row]})
            raise ValueError(f"{where} cannot be read: {check.column}[{position}] {problem}. Remedy: {check.remedy}.")

    def is_special(self, input_ids: Tensor) -> Tensor:
        return torch.isin(input_ids, torch.tensor(self.special_token_ids, dtype=torch.long, device=input_ids.device))


def read_row(row: Any, where: str) -> dict[str, Tensor]:
    """The columns of a row that we read, as vectors of one length; a column that is None counts as missing.

    Raises ValueError, which begins with `where`, for a row that has no such columns.
    """
    if problem := row_problem(row):
        raise ValueError(f"{where} {problem}")
    columns = {name: torch.as_tensor(row[name]) for name in COLUMNS if row.get(name) is not None}
    return {name: value if value.is_floating_point() else value.long() for name, value in columns.items()}


def tell_unread(row: Mapping[str, Any], dataset: str) -> None:
    """Log which columns of a row look as if they said what is learned, and are not read."""
    length = len(row["input_ids"])
    others = {name: value for name, value in row.items() if name not in (*COLUMNS, "token_type_ids")}
    told = [name for name, value in others.items() if is_vector(value, whole=False) and len(value) == length]
    told += [name for name in others if name in ("prompt_length", "prompt_lengths")]
    if told:
        logger.warning(
            f"{dataset}: {', '.join(told)} are not read, so they keep nothing from being learned. What does are "
            f"{', '.join(LEARNED)} and attention_mask."
        )


def row_problem(row: Any) -> str | None:
    """What keeps a row from being read, and the remedy."""
    if not isinstance(row, Mapping):
        return f"is a {type(row).__name__}. Remedy: a row is a dict with input_ids."
    if row.get("input_ids") is None:
        others = ", ".join(map(str, row)) or "nothing"
        return (
            f"has no input_ids, only {others}. Remedy: tokenize first, dataset.map(lambda row: tokenizer(row[...])). "
            "The trainer itself tokenizes a datasets.Dataset without a transform, where formatting_func makes text of "
            "rows or they hold text (in args.dataset_text_field), messages, or prompt and completion."
        )
    columns = {name: row[name] for name in COLUMNS if row.get(name) is not None}
    wrong = [name for name, value in columns.items() if not is_vector(value, whole=name not in MASKS)]
    if wrong:
        expected = "0 and 1" if wrong[0] in MASKS else "whole numbers"
        return (
            f"has {wrong[0]} {described(columns[wrong[0]])}, which is no flat list of {expected}. Remedy: take a row "
            "out of a batch with ids[0], give ids as integers, and pad nothing with None."
        )
    length = len(columns["input_ids"])
    if length == 0:
        return "is empty. Remedy: drop such rows, dataset.filter(lambda row: len(row['input_ids']) > 0)."
    for name, value in columns.items():
        if len(value) != length:
            return f"has {len(value)} {name} and {length} input_ids. Remedy: cut or pad both alike, before training."
    return None


def is_vector(value: Any, whole: bool) -> bool:
    """Whether a value is a flat list, array or tensor of numbers, of integers if `whole`."""
    try:
        values = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    is_whole = not values.is_floating_point() and values.dtype != torch.bool
    return values.ndim == 1 and not values.is_complex() and (is_whole or not whole or len(values) == 0)
