"""Grids and the sequences that hold them."""

import pytest
import torch

from prism_hf.data import SudokuTokenizer, cell_positions, count_solutions, is_valid_grid, to_grid, to_sequence


@pytest.mark.parametrize("layout", [81, 89])
def test_sequences_hold_the_cells_in_reading_order(layout, solution, solution_text):
    grid = solution[None]
    sequence = to_sequence(grid, layout)
    joined = solution_text.replace("\n", "" if layout == 81 else "A")
    assert sequence[0].tolist() == [int(c, 16) for c in joined]
    assert torch.equal(to_grid(sequence), grid)
    assert torch.equal(sequence[0, cell_positions(layout)], grid.flatten())


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="89 tokens.*got 90"):
        to_grid(torch.zeros(2, 90, dtype=torch.long))
    for function in (is_valid_grid, count_solutions, to_grid, to_sequence):
        with pytest.raises(ValueError, match=r"Expected (a grid|ids) of shape .*got \(81,\)"):
            function(torch.zeros(81, dtype=torch.long))
    for wrong in (11, -1):
        with pytest.raises(ValueError, match="is no Sudoku token: those are 0 to 10"):
            SudokuTokenizer().decode([wrong])
    with pytest.raises(ValueError, match=r"\(N, 9, 9\).*\(9, 9\)"):
        to_sequence(torch.zeros(9, 9, dtype=torch.long))
