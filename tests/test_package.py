"""The front door: names that are there when they are asked for, and not loaded before."""

import ast
import importlib
import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import prism_hf
from prism_hf import _lazy

ROOT = Path(__file__).parents[1]
PACKAGES = ("prism_hf", *(f"prism_hf.{name}" for name in ("data", "evaluation", "generation", "models", "training")))
LAZY = ("prism_hf", *(f"prism_hf.{name}" for name in ("data", "evaluation", "generation", "hub", "training")))


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_every_public_name_is_there():
    for name in prism_hf.__all__:
        assert getattr(prism_hf, name).__name__ == name


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_exports(package):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert set(module.__all__) <= set(dir(module))
    assert not [name for name in module.__all__ if not hasattr(module, name)]


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_name_is_none_of_a_module(package):
    """Once such a module is imported, Python puts it in the place of what bears its name."""
    module = importlib.import_module(package)
    names = _lazy._imports_for_type_checkers(package)
    assert sorted(names) == sorted(module.__all__)
    assert not names.keys() & {found.name for found in pkgutil.iter_modules(module.__path__)}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'prism_hf' has no attribute 'unknown'") as raised:
        _ = prism_hf.unknown
    assert (raised.value.name, raised.value.obj) == ("unknown", prism_hf)  # from which Python tells the nearest name


def test_an_old_name_serves_and_warns():
    old, _ = _lazy.lazy_names("prism_hf", load="load_model")
    with pytest.warns(FutureWarning, match=r"prism_hf\.load is now called prism_hf\.load_model") as caught:
        assert old("load") is prism_hf.load_model
    assert caught[0].filename == __file__


def test_import_loads_neither_torch_nor_transformers():
    assert not {"torch", "transformers"} & loaded_by("import prism_hf")


def test_only_what_reads_datasets_loads_their_library():
    names = "DataArguments, SourceFiles, SudokuGrids, code_prompt, encode_prompts, load_training_data"
    assert "datasets" not in loaded_by(f"from prism_hf.data import {names}")
    assert "datasets" in loaded_by("from prism_hf.data import load_code")


def test_training_loads_neither_data_nor_evaluation():
    loaded = loaded_by("import prism_hf.training")
    unwanted = {"torch", "datasets", "prism_hf.data", "prism_hf.evaluation", "prism_hf.generation", "prism_hf.models"}
    assert not unwanted & loaded


def test_a_trainer_loads_few_modules_of_ours():
    loaded = {name for name in loaded_by("from prism_hf import PrismTrainer") if name.startswith("prism_hf")}
    assert len(loaded) <= 35, sorted(loaded)
    unwanted = ("data.", "evaluation", "generation", "models", "jobs")
    assert not [name for name in loaded if name.startswith(tuple(f"prism_hf.{room}" for room in unwanted))]


def test_there_is_one_version():
    assert "version = attr: prism_hf.__version__" in (ROOT / "setup.cfg").read_text()
    assert importlib.metadata.version("prism_hf") == prism_hf.__version__


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if heading:
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}, link


def test_what_type_checkers_ask_for_ships():
    assert "prism_hf = py.typed" in (ROOT / "setup.cfg").read_text()
    assert (Path(prism_hf.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("package", LAZY)
def test_every_class_has_an_example(package):
    module = importlib.import_module(package)
    classes = {name: getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))}
    assert not [name for name, cls in classes.items() if not re.search(r"Example(:|\*\*:)", cls.__doc__)]


@pytest.mark.parametrize("package", LAZY)
def test_examples_can_be_read(package):
    """Each is Python, and imports only what is there; those of generation and models are run by tests of theirs."""
    module = importlib.import_module(package)
    for name in module.__all__:
        for example in re.findall(r"Example:\n +```python\n(.*?)```", getattr(module, name).__doc__ or "", re.DOTALL):
            if ">>>" not in example:
                tree = ast.parse(inspect.cleandoc("\n" + example))
                imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "prism_hf"]
                assert {alias.name for node in imports for alias in node.names} <= set(prism_hf.__all__), name
