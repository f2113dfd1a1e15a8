"""Comparing strategies on a model whose mistakes are known."""

import json
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from prism_hf.data import generate_puzzles, to_sequence
from prism_hf.evaluation import Task, compare, comparison_table, expand_grid, is_solved
from prism_hf.evaluation.comparison.comparison import pack_scores, unpack_scores
from prism_hf.generation import STRATEGIES, ScoreStrategy, remask_generate

PUZZLES, SOLUTIONS = (
    to_sequence(grids, 81) for grids in generate_puzzles(12, blanks=30, generator=torch.Generator().manual_seed(0))
)
TASK = Task(PUZZLES[:7], PUZZLES[7:], is_solved, "solved", "Twelve puzzles.")


class Solver(nn.Module):
    """Knows the solutions, but draws badly while much is masked; its quality tells what is wrong."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=0)
        self.scale = nn.Parameter(torch.ones(1))
        self.calls = 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.calls += 1
        right = ((input_ids[:, None] == SOLUTIONS) & (input_ids[:, None] != 0)).sum(-1).argmax(-1)
        answer = SOLUTIONS[right]
        sureness = 3.5 + 4.0 * ((input_ids == 0).sum(-1) < 15).float()
        logits = sureness[:, None, None] * nn.functional.one_hot(answer, 11).float()
        logits[..., 10] = -1e4
        return SimpleNamespace(logits=logits, quality_logits=torch.where(input_ids == answer, 4.0, -4.0))


STRATEGY_GRID = [{"name": "none"}, {"name": "random", "num_remask": 1}, {"name": "prism", "num_remask": [1, 4]}]
POINTS = expand_grid(STRATEGY_GRID, ["random"], [1.0], [30, 40])


def test_steps_leave_room_for_all_forward_passes():
    loop = {"name": "prism", "num_remask": 1, "loop_start": 20, "loop_steps": 8, "num_remask_loop": 2}
    (point,) = expand_grid([loop], ["random"], [0], [40])
    assert point.setting["steps"] == 32
    output = remask_generate(Solver(), PUZZLES, return_dict_in_generate=True, **point.setting)
    assert output.num_forwards == 40
    with pytest.raises(ValueError, match="leaves 0 steps"):
        expand_grid([loop], ["random"], [0], [8])


def test_retries_and_their_judgements_count_in_the_budget(tmp_path):
    retries = [{"steps": 16, "num_remask": 5}, {"steps": 12, "do_sample": True}]
    entry = {"name": "prism", "num_remask": 1, "retry_below": 1.0, "retries": [retries]}
    (point,) = expand_grid([entry], ["random"], [0], [51])
    assert point.setting["steps"] == 51 - (16 + 1) - (12 + 1)
    (row,) = compare(Solver(), TASK, [point], tmp_path / "rows.jsonl")
    assert row["forward_passes"] == 51  # no quality is as high as 1: nothing ends early
    table = comparison_table([row])
    assert "retries=2" in table and "'steps'" not in table
    with pytest.raises(ValueError, match="needs steps"):
        expand_grid([entry | {"retries": [[{"num_remask": 5}]]}], ["random"], [0], [51])
    with pytest.raises(ValueError, match="leaves 0 steps"):
        expand_grid([entry], ["random"], [0], [30])


@dataclass(frozen=True)
class AskedCritic(ScoreStrategy):
    critic: Any = None
    strength: float = 1.0
    num_forwards: ClassVar[int] = 1

    def __call__(self, state):
        return self.strength * self.critic(state.canvas).quality_logits


@pytest.fixture
def token_critic(monkeypatch):
    monkeypatch.setitem(STRATEGIES, "token_critic", AskedCritic)


def test_the_critic_is_needed_named_and_asked(token_critic, tmp_path):
    entry = {"name": "token_critic", "strength": [2.0], "num_remask": 2}
    with pytest.raises(ValueError, match="no critic: set critic_name_or_path"):
        expand_grid([entry], ["random"], [1.0], [30])
    points = expand_grid([entry], ["random"], [1.0], [30, 31], critic="a critic")
    # Two forward passes a step, but one in the last.
    assert [point.setting["steps"] for point in points] == [15, 16]
    assert points[0].setting["remask_strategy"] == {"name": "token_critic", "strength": 2.0}
    model, critic = Solver(), Solver()
    rows = compare(model, TASK, points, tmp_path / "rows.jsonl", critic=critic)
    assert critic.calls > 0 and model.calls == 15 + 16
    forwards = [30 / row["tokens_per_forward"] for row in rows]
    assert sum(forwards) == pytest.approx(model.calls + critic.calls)
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])["setting"]["critic"] == "a critic"


def test_a_wrong_setting_or_nothing_to_tune_on_stops_before_any_work(tmp_path):
    model, path = Solver(), tmp_path / "rows.jsonl"
    with pytest.raises(ValueError, match="Unknown argument of the strategy random 'top_q'.*'top_p'"):
        expand_grid([{"name": "none"}, {"name": "random", "num_remask": 1, "top_q": 0.5}], ["random"], [0], [5])
    bad = expand_grid([{"name": "none"}, {"name": "random", "num_remask": 1, "top_p": 1.5}], ["random"], [0], [5])
    with pytest.raises(ValueError, match="top_p=1.5"):
        compare(model, TASK, bad, path)
    with pytest.raises(ValueError, match="nothing to choose one on"):
        compare(model, replace(TASK, tuning_examples=PUZZLES[:0]), POINTS, path)
    headless = Solver()
    headless.forward = lambda input_ids, attention_mask=None: None
    with pytest.raises(ValueError, match="quality"):
        compare(headless, TASK, POINTS, path)
    assert model.calls == 0 and not path.exists()


def test_each_row_has_the_arguments_that_are_best_on_other_examples(tmp_path):
    model = Solver()
    rows = compare(model, TASK, POINTS, tmp_path / "rows.jsonl", batch_size=4)
    assert [(row["label"], row["budget"]) for row in rows] == [
        (name, budget) for name in ("none", "random", "prism") for budget in (30, 40)
    ]
    for row in rows:
        assert row["num_examples"] == 7 and row["forward_passes"] == row["budget"]
        expected = [
            remask_generate(model, part, generator=torch.Generator().manual_seed(start), **row["setting"])
            for start, part in ((0, PUZZLES[:4]), (4, PUZZLES[4:7]))
        ]
        assert torch.equal(row["scores"], is_solved(torch.cat(expected), PUZZLES[:7]))
        assert len(row["candidates"]) == (2 if row["label"] == "prism" else 0)
    for row in rows[4:]:
        best = max(row["candidates"], key=lambda candidate: candidate["score"])
        assert row["arguments"] == best["arguments"]
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines] == ["tuning"] * 4 + ["reported"] * 6


def test_a_killed_run_loses_and_doubles_nothing(tmp_path):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "rows.jsonl"
    rows = compare(Solver(), TASK, POINTS, whole, batch_size=4)
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept, torn in ((0, 30), (2, 0), (6, 100), (9, len(lines[9]) - 1)):
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][:torn])
        again = compare(Solver(), TASK, POINTS, path, batch_size=4)
        for row, other in zip(rows, again, strict=True):
            assert torch.equal(row["scores"], other["scores"]) and row["arguments"] == other["arguments"]
        continued = path.read_bytes().splitlines(keepends=True)
        assert continued[:kept] == lines[:kept]
        assert [json.loads(line) | {"seconds": 0} for line in continued] == [
            json.loads(line) | {"seconds": 0} for line in lines
        ]
    model = Solver()
    compare(model, TASK, POINTS, path, batch_size=4)
    assert model.calls == 0


def test_other_examples_weights_or_seeds_are_computed_anew(tmp_path):
    path, points = tmp_path / "rows.jsonl", expand_grid([{"name": "none"}], ["random"], [1.0], [5])
    trained = Solver()
    trained.scale.data += 1
    compare(Solver(), TASK, points, path)
    for model, task, seed in (
        (Solver(), replace(TASK, examples=PUZZLES[1:8]), 0),
        (trained, TASK, 0),
        (Solver(), TASK, 1),
    ):
        compare(model, task, points, path, seed=seed)
        assert model.calls == 5
    assert len(path.read_text().splitlines()) == 4


def test_scores_survive_the_file():
    for scores in (torch.arange(7) < 3, torch.tensor([0.1, -2.5], dtype=torch.float64)):
        assert torch.equal(unpack_scores(json.loads(json.dumps(pack_scores(scores)))), scores)
