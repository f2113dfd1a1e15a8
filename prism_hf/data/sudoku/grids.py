"""Grids, and the sequences of tokens that hold them.

Token ids: 0 is a blank (the mask token), 1 to 9 are digits, 10 ends a row. A grid is a sequence of 89 tokens (nine rows
of nine joined by the end-of-row token, the layout of the public files) or of its 81 cells.
"""

from typing import Annotated

import torch
from torch import Tensor

from prism_hf.fields import Allowed, check_value

BLANK = 0
END_OF_ROW = 10
Layout = Annotated[int, Allowed(choices=(89, 81))]


def cell_positions(length: int) -> Tensor:
    """Where the cells, row by row, stand in a sequence: (81,), long.

    Args:
        length (`int`): Of the sequence, 89 or 81.

    Raises:
        ValueError: for another length.
    """
    if length == 89:
        return torch.arange(90).view(9, 10)[:, :9].flatten()
    if length == 81:
        return torch.arange(81)
    raise ValueError(f"A Sudoku sequence has 89 tokens (with end-of-row tokens) or 81 (cells only), got {length}.")


def maskable_positions(length: int) -> Tensor:
    """Which positions of a sequence are cells: (length,) bool, False at ends of rows."""
    maskable = torch.zeros(length, dtype=torch.bool)
    maskable[cell_positions(length)] = True
    return maskable


def check_grids(grid: Tensor, shape: str) -> None:
    """Raise ValueError for what is no tensor of as many dimensions as `shape` names, the last two 9 and 9."""
    check_value("grid", grid, Tensor)
    if grid.ndim != shape.count(",") + 1 or grid.shape[-2:] != (9, 9):
        raise ValueError(f"Expected a grid of shape {shape}, got {tuple(grid.shape)}.")


def is_valid_grid(grid: Tensor) -> Tensor:
    """Whether every row, column and box of each grid holds the digits 1 to 9.

    Args:
        grid (`Tensor`): Grids (N, 9, 9).

    Returns:
        (N,) bool.

    Example:
        ```python
        assert is_valid_grid(to_grid(solutions)).all()
        ```
    """
    check_grids(grid, "(N, 9, 9)")
    boxes = grid.view(-1, 3, 3, 3, 3).transpose(2, 3).reshape(-1, 9, 9)
    units = torch.cat([grid, grid.mT, boxes], dim=1)  # (N, 27, 9)
    digits = torch.arange(1, 10, device=grid.device)
    return (units.sort(-1).values == digits).all(-1).all(-1)


def is_solved(predictions: Tensor, puzzles: Tensor) -> Tensor:
    """Whether each prediction is a valid grid that keeps every given of its puzzle, ends of rows among them.

    Args:
        predictions (`Tensor`): Completed sequences (N, 89 or 81).
        puzzles (`Tensor`): The puzzles (N, 89 or 81), with 0 at their blanks.

    Returns:
        (N,) bool.

    Raises:
        ValueError: if the shapes differ.

    Example:
        ```python
        assert is_solved(solutions, puzzles).all()
        ```
    """
    if predictions.shape != puzzles.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    valid = is_valid_grid(to_grid(predictions))
    keeps_givens = ((predictions == puzzles) | (puzzles == BLANK)).all(-1)
    return valid & keeps_givens


def to_grid(ids: Tensor) -> Tensor:
    """The cells of sequences, of which the ends of rows are dropped unread.

    Args:
        ids (`Tensor`): Sequences (N, 89 or 81).

    Returns:
        Grids (N, 9, 9).

    Example:
        ```python
        grids = to_grid(puzzles)
        print((grids == 0).sum((1, 2)))  # the blanks of each
        ```
    """
    check_value("ids", ids, Tensor)
    if ids.ndim != 2:
        raise ValueError(f"Expected ids of shape (N, 89) or (N, 81), got {tuple(ids.shape)}.")
    return ids[:, cell_positions(ids.shape[1]).to(ids.device)].view(-1, 9, 9)


def to_sequence(grid: Tensor, layout: int = 89) -> Tensor:
    """The inverse of `to_grid`.

    Args:
        grid (`Tensor`): Grids (N, 9, 9).
        layout (`int`, *optional*, defaults to 89): 89 with the token that ends a row, or 81 for the cells alone.

    Returns:
        Sequences (N, layout).

    Example:
        ```python
        cells_alone = to_sequence(to_grid(puzzles), layout=81)
        ```
    """
    check_grids(grid, "(N, 9, 9)")
    positions = cell_positions(layout).to(grid.device)
    sequence = grid.new_full((len(grid), layout), END_OF_ROW)
    sequence[:, positions] = grid.flatten(1)
    return sequence
