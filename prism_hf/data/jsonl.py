"""Prompts from a file or a pipe, and rows that many processes write and a killed run leaves usable."""

import gzip
import json
import math
import os
import re
import sys
import zlib
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO

from prism_hf.fields import check_value

SHARD = ".shard-"
CHUNK = 1 << 16  # bytes read at a time from a file's end


def read_prompts(path: str | Path | None = None) -> list[dict[str, Any]]:
    """Rows with a `prompt` and whatever else they hold, one from each line that is not blank.

    Lines are JSON objects where the file ends in .jsonl or .json, or where its first line is one; else each line is the
    text of a prompt.

    Args:
        path: of a UTF-8 file; standard input if None.

    Raises:
        ValueError: with the number of the line, where one is no such row or its prompt is empty; where there are none.
    """
    if path is None:
        name, data = "standard input", sys.stdin.buffer.read()
    else:
        name, data = str(path), read_bytes(path)
    lines = text_lines(data, name)
    if not lines:
        raise ValueError(f"{name} has no prompts: give one a line, as text or as JSON with a field 'prompt'.")
    as_json = name.endswith((".jsonl", ".json")) or is_object(next(iter(lines.values())))
    if not as_json:
        return [{"prompt": line} for line in lines.values()]
    return [read_row(line, f"{name}, line {number}") for number, line in lines.items()]


def text_lines(data: bytes, name: str) -> dict[int, str]:
    """The lines of UTF-8 text that are not blank, by number. Raises ValueError, with its name, if it is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is no UTF-8 text: {error}. Save it as UTF-8.") from error
    # Not splitlines: it would cut at separators that JSON strings may hold, such as U+2028.
    return {number: line.removesuffix("\r") for number, line in enumerate(text.split("\n"), start=1) if line.strip()}


def read_bytes(path: str | Path) -> bytes:
    """What a file holds, decompressed if it is gzipped. Raises ValueError, with its name, where it cannot be read."""
    data = existing_file(path).read_bytes()
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is gzipped and damaged: {error}.") from error


def existing_file(path: str | Path) -> Path:
    """The path, expanded. Raises ValueError, with the nearest name in its folder, if no file is there."""
    check_value("path", path, str)
    path = Path(path).expanduser()
    if path.is_file():
        return path
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    raise ValueError(f"There is no file {path}.{f' Did you mean {path.parent / near[0]}?' if near else ''}")


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


def is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def read_object(line: str | bytes, where: str, promised: str = "", holding: str = "") -> dict[str, Any]:
    """The JSON object of a line. Raises ValueError if it is none; `promised` and `holding` are words of its message."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON{promised}: {error}.") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where} must be a JSON object{holding}, got {line[:80]!r}.")
    return row


def read_row(line: str, where: str) -> dict[str, Any]:
    row = read_object(line, where, ", as the file's name or first line promises", " with a field 'prompt'")
    if "prompt" not in row:
        near = get_close_matches("prompt", row, n=1)
        hint = f" Rename {near[0]!r}." if near else ""
        raise ValueError(f"{where} has no field 'prompt', only {', '.join(map(repr, row)) or 'none'}.{hint}")
    if not isinstance(row["prompt"], str) or not row["prompt"].strip():
        raise ValueError(f"{where}: the prompt must be text that is not empty, got {row['prompt']!r}.")
    return row


def begin_output(path: str | Path, settings: dict[str, Any]) -> bool:
    """Keep what an output depends on beside it, in `<path>.settings.json`; whether the output is there already.

    Raises:
        ValueError: if an output, finished or not, of other settings is there, or what is there is not known to be one.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file for the output.")
    record = path.with_name(path.name + ".settings.json")
    settings = json.loads(json.dumps(settings, default=repr))
    if record.exists():
        earlier = read_written(record.read_bytes(), str(record))
        changed = sorted(name for name in {*earlier, *settings} if earlier.get(name) != settings.get(name))
        if changed:
            shown = ", ".join(f"{name}={earlier.get(name)!r}, now {settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"{path} was begun with other settings ({shown}): name another file, or delete {record.name} and "
                f"{path.name}*."
            )
    elif path.exists() or shard_paths(path):
        raise ValueError(f"{path}* exists and was not begun by this command: delete it, or name another file.")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(record, [json.dumps(settings, indent=2)])
    return path.exists()


def shard_path(path: str | Path, process_index: int) -> Path:
    """Where a process keeps what it has done of an output that is not finished."""
    path = Path(path)
    return path.with_name(f"{path.name}{SHARD}{process_index:05d}")


def shard_paths(path: str | Path) -> list[Path]:
    """All shards of an output, from however many processes."""
    path = Path(path)
    pattern = re.compile(re.escape(path.name + SHARD) + r"\d+")
    return sorted(each for each in path.parent.glob("*") if pattern.fullmatch(each.name))


def append_part(shard: Path, index: int, rows: list[dict[str, Any]]) -> None:
    """Add the rows of part `index` to a shard, as one line, so that a part is there as a whole or not at all."""
    append_line(shard, {"part": index, "rows": rows})


def append_line(path: Path, row: dict[str, Any]) -> None:
    """Add a row to a JSONL file, safe on the disk, or leave the file's whole lines as they were and raise.

    A last line that a killed process left without its end goes.
    """
    line = memoryview((to_json(row) + "\n").encode())
    is_new = not path.exists()
    # Unbuffered, so that what a write could not take is known here and not when the file is closed.
    with open(path, "ab+", buffering=0) as file:
        end = cut_torn_line(file)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            error.filename = str(path)
            raise
    if is_new:
        sync_folder(path.parent)


def to_json(value: Any, **kwargs) -> str:
    """A value as JSON, which has no NaN and no infinity: null stands for them. kwargs: to `json.dumps`."""
    try:
        return json.dumps(value, allow_nan=False, **kwargs)
    except ValueError:
        return json.dumps(without_nan(value), allow_nan=False, **kwargs)


def without_nan(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: without_nan(each) for name, each in value.items()}
    return [without_nan(each) for each in value] if isinstance(value, list | tuple) else value


def cut_torn_line(file: BinaryIO) -> int:
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


def read_parts(path: str | Path) -> dict[int, list[dict[str, Any]]]:
    """The finished parts of an output, by index, from all its shards; a line without its end is none."""
    lines = [line for shard in shard_paths(path) for line in whole_lines(shard)]
    return {line["part"]: line["rows"] for line in lines}


def merge_parts(path: str | Path, num_parts: int) -> None:
    """Write the output whole, in order, from its shards, which go then.

    Raises:
        ValueError: if a part is missing.
    """
    parts = read_parts(path)
    missing = [index for index in range(num_parts) if index not in parts]
    if missing:
        raise ValueError(
            f"{len(missing)} of {num_parts} parts of {path} are missing, first {missing[0]}: do all processes see one "
            "file system? Start again to make them."
        )
    rows = (row for index in range(num_parts) for row in parts[index])
    write_whole(Path(path), (to_json(row, ensure_ascii=False) for row in rows))
    drop_shards(path)


def drop_shards(path: str | Path) -> None:
    for shard in shard_paths(path):
        shard.unlink()


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
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are safe on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
