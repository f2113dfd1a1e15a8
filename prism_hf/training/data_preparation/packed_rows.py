"""Rows of tokens, packed by TRL: several documents to a row, whose lengths are in its `seq_lengths`."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset, IterableDataset
from trl.data_utils import pack_dataset

from .datasets import is_computed
from .rows import COLUMNS, LENGTHS


def pack_rows(dataset: Any, name: str, max_length: int, strategy: str, num_proc: int | None) -> Any:
    """The rows of a dataset packed to rows of up to `max_length` tokens, with the `seq_lengths` of their documents.

    Rows that have `seq_lengths` stay as they are. `"wrapped"` gives rows of one document, a piece of all of them.

    Args:
        dataset (`Dataset`, `IterableDataset` or `list`): Rows of tokens.
        name (`str`): What the dataset is called to the user.
        max_length (`int`): Tokens of a packed row.
        strategy (`str`): Of `trl.pack_dataset`.
        num_proc (`int`, *optional*): Processes that do it; a stream is packed by its own.

    Raises:
        ValueError: for a dataset of another class.
    """
    if isinstance(dataset, list):
        dataset = Dataset.from_list(dataset)
    if not isinstance(dataset, Dataset | IterableDataset) or is_computed(dataset):
        raise ValueError(
            f"packing=True needs a datasets.Dataset without a transform, got {type(dataset).__name__}: make one with "
            "Dataset.from_generator, or leave out packing."
        )
    row = next(iter(dataset), None)
    if not isinstance(row, Mapping) or row.get("input_ids") is None or row.get(LENGTHS) is not None:
        return dataset  # packed already, or else it is told what is wrong with it
    columns = [column for column in COLUMNS if row.get(column) is not None]
    is_stream = isinstance(dataset, IterableDataset)
    settings = {} if is_stream else {"num_proc": num_proc, "desc": f"Packing {name}"}
    packed = pack_dataset(dataset.with_format(None).select_columns(columns), max_length, strategy, settings)
    return packed.map(_one_document, **settings) if strategy == "wrapped" else packed


def _one_document(row: Mapping[str, Any]) -> dict[str, list[int]]:
    return {LENGTHS: [len(row["input_ids"])]}
