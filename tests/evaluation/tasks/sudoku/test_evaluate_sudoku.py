"""Solving puzzles with a model whose mistakes are known."""

import fcntl
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from prism_hf import evaluation
from prism_hf.data import generate_puzzles, to_sequence, write_sudoku_csv
from prism_hf.evaluation import (
    Task,
    comparison_table,
    evaluate,
    is_solved,
    load_sudoku,
    plot_comparison,
    plot_corrections,
    quality_samples,
    sudoku_metrics,
)
from prism_hf.evaluation.tasks.sudoku.plots import most_corrected
from prism_hf.evaluation.tasks.sudoku.task import adopt_results, judge_beside
from prism_hf.generation import remask_generate
from prism_hf.jobs.digests import digest, weights_digest

PUZZLES, SOLUTIONS = (
    to_sequence(grids, 81) for grids in generate_puzzles(6, blanks=40, generator=torch.Generator().manual_seed(0))
)

TASK = Task(PUZZLES, PUZZLES[:0], judge_beside(SOLUTIONS), "solved", "Six puzzles.")


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
    rows = evaluate(model, TASK, SETTINGS, path, batch_size=4)
    for row, setting in zip(rows, SETTINGS, strict=True):
        sequences = torch.cat([remask_generate(model, part, **setting) for part in PUZZLES.split(4)])
        assert torch.equal(row["scores"], is_solved(sequences, PUZZLES))
        assert row["measures"] == {"cells right": sudoku_metrics(sequences, PUZZLES, SOLUTIONS)["cell_accuracy"]}
        assert row["forward_passes"] == 40
        kept = [json.loads(line) for line in (path.parent / row["completions"]).read_text().splitlines()]
        assert [each["tokens"] for each in kept] == sequences.tolist()
    assert rows[0]["scores"].double().mean() < 1 and rows[1]["scores"].all()

    calls = model.calls
    for row, again in zip(rows, evaluate(model, TASK, SETTINGS, path, batch_size=4), strict=True):
        assert torch.equal(row["scores"], again["scores"])
        assert row | {"scores": None} == again | {"scores": None}
    assert model.calls == calls
    some = replace(TASK, examples=PUZZLES[:3], judge=is_solved)
    assert len(evaluate(model, some, SETTINGS[:1], path)[0]["scores"]) == 3
    # As many other puzzles, or another model: neither is taken for what is there.
    evaluate(model, replace(some, examples=PUZZLES[3:]), SETTINGS[:1], path)
    model.scale = nn.Parameter(torch.ones(1))
    evaluate(model, TASK, SETTINGS[:1], path)
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 5


def test_results_of_an_earlier_version_are_taken_over(tmp_path):
    model, path = Solver(), tmp_path / "rows.jsonl"
    old = {
        "setting": {"remask_strategy": "none"} | SETTINGS[0],
        "num_puzzles": 6,
        "examples": digest(PUZZLES),
        "weights": weights_digest(model),
        "batch_size": 250,
        "seed": 0,
        "bf16": False,
        "forward_passes": 40,
        "mean_forward_passes": 40.0,
        "seconds": 2.5,
        "success": 2 / 3,
        "success_low": 0.3,
        "success_high": 0.9,
        "cell_accuracy": 0.75,
    }
    path.write_text(json.dumps(old) + "\n")
    adopt_results(path)
    rows = evaluate(model, TASK, SETTINGS, path)
    assert model.calls == 40  # the second setting alone
    assert rows[0]["scores"].sum() == 4 and len(rows[0]["scores"]) == 6
    line = comparison_table(rows).splitlines()[2]
    assert line == "| none | left_to_right | greedy | 40 | 66.7% | 30.0% to 90.3% | 0.7500 | 2 |"
    written = path.read_bytes()
    adopt_results(path)
    assert path.read_bytes() == written
    assert json.loads(written.splitlines()[0]).items() >= old.items()


