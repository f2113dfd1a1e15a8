"""Sudoku as text to denoise: grids, files, puzzles with one solution, symmetries, a tokenizer and datasets."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from .csv_files import read_sudoku_csv, write_sudoku_csv
    from .datasets import SolvedGrids, SudokuGrids
    from .grids import BLANK, END_OF_ROW, Layout, cell_positions, is_solved, is_valid_grid, to_grid, to_sequence
    from .puzzles import MAX_BLANKS, Blanks, generate_puzzles
    from .solving import count_solutions
    from .symmetries import generate_solved_grids
    from .tokenizer import SudokuTokenizer
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "BLANK",
    "END_OF_ROW",
    "MAX_BLANKS",
    "Blanks",
    "Layout",
    "SolvedGrids",
    "SudokuGrids",
    "SudokuTokenizer",
    "cell_positions",
    "count_solutions",
    "generate_puzzles",
    "generate_solved_grids",
    "is_solved",
    "is_valid_grid",
    "read_sudoku_csv",
    "to_grid",
    "to_sequence",
    "write_sudoku_csv",
]
