"""What ships with the package."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM

from prism_hf import PrismForMaskedDiffusion
from prism_hf.data import SudokuTokenizer, count_solutions, read_sudoku_csv, to_grid, to_sequence
from prism_hf.evaluation import is_solved
from prism_hf.resources import model_path, resource_path


def test_models_fit_in_twelve_megabytes_and_hold_no_pickle():
    files = [path for name in ("sudoku_mdm", "sudoku_prism") for path in Path(resource_path(name)).iterdir()]
    assert sum(path.stat().st_size for path in files) <= 12e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".md"}


def test_puzzles_have_51_blanks_and_their_solution_only():
    puzzles = to_grid(read_sudoku_csv(resource_path("sudoku/puzzles.csv")))
    solutions = to_grid(read_sudoku_csv(resource_path("sudoku/solutions.csv")))
    assert len(puzzles) == len(solutions) == 500
    assert ((puzzles == 0).sum((1, 2)) == 51).all()
    assert ((puzzles == solutions) | (puzzles == 0)).all() and (solutions > 0).all()
    assert all(count_solutions(puzzle) == 1 for puzzle in puzzles[::10])


def test_shipped_prism_corrects_what_the_shipped_model_gets_wrong():
    puzzles = to_sequence(to_grid(read_sudoku_csv(resource_path("sudoku/puzzles.csv"))), 81)[:30]
    backbone = AutoModelForMaskedLM.from_pretrained(resource_path("sudoku_mdm"))
    fresh = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_mdm"))
    with torch.no_grad():
        logits = backbone(puzzles).logits
        torch.testing.assert_close(fresh(puzzles).logits, logits)
    model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
    sampled = {"order": "random", "do_sample": True}
    generator = torch.Generator().manual_seed(0)
    plain = model.generate(puzzles, steps=51, remask_strategy="none", generator=generator, **sampled)
    corrected = model.generate(
        puzzles, steps=102, remask_strategy="prism", num_remask=4, generator=generator, **sampled
    )
    assert is_solved(corrected, puzzles).sum() >= is_solved(plain, puzzles).sum() + 5


def test_shipped_tokenizer():
    tokenizer = SudokuTokenizer.from_pretrained(resource_path("sudoku_prism"))
    assert tokenizer("12.\n").input_ids == [1, 2, 0, 10] and tokenizer.mask_token_id == 0


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'sudoku_mdlm'.*sudoku_mdm"):
        resource_path("sudoku_mdlm")


def test_a_model_that_ships_goes_by_its_name_unless_a_folder_has_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert model_path("sudoku_mdm") == resource_path("sudoku_mdm")
    assert model_path("sudoku/puzzles.csv") == "sudoku/puzzles.csv" and model_path("a/b") == "a/b"
    (tmp_path / "sudoku_mdm").mkdir()
    assert model_path("sudoku_mdm") == "sudoku_mdm"
