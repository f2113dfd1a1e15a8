"""Sudoku as text to denoise: files, layouts, random grids, puzzles with one solution, a tokenizer and a dataset.

Token ids: 0 is a blank (the mask token), 1 to 9 are digits, 10 ends a row. A grid is a sequence of 89 tokens (nine rows
of nine joined by the end-of-row token, the layout of the public files) or of its 81 cells.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizer

from prism_hf.fields import Allowed, Count, Positive, Seed, check_arguments, check_value

from .files import check_utf8, existing_file

BLANK = 0
END_OF_ROW = 10
STOCK_SIZE = 4096
MAX_BLANKS = 56
Layout = Annotated[int, Allowed(choices=(89, 81))]
Blanks = Annotated[int, Allowed(min=0, max=MAX_BLANKS)]
_CELLS = frozenset("0123456789")
# Uniform draws for one symmetry: 9 for the digits, 3 + 9 for the rows, 3 + 9 for the columns, 1 to transpose.
SYMMETRY_DRAWS = 34


def cell_positions(length: int) -> Tensor:
    """Where the 81 cells, row by row, sit in a sequence of ``length`` 89 or 81. (81,), long."""
    if length == 89:
        return torch.arange(90).view(9, 10)[:, :9].flatten()
    if length == 81:
        return torch.arange(81)
    raise ValueError(f"A Sudoku sequence has 89 tokens (with end-of-row tokens) or 81 (cells only), got {length}.")


def maskable_positions(length: int) -> Tensor:
    """True at cells, False at end-of-row tokens. (length,), bool."""
    maskable = torch.zeros(length, dtype=torch.bool)
    maskable[cell_positions(length)] = True
    return maskable


def check_grids(grid: Tensor, shape: str) -> None:
    """Raise ValueError for what is no tensor of as many dimensions as `shape` names, the last two 9 and 9."""
    check_value("grid", grid, Tensor)
    if grid.ndim != shape.count(",") + 1 or grid.shape[-2:] != (9, 9):
        raise ValueError(f"Expected a grid of shape {shape}, got {tuple(grid.shape)}.")


def is_valid_grid(grid: Tensor) -> Tensor:
    """Whether every row, column and box of each grid holds the digits 1 to 9: (N, 9, 9) -> (N,) bool."""
    check_grids(grid, "(N, 9, 9)")
    boxes = grid.view(-1, 3, 3, 3, 3).transpose(2, 3).reshape(-1, 9, 9)
    units = torch.cat([grid, grid.mT, boxes], dim=1)  # (N, 27, 9)
    digits = torch.arange(1, 10, device=grid.device)
    return (units.sort(-1).values == digits).all(-1).all(-1)


def to_grid(ids: Tensor) -> Tensor:
    """The cells of sequences: (N, 89 or 81) -> (N, 9, 9). End-of-row positions are dropped unread."""
    check_value("ids", ids, Tensor)
    if ids.ndim != 2:
        raise ValueError(f"Expected ids of shape (N, 89) or (N, 81), got {tuple(ids.shape)}.")
    return ids[:, cell_positions(ids.shape[1]).to(ids.device)].view(-1, 9, 9)


def to_sequence(grid: Tensor, layout: int = 89) -> Tensor:
    """The inverse of `to_grid`: (N, 9, 9) -> (N, layout), with end-of-row tokens when ``layout`` is 89."""
    check_grids(grid, "(N, 9, 9)")
    positions = cell_positions(layout).to(grid.device)
    sequence = grid.new_full((len(grid), layout), END_OF_ROW)
    sequence[:, positions] = grid.flatten(1)
    return sequence


def is_solved(predictions: Tensor, puzzles: Tensor) -> Tensor:
    """Whether each prediction is a valid grid that keeps every given of its puzzle.

    predictions, puzzles: (N, 89 or 81) token ids. Returns (N,) bool. End-of-row tokens count as givens.
    """
    if predictions.shape != puzzles.shape:
        raise ValueError(
            f"predictions {tuple(predictions.shape)} and puzzles {tuple(puzzles.shape)} must have the same shape."
        )
    valid = is_valid_grid(to_grid(predictions))
    keeps_givens = ((predictions == puzzles) | (puzzles == BLANK)).all(-1)
    return valid & keeps_givens


def read_sudoku_csv(path: str | Path) -> Tensor:
    """Puzzles or solutions from a CSV file without a header, one grid a row, 89 or 81 columns. (N, 89 or 81), long.

    Raises ValueError naming the file, the line and what is wrong with it.
    """
    check_arguments(read_sudoku_csv, locals())
    check_utf8(existing_file(path))
    lines = Path(path).expanduser().read_text(encoding="utf-8-sig").rstrip().splitlines()
    if not lines:
        raise ValueError(f"{path}: no rows; expected one grid a row, 89 or 81 columns.")
    width = lines[0].count(",") + 1
    rows = [_parse_row(line, width, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]
    return torch.tensor(rows)


def _parse_row(line: str, width: int, where: str) -> list[int]:
    fields = line.split(",")
    if len(fields) not in (89, 81):
        hint = f" The separator is a comma, not {line[1:2]!r}." if len(fields) == 1 and line[1:2] else ""
        raise ValueError(f"{where}: {len(fields)} columns; expected 89 (end-of-row tokens included) or 81.{hint}")
    if len(fields) != width:
        raise ValueError(f"{where}: {len(fields)} columns, but the first line has {width}.")
    for column, field in enumerate(fields, start=1):
        if width == 89 and column % 10 == 0:
            if field.strip() != str(END_OF_ROW):
                raise ValueError(f"{where}, column {column}: {field!r}; expected {END_OF_ROW}, the end of a row.")
        elif field.strip() not in _CELLS:
            raise ValueError(
                f"{where}, column {column}: {field!r}; expected a cell from 0 (blank) to 9, and no header."
            )
    return [int(field) for field in fields]


def write_sudoku_csv(path: str | Path, ids: Tensor) -> None:
    """Write sequences (N, 89 or 81) in the layout that `read_sudoku_csv` reads."""
    to_grid(ids)  # the shape is checked before the file is touched
    Path(path).write_text("".join(",".join(map(str, row)) + "\n" for row in ids.tolist()), encoding="utf-8")


# Each cell's row, column and box among the 27 units, and the digits named by a bit mask.
_UNITS = [(i // 9, 9 + i % 9, 18 + i // 27 * 3 + i % 9 // 3) for i in range(81)]
_ALL_DIGITS = 0b1111111110
_DIGITS = [tuple(digit for digit in range(1, 10) if mask >> digit & 1) for mask in range(1024)]


def _solutions(cells: Sequence[int], generator: torch.Generator | None = None) -> Iterator[list[int]]:
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
            candidates = [candidates[i] for i in torch.randperm(fewest, generator=generator).tolist()]
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
    """How many solutions a puzzle (9, 9) has, counted up to ``limit``: 1 means a proper puzzle."""
    check_grids(grid, "(9, 9)")
    return sum(1 for _ in islice(_solutions(grid.flatten().tolist()), limit))


def _random_grid(generator: torch.Generator) -> list[int]:
    return next(_solutions([BLANK] * 81, generator))


@lru_cache(maxsize=4)
def _stock(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tensor([_random_grid(generator) for _ in range(STOCK_SIZE)]).view(-1, 9, 9)


def _move(cells: Tensor, draws: Tensor) -> Tensor:
    """Permute the cells of (n, 9, 9) grids by symmetries of Sudoku; draws: (n, SYMMETRY_DRAWS) uniform in [0, 1)."""
    _, row_bands, rows, column_bands, columns, transpose = draws.split([9, 3, 9, 3, 9, 1], dim=1)

    def line_order(bands: Tensor, lines: Tensor) -> Tensor:
        return (bands.argsort(1)[:, :, None] * 3 + lines.view(-1, 3, 3).argsort(2)).flatten(1)

    row_order, column_order = line_order(row_bands, rows), line_order(column_bands, columns)
    cells = cells[torch.arange(len(cells))[:, None, None], row_order[:, :, None], column_order[:, None, :]]
    return torch.where(transpose[:, :, None] < 0.5, cells, cells.mT)


def _transform(grids: Tensor, draws: Tensor) -> Tensor:
    """Permute the cells of solved grids (n, 9, 9) as `_move` does, and relabel their digits."""
    labels = draws[:, :9].argsort(1) + 1
    return labels.gather(1, _move(grids, draws).flatten(1) - 1).view(-1, 9, 9)


def generate_solved_grids(n: Count, generator: torch.Generator, stock_seed: Seed = 0) -> Tensor:
    """Random solved grids. (n, 9, 9), long.

    Each is one of `STOCK_SIZE` grids that ``stock_seed`` determines (built once a process), moved by a fresh random
    symmetry: digits, bands, stacks, rows within bands and columns within stacks permuted, half of them transposed.
    """
    check_arguments(generate_solved_grids, locals())
    stock = _stock(stock_seed)
    chosen = torch.randint(len(stock), (n,), generator=generator)
    return _transform(stock[chosen], torch.rand(n, SYMMETRY_DRAWS, generator=generator))


def _dig(solution: list[int], blanks: int, order: list[int]) -> list[int] | None:
    """Blank cells in the given order where the solution stays unique; None if fewer than ``blanks`` can be blanked."""
    puzzle, dug = list(solution), 0
    for cell in order:
        if dug == blanks:
            break
        others = (digit for digit in range(1, 10) if digit != solution[cell])
        # Before this cell was blanked there was one solution, so a second one has another digit here.
        if any(next(_solutions(puzzle[:cell] + [other] + puzzle[cell + 1 :]), None) for other in others):
            continue
        puzzle[cell] = BLANK
        dug += 1
    return puzzle if dug == blanks else None


def generate_puzzles(n: Count, blanks: Blanks, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Puzzles with ``blanks`` blanks and exactly one solution each: (puzzles (n, 9, 9), solutions (n, 9, 9)), long.

    Solutions are fresh random grids, not symmetries of the stock behind `generate_solved_grids` and `SudokuGrids`, so
    puzzles can test a model that was trained on those. Raises ValueError for more than `MAX_BLANKS` blanks, which
    blanking cells at random reaches too seldom.
    """
    check_arguments(generate_puzzles, locals())
    puzzles, solutions = [], []
    while len(puzzles) < n:
        solution = _random_grid(generator)
        puzzle = _dig(solution, blanks, torch.randperm(81, generator=generator).tolist())
        if puzzle is not None:
            puzzles.append(puzzle)
            solutions.append(solution)
    return torch.tensor(puzzles).view(-1, 9, 9), torch.tensor(solutions).view(-1, 9, 9)


