"""Lines and files that are on the disk whole or not at all.

What a full disk took of a line is taken back, and an error is raised; a line that a killed process left without its end
is none, and goes with the next.
"""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from prism_hf.data.files import read_object

CHUNK = 1 << 16  # bytes read at a time from a file's end


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a JSONL file, safe on the disk, or leave the file's whole lines as they were and raise.

    A last line that a killed process left without its end goes.
    """
    line = memoryview((to_json(row) + "\n").encode())
    is_new = not path.exists()
    # Unbuffered, so that what a write could not take is known here and not when the file is closed.
    with open(path, "ab+", buffering=0) as file:
        end = _cut_torn_line(file)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            error.filename = str(path)
            raise
    if is_new:
        _sync_folder(path.parent)


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none if it is not there; a last line without its end is none.

    Raises:
        ValueError: with the number of the line, where another one is no row.
    """
    if not path.exists():
        return []
    *whole, _ = path.read_bytes().split(b"\n")
    return [read_written(line, f"{path}, line {number},") for number, line in enumerate(whole, start=1)]


def read_written(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object that we wrote. Raises ValueError, with a remedy, if it has been damaged."""
    try:
        return read_object(text, where)
    except ValueError as error:
        raise ValueError(f"{error} It has been damaged: delete it, and what it held is computed again.") from error


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file that is there, safe on the disk, with all its lines or not at all."""
    staged = path.with_name(path.name + ".writing")
    try:
        with open(staged, "w", encoding="utf-8", newline="\n") as file:
            file.writelines(line + "\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        staged.unlink(missing_ok=True)
        error.filename = str(path)
        raise
    os.replace(staged, path)
    _sync_folder(path.parent)


def to_json(value: Any, **kwargs: Any) -> str:
    """A value as JSON, which has no NaN and no infinity: null stands for them. kwargs: to `json.dumps`."""
    try:
        return json.dumps(value, allow_nan=False, **kwargs)
    except ValueError:
        return json.dumps(_without_nan(value), allow_nan=False, **kwargs)


def _without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _without_nan(each) for name, each in value.items()}
    return [_without_nan(each) for each in value] if isinstance(value, list | tuple) else value


def _cut_torn_line(file: BinaryIO) -> int:
    """Remove what follows the last end of a line; the size that is left."""
    end = size = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - CHUNK)
        file.seek(start)
        last = file.read(end - start).rfind(b"\n")
        end = start + last + 1
        if last >= 0:
            break
    if end < size:
        file.truncate(end)
    return end


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are safe on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
