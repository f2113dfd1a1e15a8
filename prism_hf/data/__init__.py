"""From files, or from nothing, to token ids."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from .code import (
        code_prompt,
        code_target,
        encode_code,
        first_function_name,
        load_code,
        load_code_datasets,
        split_code,
    )
    from .prompts import decode_completions, encode_prompts, read_prompts, tokens_without_text
    from .source_files import SourceFiles, python_files, train_byte_level_bpe
    from .sudoku import (
        Layout,
        SolvedGrids,
        SudokuGrids,
        SudokuTokenizer,
        cell_positions,
        count_solutions,
        generate_puzzles,
        generate_solved_grids,
        is_solved,
        is_valid_grid,
        read_sudoku_csv,
        to_grid,
        to_sequence,
        write_sudoku_csv,
    )
    from .training_data import DataArguments, load_training_data
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
    "code_prompt",
    "code_target",
    "count_solutions",
    "decode_completions",
    "encode_code",
    "encode_prompts",
    "first_function_name",
    "generate_puzzles",
    "generate_solved_grids",
    "is_solved",
    "is_valid_grid",
    "load_code",
    "load_code_datasets",
    "load_training_data",
    "python_files",
    "read_prompts",
    "read_sudoku_csv",
    "split_code",
    "to_grid",
    "to_sequence",
    "tokens_without_text",
    "train_byte_level_bpe",
    "write_sudoku_csv",
]