class SudokuGrids(torch.utils.data.Dataset):
    """Solved grids to train on, made on demand. Item ``i`` depends on ``seed`` and ``i`` only, whatever the batch.

    An item holds ``input_ids`` (layout,) long and ``maskable`` (layout,) bool, False at end-of-row tokens. Each seed
    has its own stock of grids (see `generate_solved_grids`).

    With ``blanks``, items are puzzles with so many blanks and one solution: ``maskable`` is True at the blanks only, so
    that the givens are a prompt. Grids masked at random often have several solutions; a model trained on those is too
    doubtful on puzzles. Their stock is of ``num_puzzles`` puzzles, which take about 5 ms each to make.
    """

    def __init__(
        self,
        num_samples: Positive,
        seed: Seed,
        layout: Layout = 89,
        blanks: Blanks | None = None,
        num_puzzles: Positive = 2000,
    ):
        check_arguments(SudokuGrids.__init__, locals(), "SudokuGrids")
        self.num_samples, self.seed, self.layout = num_samples, seed, layout
        self.maskable = maskable_positions(layout)
        if blanks is None:
            self.solutions, self.blank = _stock(seed), None
        else:
            # Seeds of their own: those of the shipped puzzles and of `_stock` are small. torch reads 32 bits of one.
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
        draws = [np.random.Generator(np.random.Philox(key=self.seed, counter=[0, 0, 0, i])) for i in indices]
        draws = torch.from_numpy(np.stack([stream.random(1 + SYMMETRY_DRAWS) for stream in draws]))
        chosen = (draws[:, 0] * len(self.solutions)).long()
        sequences = to_sequence(_transform(self.solutions[chosen], draws[:, 1:]), self.layout)
        maskable = self.maskable.repeat(len(indices), 1)
        if self.blank is not None:
            maskable[:, self.maskable] = _move(self.blank[chosen], draws[:, 1:]).flatten(1)
        return [{"input_ids": ids, "maskable": row} for ids, row in zip(sequences, maskable, strict=True)]


class SolvedGrids(torch.utils.data.Dataset):
    """Solved grids from a CSV file; items as those of `SudokuGrids`.

    Raises ValueError naming the file and the first line whose grid has a blank or breaks a rule.
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


class SudokuTokenizer(PreTrainedTokenizer):
    r"""One character a token: ``.`` (blank, the mask token) is 0, digits are themselves, ``\n`` (end of row) is 10.

    A grid is nine lines of nine characters, without a newline after the last: 89 tokens.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, mask_token: str = ".", **kwargs):
        self._ids = {character: i for i, character in enumerate(".123456789\n")}
        self._characters = list(self._ids)
        super().__init__(mask_token=mask_token, **kwargs)

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        return {**self._ids, **self.added_tokens_encoder}

    def _tokenize(self, text: str) -> list[str]:
        for character in text:
            if character not in self._ids:
                raise ValueError(f"{character!r} is no Sudoku character; write '.' for a blank, 1 to 9, and newlines.")
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids[token]

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < len(self._characters):
            raise ValueError(f"The id {index} is no Sudoku token: those are 0 to {len(self._characters) - 1}.")
        return self._characters[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()  # the vocabulary is fixed
