"""The solutions of a puzzle, by backtracking."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from .grids import BLANK, check_grids

# Each cell's row, column and box among the 27 units, and the digits named by a bit mask.
_UNITS = [(i // 9, 9 + i % 9, 18 + i // 27 * 3 + i % 9 // 3) for i in range(81)]
_ALL_DIGITS = 0b1111111110
_DIGITS = [tuple(digit for digit in range(1, 10) if mask >> digit & 1) for mask in range(1024)]


def search_solutions(cells: Sequence[int], generator: torch.Generator | None = None) -> Iterator[list[int]]:
    """Every completion of 81 cells, by backtracking on the cell with the fewest candidates.

    With a generator the candidates are tried in random order, so that an empty grid gives a random one.
    """
    cells, used, blanks = list(cells), [0] * 27, []
    for cell, digit in enumerate(cells):
        if digit == BLANK:
            blanks.append(cell)
            continue
        for unit in _UNITS[cell]:
            if used[unit] >> digit & 1:
                return
            used[unit] |= 1 << digit

    def search() -> Iterator[list[int]]:
        if not blanks:
            yield list(cells)
            return
        fewest = 10
        for cell in blanks:
            row, column, box = _UNITS[cell]
            free = _ALL_DIGITS & ~(used[row] | used[column] | used[box])
            if (count := free.bit_count()) < fewest:
                fewest, chosen, candidates = count, cell, _DIGITS[free]
                if count < 2:
                    break
        if generator is not None and fewest > 1:
            candidates = tuple(candidates[i] for i in torch.randperm(fewest, generator=generator).tolist())
        blanks.remove(chosen)
        for digit in candidates:
            for unit in _UNITS[chosen]:
                used[unit] ^= 1 << digit
            cells[chosen] = digit
            yield from search()
            for unit in _UNITS[chosen]:
                used[unit] ^= 1 << digit
        blanks.append(chosen)

    yield from search()


def count_solutions(grid: Tensor, limit: int = 2) -> int:
    """How many solutions a puzzle has, counted up to a limit.

    Args:
        grid (`Tensor`): A puzzle (9, 9), with 0 at its blanks.
        limit (`int`, *optional*, defaults to 2): Where counting ends; a proper puzzle has 1.

    Example:
        ```python
        assert count_solutions(to_grid(puzzles)[0]) == 1
        ```
    """
    check_grids(grid, "(9, 9)")
    return sum(1 for _ in islice(search_solutions(grid.flatten().tolist()), limit))
