"""Solutions, counted."""

import torch

from prism_hf.data import count_solutions


def test_counting_solutions(puzzle, solution, exhaustive_solutions):
    assert count_solutions(puzzle) == 1
    assert count_solutions(solution) == 1
    assert count_solutions(torch.zeros(9, 9, dtype=torch.long), limit=5) == 5
    clash = puzzle
    clash[0, 2] = 5
    assert count_solutions(clash) == 0
    # With every 1 and 2 blank, exchanging the two digits gives at least a second solution.
    ambiguous = solution
    for digit in (1, 2):
        ambiguous[ambiguous == digit] = 0
    assert count_solutions(ambiguous, limit=100) == exhaustive_solutions(ambiguous, limit=100) >= 2
