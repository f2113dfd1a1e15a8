"""The share of Sudoku puzzles that are solved, for `evaluate`."""

from typing import Any

import datasets
import evaluate
import torch

from prism_hf.evaluation.tasks.sudoku.task import sudoku_metrics

INPUTS = """
Args:
    predictions (`list[list[int]]`): Completed sequences of 89 or 81 tokens.
    references (`list[list[int]]`): The puzzles, with 0 at their blanks.
    solutions (`list[list[int]]`, *optional*): Those of the puzzles.

Returns:
    `dict[str, float]`: `success`, the ends of its 95% interval, `success_low` and `success_high`, and with solutions
    `cell_accuracy`, the share of blanks that hold the solution's digit.
"""


class SudokuSuccess(evaluate.Metric):
    """`sudoku_metrics`: whether each grid is valid and keeps its puzzle's givens."""

    def _info(self) -> evaluate.MetricInfo:
        tokens = datasets.Sequence(datasets.Value("int64"))
        return evaluate.MetricInfo(
            description="The share of Sudoku puzzles that are solved, with Wilson's 95% interval.",
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": tokens, "references": tokens}),
        )

    def _compute(
        self, predictions: list[list[int]], references: list[list[int]], solutions: Any = None
    ) -> dict[str, float]:
        solutions = None if solutions is None else torch.as_tensor(solutions)
        return sudoku_metrics(torch.tensor(predictions), torch.tensor(references), solutions)
