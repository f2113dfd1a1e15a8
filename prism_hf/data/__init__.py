"""From files, or from nothing, to token ids."""

from .sudoku import (
    SolvedGrids,
    SudokuGrids,
    SudokuTokenizer,
    cell_positions,
    count_solutions,
    generate_puzzles,
    generate_solved_grids,
    is_valid_grid,
    read_sudoku_csv,
    to_grid,
    to_sequence,
    write_sudoku_csv,
)

__all__ = [
    "SolvedGrids",
    "SudokuGrids",
    "SudokuTokenizer",
    "cell_positions",
    "count_solutions",
    "generate_puzzles",
    "generate_solved_grids",
    "is_valid_grid",
    "read_sudoku_csv",
    "to_grid",
    "to_sequence",
    "write_sudoku_csv",
]
