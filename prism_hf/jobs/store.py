"""Rows that many processes write and a killed run leaves usable."""

import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from prism_hf.data.files import read_object

SHARD = ".shard-"
CHUNK = 1 << 16  # bytes read at a time from a file's end


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
