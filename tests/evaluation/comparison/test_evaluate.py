"""Listed settings on puzzles, by a model whose mistakes are known."""

import fcntl
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from prism_hf.evaluation import Judgement, comparison_table, evaluate, is_solved, plot_comparison, sudoku_metrics
from prism_hf.generation import remask_generate

SETTINGS = [{"order": "left_to_right"}, {"order": "left_to_right", "remask_strategy": "prism", "num_remask": 2}]


def test_rows_hold_what_a_direct_run_gives_and_are_not_computed_twice(sudoku, tmp_path):
    model, path = sudoku.Solver([int((sudoku.puzzles[0] == 0).nonzero()[0])]), tmp_path / "results" / "rows.jsonl"
    rows = evaluate(model, sudoku.task, SETTINGS, path, batch_size=4)
    for row, setting in zip(rows, SETTINGS, strict=True):
        sequences = torch.cat([remask_generate(model, part, **setting) for part in sudoku.puzzles.split(4)])
        assert torch.equal(row["scores"], is_solved(sequences, sudoku.puzzles))
        assert row["measures"] == {
            "cells right": sudoku_metrics(sequences, sudoku.puzzles, sudoku.solutions)["cell_accuracy"]
        }
        assert row["forward_passes"] == 40
        kept = [json.loads(line) for line in (path.parent / row["completions"]).read_text().splitlines()]
        assert [each["tokens"] for each in kept] == sequences.tolist()
    assert rows[0]["scores"].double().mean() < 1 and rows[1]["scores"].all()

    calls = model.calls
    for row, again in zip(rows, evaluate(model, sudoku.task, SETTINGS, path, batch_size=4), strict=True):
        assert torch.equal(row["scores"], again["scores"])
        assert row | {"scores": None} == again | {"scores": None}
    assert model.calls == calls
    some = replace(sudoku.task, examples=sudoku.puzzles[:3], judge=is_solved)
    assert len(evaluate(model, some, SETTINGS[:1], path)[0]["scores"]) == 3
    # As many other puzzles, or another model: neither is taken for what is there.
    evaluate(model, replace(some, examples=sudoku.puzzles[3:]), SETTINGS[:1], path)
    model.scale = nn.Parameter(torch.ones(1))
    evaluate(model, sudoku.task, SETTINGS[:1], path)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5


def test_two_evaluations_at_once_do_not_double_a_row(sudoku, tmp_path):
    path, model, refused = tmp_path / "rows.jsonl", sudoku.Solver(), []

    def try_to_lock(number):
        if not refused:
            with open(tmp_path / "rows.jsonl.lock") as carrier, pytest.raises(BlockingIOError):
                fcntl.flock(carrier, fcntl.LOCK_EX | fcntl.LOCK_NB)
            refused.append(True)

    with open(tmp_path / "rows.jsonl.lock", "a") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"Another run works on .*rows\.jsonl"):
            evaluate(model, sudoku.task, SETTINGS, path)
    assert not model.calls and not path.exists()
    evaluate(sudoku.Solver(before=try_to_lock), sudoku.task, SETTINGS, path)
    assert refused and len(path.read_text().splitlines()) == len(SETTINGS)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["completions", "rows.jsonl"]


