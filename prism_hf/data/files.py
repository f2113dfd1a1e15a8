"""Files that people give: what they hold, or an error that names the file, the line and the remedy."""

import gzip
import json
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from prism_hf.fields import check_value

DocumentUnit = Literal["paragraph", "line", "document"]  # of a plain text file


def existing_file(path: str | Path) -> Path:
    """The path, expanded. Raises ValueError, with the nearest name in its folder, if no file is there."""
    check_value("path", path, str)
    path = Path(path).expanduser()
    if path.is_file():
        return path
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    raise ValueError(f"There is no file {path}.{f' Did you mean {path.parent / near[0]}?' if near else ''}")


def read_bytes(path: str | Path) -> bytes:
    """What a file holds, decompressed if it is gzipped. Raises ValueError, with its name, where it cannot be read."""
    data = existing_file(path).read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is gzipped and damaged: {error}.") from error


def text_lines(data: bytes, name: str) -> dict[int, str]:
    """The lines of UTF-8 text that are not blank, by number. Raises ValueError, with its name, if it is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text: {error}. Save it as UTF-8.") from error
    # Not splitlines: it would cut at separators that JSON strings may hold, such as U+2028.
    return {number: line.removesuffix("\r") for number, line in enumerate(text.split("\n"), start=1) if line.strip()}


def check_utf8(path: str | Path) -> None:
    """Raise ValueError, with the number of the line, if a file is no UTF-8 text."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{path}, line {number} is no UTF-8 text ({error.reason}); save the file as UTF-8."
                ) from error


def read_object(line: str | bytes, where: str, promised: str = "", holding: str = "") -> dict[str, Any]:
    """The JSON object of a line. Raises ValueError if it is none; `promised` and `holding` are words of its message."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON{promised}: {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object{holding}, got {line[:80]!r}.")
    return row
