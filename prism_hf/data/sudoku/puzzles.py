"""Puzzles with one solution each."""

from typing import Annotated

import torch
from torch import Tensor

from prism_hf.fields import Allowed, Count, check_arguments

from .grids import BLANK
from .solving import search_solutions

MAX_BLANKS = 56
Blanks = Annotated[int, Allowed(min=0, max=MAX_BLANKS)]


def generate_puzzles(n: Count, blanks: Blanks, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random puzzles with exactly one solution each.

    The solutions are fresh random grids, not symmetries of the stock behind `generate_solved_grids` and `SudokuGrids`,
    so the puzzles can test a model that was trained on those.

    Args:
        n (`int`): How many puzzles.
        blanks (`int`): How many blanks each has, at most `MAX_BLANKS`; cells blanked at random reach more too seldom.
        generator (`torch.Generator`): Draws the grids and the cells to blank.

    Returns:
        Puzzles (n, 9, 9) with 0 at their blanks, and their solutions (n, 9, 9), both long.

    Example:
        ```python
        puzzles, solutions = generate_puzzles(10, blanks=40, generator=torch.Generator().manual_seed(0))
        ```
    """
    check_arguments(generate_puzzles, locals())
    puzzles: list[list[int]] = []
    solutions: list[list[int]] = []
    while len(puzzles) < n:
        solution = random_grid(generator)
        puzzle = _dig(solution, blanks, torch.randperm(81, generator=generator).tolist())
        if puzzle is not None:
            puzzles.append(puzzle)
            solutions.append(solution)
    return torch.tensor(puzzles).view(-1, 9, 9), torch.tensor(solutions).view(-1, 9, 9)


def random_grid(generator: torch.Generator) -> list[int]:
    """The 81 cells of a random solved grid."""
    return next(search_solutions([BLANK] * 81, generator))


def _dig(solution: list[int], blanks: int, order: list[int]) -> list[int] | None:
    """Blank cells in the given order where the solution stays unique; None if fewer than ``blanks`` can be blanked."""
    puzzle, dug = list(solution), 0
    for cell in order:
        if dug == blanks:
            break
        others = (digit for digit in range(1, 10) if digit != solution[cell])
        # Before this cell was blanked there was one solution, so a second one has another digit here.
        if any(next(search_solutions(puzzle[:cell] + [other] + puzzle[cell + 1 :]), None) for other in others):
            continue
        puzzle[cell] = BLANK
        dug += 1
    return puzzle if dug == blanks else None
