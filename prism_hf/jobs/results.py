"""A file of results that is written a row at a time: each row is made once, by all processes together.

A row holds what it depends on, so that one that is there is found again, and is not taken for that of another model of
the same name or of other examples. Of a row that was interrupted, the finished parts are kept beside the file.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .digests import json_digest
from .lines import append_line, to_json, whole_lines, write_whole
from .share import by_main_process, share_parts
from .store import ResumableJsonl

# What a row holds under this name goes into a file of its own, in a folder of this name beside the results.
COMPLETIONS = "completions"


def share_row(
    path: Path,
    made_with: dict[str, Any],
    parts: Sequence[int],
    make: Callable[[int], list[dict[str, Any]]],
    finish: Callable[[list[dict[str, Any]]], dict[str, Any]],
    description: str | None = None,
) -> dict[str, Any]:
    """The row of a file of results that was made with what is given: found there, or made and appended.

    The row depends on `made_with` and begins with it. For `parts`, `make` and `description` see `share_parts`. `finish`
    returns the rest of the row, given the rows of all parts; only the main process calls it, once, as what it tells
    need not be the same twice, such as whether a program ends in time.
    """
    unfinished = unfinished_row(path, made_with)

    def make_row() -> dict[str, Any]:
        kept = path.parent / COMPLETIONS / f"{json_digest(made_with)}.jsonl"
        rest = _without_completions(finish(unfinished.rows(parts)), kept)
        row = made_with | rest
        append_line(path, row)
        return row

    row = by_main_process(lambda: find_row(whole_lines(path), made_with))
    if row is None:
        share_parts(unfinished, parts, make, description)
        row = by_main_process(make_row)
    by_main_process(unfinished.drop_shards)
    return row


def unfinished_row(path: Path, made_with: dict[str, Any]) -> ResumableJsonl:
    """Where the parts of a row are kept until it is made."""
    return ResumableJsonl(path.with_name(f"{path.stem}.{json_digest(made_with)}.jsonl"))


def find_row(rows: list[dict[str, Any]], made_with: dict[str, Any]) -> dict[str, Any] | None:
    """The row that was made with this, if there is one."""
    return next((row for row in rows if all(row.get(name) == value for name, value in made_with.items())), None)


def _without_completions(row: dict[str, Any], file: Path) -> dict[str, Any]:
    """The row with the name of a file in the place of completions, which the file then holds."""
    if COMPLETIONS not in row:
        return row
    file.parent.mkdir(exist_ok=True)
    write_whole(file, (to_json(each, ensure_ascii=False) for each in row[COMPLETIONS]))
    return row | {COMPLETIONS: f"{COMPLETIONS}/{file.name}"}
