"""Solving puzzles with a model whose mistakes are known."""

import fcntl
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf.data import generate_puzzles, to_sequence
from prism_hf.evaluation import (
    evaluate_sudoku,
    markdown_table,
    plot_corrections,
    plot_success,
    quality_samples,
    sudoku_metrics,
)
from prism_hf.evaluation.tasks.sudoku.plots import most_corrected
from prism_hf.generation import remask_generate

PUZZLES, SOLUTIONS = (
    to_sequence(grids, 81) for grids in generate_puzzles(6, blanks=40, generator=torch.Generator().manual_seed(0))
)


class Solver(nn.Module):
    """Knows the solutions, but fills a wrong digit wherever it first looks at some cells; its quality tells."""

    def __init__(self, wrong_cells=()):
        super().__init__()
        self.config = SimpleNamespace(mask_token_id=0)
        self.wrong_cells, self.calls = list(wrong_cells), 0

    def forward(self, input_ids, attention_mask=None, return_quality=True):
        self.calls += 1
        row = (input_ids[:, None] == SOLUTIONS).logical_or(input_ids[:, None] == 0).sum(-1).argmax(-1)
        answer = SOLUTIONS[row].clone()
        early = (input_ids == 0).sum(-1, keepdim=True) > 20
        wrong = torch.zeros_like(answer, dtype=torch.bool)
        wrong[:, self.wrong_cells] = True
        shown = torch.where(wrong & early, answer % 9 + 1, answer)
        logits = 9.0 * nn.functional.one_hot(shown, 11).float()
        quality = torch.where(input_ids == answer, 4.0, -4.0)
        return SimpleNamespace(logits=logits, quality_logits=quality)


SETTINGS = [{"order": "left_to_right"}, {"order": "left_to_right", "remask_strategy": "prism", "num_remask": 2}]


def test_rows_hold_what_a_direct_run_gives_and_are_not_computed_twice(tmp_path):
    model, path = Solver([int((PUZZLES[0] == 0).nonzero()[0])]), tmp_path / "results" / "rows.jsonl"
    rows = evaluate_sudoku(model, PUZZLES, SETTINGS, path, solutions=SOLUTIONS, batch_size=4)
    for row, setting in zip(rows, SETTINGS, strict=True):
        sequences = torch.cat([remask_generate(model, part, **setting) for part in PUZZLES.split(4)])
        expected = sudoku_metrics(sequences, PUZZLES, SOLUTIONS)
        assert {name: row[name] for name in expected} == expected
        assert row["forward_passes"] == 40
    assert rows[0]["success"] < rows[1]["success"] == 1.0

    calls = model.calls
    assert evaluate_sudoku(model, PUZZLES, SETTINGS, path, solutions=SOLUTIONS, batch_size=4) == rows
    assert model.calls == calls
    assert evaluate_sudoku(model, PUZZLES[:3], SETTINGS[:1], path)[0]["num_puzzles"] == 3
    # As many other puzzles, or another model: neither is taken for what is there.
    evaluate_sudoku(model, PUZZLES[3:], SETTINGS[:1], path)
    model.scale = nn.Parameter(torch.ones(1))
    evaluate_sudoku(model, PUZZLES, SETTINGS[:1], path, solutions=SOLUTIONS, batch_size=4)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5


