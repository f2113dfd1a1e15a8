"""Puzzles with one solution."""

import pytest
import torch

from prism_hf.data import generate_puzzles


def test_puzzles_have_exactly_one_solution(violations, exhaustive_solutions):
    puzzles, solutions = generate_puzzles(8, 51, torch.Generator().manual_seed(0))
    assert puzzles.shape == solutions.shape == (8, 9, 9)
    assert ((puzzles == 0).sum((1, 2)) == 51).all()
    assert ((puzzles == solutions) | (puzzles == 0)).all()
    assert all(violations(solution) == 0 for solution in solutions)
    assert all(exhaustive_solutions(puzzle, limit=2) == 1 for puzzle in puzzles)
    assert torch.equal(puzzles, generate_puzzles(8, 51, torch.Generator().manual_seed(0))[0])


def test_too_many_blanks_are_refused(generator):
    with pytest.raises(ValueError, match="blanks=70 must be an integer from 0 to 56"):
        generate_puzzles(1, 70, generator)
