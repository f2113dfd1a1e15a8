"""What ships: a small Sudoku model, its PRISM fine-tune, 500 puzzles with solutions, the `generate` of repositories."""

from pathlib import Path

RESOURCES = (
    "custom_generate/generate.py",
    "sudoku/puzzles.csv",
    "sudoku/solutions.csv",
    "sudoku_mdm",
    "sudoku_prism",
)


def resource_path(name: str) -> str:
    """Path of a file or model folder that ships with the package, one of `RESOURCES`."""
    if name not in RESOURCES:
        raise ValueError(f"{name!r} does not ship with prism_hf; choose one of {', '.join(RESOURCES)}.")
    return str(Path(__file__).parent / name)


def model_path(name: str) -> str:
    """The folder of a model that ships, by its name; the name of any other model or folder as it is."""
    is_shipped = name in RESOURCES and "/" not in name and not Path(name).exists()
    return resource_path(name) if is_shipped else name