def test_an_interrupted_setting_goes_on_with_the_batches_that_are_missing(sudoku, tmp_path):
    def interrupt(number):
        if number == 90:
            raise KeyboardInterrupt

    setting = {"order": "random", "remask_strategy": "random", "num_remask": 2, "do_sample": True}
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    (expected,) = evaluate(sudoku.Solver(), sudoku.task, [setting], whole, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(sudoku.Solver(before=interrupt), sudoku.task, [setting], path, batch_size=2)
    (kept,) = tmp_path.glob("rows.*shard*")
    with open(kept, "a") as file:
        file.write('{"part": 4, "rows": [{"seq')  # a line that a killed process did not finish
    # Batches of another size are others.
    evaluate(other := sudoku.Solver(), sudoku.task, [setting], path, batch_size=3)
    assert other.calls == 2 * 40
    (row,) = evaluate(last := sudoku.Solver(), sudoku.task, [setting], path, batch_size=2)
    assert last.calls == 40  # two of three batches were there
    assert torch.equal(row["scores"], expected["scores"]) and row["seconds"] > 0
    same = {"seconds": 0, "scores": None}
    assert row | same == expected | same
    assert sorted(each.name for each in tmp_path.iterdir()) == ["completions", "rows.jsonl", "whole.jsonl"]


def test_table_names_every_setting(sudoku, tmp_path):
    rows = evaluate(sudoku.Solver(), sudoku.task, SETTINGS, tmp_path / "rows.jsonl")
    lines = comparison_table(rows).splitlines()
    heads = "strategy, order, tokens, forward passes, tokens per forward, solved, 95% interval, cells right, seconds"
    assert lines[0] == f"| {heads.replace(', ', ' | ')} |" and len(lines) == 4
    assert lines[2].startswith("| none | left_to_right | greedy | 40 | 1.00 | 100.0% | 61.0% to 100.0% | 1.000 |")
    assert "| prism (num_remask=2) |" in lines[3]
    plot_comparison(tmp_path / "results.png", rows)
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def test_passes_are_those_that_each_puzzle_took(sudoku, tmp_path):
    easy = torch.where((sudoku.puzzles == 0).cumsum(-1) > 10, sudoku.solutions, sudoku.puzzles)  # 10 blanks left
    setting = {"order": "confidence", "confidence_threshold": 0.9, "steps": 40}
    # Sure of the solution once half of a puzzle's 40 blanks are filled.
    task = replace(sudoku.task, examples=torch.cat([sudoku.puzzles, easy]), judge=is_solved)
    (row,) = evaluate(sudoku.Solver(sure_below=21), task, [setting], tmp_path / "rows.jsonl")
    # The easy ones are filled at once, the others one by one for 20 steps first.
    assert row["scores"].all() and (row["forward_passes"], row["mean_forward_passes"]) == (21, 11.0)
    assert row["tokens_per_forward"] == pytest.approx((40 + 10) / (21 + 1))
    table = comparison_table([row])
    assert "| none | confidence > 0.9 | greedy | 11.0 (at most 21) | 2.27 |" in table


def test_tokens_are_counted_by_the_judge_and_in_no_row_of_an_earlier_version(sudoku, tmp_path):
    def judge(sequences, examples):
        return Judgement(is_solved(sequences, examples), num_tokens=torch.arange(len(examples)))

    task, path = replace(sudoku.task, judge=judge), tmp_path / "rows.jsonl"
    (row,) = evaluate(sudoku.Solver(), task, SETTINGS[:1], path)
    assert row["tokens_per_forward"] == pytest.approx(sum(range(6)) / (6 * 40))
    older = json.loads(path.read_text())
    del older["mean_tokens"]
    path.write_text(json.dumps(older) + "\n")
    rows = evaluate(model := sudoku.Solver(), task, SETTINGS[:1], path)
    assert model.calls == 0 and "tokens per forward" not in comparison_table(rows)
    plot_comparison(tmp_path / "empty.png", rows, against="tokens per forward")


def test_a_wrong_setting_stops_before_any_work(sudoku, tmp_path):
    model = sudoku.Solver()
    wrong = {"remask_strategy": "random", "num_remask": 1, "eta": 0.1}
    with pytest.raises(ValueError, match="num_remask=1 and eta=0.1"):
        evaluate(model, sudoku.task, [SETTINGS[0], wrong], tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="no settings"):
        evaluate(model, sudoku.task, [], tmp_path / "rows.jsonl")
    assert model.calls == 0 and not (tmp_path / "rows.jsonl").exists()


def test_a_retry_may_hold_a_setting_under_its_old_name(sudoku, tmp_path):
    setting = SETTINGS[1] | {"retry_below": 1.0}
    results = [
        evaluate(sudoku.Solver(), sudoku.task, [setting | {"retries": [{name: None}]}], tmp_path / f"{name}.jsonl")
        for name in ("cache", "cache_implementation")
    ]
    assert torch.equal(*(rows[0]["scores"] for rows in results))


def test_a_table_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="no rows"):
        comparison_table([])
