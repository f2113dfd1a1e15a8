import pytest
import torch
from scipy.stats import binomtest

from prism_hf.evaluation import is_solved, sudoku_metrics

# Latin square with valid boxes: row r is 1..9 rotated by 3 r + r // 3.
SOLVED = torch.tensor([[(3 * r + r // 3 + c) % 9 + 1 for c in range(9)] for r in range(9)])


def sequence(grid, layout=81):
    rows = [row.tolist() for row in grid]
    if layout == 81:
        return torch.tensor(sum(rows, []))
    return torch.tensor(sum(([*row, 10] for row in rows), [])[:-1])


def puzzle_of(ids, blanks):
    ids = ids.clone()
    ids[blanks] = 0
    return ids


@pytest.mark.parametrize("layout", [81, 89])
def test_a_solved_grid_that_keeps_the_givens(layout):
    solution = sequence(SOLVED, layout)
    puzzle = puzzle_of(solution, [0, 5, 8])
    assert is_solved(solution[None], puzzle[None]).tolist() == [True]
    assert is_solved(puzzle[None], puzzle[None]).tolist() == [False]


def test_a_valid_grid_for_another_puzzle_is_no_success():
    relabelled = SOLVED % 9 + 1
    predictions, puzzles = sequence(relabelled)[None], puzzle_of(sequence(SOLVED), [0])[None]
    assert is_solved(predictions, torch.zeros_like(puzzles)).tolist() == [True]
    assert is_solved(predictions, puzzles).tolist() == [False]


@pytest.mark.parametrize(
    "broken",
    [
        SOLVED[[3, 1, 2, 0, 4, 5, 6, 7, 8]],  # rows and columns hold, boxes do not
        torch.arange(1, 10).expand(9, 9),  # rows only
        torch.arange(1, 10)[:, None].expand(9, 9),  # columns only
        torch.arange(1, 10).view(3, 3).repeat(3, 3),  # boxes only
        torch.where(SOLVED == 9, 10, SOLVED),  # an end-of-row token in a cell
    ],
)
def test_each_rule_counts(broken):
    predictions = sequence(broken)[None]
    assert is_solved(predictions, torch.zeros_like(predictions)).tolist() == [False]


def test_a_changed_end_of_row_token_is_no_success():
    solution = sequence(SOLVED, 89)
    prediction = solution.clone()
    prediction[9] = 1
    assert is_solved(prediction[None], solution[None]).tolist() == [False]


@pytest.mark.parametrize("solved, total", [(0, 7), (3, 7), (7, 7), (40, 50)])
def test_success_interval_is_wilsons(solved, total):
    solution = sequence(SOLVED)
    puzzles = puzzle_of(solution, [0, 1, 2, 3]).repeat(total, 1)
    predictions = solution.repeat(total, 1)
    predictions[solved:, 0] = 9  # one of the four blanks
    metrics = sudoku_metrics(predictions, puzzles, solution.repeat(total, 1))
    expected = binomtest(solved, total).proportion_ci(0.95, method="wilson")
    assert metrics["success"] == solved / total
    assert metrics["success_low"] == pytest.approx(expected.low, abs=1e-6)
    assert metrics["success_high"] == pytest.approx(expected.high, abs=1e-6)
    assert metrics["cell_accuracy"] == pytest.approx((4 * solved + 3 * (total - solved)) / (4 * total))
    assert "cell_accuracy" not in sudoku_metrics(predictions, puzzles)


def test_bad_shapes_are_refused():
    ids = sequence(SOLVED)[None]
    with pytest.raises(ValueError, match="same shape"):
        is_solved(ids, sequence(SOLVED, 89)[None])
    with pytest.raises(ValueError, match="same shape"):
        sudoku_metrics(ids, ids, ids.repeat(2, 1))
    with pytest.raises(ValueError, match="no puzzles"):
        sudoku_metrics(ids[:0], ids[:0])
