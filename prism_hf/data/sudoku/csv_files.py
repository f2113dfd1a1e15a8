"""Sequences of grids in CSV files, one grid a line, as the public files have them."""

from pathlib import Path

import torch
from torch import Tensor

from prism_hf.data.files import check_utf8, existing_file
from prism_hf.fields import check_arguments

from .grids import END_OF_ROW, to_grid

_CELLS = frozenset("0123456789")


def read_sudoku_csv(path: str | Path) -> Tensor:
    """Puzzles or solutions from a CSV file without a header, one grid a line, 89 or 81 columns.

    Args:
        path (`str | Path`): Of the file.

    Returns:
        Sequences (N, 89 or 81), long.

    Raises:
        ValueError: with the file, the line and what is wrong with it.

    Example:
        ```python
        puzzles = read_sudoku_csv(resource_path("sudoku/puzzles.csv"))
        assert puzzles.shape == (500, 89)
        ```
    """
    check_arguments(read_sudoku_csv, locals())
    check_utf8(existing_file(path))
    lines = Path(path).expanduser().read_text(encoding="utf-8-sig").rstrip().splitlines()
    if not lines:
        raise ValueError(f"{path}: no rows; expected one grid a row, 89 or 81 columns.")
    width = lines[0].count(",") + 1
    rows = [_parse_row(line, width, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return torch.tensor(rows)


def write_sudoku_csv(path: str | Path, ids: Tensor) -> None:
    """Write sequences as `read_sudoku_csv` reads them.

    Args:
        path (`str | Path`): Of the file.
        ids (`Tensor`): Sequences (N, 89 or 81).

    Example:
        ```python
        write_sudoku_csv("puzzles.csv", puzzles)
        ```
    """
    to_grid(ids)  # the shape is checked before the file is touched
    Path(path).write_text("".join(",".join(map(str, row)) + "\n" for row in ids.tolist()), encoding="utf-8")


def _parse_row(line: str, width: int, where: str) -> list[int]:
    fields = line.split(",")
    if len(fields) not in (89, 81):
        hint = f" The separator is a comma, not {line[1:2]!r}." if len(fields) == 1 and line[1:2] else ""
        raise ValueError(f"{where}: {len(fields)} columns; expected 89 (end-of-row tokens included) or 81.{hint}")
    if len(fields) != width:
        raise ValueError(f"{where}: {len(fields)} columns, but the first line has {width}.")
    for column, field in enumerate(fields, start=1):
        if width == 89 and column % 10 == 0:
            if field.strip() != str(END_OF_ROW):
                raise ValueError(f"{where}, column {column}: {field!r}; expected {END_OF_ROW}, the end of a row.")
        elif field.strip() not in _CELLS:
            raise ValueError(
                f"{where}, column {column}: {field!r}; expected a cell from 0 (blank) to 9, and no header."
            )
    return [int(field) for field in fields]
