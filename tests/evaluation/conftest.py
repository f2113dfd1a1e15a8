"""Puzzles, and a model that knows their solutions."""

from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from prism_hf.data import generate_puzzles, to_sequence
from prism_hf.evaluation import Task
from prism_hf.evaluation.tasks.sudoku.task import judge_beside


class Solver(nn.Module):
    """Knows the solutions, but fills a wrong digit wherever it first looks at some cells; its quality tells.

    before: called with the number of each forward. sure_below: the number of blanks from which on it is unsure.
    """

    def __init__(
        self,
        solutions: Tensor,
        wrong_cells: Sequence[int] = (),
        before: Callable[[int], None] = lambda number: None,
        sure_below: int = 82,
    ):
        super().__init__()
        self.config, self.solutions = SimpleNamespace(mask_token_id=0), solutions
        self.wrong_cells, self.before, self.sure_below, self.calls = list(wrong_cells), before, sure_below, 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.before(self.calls + 1)
        self.calls += 1
        row = (input_ids[:, None] == self.solutions).logical_or(input_ids[:, None] == 0).sum(-1).argmax(-1)
        answer = self.solutions[row].clone()
        blanks = (input_ids == 0).sum(-1, keepdim=True)
        wrong = torch.zeros_like(answer, dtype=torch.bool)
        wrong[:, self.wrong_cells] = True
        shown = torch.where(wrong & (blanks > 20), answer % 9 + 1, answer)
        sureness = torch.where(blanks < self.sure_below, 9.0, 0.9)
        logits = sureness[..., None] * nn.functional.one_hot(shown, 11)
        return SimpleNamespace(logits=logits, quality_logits=torch.where(input_ids == answer, 4.0, -4.0))


@pytest.fixture(scope="session")
def sudoku():
    """Six `puzzles` with 40 blanks, their `solutions`, the `task` of solving them, and a `Solver` of them."""
    generator = torch.Generator().manual_seed(0)
    puzzles, solutions = (to_sequence(grids, 81) for grids in generate_puzzles(6, blanks=40, generator=generator))
    task = Task(puzzles, puzzles[:0], judge_beside(solutions), "solved", "Six puzzles.")
    return SimpleNamespace(puzzles=puzzles, solutions=solutions, task=task, Solver=partial(Solver, solutions))
