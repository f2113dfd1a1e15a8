"""Tasks by name."""

import pytest

from prism_hf.evaluation import load_task


def test_unknown_names_and_missing_arguments_are_told():
    with pytest.raises(ValueError, match="'puzzle_file'.*'puzzles_file'"):
        load_task("sudoku", puzzle_file="x")
    with pytest.raises(ValueError, match="The task code needs problems_file"):
        load_task("code", model=None)
    with pytest.raises(ValueError, match="Unknown task None"):
        load_task()
