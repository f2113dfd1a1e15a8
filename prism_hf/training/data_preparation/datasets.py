"""Datasets as a trainer is given them: what they are called, and whether they can be trained on at all."""

from collections.abc import Mapping
from typing import Any

from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import IterableDataset, Subset
from transformers.trainer_utils import has_length

from .loader_rows import FilledStream
from .rows import LENGTHS

# Names that tell a reader nothing: of what `datasets` read from local files or made in memory, and of Python's types.
UNNAMED_DATASETS = (None, "csv", "json", "parquet", "text", "arrow", "generator", "list", "Dataset", "TensorDataset")


def dataset_name(dataset: Any) -> str | None:
    """What a reader calls the dataset, as far as it tells: `datasets`' name for it, or its class."""
    info = getattr(dataset, "info", None)
    name = type(dataset).__name__ if info is None else info.dataset_name
    return None if dataset is None or name in UNNAMED_DATASETS else name


def named_datasets(train_dataset: Any, eval_dataset: Any) -> dict[str, Any]:
    """The datasets of a trainer, of which evaluation may have several, by what they are called to the user."""
    several = eval_dataset if isinstance(eval_dataset, Mapping) else {}
    named = {f"eval_dataset[{name!r}]": dataset for name, dataset in several.items()} or {"eval_dataset": eval_dataset}
    return {"train_dataset": train_dataset} | named


def is_computed(dataset: Any) -> bool:
    """Whether the rows of one of `datasets` are computed when they are read, with `with_transform`."""
    import datasets

    return isinstance(dataset, datasets.Dataset) and dataset.format["type"] == "custom"


def check_dataset(dataset: Any, name: str) -> None:
    """Raise ValueError for a dataset without rows, and for what gives rows neither by number nor as a stream."""
    if dataset is None or isinstance(dataset, IterableDataset):
        return
    if has_length(dataset) and len(dataset) == 0:
        raise ValueError(f"{name} is empty: give it rows, or leave it out.")
    try:
        dataset[0]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{name} is a {type(dataset).__name__}, which gives no row by its number: {error}. Remedy: "
            "datasets.Dataset.from_list, from_dict, from_pandas or from_generator; of a DatasetDict, one of its splits."
        ) from error


def num_documents(dataset: Any) -> int | None:
    """How many rows a dataset has, those packed counted one by one; None of a stream."""
    if isinstance(dataset, IterableDataset):
        return None
    if not isinstance(first := first_row(dataset), Mapping) or first.get(LENGTHS) is None:
        return len(dataset)
    import datasets

    rows = dataset.select_columns(LENGTHS) if isinstance(dataset, datasets.Dataset) else dataset  # not all the tokens
    return sum(len(row[LENGTHS]) for row in rows)


def first_row(dataset: Any) -> Any | None:
    """The first row of a dataset, where it has a length and looking at it consumes nothing."""
    is_stream = dataset is None or isinstance(dataset, IterableDataset) or not has_length(dataset)
    return None if is_stream or len(dataset) == 0 else dataset[0]


def first_rows(dataset: Any, number: int) -> Any:
    """The first rows of a dataset as a loader holds it.

    Raises ValueError for a stream that is none of `datasets`: nobody knows how its workers share it.
    """
    import datasets

    while isinstance(dataset, IterableDatasetShard | FilledStream):
        dataset = dataset.dataset
    if isinstance(dataset, datasets.Dataset):
        return dataset.select(range(min(number, len(dataset))))
    if not isinstance(dataset, IterableDataset):
        return Subset(dataset, range(min(number, len(dataset))))
    if not isinstance(dataset, datasets.IterableDataset):
        raise ValueError(
            f"num_eval_generations={number} cannot be taken of a {type(dataset).__name__}: give a dataset with a "
            "length or a datasets.IterableDataset, or leave it out."
        )
    return dataset.take(number)


def row_length(dataset: Any) -> int | None:
    """Tokens in the first row, where looking at it does not consume it and it has been tokenized."""
    row = first_row(dataset)
    return len(row["input_ids"]) if isinstance(row, Mapping) and "input_ids" in row else None
