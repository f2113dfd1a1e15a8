"""Rows of instructions and code, from the Hub or from files."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prism_hf.data.loading import Rows, columns_of, load_rows
from prism_hf.data.splits import is_held_out, is_trained_on
from prism_hf.fields import Seed, Share, check_arguments


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
    rows = load_rows(path, name, split, streaming)
    columns = columns_of(rows, path)
    for old, new in (rename_columns or {}).items():
        check_column(path, old, columns)
        rows = rows.rename_column(old, new)
        columns[columns.index(old)] = new
    columns = check_code_columns(rows, path)
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


def check_code_columns(rows: Rows, label: str | Path) -> list[str]:
    """The names of the columns. Raises ValueError where one is missing."""
    columns = columns_of(rows, label)
    for column in ("instruction", "code"):
        check_column(label, column, columns)
    return columns


def check_column(path: str | Path, column: str, columns: list[str]) -> None:
    """Raise ValueError, with the nearest one, if there is no such column."""
    if column not in columns:
        nearest = get_close_matches(column, columns, n=1) or [columns[0]]
        raise ValueError(
            f"{path} has no column {column!r}, only {', '.join(columns)}; map another one to it, as in "
            f"rename_columns={{{nearest[0]!r}: {column!r}}}."
        )
