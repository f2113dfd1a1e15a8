"""What a task takes from its judge."""

import pytest
import torch

from prism_hf.evaluation import Judgement, Task

SCORES, TEXTS = torch.tensor([True, False]), [{"text": "a"}, {"text": "b"}]
TOKENS = [{"tokens": [1, 2]}, {"tokens": [3, 4]}]


@pytest.mark.parametrize(
    "said, completions, measures",
    [
        (SCORES, TOKENS, {}),
        ((SCORES, TEXTS), TEXTS, {}),
        (Judgement(SCORES, TEXTS), TEXTS, {}),
        (Judgement(SCORES, measures={"length": 1.0}), TOKENS, {"length": 1.0}),
    ],
)
def test_a_judge_says_as_much_as_it_has(said, completions, measures):
    sequences = torch.tensor([[1, 2], [3, 4]])
    task = Task(sequences, sequences[:0], lambda *_: said, "right", "Two rows.")
    judged = task.judged(sequences, sequences)
    assert judged.scores is SCORES and judged[1:] == (completions, measures, None)
