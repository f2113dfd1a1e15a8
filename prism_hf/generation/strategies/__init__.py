"""Remasking strategies, one file a kind. Importing them registers them under the names that users write."""

from importlib import import_module
from pkgutil import iter_modules

from .base import (
    STRATEGIES,
    RemaskStrategy,
    StepState,
    ask,
    field_names,
    has_loop,
    name_of,
    needs,
    register_strategy,
    resolve_strategy,
    selection_of,
    strategy_to_saved,
)

__all__ = [
    "STRATEGIES",
    "RemaskStrategy",
    "StepState",
    "ask",
    "field_names",
    "has_loop",
    "name_of",
    "needs",
    "register_strategy",
    "resolve_strategy",
    "selection_of",
    "strategy_to_saved",
]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
