"""What upstream keeps to itself is where we look for it, and no other module of ours looks there."""

import argparse
import ast
import importlib
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import BertConfig

import prism_hf
from prism_hf import _compat

ROOT = Path(prism_hf.__file__).parent
ELSEWHERE = ("_compat.py", "generate.py")
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.name not in ELSEWHERE]
# Python's own, and what transformers asks of a class of a model or of a generation config.
PYTHON = {"_replace", "_asdict", "_exit", "_fields"}
ASKED = {"_init_weights", "_no_split_modules", "_get_default_generation_params", "_dict_from_json_file"}


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def private_of_upstream(path: Path, own: set[str]) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and not is_super(node.value)
        if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0}
    parts = {part for name in modules if not name.startswith("prism_hf.") for part in name.split(".")}
    return {name for name in read - own | parts if private(name)} - PYTHON - ASKED


def test_no_other_module_reads_a_private_name_of_upstream():
    nodes = [node for path in FILES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found = {str(path.relative_to(ROOT)): private_of_upstream(path, own) for path in FILES}
    assert not {path: names for path, names in found.items() if names}


def overriding():
    """Each class of ours with the private methods that it hands on to its parent's."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                used = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute) and is_super(n.value)}
                if any(map(private, used)):
                    module = ".".join(("prism_hf", *path.relative_to(ROOT).with_suffix("").parts))
                    yield pytest.param(module, node.name, set(filter(private, used)), id=node.name)


@pytest.mark.parametrize(("module", "name", "used"), overriding())
def test_upstream_has_the_methods_that_ours_override(module, name, used):
    parents = getattr(importlib.import_module(module), name).__mro__[1:]
    assert not [method for method in used if not any(method in vars(parent) for parent in parents)]


def test_names_are_there():
    config = BertConfig(attn_implementation="eager")
    assert _compat.attention_of(config) == "eager" and _compat.attention_of(object()) is None
    assert _compat.setting(config, "hidden_size") == config.hidden_size and _compat.setting(config, "none", 3) == 3
    tensor = torch.zeros(1)
    before = _compat.version_of(tensor)
    tensor += 1
    assert _compat.version_of(tensor) == before + 1
    assert not _compat.is_partitioned([tensor])
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps")
    assert [action.dest for action in _compat.actions_of(parser)] == ["help", "steps"]
    accelerator = Accelerator(cpu=True)
    with _compat.without_gradient_sync(accelerator):
        assert not accelerator.sync_gradients
    assert accelerator.sync_gradients


def test_wrappers_are_seen_through():
    model = torch.nn.Linear(1, 1)
    assert _compat.unwrapped(torch.compile(model)) is model and _compat.unwrapped(model) is model
    assert _compat.config_of(model) is None
