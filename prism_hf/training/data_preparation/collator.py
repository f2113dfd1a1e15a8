"""Rows of one or of several lengths to a batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from ..packing import PACKED, packed_index
from .datasets import check_dataset, first_row
from .rows import IGNORED, LEARNED, LENGTHS, RowReader, attended, described, place, read_row, tell_unread

logger = logging.get_logger(__name__)


@dataclass
class MaskedDiffusionCollator:
    """Makes `input_ids` (B, L), `maskable` (B, L) bool and, where there is padding, `attention_mask` of rows.

    Each row is read for itself: `RowReader` says what its columns mean. Rows are lists, arrays or tensors. Shorter ones
    are padded on the right; padding is attended by nobody and never masked. A batch of one length has an
    `attention_mask` if a row has one.

    Of packed rows, whose documents have `seq_lengths`, each document becomes a row of the batch, and `packed` (P, L)
    says where it lies in the P rows that the model reads (`PackedRows`).

    Args:
        pad_token_id (`int`, *optional*): Fills shorter rows; without it, rows of different lengths raise ValueError.
        reader (`RowReader`, *optional*): Knows mask token, vocabulary and special tokens.
        learned_padding (`int`, *optional*): Fills shorter rows instead, as tokens that are attended and learned: the
            eos, so that a model ends a text anywhere in a longer canvas.
        max_length (`int`, *optional*): Rows are cut after so many tokens. One that has nothing left to learn counts
            nowhere.
        pad_to_multiple_of (`int`, *optional*, defaults to 1): The length of a batch is a multiple of it.
        max_target_length (`int`, *optional*): Of the tokens that a row has to learn, so many are learned, the first.

    Raises:
        ValueError: for a row that contradicts itself or from which nothing can be learned.

    Example:
        ```python
        collator = MaskedDiffusionCollator(pad_token_id=0)
        batch = collator([{"input_ids": [5, 6, 7]}, {"input_ids": [5, 6], "labels": [-100, 6]}])
        ```
    """

    pad_token_id: int | None = None
    reader: RowReader = field(default_factory=RowReader)
    learned_padding: int | None = None
    max_length: int | None = None
    pad_to_multiple_of: int = 1
    max_target_length: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        rows = [read_row(row, place(number, len(examples), row)) for number, row in enumerate(examples)]
        if any(row.get(LENGTHS) is not None for row in examples):
            return self.unpacked(rows, [row.get(LENGTHS) for row in examples])
        cut = torch.tensor([self.max_length is not None and len(row["input_ids"]) > self.max_length for row in rows])
        if cut.any():
            logger.warning_once(f"Rows are cut after max_length={self.max_length} tokens.")
            rows = [{name: value[: self.max_length] for name, value in row.items()} for row in rows]
        lengths = [len(row["input_ids"]) for row in rows]
        length = -(-max(lengths) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        if self.learned_padding is not None:
            rows = [self.filled_up(row, length) for row in rows]
        elif min(lengths) < length and self.pad_token_id is None:
            raise ValueError(
                f"Examples of {min(lengths)} to {length} tokens need padding, and the pad token is unknown: pass "
                "a processing_class with a pad_token."
            )
        return self.stacked(rows, length, cut)

    def unpacked(self, rows: list[dict[str, Tensor]], lengths: list[Any]) -> dict[str, Tensor]:
        """The documents of packed rows, one a row, and how they are packed; `lengths` are None where a row is one."""
        if self.learned_padding is not None:
            raise ValueError("Packed rows are not filled up: leave out learn_padding, or packing.")
        sizes = [document_lengths(row, given) for row, given in zip(rows, lengths, strict=True)]
        documents = [document for row, each in zip(rows, sizes, strict=True) for document in documents_of(row, each)]
        width = max(map(max, sizes))
        batch = self.stacked(documents, width, torch.ones(len(documents), dtype=torch.bool))
        index = packed_index(sizes, width, self.pad_to_multiple_of)
        return batch | {PACKED: index.masked_fill(~attended(batch).flatten()[index], -1)}

    def stacked(self, rows: list[dict[str, Tensor]], length: int, cut: Tensor) -> dict[str, Tensor]:
        """The batch of rows, padded to a length; of those that are `cut`, (B,) bool, nothing need be learned."""
        uneven = any(len(row["input_ids"]) < length for row in rows)
        present = {name for row in rows for name in row} | ({"attention_mask"} if uneven else set())
        padding = dict.fromkeys(present, 0) | {"input_ids": self.pad_token_id or 0, "labels": IGNORED}
        complete = [self.completed(row, present) for row in rows]
        batch = {name: _padded([row[name] for row in complete], length, padding[name]) for name in sorted(present)}
        batch = self.reader(batch, torch.tensor([LEARNED.keys().isdisjoint(row) for row in rows]), cut)
        if self.max_target_length is not None:
            batch["maskable"] &= batch["maskable"].cumsum(dim=1) <= self.max_target_length
        return batch

    def check(self, dataset: Any, name: str) -> None:
        """Raise ValueError if the first row of a dataset, or else its columns, cannot be collated.

        Columns that speak of single tokens and are not read are told in a warning.

        Of a stream only the columns are looked at, where it knows them.
        """
        row = first_row(dataset)
        columns = None if row is not None else getattr(dataset, "column_names", None)
        try:
            if row is not None:
                self([row])
                tell_unread(row, name)
            elif columns is not None:
                read_row(dict.fromkeys(columns, [0]), "A row")
        except ValueError as error:
            raise ValueError(f"{name} cannot be trained on. {error}") from None

    def filled_up(self, row: dict[str, Tensor], length: int) -> dict[str, Tensor]:
        """The row with `learned_padding` behind it, marked as the row marks what is learned."""
        fill = {"input_ids": self.learned_padding, "labels": self.learned_padding, "special_tokens_mask": 0}
        size = length - len(row["input_ids"])
        return {name: torch.cat([value, value.new_full((size,), fill.get(name, 1))]) for name, value in row.items()}

    def completed(self, row: dict[str, Tensor], columns: set[str]) -> dict[str, Tensor]:
        """The row with all of the columns; one that it did not have keeps nothing from being learned."""
        input_ids = row["input_ids"]
        says_nothing = {"labels": input_ids, "special_tokens_mask": self.reader.is_special(input_ids).long()}
        return {name: torch.ones_like(input_ids) for name in columns} | says_nothing | row


def document_lengths(row: dict[str, Tensor], given: Any) -> list[int]:
    """The lengths of the documents in a row. Raises ValueError where they are not those of its tokens."""
    size = len(row["input_ids"])
    lengths = [size] if given is None else [int(length) for length in given]
    if sum(lengths) != size or min(lengths) < 1:
        raise ValueError(f"A packed row of {size} tokens has {LENGTHS} {described(lengths)}, which sum up to another.")
    return lengths


def documents_of(row: dict[str, Tensor], lengths: list[int]) -> list[dict[str, Tensor]]:
    """The documents of a packed row."""
    parts = {name: value.split(lengths) for name, value in row.items()}
    return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]


def _padded(rows: list[Tensor], length: int, value: int) -> Tensor:
    return torch.stack([torch.nn.functional.pad(row, (0, length - len(row)), value=value) for row in rows])


@dataclass
class ReadCollator:
    """Another collator, whose batches are then read as those of `MaskedDiffusionCollator` are."""

    collator: Callable[[list[Any]], dict[str, Any]]
    reader: RowReader

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        batch = self.collator(examples)
        is_packed = isinstance(batch, dict) and PACKED in batch
        return self.reader(batch, cut=torch.ones(len(batch["input_ids"]), dtype=torch.bool) if is_packed else None)

    @property
    def tokenizer(self) -> Any:
        """The collator's tokenizer, which `Trainer` saves where there is no processing_class."""
        return getattr(self.collator, "tokenizer", None)


def checked_collator(
    given: Callable | None, ours: MaskedDiffusionCollator, datasets: dict[str, Any]
) -> MaskedDiffusionCollator | ReadCollator:
    """The collator of a trainer, `given` or ours. Raises ValueError for datasets that it could not read.

    A collator of the user's own alone knows its rows. The datasets are by what they are called to the user.
    """
    for name, dataset in datasets.items():
        check_dataset(dataset, name)
    if given is not None:
        return ReadCollator(given, ours.reader)
    for name, dataset in datasets.items():
        ours.check(dataset, name)
    return ours
