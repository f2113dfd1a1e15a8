"""Pictures of puzzles that are corrected."""

import torch

from prism_hf.evaluation import plot_corrections, quality_samples
from prism_hf.evaluation.tasks.sudoku.plots import most_corrected
from prism_hf.generation import remask_generate

SETTING = {"order": "left_to_right", "remask_strategy": "prism", "num_remask": 2}


def test_pictures_and_quality_samples(sudoku, tmp_path):
    cell = int((sudoku.puzzles[0] == 0).nonzero()[0])
    output = remask_generate(
        sudoku.Solver([cell]), sudoku.puzzles, return_dict_in_generate=True, output_trajectory=True, **SETTING
    )
    assert sudoku.puzzles[most_corrected(output, sudoku.puzzles), cell] == 0
    plot_corrections(tmp_path / "corrections.png", sudoku.puzzles, output)
    quality, right = quality_samples(output.trajectory, sudoku.puzzles, sudoku.solutions)
    assert torch.equal(quality > 0.5, right) and not right.all()
    loop = {"loop_start": 20, "loop_steps": 4, "num_remask_loop": 3}
    output = remask_generate(
        sudoku.Solver([cell]), sudoku.puzzles, return_dict_in_generate=True, output_trajectory=True, **SETTING, **loop
    )
    in_loop, right_in_loop = quality_samples(output.trajectory, sudoku.puzzles, sudoku.solutions)
    assert torch.equal(in_loop > 0.5, right_in_loop) and len(in_loop) > len(quality)
    assert (tmp_path / "corrections.png").read_bytes().startswith(b"\x89PNG")
