"""Old names, which serve for one version and say what they are called now.

`renamed_arguments` is for the arguments of a function, `with_new_names` for the keys of a file or of a config's
keyword arguments, and `prism_hf._lazy.lazy_names` takes those of what a package exports.
"""

import inspect
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


# What may stand between the line of a user and ours.
_BETWEEN = {
    "prism_hf",
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "contextlib",
    "dataclasses",
    "functools",
    "importlib",
}


def warn_of_old(message: str) -> None:
    """Give a `FutureWarning` at the line of whoever uses what is old, however far below it that shows."""
    frame = inspect.currentframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    module, registry = frame.f_globals.get("__name__"), frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, FutureWarning, frame.f_code.co_filename, frame.f_lineno, module, registry)


def warn_renamed(old: str, new: str) -> None:
    """Warn whoever uses the old name."""
    warn_of_old(f"{old} is now called {new}; the old name goes with the next version of prism_hf.")


def with_new_names(given: Mapping[str, Any], names: Mapping[str, str], owner: str = "") -> dict:
    """A mapping with its old keys replaced by new ones, a `FutureWarning` for each.

    Args:
        given (`Mapping[str, Any]`): The keyword arguments of a call, or what a file holds.
        names (`Mapping[str, str]`): Old keys to new ones.
        owner (`str`, *optional*): What the warning tells of whose keys they are, such as `RemaskGenerationConfig`.

    Raises:
        ValueError: for a key under both names.
    """
    for old in [name for name in names if name in given]:  # torch.compile traces no intersection of keys
        new, of = names[old], owner and f" of {owner}"
        if new in given:
            raise ValueError(f"{old}={given[old]!r}{of} is now called {new}, which is given too; leave {old} out.")
        warn_renamed(f"{old}{of}", new)
    return {names.get(key, key): value for key, value in given.items()}


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator that takes keyword arguments under their old names too, with a `FutureWarning`.

    Example:
        ```python
        @renamed_arguments(cache="cache_implementation")
        def plan(cache_implementation: str): ...
        ```
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def renaming(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(*args, **with_new_names(kwargs, names, function.__qualname__))

        return renaming

    return decorate
