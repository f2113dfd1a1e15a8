"""Write the Sudoku test set that ships with the package: 500 puzzles with 51 blanks, and their solutions."""

from pathlib import Path

import torch

from prism_hf.data.sudoku.csv_files import write_sudoku_csv
from prism_hf.data.sudoku.grids import to_sequence
from prism_hf.data.sudoku.puzzles import generate_puzzles

FOLDER = Path(__file__).resolve().parents[1] / "prism_hf" / "resources" / "sudoku"


def main() -> None:
    puzzles, solutions = generate_puzzles(500, blanks=51, generator=torch.Generator().manual_seed(0))
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_sudoku_csv(FOLDER / "puzzles.csv", to_sequence(puzzles))
    write_sudoku_csv(FOLDER / "solutions.csv", to_sequence(solutions))


if __name__ == "__main__":
    main()
