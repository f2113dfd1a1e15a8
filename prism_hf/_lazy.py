"""Packages whose names are imported when first used."""

import ast
import importlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from ._deprecation import warn_renamed


def lazy_names(package: str, **renamed: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package that imports its names when they are first used.

    The package lists its names once, as imports that type checkers and editors read and Python does not run; this
    function reads them there. No name may be that of a module of the package.

    Args:
        package (`str`): The package's `__name__`.
        **renamed (`str`): The new name of each old one. An old name serves for one version, with a `FutureWarning`.

    Example:
        ```python
        if TYPE_CHECKING:
            from .checkpoints import last_checkpoint
        else:
            __getattr__, __dir__ = lazy_names(__name__, newest_checkpoint="last_checkpoint")

        __all__ = ["last_checkpoint"]
        ```
    """
    modules = _imports_for_type_checkers(package)

    def load(name: str) -> Any:
        if name in renamed:
            warn_renamed(f"{package}.{name}", f"{package}.{renamed[name]}")
            return getattr(sys.modules[package], renamed[name])
        if name not in modules:
            message = f"module {package!r} has no attribute {name!r}"
            raise AttributeError(message, name=name, obj=sys.modules[package])  # so that Python tells the nearest
        value = getattr(importlib.import_module(modules[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules})

    return load, names


def _imports_for_type_checkers(package: str) -> dict[str, str]:
    """What `if TYPE_CHECKING:` imports from modules of the package: each name with its module."""
    source = inspect.getsource(sys.modules[package])
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    return {
        alias.name: f"{'.' * node.level}{node.module}"
        for block in blocks
        if ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
