"""A puzzle, its solution, and what grids are, told in another way than by the code under test."""

import pytest
import torch

# The puzzle of the Wikipedia article on Sudoku, and its solution.
PUZZLE = """53..7....
6..195...
.98....6.
8...6...3
4..8.3..1
7...2...6
.6....28.
...419..5
....8..79"""
SOLUTION = """534678912
672195348
198342567
859761423
426853791
713924856
961537284
287419635
345286179"""


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def puzzle_text():
    return PUZZLE


@pytest.fixture
def solution_text():
    return SOLUTION


@pytest.fixture
def puzzle():
    return parse(PUZZLE)


@pytest.fixture
def solution():
    return parse(SOLUTION)


@pytest.fixture
def violations():
    return count_violations


@pytest.fixture
def exhaustive_solutions():
    return count_by_search


def parse(text):
    return torch.tensor([[int(c) for c in line.replace(".", "0")] for line in text.splitlines()])


def count_violations(grid):
    """Pairs of equal digits that share a row, a column or a box, by comparing all pairs of cells."""
    cells = [(r, c, int(grid[r][c])) for r in range(9) for c in range(9)]
    return sum(
        1
        for i, (r, c, d) in enumerate(cells)
        for s, e, f in cells[:i]
        if d == f and (r == s or c == e or (r // 3, c // 3) == (s // 3, e // 3))
    )


def count_by_search(grid, limit):
    """Cell-by-cell search in reading order, unlike the solver under test."""
    rows = [list(map(int, row)) for row in grid]
    found = 0

    def fill(i):
        nonlocal found
        if found == limit:
            return
        if i == 81:
            found += 1
            return
        r, c = divmod(i, 9)
        if rows[r][c]:
            return fill(i + 1)
        taken = set(rows[r]) | {row[c] for row in rows}
        taken |= {rows[r // 3 * 3 + k // 3][c // 3 * 3 + k % 3] for k in range(9)}
        for digit in set(range(1, 10)) - taken:
            rows[r][c] = digit
            fill(i + 1)
            rows[r][c] = 0

    fill(0)
    return found
