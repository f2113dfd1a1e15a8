"""Remasking strategies, one file a kind. Importing a file registers its strategies under the names that users write."""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
