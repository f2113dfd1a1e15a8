"""Rows of instructions and code, from the Hub or from files."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from prism_hf.data.files import check_utf8
from prism_hf.data.splits import is_held_out, is_trained_on
from prism_hf.fields import Seed, Share, check_arguments, did_you_mean

Rows: TypeAlias = Dataset | IterableDataset

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_code(
    path: str | Path,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    rename_columns: dict[str, str] | None = None,
) -> Rows:
    """Rows with `instruction`, `code` and perhaps `entry_point`, as they are.

    Args:
        path (`str | Path`): A JSON, JSONL or Parquet file, a folder of such files, or a dataset's name on the Hub.
        name (`str`, *optional*): The configuration, where the dataset has several.
        split (`str`, *optional*, defaults to `"train"`): Of the dataset.
        streaming (`bool`, *optional*, defaults to `False`): Read the rows as a stream.
        rename_columns (`dict[str, str]`, *optional*): From the names in the data to those above.

    Raises:
        ValueError: if nothing readable is there, it has no rows, or a column is missing.

    Example:
        ```python
        rows = load_code("functions.jsonl", rename_columns={"prompt": "instruction", "completion": "code"})
        ```
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
            _check_hub_name(path, local)
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


def split_code(rows: Rows, held_out: Share = 0.05, seed: Seed = 0) -> tuple[Rows, Rows | None]:
    """Rows to train on and rows held out, by a hash of the instruction, so that equal instructions stay together.

    Args:
        rows (`Dataset | IterableDataset`): With a column `instruction`.
        held_out (`float`, *optional*, defaults to 0.05): About this share is held out; with 0 nothing is, and the
            second is None.
        seed (`int`, *optional*, defaults to 0): Of the hash.

    Example:
        ```python
        to_learn, held_out = split_code(load_code("functions.jsonl"), held_out=0.05)
        ```
    """
    check_arguments(split_code, locals())
    if held_out == 0:
        return rows, None
    kwargs: dict[str, Any] = {"input_columns": "instruction", "fn_kwargs": {"share": held_out, "seed": seed}}
    return rows.filter(is_trained_on, **kwargs), rows.filter(is_held_out, **kwargs)


def columns_of(rows: Rows, label: str | Path) -> list[str]:
    """The names of the columns; a stream may know them from its first row only."""
    columns = rows.column_names or list(next(iter(rows), {}))
    if not columns or (isinstance(rows, Dataset) and len(rows) == 0):
        raise ValueError(f"{label}: there are no rows; give more data.")
    return columns


def _check_hub_name(path: str | Path, local: Path) -> None:
    """A path that is not there, and cannot be meant as a name on the Hub, is a mistake to report at once."""
    if local.exists() or (local.suffix not in BUILDERS and re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(path))):
        return
    siblings = local.parent.iterdir() if local.parent.is_dir() else []
    raise ValueError(f"There is no file or folder {path}.{did_you_mean(local, siblings)}")


def check_column(path: str | Path, column: str, columns: list[str]) -> None:
    """Raise ValueError, with the nearest one, if there is no such column."""
    if column not in columns:
        nearest = get_close_matches(column, columns, n=1) or [columns[0]]
        raise ValueError(
            f"{path} has no column {column!r}, only {', '.join(columns)}; map another one to it, as in "
            f"rename_columns={{{nearest[0]!r}: {column!r}}}."
        )
