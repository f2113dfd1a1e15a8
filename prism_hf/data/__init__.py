"""From files, or from nothing, to token ids."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from .byte_level_bpe import learn_byte_level_bpe
    from .code.answers import code_answers, load_code_datasets
    from .code.loading import load_code, split_code
    from .code.texts import code_prompt, code_target, first_function_name
    from .loading import load_rows
    from .prompts import decode_completions, encode_prompts, read_prompts, tokens_without_text
    from .source_files import SourceFiles, python_files, train_byte_level_bpe
    from .sudoku.csv_files import read_sudoku_csv, write_sudoku_csv
    from .sudoku.datasets import SolvedGrids, SudokuGrids
    from .sudoku.grids import Layout, cell_positions, is_solved, is_valid_grid, to_grid, to_sequence
    from .sudoku.puzzles import generate_puzzles
    from .sudoku.solving import count_solutions
    from .sudoku.symmetries import generate_solved_grids
    from .sudoku.tokenizer import SudokuTokenizer
    from .text.encoding import encode_text, load_text_datasets
    from .text.loading import load_text, split_text
    from .training_data import DataArguments, load_evaluation_data, load_training_data
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "DataArguments",
    "Layout",
    "SolvedGrids",
    "SourceFiles",
    "SudokuGrids",
    "SudokuTokenizer",
    "cell_positions",
    "code_answers",
    "code_prompt",
    "code_target",
    "count_solutions",
    "decode_completions",
    "encode_prompts",
    "encode_text",
    "first_function_name",
    "generate_puzzles",
    "generate_solved_grids",
    "is_solved",
    "is_valid_grid",
    "learn_byte_level_bpe",
    "load_code",
    "load_code_datasets",
    "load_evaluation_data",
    "load_rows",
    "load_text",
    "load_text_datasets",
    "load_training_data",
    "python_files",
    "read_prompts",
    "read_sudoku_csv",
    "split_code",
    "split_text",
    "to_grid",
    "to_sequence",
    "tokens_without_text",
    "train_byte_level_bpe",
    "write_sudoku_csv",
]