def test_two_evaluations_at_once_do_not_double_a_row(tmp_path):
    path, model, refused = tmp_path / "rows.jsonl", Solver(), []

    class Second(Solver):
        def forward(self, *args, **kwargs):
            if not refused:
                with open(tmp_path / "rows.jsonl.lock") as carrier, pytest.raises(BlockingIOError):
                    fcntl.flock(carrier, fcntl.LOCK_EX | fcntl.LOCK_NB)
                refused.append(True)
            return super().forward(*args, **kwargs)

    with open(tmp_path / "rows.jsonl.lock", "a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"Another run works on .*rows\.jsonl"):
            evaluate_sudoku(model, PUZZLES, SETTINGS, path)
    assert not model.calls and not path.exists()
    evaluate_sudoku(Second(), PUZZLES, SETTINGS, path)
    assert refused and len(path.read_text().splitlines()) == len(SETTINGS)
    assert [each.name for each in tmp_path.iterdir()] == ["rows.jsonl"]


class Killed(Solver):
    """Is interrupted in its 90th forward."""

    def forward(self, input_ids, **kwargs):
        if self.calls == 89:
            raise KeyboardInterrupt
        return super().forward(input_ids, **kwargs)


def test_an_interrupted_setting_goes_on_with_the_batches_that_are_missing(tmp_path):
    setting = {"order": "random", "remask_strategy": "random", "num_remask": 2, "do_sample": True}
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    (expected,) = evaluate_sudoku(Solver(), PUZZLES, [setting], whole, solutions=SOLUTIONS, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_sudoku(Killed(), PUZZLES, [setting], path, solutions=SOLUTIONS, batch_size=2)
    (kept,) = tmp_path.glob("rows.*shard*")
    with open(kept, "a") as file:
        file.write('{"part": 4, "rows": [{"seq')  # a line that a killed process did not finish
    # Batches of another size are others.
    evaluate_sudoku(other := Solver(), PUZZLES, [setting], path, solutions=SOLUTIONS, batch_size=3)
    assert other.calls == 2 * 40
    (row,) = evaluate_sudoku(last := Solver(), PUZZLES, [setting], path, solutions=SOLUTIONS, batch_size=2)
    assert last.calls == 40  # two of three batches were there
    assert row | {"seconds": 0} == expected | {"seconds": 0} and row["seconds"] > 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rows.jsonl", "whole.jsonl"]


def test_table_names_every_setting(tmp_path):
    rows = evaluate_sudoku(Solver(), PUZZLES, SETTINGS, tmp_path / "rows.jsonl", solutions=SOLUTIONS)
    lines = markdown_table(rows).splitlines()
    assert lines[2].startswith("| left_to_right | greedy | none | 40 | 100.0% | 61.0% to 100.0% | 100.00% |")
    assert "| prism (num_remask=2) |" in lines[3]


class LateSolver(Solver):
    """Is sure of the solution once half of a puzzle's 40 blanks are filled."""

    def forward(self, input_ids, **kwargs):
        output = super().forward(input_ids, **kwargs)
        output.logits = output.logits * torch.where((input_ids == 0).sum(-1) > 20, 0.1, 1.0)[:, None, None]
        return output


def test_passes_are_those_that_each_puzzle_took(tmp_path):
    easy = torch.where((PUZZLES == 0).cumsum(-1) > 10, SOLUTIONS, PUZZLES)  # 10 blanks left
    setting = {"order": "confidence", "confidence_threshold": 0.9, "steps": 40}
    (row,) = evaluate_sudoku(LateSolver(), torch.cat([PUZZLES, easy]), [setting], tmp_path / "rows.jsonl")
    # The easy ones are filled at once, the others one by one for 20 steps first.
    assert (row["success"], row["forward_passes"], row["mean_forward_passes"]) == (1.0, 21, 11.0)
    table = markdown_table([row])
    assert "| confidence > 0.9 | greedy | none | 11.0 (at most 21) |" in table


def test_a_wrong_setting_stops_before_any_work(tmp_path):
    model = Solver()
    wrong = {"remask_strategy": "random", "num_remask": 1, "eta": 0.1}
    with pytest.raises(ValueError, match="num_remask=1 and eta=0.1"):
        evaluate_sudoku(model, PUZZLES, [SETTINGS[0], wrong], tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="no settings"):
        evaluate_sudoku(model, PUZZLES, [], tmp_path / "rows.jsonl")
    assert model.calls == 0 and not (tmp_path / "rows.jsonl").exists()


def test_pictures_and_quality_samples(tmp_path):
    cell = int((PUZZLES[0] == 0).nonzero()[0])
    output = remask_generate(
        Solver([cell]), PUZZLES, return_dict_in_generate=True, output_trajectory=True, **SETTINGS[1]
    )
    assert PUZZLES[most_corrected(output, PUZZLES), cell] == 0
    plot_corrections(tmp_path / "corrections.png", PUZZLES, output)
    quality, right = quality_samples(output.trajectory, PUZZLES, SOLUTIONS)
    assert torch.equal(quality > 0.5, right) and not right.all()
    loop = {"loop_start": 20, "loop_steps": 4, "num_remask_loop": 3}
    output = remask_generate(
        Solver([cell]), PUZZLES, return_dict_in_generate=True, output_trajectory=True, **SETTINGS[1], **loop
    )
    in_loop, right_in_loop = quality_samples(output.trajectory, PUZZLES, SOLUTIONS)
    assert torch.equal(in_loop > 0.5, right_in_loop) and len(in_loop) > len(quality)
    rows = evaluate_sudoku(Solver(), PUZZLES, SETTINGS, tmp_path / "rows.jsonl")
    plot_success(tmp_path / "success.png", rows)
    for name in ("corrections.png", "success.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
