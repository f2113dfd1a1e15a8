"""Grids from files, or the line that is none."""

import pytest
import torch

from prism_hf.data import read_sudoku_csv, to_sequence, write_sudoku_csv


@pytest.mark.parametrize("layout", [81, 89])
def test_csv_round_trip(tmp_path, layout, puzzle, solution):
    ids = to_sequence(torch.stack([puzzle, solution]), layout)
    write_sudoku_csv(tmp_path / "grids.csv", ids)
    assert torch.equal(read_sudoku_csv(tmp_path / "grids.csv"), ids)
    assert (tmp_path / "grids.csv").read_text().splitlines()[0].startswith("5,3,0,0,7")


def row(layout=89, **replaced):
    cells = torch.arange(81).view(1, 9, 9) % 10
    fields = [str(v) for v in to_sequence(cells, layout)[0].tolist()]
    for column, value in replaced.items():
        fields[int(column[1:]) - 1] = value
    return ",".join(fields)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no rows"),
        (row() + "\n1,2,3\n", "line 2: 3 columns; expected 89"),
        (row() + "\n\n" + row(), "line 2: 1 columns"),
        (row() + "\n" + row(81), "line 2: 81 columns, but the first line has 89"),
        (row(c3="x"), "line 1, column 3: 'x'; expected a cell"),
        (row(c3="10"), "line 1, column 3: '10'; expected a cell"),
        (row(c3="-1"), "line 1, column 3: '-1'; expected a cell"),
        (row(c20="3"), "line 1, column 20: '3'; expected 10"),
        (row().replace(",", ";"), "line 1: 1 columns; .* The separator is a comma, not ';'"),
        (row().encode("utf-16"), "line 1 is no UTF-8 text .*; save the file as UTF-8"),
        ((row() + "\n\u00e9").encode("latin-1"), "line 2 is no UTF-8 text"),
    ],
)
def test_a_bad_csv_row_is_located(tmp_path, text, message):
    path = tmp_path / "grids.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_sudoku_csv(path)
    assert str(path) in str(error.value)


def test_a_csv_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "grids.csv"
    path.write_bytes(row().encode("utf-8-sig"))
    assert read_sudoku_csv(path).shape == (1, 89)
    with pytest.raises(ValueError, match="Did you mean .*grids.csv"):
        read_sudoku_csv(tmp_path / "grid.csv")
    with pytest.raises(ValueError, match="path=5 must be text"):
        read_sudoku_csv(5)
