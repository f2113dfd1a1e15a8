"""Documents of text from the Hub or from files, and the part of them that is held out."""

from pathlib import Path
from typing import Any, cast

from datasets import Dataset, IterableDataset

from prism_hf._compat import gives_all_rows
from prism_hf.data.files import DocumentUnit
from prism_hf.data.loading import Rows, columns_of, load_rows
from prism_hf.data.splits import is_held_out, is_trained_on
from prism_hf.fields import NotNegative, Positive, Seed, check_arguments


def load_text(
    path: str | Path,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    column: str = "text",
    sample_by: DocumentUnit = "paragraph",
) -> Rows:
    """Documents, as rows of one column `text`.

    Args:
        path (`str | Path`): A text, JSONL, JSON or Parquet file, perhaps compressed, a folder of such files, or a
            dataset's name on the Hub.
        name (`str`, *optional*): The configuration, where the dataset has several.
        split (`str`, *optional*, defaults to `"train"`): Of the dataset.
        streaming (`bool`, *optional*, defaults to `False`): Read the documents as a stream, of which nothing is kept.
        column (`str`, *optional*, defaults to `"text"`): Where the text is.
        sample_by (`str`, *optional*, defaults to `"paragraph"`): What a document of a text file is: what stands between
            blank lines, a line, or the whole file.

    Raises:
        ValueError: if nothing readable is there, it has no rows, or no such column.

    Example:
        ```python
        documents = load_text("prose.jsonl", streaming=True)
        ```
    """
    check_arguments(load_text, locals())
    rows = load_rows(path, name, split, streaming, sample_by)
    columns = columns_of(rows, path)
    if column not in columns:
        raise ValueError(f"{path} has no column {column!r}, only {', '.join(columns)}: name the one that holds text.")
    rows = rows.select_columns([column])
    return rows if column == "text" else rows.rename_column(column, "text")


def split_text(
    rows: Rows, held_out: NotNegative = 0.05, seed: Seed = 0, num_proc: Positive | None = None
) -> tuple[Rows, Rows | None]:
    """Documents to train on and documents held out.

    Args:
        rows (`Dataset | IterableDataset`): With a column `text`.
        held_out (`float`, *optional*, defaults to 0.05): A share below 1 is chosen by a hash of the text, so
            that equal texts stay together. A whole number is so many of the last documents: 100,000 of OpenWebText's
            for MDLM, ReMDM and PRISM. With 0, nothing is, and the second is None.
        seed (`int`, *optional*, defaults to 0): Of the hash.
        num_proc (`int`, *optional*): Processes that choose, not of a stream.

    Raises:
        ValueError: if `held_out` is neither a share nor a number, or the last documents are asked for of fewer, or of a
            stream that does not know how many it has.

    Example:
        ```python
        train, held_out = split_text(load_text("prose.jsonl"), held_out=0.1)
        ```
    """
    check_arguments(split_text, locals())
    if held_out == 0:
        return rows, None
    if held_out >= 1:
        if held_out % 1:
            raise ValueError(f"held_out={held_out} must be a share below 1, or a whole number of documents.")
        return _split_last(rows, int(held_out))
    kwargs: dict[str, Any] = {"input_columns": "text", "fn_kwargs": {"share": held_out, "seed": seed}}
    if isinstance(rows, Dataset):
        kwargs |= {"num_proc": num_proc, "desc": "Splitting"}
    return rows.filter(is_trained_on, **kwargs), rows.filter(is_held_out, **kwargs)


def _split_last(rows: Rows, number: int) -> tuple[Rows, Rows]:
    total = len(rows) if isinstance(rows, Dataset) else _known_length(rows)
    if total is None:
        raise ValueError(
            f"held_out={number}: the stream does not say how many documents it has, so nobody knows the last ones. "
            "Give a share below 1, or streaming=False."
        )
    if number >= total:
        raise ValueError(f"held_out={number} of {total} documents leaves none to train on; give less.")
    if isinstance(rows, Dataset):
        return rows.select(range(total - number)), rows.select(range(total - number, total))
    return rows.take(total - number), rows.skip(total - number)


def _known_length(rows: IterableDataset) -> int | None:
    if not gives_all_rows(rows):  # what is told of the split is of more, or of fewer
        return None
    split = (rows.info.splits or {}).get(str(rows.split))
    return cast("int | None", split and split.num_examples)
