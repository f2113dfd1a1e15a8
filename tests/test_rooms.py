"""Imports between the rooms of the package go one way."""

import ast
from pathlib import Path

import prism_hf

ROOT = Path(prism_hf.__file__).parent
# Each room may import from those after it.
BELOW = {
    "training": {"evaluation", "jobs", "models", "hub", "generation", "data", "diffusion", "backbones", "resources"},
    "evaluation": {"jobs", "models", "hub", "generation", "data", "backbones", "resources"},
    "jobs": {"hub", "generation", "data"},
    "models": {"hub", "generation", "data", "diffusion", "backbones"},
    "hub": {"generation", "resources"},
    "generation": {"data", "diffusion", "backbones"},
    "data": set(),
    "diffusion": set(),
}
FOR_ALL = {"fields", "_compat", "_deprecation", "_lazy"}


def imported_rooms(path):
    """What a file imports when it runs, within functions too, but for what only type checkers read."""
    waiting = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom):
            folders = ("prism_hf", *path.relative_to(ROOT).parts)[: -node.level] if node.level else ()
            module = [*folders, *(node.module or "").split(".")]
            if module[0] == "prism_hf" and len(module) > 1 and module[1]:
                yield module[1]
        waiting += ast.iter_child_nodes(node)


def test_imports_go_one_way():
    against = {
        f"{path.relative_to(ROOT)} imports {other}"
        for room, below in BELOW.items()
        for path in (ROOT / room).rglob("*.py")
        for other in imported_rooms(path)
        if other not in below | FOR_ALL | {room}
    }
    assert not against


def test_every_room_has_its_place():
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("__pycache__", "resources")}
    assert rooms == set(BELOW)
    order = list(BELOW)
    assert all(order.index(other) > order.index(room) for room in BELOW for other in BELOW[room] & set(BELOW))
