"""Many grids of few."""

import torch

from prism_hf.data import generate_solved_grids


def test_solved_grids_are_valid_varied_and_repeatable(violations):
    grids = generate_solved_grids(2000, torch.Generator().manual_seed(0))
    digits = torch.arange(1, 10)
    boxes = grids.view(-1, 3, 3, 3, 3).transpose(2, 3).reshape(-1, 9, 9)
    for units in (grids, grids.mT, boxes):
        assert (units.sort(-1).values == digits).all()
    assert violations(grids[0]) == 0
    assert len(grids.flatten(1).unique(dim=0)) == 2000
    frequency = (grids[..., None] == digits).double().mean(0)
    assert (frequency - 1 / 9).abs().max() < 0.035  # 5 standard errors: every cell holds every digit alike
    assert torch.equal(grids, generate_solved_grids(2000, torch.Generator().manual_seed(0)))
    assert not torch.equal(grids, generate_solved_grids(2000, torch.Generator().manual_seed(1)))


def test_solved_grids_are_not_symmetries_of_one_grid():
    # Unlabelled, unordered: for each pair of columns, the cycle lengths of the map from one to the other, and likewise
    # for rows. No symmetry of Sudoku changes the collection.
    def cycles(a, b):
        step, lengths = dict(zip(a, b, strict=True)), []
        while step:
            start, length = next(iter(step)), 0
            while start in step:
                start, length = step.pop(start), length + 1
            lengths.append(length)
        return tuple(sorted(lengths))

    def signature(grid):
        def side(lines):
            pairs = [(i, j) for i in range(9) for j in range(i)]
            return sorted((i // 3 == j // 3, cycles(lines[i], lines[j])) for i, j in pairs)

        return tuple(map(tuple, sorted([side(grid.tolist()), side(grid.mT.tolist())])))

    assert len({signature(grid) for grid in generate_solved_grids(60, torch.Generator().manual_seed(0))}) > 40
    stock_of_one = generate_solved_grids(1, torch.Generator().manual_seed(0))[0]
    assert signature(stock_of_one) == signature(stock_of_one.mT) == signature(stock_of_one.roll(3, 0))
