"""Many grids of few: a grid stays one when digits are renamed, and lines permuted as Sudoku allows."""

from functools import lru_cache

import torch
from torch import Tensor

from prism_hf.fields import Count, Seed, check_arguments

from .puzzles import random_grid

STOCK_SIZE = 4096
# Uniform draws for one symmetry: 9 for the digits, 3 + 9 for the rows, 3 + 9 for the columns, 1 to transpose.
SYMMETRY_DRAWS = 34


def generate_solved_grids(n: Count, generator: torch.Generator, stock_seed: Seed = 0) -> Tensor:
    """Random solved grids.

    Each is one of `STOCK_SIZE` grids, moved by a fresh random symmetry: digits, bands, stacks, rows within bands and
    columns within stacks permuted, half of them transposed.

    Args:
        n (`int`): How many grids.
        generator (`torch.Generator`): Chooses among the stock and draws the symmetries.
        stock_seed (`int`, *optional*, defaults to 0): Determines the stock, which is built once a process.

    Returns:
        Grids (n, 9, 9), long.

    Example:
        ```python
        grids = generate_solved_grids(4, torch.Generator().manual_seed(0))
        ```
    """
    check_arguments(generate_solved_grids, locals())
    stock = stock_of(stock_seed)
    chosen = torch.randint(len(stock), (n,), generator=generator)
    return transform(stock[chosen], torch.rand(n, SYMMETRY_DRAWS, generator=generator))


@lru_cache(maxsize=4)
def stock_of(seed: int) -> Tensor:
    """`STOCK_SIZE` random solved grids (STOCK_SIZE, 9, 9), built once a process."""
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor([random_grid(generator) for _ in range(STOCK_SIZE)]).view(-1, 9, 9)


def move(cells: Tensor, draws: Tensor) -> Tensor:
    """Permute the cells of (n, 9, 9) grids by symmetries of Sudoku; draws: (n, SYMMETRY_DRAWS) uniform in [0, 1)."""
    _, row_bands, rows, column_bands, columns, transpose = draws.split([9, 3, 9, 3, 9, 1], dim=1)

    def line_order(bands: Tensor, lines: Tensor) -> Tensor:
        return (bands.argsort(1)[:, :, None] * 3 + lines.view(-1, 3, 3).argsort(2)).flatten(1)

    row_order, column_order = line_order(row_bands, rows), line_order(column_bands, columns)
    cells = cells[torch.arange(len(cells))[:, None, None], row_order[:, :, None], column_order[:, None, :]]
    return torch.where(transpose[:, :, None] < 0.5, cells, cells.mT)


def transform(grids: Tensor, draws: Tensor) -> Tensor:
    """Permute the cells of solved grids (n, 9, 9) as `move` does, and relabel their digits."""
    labels = draws[:, :9].argsort(1) + 1
    return labels.gather(1, move(grids, draws).flatten(1) - 1).view(-1, 9, 9)
