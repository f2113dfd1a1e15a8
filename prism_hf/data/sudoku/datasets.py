"""Grids and puzzles to train on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prism_hf.fields import Positive, Seed, check_arguments

from .csv_files import read_sudoku_csv
from .grids import BLANK, Layout, is_valid_grid, maskable_positions, to_grid, to_sequence
from .puzzles import Blanks, generate_puzzles
from .symmetries import SYMMETRY_DRAWS, move, stock_of, transform

NUM_PUZZLES = 2000  # of a stock


class SudokuGrids(torch.utils.data.Dataset):
    """Solved grids to train on, made on demand. An item depends on the seed and its index only, whatever the batch.

    An item holds `input_ids` (layout,) long and `maskable` (layout,) bool, False at ends of rows.

    Args:
        num_samples (`int`): How many items.
        seed (`int`): Each has its own stock of grids, see `generate_solved_grids`.
        layout (`int`, *optional*, defaults to 89): 89 with the token that ends a row, or 81 for the cells alone.
        blanks (`int`, *optional*): Makes the items puzzles with so many blanks and one solution: `maskable` is True at
            the blanks only, so that the givens are a prompt. Grids masked at random often have several solutions; a
            model trained on those is too doubtful on puzzles.
        num_puzzles (`int`, *optional*, defaults to 2000): Of the stock of puzzles, which take about 5 ms each to make.

    Example:
        ```python
        trainer = MaskedDiffusionTrainer(model, args, train_dataset=SudokuGrids(48_000, seed=1))
        ```
    """

    def __init__(
        self,
        num_samples: Positive,
        seed: Seed,
        layout: Layout = 89,
        blanks: Blanks | None = None,
        num_puzzles: Positive = NUM_PUZZLES,
    ):
        check_arguments(SudokuGrids.__init__, locals(), "SudokuGrids")
        self.num_samples, self.seed, self.layout = num_samples, seed, layout
        self.maskable = maskable_positions(layout)
        if blanks is None:
            self.solutions, self.blank = stock_of(seed), None
        else:
            # Seeds of their own: those of the shipped puzzles and of `stock_of` are small. torch reads 32 bits of one.
            generator = torch.Generator().manual_seed(2**31 + seed)
            puzzles, self.solutions = generate_puzzles(num_puzzles, blanks, generator)
            self.blank = puzzles == BLANK

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        """Several items at once (what a DataLoader asks for): a list of what `__getitem__` returns."""
        for index in indices:
            if not 0 <= index < self.num_samples:
                raise IndexError(f"Index {index} is out of range for {self.num_samples} samples.")
        # A counter-based generator gives item i its own stream whatever else is in the batch.
        streams = [np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, i])) for i in indices]
        draws = torch.from_numpy(np.stack([stream.random(1 + SYMMETRY_DRAWS) for stream in streams]))
        chosen = (draws[:, 0] * len(self.solutions)).long()
        sequences = to_sequence(transform(self.solutions[chosen], draws[:, 1:]), self.layout)
        maskable = self.maskable.repeat(len(indices), 1)
        if self.blank is not None:
            maskable[:, self.maskable] = move(self.blank[chosen], draws[:, 1:]).flatten(1)
        return [{"input_ids": ids, "maskable": row} for ids, row in zip(sequences, maskable, strict=True)]


class SolvedGrids(torch.utils.data.Dataset):
    """Solved grids from a CSV file; items as those of `SudokuGrids`.

    Args:
        path (`str | Path`): Of the file, see `read_sudoku_csv`.

    Raises:
        ValueError: with the file and the first line whose grid has a blank or breaks a rule.

    Example:
        ```python
        train_dataset = SolvedGrids("grids.csv")
        ```
    """

    def __init__(self, path: str | Path):
        self.input_ids = read_sudoku_csv(path)
        wrong = (~is_valid_grid(to_grid(self.input_ids))).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(
                f"{path}, line {wrong[0] + 1}: not a solved grid; expected each digit once in every row, column and "
                f"box, and no blank ({len(wrong)} such lines)."
            )
        self.maskable = maskable_positions(self.input_ids.shape[1])

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.input_ids[index], "maskable": self.maskable.clone()}
