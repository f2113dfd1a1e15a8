"""Rows of a dataset: of files, or from the Hub."""

import re
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow
from datasets import Dataset, IterableDataset, load_dataset
from datasets.exceptions import DatasetGenerationError

from prism_hf.fields import did_you_mean

from .files import check_utf8

Rows: TypeAlias = Dataset | IterableDataset

BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}
TEXT = {".txt": "text"}
COMPRESSED = {".gz", ".bz2", ".xz", ".zst"}


def load_rows(
    path: str | Path,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    sample_by: str | None = None,
) -> Rows:
    """The rows of a split of a dataset, as they are.

    Args:
        path (`str | Path`): A JSON, JSONL or Parquet file, perhaps compressed, a folder of such files, or a dataset's
            name on the Hub.
        name (`str`, *optional*): The configuration, where the dataset has several.
        split (`str`, *optional*, defaults to `"train"`): Of the dataset; a part of one too, such as `"train[:5%]"`.
        streaming (`bool`, *optional*, defaults to `False`): Read the rows as a stream.
        sample_by (`str`, *optional*): Read files of plain text too, of which a row is a `"paragraph"`, a `"line"`, or
            the whole `"document"`.

    Raises:
        ValueError: if nothing readable is there, there is no such split, or it has no rows.

    Example:
        ```python
        rows = load_rows("conversations.jsonl")
        trainer = PrismTrainer(model, args, train_dataset=rows, processing_class=tokenizer)
        ```
    """
    local = Path(path).expanduser()
    source = _source(path, local, name, sample_by)
    try:
        rows = load_dataset(**source, split=split, streaming=streaming)
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


def columns_of(rows: Rows, label: str | Path) -> list[str]:
    """The names of the columns; a stream may know them from its first row only."""
    columns = rows.column_names or list(next(iter(rows), {}))
    if not columns or (isinstance(rows, Dataset) and len(rows) == 0):
        raise ValueError(f"{label}: there are no rows; give more data.")
    return columns


def _source(path: str | Path, local: Path, name: str | None, sample_by: str | None) -> dict[str, Any]:
    """What `load_dataset` takes. Raises ValueError for a file of another kind, and for a path that is nowhere."""
    builders = BUILDERS if sample_by is None else BUILDERS | TEXT
    if local.is_file():
        suffix = Path(local.stem).suffix if local.suffix in COMPRESSED else local.suffix
        if suffix not in builders:
            raise ValueError(f"{path} is no {', '.join(builders)} file; convert it, or give its folder.")
        if suffix in BUILDERS:
            if BUILDERS[suffix] == "json" and suffix == local.suffix:
                check_utf8(local)
            return {"path": BUILDERS[suffix], "data_files": str(local)}
        return {"path": "text", "data_files": str(local), "sample_by": sample_by}
    if not local.exists() and (
        local.suffix in builders or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(path))
    ):
        siblings = local.parent.iterdir() if local.parent.is_dir() else []
        raise ValueError(f"There is no file or folder {path}.{did_you_mean(local, siblings)}")
    if sample_by is not None and (files := _text_files(local)):
        return {"path": "text", "data_files": files, "sample_by": sample_by}
    return {"path": str(local), "name": name}


def _text_files(folder: Path) -> list[str]:
    """The text files under a folder that has no other data, beside which text is a README."""
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    if any(path.suffix in BUILDERS for path in files):
        return []
    return [str(path) for path in files if path.suffix in TEXT]
