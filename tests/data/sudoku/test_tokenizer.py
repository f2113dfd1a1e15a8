"""Sudoku as text."""

import pytest

from prism_hf.data import SudokuTokenizer, to_sequence


def test_tokenizer_writes_the_public_layout(tmp_path, puzzle, puzzle_text):
    SudokuTokenizer().save_pretrained(tmp_path)
    for tokenizer in (SudokuTokenizer(), SudokuTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer(puzzle_text).input_ids
        assert ids == to_sequence(puzzle[None])[0].tolist()
        assert tokenizer.decode(ids) == puzzle_text
        assert (len(tokenizer), tokenizer.mask_token, tokenizer.mask_token_id) == (11, ".", 0)
        assert tokenizer.get_vocab() == {c: i for i, c in enumerate(".123456789\n")}
        with pytest.raises(ValueError, match="'x' is no Sudoku character"):
            tokenizer("12x")
