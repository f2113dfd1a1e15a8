"""A file of results, of which each row is made once."""

import json

import pytest

from prism_hf.jobs.results import COMPLETIONS, share_row


def test_a_row_is_made_once_of_parts_that_a_failure_leaves(tmp_path):
    path, made_with, made = tmp_path / "rows.jsonl", {"setting": {"steps": 4}, "seed": 0}, []

    def make(part):
        made.append(part)
        if len(made) == 2:
            raise InterruptedError
        return [{"n": part}, {"n": part + 1}]

    def finish(rows):
        return {"total": sum(row["n"] for row in rows), COMPLETIONS: rows}

    with pytest.raises(InterruptedError):
        share_row(path, made_with, (0, 2), make, finish)
    assert not path.exists()
    row = share_row(path, made_with, (0, 2), make, finish)
    assert made == [0, 2, 2] and row["total"] == 6 and [json.loads(path.read_text())] == [row]
    kept = (tmp_path / row[COMPLETIONS]).read_text().splitlines()
    assert [json.loads(line) for line in kept] == [{"n": n} for n in range(4)]
    assert share_row(path, made_with, (0, 2), make, finish) == row and len(made) == 3
    assert {each.name for each in tmp_path.iterdir()} == {"rows.jsonl", COMPLETIONS}
    other = share_row(path, made_with | {"seed": 1}, (0, 2), make, lambda rows: {})
    assert other == {"setting": {"steps": 4}, "seed": 1} and len(made) == 5
    assert [json.loads(line) for line in path.read_text().splitlines()] == [row, other]


def test_results_of_the_version_before_go_on(begun_before):
    path = begun_before / "results.jsonl"
    first = json.loads(path.read_text())
    made_with = {name: first[name] for name in ("model", "examples", "weights", "batch_size", "seed", "bf16")}
    made = []

    def make(start):
        made.append(start)
        return [{"sequences": [], "num_forwards": 0, "passes": [], "seconds": 0.0}]

    def row_of(setting):
        return share_row(path, {"setting": setting} | made_with, (0, 3, 6), make, lambda batches: {"n": len(batches)})

    assert row_of({"remask_strategy": "none", "steps": 4, "order": "margin"}) == first
    second = {"remask_strategy": "random", "steps": 4, "order": "random", "do_sample": True, "num_remask": 1}
    assert row_of(second)["n"] == 3 and made == [6]
