"""Grids and puzzles to train on."""

import pytest
import torch

from prism_hf.data import (
    SolvedGrids,
    SudokuGrids,
    count_solutions,
    generate_solved_grids,
    is_valid_grid,
    read_sudoku_csv,
    to_grid,
    to_sequence,
    write_sudoku_csv,
)
from prism_hf.resources import resource_path


@pytest.mark.parametrize("layout", [81, 89])
def test_dataset_depends_on_seed_and_index_only(layout, violations):
    dataset = SudokuGrids(1000, seed=5, layout=layout)
    batch = dataset.__getitems__([7, 999, 0])
    for index, item in zip([7, 999, 0], batch, strict=True):
        assert torch.equal(item["input_ids"], SudokuGrids(10**6, seed=5, layout=layout)[index]["input_ids"])
        assert violations(to_grid(item["input_ids"][None])[0]) == 0
        assert item["input_ids"].dtype == torch.long and item["maskable"].dtype == torch.bool
        assert torch.equal(item["maskable"], item["input_ids"] != 10)
    assert len({tuple(item["input_ids"].tolist()) for item in dataset}) == len(dataset) == 1000
    assert not torch.equal(dataset[7]["input_ids"], SudokuGrids(1000, seed=6, layout=layout)[7]["input_ids"])


def test_dataset_feeds_a_data_loader():
    loader = torch.utils.data.DataLoader(SudokuGrids(10, seed=0), batch_size=4)
    assert [tuple(batch["input_ids"].shape) for batch in loader] == [(4, 89), (4, 89), (2, 89)]


def test_dataset_refuses_bad_arguments():
    with pytest.raises(IndexError):
        SudokuGrids(3, seed=0)[3]
    for arguments in [(0, 0), (3, -1), (3, 0, 90), (3, 0, 89, 1.5), (3, 0, 89, "51"), (3.0, 0), (3, 2**40)]:
        with pytest.raises(ValueError, match="of SudokuGrids must be"):
            SudokuGrids(*arguments)


def test_solved_grids_from_a_file(tmp_path):
    grids = generate_solved_grids(4, torch.Generator().manual_seed(3))
    path = tmp_path / "solved.csv"
    write_sudoku_csv(path, to_sequence(grids))
    dataset = SolvedGrids(path)
    assert len(dataset) == 4
    item = dataset[2]
    assert torch.equal(to_grid(item["input_ids"][None])[0], grids[2])
    assert item["maskable"].sum() == 81 and (item["input_ids"][~item["maskable"]] == 10).all()

    grids[1, 0, 0] = 0
    grids[3, 0, [0, 1]] = grids[3, 0, [1, 0]]
    write_sudoku_csv(path, to_sequence(grids, 81))
    with pytest.raises(ValueError, match=r"solved\.csv, line 2: not a solved grid.*2 such lines"):
        SolvedGrids(path)


@pytest.mark.parametrize("layout", [81, 89])
def test_puzzles_to_train_on_have_one_solution_each(layout):
    dataset = SudokuGrids(50, seed=3, layout=layout, blanks=45, num_puzzles=4)
    items = dataset.__getitems__(list(range(8)))
    assert len({tuple(item["input_ids"].tolist()) for item in items}) == 8
    for item in items:
        assert item["maskable"].sum() == 45
        puzzle = item["input_ids"].masked_fill(item["maskable"], 0)
        assert is_valid_grid(to_grid(item["input_ids"][None])).all()
        assert count_solutions(to_grid(puzzle[None])[0]) == 1
    alone = SudokuGrids(50, seed=3, layout=layout, blanks=45, num_puzzles=4)[5]
    assert torch.equal(alone["input_ids"], items[5]["input_ids"])
    assert torch.equal(alone["maskable"], items[5]["maskable"])


def test_puzzles_to_train_on_are_not_those_that_ship():
    dataset = SudokuGrids(1, seed=0, layout=81, blanks=51, num_puzzles=20)  # the shipped ones were made with seed 0
    shipped = to_grid(read_sudoku_csv(resource_path("sudoku/solutions.csv")))
    assert not (dataset.solutions[:, None] == shipped).flatten(2).all(-1).any()
