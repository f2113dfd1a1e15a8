import pytest
import torch

from prism_hf.data import (
    SolvedGrids,
    SudokuGrids,
    SudokuTokenizer,
    cell_positions,
    count_solutions,
    generate_puzzles,
    generate_solved_grids,
    is_valid_grid,
    read_sudoku_csv,
    to_grid,
    to_sequence,
    write_sudoku_csv,
)
from prism_hf.resources import resource_path

# The puzzle of the Wikipedia article on Sudoku, and its solution.
PUZZLE = """53..7....
6..195...
.98....6.
8...6...3
4..8.3..1
7...2...6
.6....28.
...419..5
....8..79"""
SOLUTION = """534678912
672195348
198342567
859761423
426853791
713924856
961537284
287419635
345286179"""


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def parse(text):
    return torch.tensor([[int(c) for c in line.replace(".", "0")] for line in text.splitlines()])


def violations(grid):
    """Pairs of equal digits that share a row, a column or a box, by comparing all pairs of cells."""
    cells = [(r, c, int(grid[r][c])) for r in range(9) for c in range(9)]
    return sum(
        1
        for i, (r, c, d) in enumerate(cells)
        for s, e, f in cells[:i]
        if d == f and (r == s or c == e or (r // 3, c // 3) == (s // 3, e // 3))
    )


def exhaustive_solutions(grid, limit):
    """Cell-by-cell search in reading order, unlike the solver under test."""
    rows = [list(map(int, row)) for row in grid]
    found = 0

    def fill(i):
        nonlocal found
        if found == limit:
            return
        if i == 81:
            found += 1
            return
        r, c = divmod(i, 9)
        if rows[r][c]:
            return fill(i + 1)
        taken = set(rows[r]) | {row[c] for row in rows}
        taken |= {rows[r // 3 * 3 + k // 3][c // 3 * 3 + k % 3] for k in range(9)}
        for digit in set(range(1, 10)) - taken:
            rows[r][c] = digit
            fill(i + 1)
            rows[r][c] = 0

    fill(0)
    return found


@pytest.mark.parametrize("layout", [81, 89])
def test_sequences_hold_the_cells_in_reading_order(layout):
    grid = parse(SOLUTION)[None]
    sequence = to_sequence(grid, layout)
    joined = SOLUTION.replace("\n", "" if layout == 81 else "A")
    assert sequence[0].tolist() == [int(c, 16) for c in joined]
    assert torch.equal(to_grid(sequence), grid)
    assert torch.equal(sequence[0, cell_positions(layout)], grid.flatten())


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="89 tokens.*got 90"):
        to_grid(torch.zeros(2, 90, dtype=torch.long))
    for function in (is_valid_grid, count_solutions, to_grid, to_sequence):
        with pytest.raises(ValueError, match=r"Expected (a grid|ids) of shape .*got \(81,\)"):
            function(torch.zeros(81, dtype=torch.long))
    for wrong in (11, -1):
        with pytest.raises(ValueError, match="is no Sudoku token: those are 0 to 10"):
            SudokuTokenizer().decode([wrong])
    with pytest.raises(ValueError, match=r"\(N, 9, 9\).*\(9, 9\)"):
        to_sequence(torch.zeros(9, 9, dtype=torch.long))


@pytest.mark.parametrize("layout", [81, 89])
def test_csv_round_trip(tmp_path, layout):
    ids = to_sequence(torch.stack([parse(PUZZLE), parse(SOLUTION)]), layout)
    write_sudoku_csv(tmp_path / "grids.csv", ids)
    assert torch.equal(read_sudoku_csv(tmp_path / "grids.csv"), ids)
    assert (tmp_path / "grids.csv").read_text().splitlines()[0].startswith("5,3,0,0,7")


def row(layout=89, **replaced):
    fields = [str(v) for v in to_sequence(parse(PUZZLE)[None], layout)[0].tolist()]
    for column, value in replaced.items():
        fields[int(column[1:]) - 1] = value
    return ",".join(fields)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no rows"),
        (row() + "\n1,2,3\n", "line 2: 3 columns; expected 89"),
        (row() + "\n\n" + row(), "line 2: 1 columns"),
        (row() + "\n" + row(81), "line 2: 81 columns, but the first line has 89"),
        (row(c3="x"), "line 1, column 3: 'x'; expected a cell"),
        (row(c3="10"), "line 1, column 3: '10'; expected a cell"),
        (row(c3="-1"), "line 1, column 3: '-1'; expected a cell"),
        (row(c20="3"), "line 1, column 20: '3'; expected 10"),
        (row().replace(",", ";"), "line 1: 1 columns; .* The separator is a comma, not ';'"),
        (row().encode("utf-16"), "line 1 is no UTF-8 text .*; save the file as UTF-8"),
        ((row() + "\n\u00e9").encode("latin-1"), "line 2 is no UTF-8 text"),
    ],
)
def test_a_bad_csv_row_is_located(tmp_path, text, message):
    path = tmp_path / "grids.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        read_sudoku_csv(path)
    assert str(path) in str(error.value)


def test_a_csv_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "grids.csv"
    path.write_bytes(row().encode("utf-8-sig"))
    assert read_sudoku_csv(path).shape == (1, 89)
    with pytest.raises(ValueError, match="Did you mean .*grids.csv"):
        read_sudoku_csv(tmp_path / "grid.csv")
    with pytest.raises(ValueError, match="path=5 must be text"):
        read_sudoku_csv(5)


def test_counting_solutions():
    assert count_solutions(parse(PUZZLE)) == 1
    assert count_solutions(parse(SOLUTION)) == 1
    assert count_solutions(torch.zeros(9, 9, dtype=torch.long), limit=5) == 5
    clash = parse(PUZZLE)
    clash[0, 2] = 5
    assert count_solutions(clash) == 0
    # With every 1 and 2 blank, exchanging the two digits gives at least a second solution.
    ambiguous = parse(SOLUTION)
    for digit in (1, 2):
        ambiguous[ambiguous == digit] = 0
    assert count_solutions(ambiguous, limit=100) == exhaustive_solutions(ambiguous, limit=100) >= 2


def test_solved_grids_are_valid_varied_and_repeatable():
    grids = generate_solved_grids(2000, generator())
    digits = torch.arange(1, 10)
    boxes = grids.view(-1, 3, 3, 3, 3).transpose(2, 3).reshape(-1, 9, 9)
    for units in (grids, grids.mT, boxes):
        assert (units.sort(-1).values == digits).all()
    assert violations(grids[0]) == 0
    assert len(grids.flatten(1).unique(dim=0)) == 2000
    frequency = (grids[..., None] == digits).double().mean(0)
    assert (frequency - 1 / 9).abs().max() < 0.035  # 5 standard errors: every cell holds every digit alike
    assert torch.equal(grids, generate_solved_grids(2000, generator()))
    assert not torch.equal(grids, generate_solved_grids(2000, generator(1)))


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

    assert len({signature(grid) for grid in generate_solved_grids(60, generator())}) > 40
    stock_of_one = generate_solved_grids(1, generator())[0]
    assert signature(stock_of_one) == signature(stock_of_one.mT) == signature(stock_of_one.roll(3, 0))


def test_puzzles_have_exactly_one_solution():
    puzzles, solutions = generate_puzzles(8, 51, generator())
    assert puzzles.shape == solutions.shape == (8, 9, 9)
    assert ((puzzles == 0).sum((1, 2)) == 51).all()
    assert ((puzzles == solutions) | (puzzles == 0)).all()
    assert all(violations(solution) == 0 for solution in solutions)
    assert all(exhaustive_solutions(puzzle, limit=2) == 1 for puzzle in puzzles)
    assert torch.equal(puzzles, generate_puzzles(8, 51, generator())[0])


def test_too_many_blanks_are_refused():
    with pytest.raises(ValueError, match="blanks=70 must be an integer from 0 to 56"):
        generate_puzzles(1, 70, generator())


@pytest.mark.parametrize("layout", [81, 89])
def test_dataset_depends_on_seed_and_index_only(layout):
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


def test_tokenizer_writes_the_public_layout(tmp_path):
    SudokuTokenizer().save_pretrained(tmp_path)
    for tokenizer in (SudokuTokenizer(), SudokuTokenizer.from_pretrained(tmp_path)):
        ids = tokenizer(PUZZLE).input_ids
        assert ids == to_sequence(parse(PUZZLE)[None])[0].tolist()
        assert tokenizer.decode(ids) == PUZZLE
        assert (len(tokenizer), tokenizer.mask_token, tokenizer.mask_token_id) == (11, ".", 0)
        assert tokenizer.get_vocab() == {c: i for i, c in enumerate(".123456789\n")}
        with pytest.raises(ValueError, match="'x' is no Sudoku character"):
            tokenizer("12x")


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
