"""Rows of a dataset: of files, or from the Hub."""

import re
from pathlib import Path
from typing import TypeAlias

import pyarrow
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from prism_hf.fields import did_you_mean

from .files import check_utf8

Rows: TypeAlias = Dataset | IterableDataset

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_rows(path: str | Path, name: str | None = None, split: str = "train", streaming: bool = False) -> Rows:
    """The rows of a split of a dataset, as they are.

    Args:
        path (`str | Path`): A JSON, JSONL or Parquet file, a folder of such files, or a dataset's name on the Hub.
        name (`str`, *optional*): The configuration, where the dataset has several.
        split (`str`, *optional*, defaults to `"train"`): Of the dataset; a part of one too, such as `"train[:5%]"`.
        streaming (`bool`, *optional*, defaults to `False`): Read the rows as a stream.

    Raises:
        ValueError: if nothing readable is there, there is no such split, or it has no rows.

    Example:
        ```python
        rows = load_rows("conversations.jsonl")
        trainer = PrismTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        ```
    """
    local = Path(path).expanduser()
    _check_place(path, local)
    try:
        if local.is_file():
            rows = load_dataset(BUILDERS[local.suffix], data_files=str(local), split=split, streaming=streaming)
        else:
            rows = load_dataset(str(local), name, split=split, streaming=streaming)
        columns = rows.column_names or list(next(iter(rows)))
    except StopIteration as error:
        raise ValueError(f"{path}: there are no rows; give more data.") from error
    except (DatasetGenerationError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    except OSError as error:
        raise ValueError(f"{path} is neither a file or folder with data nor to be had from the Hub: {error}") from error
    except ValueError as error:  # of a split or a configuration
        raise ValueError(f"{path}: {error}") from error
    if not columns or (isinstance(rows, Dataset) and len(rows) == 0):
        raise ValueError(f"{path}: there are no rows; give more data.")
    return rows


def _check_place(path: str | Path, local: Path) -> None:
    """Raise ValueError for a file of another kind, and for a path that is not there and no name on the Hub."""
    if local.is_file():
        if local.suffix not in BUILDERS:
            raise ValueError(f"{path} is no {', '.join(BUILDERS)} file; convert it, or give its folder.")
        if BUILDERS[local.suffix] == "json":
            check_utf8(local)
    elif not local.exists() and (
        local.suffix in BUILDERS or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(path))
    ):
        siblings = local.parent.iterdir() if local.parent.is_dir() else []
        raise ValueError(f"There is no file or folder {path}.{did_you_mean(local, siblings)}")
