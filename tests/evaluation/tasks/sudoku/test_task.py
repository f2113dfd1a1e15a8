"""The task of solving puzzles, and what is told of them."""

import json
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest
from transformers import EvalPrediction

from prism_hf import evaluation
from prism_hf.data import generate_puzzles, to_sequence, write_sudoku_csv
from prism_hf.evaluation import (
    Task,
    comparison_table,
    evaluate,
    is_solved,
    load_sudoku,
    load_task,
    plot_comparison,
    sudoku_metrics,
    sudoku_prediction_metrics,
)
from prism_hf.evaluation.tasks.sudoku.task import adopt_results
from prism_hf.jobs.digests import digest, json_digest, weights_digest

SETTINGS = [{"order": "left_to_right"}, {"order": "left_to_right", "remask_strategy": "prism", "num_remask": 2}]

# Latin square with valid boxes: row r is 1..9 rotated by 3 r + r // 3.
SOLVED = torch.tensor([[(3 * r + r // 3 + c) % 9 + 1 for c in range(9)] for r in range(9)])


def sequence(grid, layout=81):
    rows = [row.tolist() for row in grid]
    if layout == 81:
        return torch.tensor(sum(rows, []))
    return torch.tensor(sum(([*row, 10] for row in rows), [])[:-1])


def puzzle_of(ids, blanks):
    ids = ids.clone()
    ids[blanks] = 0
    return ids


@pytest.mark.parametrize("layout", [81, 89])
def test_a_solved_grid_that_keeps_the_givens(layout):
    solution = sequence(SOLVED, layout)
    puzzle = puzzle_of(solution, [0, 5, 8])
    assert is_solved(solution[None], puzzle[None]).tolist() == [True]
    assert is_solved(puzzle[None], puzzle[None]).tolist() == [False]


def test_metrics_of_what_a_trainer_has_generated():
    puzzles, solutions = generate_puzzles(3, 20, torch.Generator().manual_seed(0))
    puzzles, solutions = to_sequence(puzzles, 89), to_sequence(solutions, 89)
    predictions, blanks = solutions.clone(), (puzzles[1] == 0).nonzero().flatten()
    predictions[1, blanks[0]] = solutions[1, blanks[0]] % 9 + 1
    labels = solutions.masked_fill(puzzles != 0, -100)
    metrics = sudoku_prediction_metrics(EvalPrediction(predictions.numpy(), labels.numpy()))
    assert metrics == sudoku_metrics(predictions, puzzles, solutions)
    assert metrics["success"] == pytest.approx(2 / 3) and metrics["cell_accuracy"] == pytest.approx(59 / 60)


def test_a_valid_grid_for_another_puzzle_is_no_success():
    relabelled = SOLVED % 9 + 1
    predictions, puzzles = sequence(relabelled)[None], puzzle_of(sequence(SOLVED), [0])[None]
    assert is_solved(predictions, torch.zeros_like(puzzles)).tolist() == [True]
    assert is_solved(predictions, puzzles).tolist() == [False]


@pytest.mark.parametrize(
    "broken",
    [
        SOLVED[[3, 1, 2, 0, 4, 5, 6, 7, 8]],  # rows and columns hold, boxes do not
        torch.arange(1, 10).expand(9, 9),  # rows only
        torch.arange(1, 10)[:, None].expand(9, 9),  # columns only
        torch.arange(1, 10).view(3, 3).repeat(3, 3),  # boxes only
        torch.where(SOLVED == 9, 10, SOLVED),  # an end-of-row token in a cell
    ],
)
def test_each_rule_counts(broken):
    predictions = sequence(broken)[None]
    assert is_solved(predictions, torch.zeros_like(predictions)).tolist() == [False]


def test_a_changed_end_of_row_token_is_no_success():
    solution = sequence(SOLVED, 89)
    prediction = solution.clone()
    prediction[9] = 1
    assert is_solved(prediction[None], solution[None]).tolist() == [False]


@pytest.mark.parametrize("solved, total", [(0, 7), (3, 7), (7, 7), (40, 50)])
def test_success_interval_is_wilsons(solved, total):
    solution = sequence(SOLVED)
    puzzles = puzzle_of(solution, [0, 1, 2, 3]).repeat(total, 1)
    predictions = solution.repeat(total, 1)
    predictions[solved:, 0] = 9  # one of the four blanks
    metrics = sudoku_metrics(predictions, puzzles, solution.repeat(total, 1))
    expected = binomtest(solved, total).proportion_ci(0.95, method="wilson")
    assert metrics["success"] == solved / total
    assert metrics["success_low"] == pytest.approx(expected.low, abs=1e-6)
    assert metrics["success_high"] == pytest.approx(expected.high, abs=1e-6)
    assert metrics["cell_accuracy"] == pytest.approx((4 * solved + 3 * (total - solved)) / (4 * total))
    assert "cell_accuracy" not in sudoku_metrics(predictions, puzzles)


def test_bad_shapes_are_refused():
    ids = sequence(SOLVED)[None]
    with pytest.raises(ValueError, match="same shape"):
        is_solved(ids, sequence(SOLVED, 89)[None])
    with pytest.raises(ValueError, match="same shape"):
        sudoku_metrics(ids, ids, ids.repeat(2, 1))
    with pytest.raises(ValueError, match="no puzzles"):
        sudoku_metrics(ids[:0], ids[:0])


def test_puzzles_to_tune_on_are_not_those_reported(tmp_path):
    task = load_task("sudoku", layout=81, num_puzzles=20, num_tuning_puzzles=4)
    assert task.examples.shape == (20, 81) and task.tuning_examples.shape == (4, 81)
    blanks = (task.examples == 0).sum(-1)
    assert ((task.tuning_examples == 0).sum(-1) == blanks.double().mean().round()).all()
    # The same grid with other givens is the same puzzle to a model that has tuned on its solution.
    other = task.tuning_examples[:1].clone()
    other[0, other[0].nonzero()[:3, 0]] = 0
    write_sudoku_csv(tmp_path / "puzzles.csv", torch.cat([task.examples, other]))
    with pytest.raises(ValueError, match=r"1 of 4 puzzles .* another tuning_seed than 0"):
        load_task("sudoku", puzzles_file=str(tmp_path / "puzzles.csv"), num_tuning_puzzles=4)
    assert len(load_task("sudoku", puzzles_file=str(tmp_path / "puzzles.csv"), num_tuning_puzzles=0).examples) == 21
    with pytest.raises(ValueError, match="num_puzzles=22 of the task sudoku must be an integer from 1 to 21"):
        load_task("sudoku", puzzles_file=str(tmp_path / "puzzles.csv"), num_puzzles=22)


def test_solutions_are_those_of_the_puzzles(sudoku, tmp_path):
    write_sudoku_csv(tmp_path / "puzzles.csv", sudoku.puzzles)
    write_sudoku_csv(tmp_path / "solutions.csv", sudoku.solutions)
    files = {"puzzles_file": str(tmp_path / "puzzles.csv"), "solutions_file": str(tmp_path / "solutions.csv")}
    task = load_sudoku(layout=81, num_puzzles=4, num_tuning_puzzles=2, **files)
    judged = task.judge(sudoku.solutions[:4], task.examples)
    assert judged.scores.all() and judged.measures == {"cells right": 1.0}
    unsolved = task.judge(task.tuning_examples, task.tuning_examples)
    assert not unsolved.scores.any() and unsolved.measures == {"cells right": 0.0}
    write_sudoku_csv(tmp_path / "solutions.csv", sudoku.solutions.flip(0))
    with pytest.raises(ValueError, match="solutions.csv does not hold the solutions of these puzzles"):
        load_sudoku(**files)


def test_results_of_an_earlier_version_are_taken_over(sudoku, tmp_path):
    model, path = sudoku.Solver(), tmp_path / "rows.jsonl"
    made_with = {
        "num_puzzles": 6,
        "examples": digest(sudoku.puzzles),
        "weights": weights_digest(model),
        "batch_size": 3,
        "seed": 0,
        "bf16": False,
    }
    old = {
        "setting": {"remask_strategy": "none"} | SETTINGS[0],
        **made_with,
        "forward_passes": 40,
        "mean_forward_passes": 40.0,
        "seconds": 2.5,
        "success": 2 / 3,
        "success_low": 0.3,
        "success_high": 0.9,
        "cell_accuracy": 0.75,
    }
    path.write_text(json.dumps(old) + "\n")
    # Of the second setting, a kill has left the first of two batches.
    left = {"sequences": sudoku.solutions[:3].tolist(), "num_forwards": 40, "passes": [40.0] * 3, "seconds": 1.0}
    name = json_digest({"setting": SETTINGS[1]} | made_with)
    (tmp_path / f"rows.{name}.jsonl.shard-00000").write_text(json.dumps({"part": 0, "rows": [left]}) + "\n")
    adopt_results(path)
    task = replace(sudoku.task, made_with={"num_puzzles": 6})
    rows = evaluate(model, task, SETTINGS, path, batch_size=3)
    assert model.calls == 40 and rows[1]["scores"].all()
    assert rows[0]["scores"].sum() == 4 and len(rows[0]["scores"]) == 6
    line = comparison_table(rows).splitlines()[2]
    assert line == "| none | left_to_right | greedy | 40 |  | 66.7% | 30.0% to 90.3% | 0.7500 | 2 |"
    written = path.read_bytes()
    adopt_results(path)
    assert path.read_bytes() == written and sorted(each.name for each in tmp_path.glob("rows*")) == ["rows.jsonl"]
    assert json.loads(written.splitlines()[0]).items() >= old.items()


def test_old_names_serve_for_one_more_version(sudoku, tmp_path):
    path = tmp_path / "rows.jsonl"
    with pytest.warns(FutureWarning, match="evaluate_sudoku is now called evaluate"):
        rows = evaluation.evaluate_sudoku(
            sudoku.Solver(), sudoku.puzzles, SETTINGS, path, solutions=sudoku.solutions, batch_size=4
        )
    for row in rows:
        assert {"num_puzzles": 6, "success": 1.0, "success_high": 1.0, "cell_accuracy": 1.0}.items() <= row.items()
        assert row["success_low"] == pytest.approx(0.60966, abs=1e-5)
    with pytest.warns(FutureWarning, match="markdown_table is now called .*comparison_table"):
        assert evaluation.markdown_table is comparison_table
    with pytest.warns(FutureWarning, match="plot_success is now called .*plot_comparison"):
        assert evaluation.plot_success is plot_comparison
    with pytest.warns(FutureWarning, match="score of .* is now called judge"):
        task = Task(sudoku.puzzles, sudoku.puzzles[:0], score=is_solved, measured="solved", origin="")
    assert torch.equal(task.judged(sudoku.solutions, sudoku.puzzles).scores, torch.ones(6, dtype=torch.bool))
    with pytest.raises(TypeError, match="takes no measures: its judge returns them"):
        Task(sudoku.puzzles, sudoku.puzzles[:0], is_solved, "solved", "", measures={})