def test_old_names_serve_for_one_more_version(tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.warns(FutureWarning, match="evaluate_sudoku is now called evaluate"):
        rows = evaluation.evaluate_sudoku(Solver(), PUZZLES, SETTINGS, path, solutions=SOLUTIONS, batch_size=4)
    for row in rows:
        assert {"num_puzzles": 6, "success": 1.0, "success_high": 1.0, "cell_accuracy": 1.0}.items() <= row.items()
        assert row["success_low"] == pytest.approx(0.60966, abs=1e-5)
    with pytest.warns(FutureWarning, match="markdown_table is now called .*comparison_table"):
        assert evaluation.markdown_table is comparison_table
    with pytest.warns(FutureWarning, match="plot_success is now called .*plot_comparison"):
        assert evaluation.plot_success is plot_comparison
    with pytest.warns(FutureWarning, match="score of .* is now called judge"):
        task = Task(PUZZLES, PUZZLES[:0], score=is_solved, measured="solved", origin="")
    assert torch.equal(task.judged(SOLUTIONS, PUZZLES).scores, torch.ones(6, dtype=torch.bool))


def test_solutions_are_those_of_the_puzzles(tmp_path):
    write_sudoku_csv(tmp_path / "puzzles.csv", PUZZLES)
    write_sudoku_csv(tmp_path / "solutions.csv", SOLUTIONS)
    files = {"puzzles_file": str(tmp_path / "puzzles.csv"), "solutions_file": str(tmp_path / "solutions.csv")}
    task = load_sudoku(layout=81, num_puzzles=4, num_tuning_puzzles=2, **files)
    judged = task.judge(SOLUTIONS[:4], task.examples)
    assert judged.scores.all() and judged.measures == {"cells right": 1.0}
    unsolved = task.judge(task.tuning_examples, task.tuning_examples)
    assert not unsolved.scores.any() and unsolved.measures == {"cells right": 0.0}
    write_sudoku_csv(tmp_path / "solutions.csv", SOLUTIONS.flip(0))
    with pytest.raises(ValueError, match="solutions.csv does not hold the solutions of these puzzles"):
        load_sudoku(**files)


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
            evaluate(model, TASK, SETTINGS, path)
    assert not model.calls and not path.exists()
    evaluate(Second(), TASK, SETTINGS, path)
    assert refused and len(path.read_text().splitlines()) == len(SETTINGS)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["completions", "rows.jsonl"]


class Killed(Solver):
    """Is interrupted in its 90th forward."""

    def forward(self, input_ids, **kwargs):
        if self.calls == 89:
            raise KeyboardInterrupt
        return super().forward(input_ids, **kwargs)


def test_an_interrupted_setting_goes_on_with_the_batches_that_are_missing(tmp_path):
    setting = {"order": "random", "remask_strategy": "random", "num_remask": 2, "do_sample": True}
    path, whole = tmp_path / "rows.jsonl", tmp_path / "whole.jsonl"
    (expected,) = evaluate(Solver(), TASK, [setting], whole, batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Killed(), TASK, [setting], path, batch_size=2)
    (kept,) = tmp_path.glob("rows.*shard*")
    with open(kept, "a") as file:
        file.write('{"part": 4, "rows": [{"seq')  # a line that a killed process did not finish
    # Batches of another size are others.
    evaluate(other := Solver(), TASK, [setting], path, batch_size=3)
    assert other.calls == 2 * 40
    (row,) = evaluate(last := Solver(), TASK, [setting], path, batch_size=2)
    assert last.calls == 40  # two of three batches were there
    assert torch.equal(row["scores"], expected["scores"]) and row["seconds"] > 0
    same = {"seconds": 0, "scores": None}
    assert row | same == expected | same
    assert sorted(each.name for each in tmp_path.iterdir()) == ["completions", "rows.jsonl", "whole.jsonl"]


def test_table_names_every_setting(tmp_path):
    rows = evaluate(Solver(), TASK, SETTINGS, tmp_path / "rows.jsonl")
    lines = comparison_table(rows).splitlines()
    heads = "| strategy | order | tokens | forward passes | solved | 95% interval | cells right | seconds |"
    assert lines[0] == heads and len(lines) == 4
    assert lines[2].startswith("| none | left_to_right | greedy | 40 | 100.0% | 61.0% to 100.0% | 1.000 |")
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
    task = replace(TASK, examples=torch.cat([PUZZLES, easy]), judge=is_solved)
    (row,) = evaluate(LateSolver(), task, [setting], tmp_path / "rows.jsonl")
    # The easy ones are filled at once, the others one by one for 20 steps first.
    assert row["scores"].all() and (row["forward_passes"], row["mean_forward_passes"]) == (21, 11.0)
    table = comparison_table([row])
    assert "| none | confidence > 0.9 | greedy | 11.0 (at most 21) |" in table


def test_a_wrong_setting_stops_before_any_work(tmp_path):
    model = Solver()
    wrong = {"remask_strategy": "random", "num_remask": 1, "eta": 0.1}
    with pytest.raises(ValueError, match="num_remask=1 and eta=0.1"):
        evaluate(model, TASK, [SETTINGS[0], wrong], tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="no settings"):
        evaluate(model, TASK, [], tmp_path / "rows.jsonl")
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
    rows = evaluate(Solver(), TASK, SETTINGS, tmp_path / "rows.jsonl")
    plot_comparison(tmp_path / "success.png", rows)
    for name in ("corrections.png", "success.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
