"""What `mkdocs build` calls while it makes the documentation site: the names of a room, and types without signs.

A line `::: names of PACKAGE` on a page becomes the documentation of each public name of the package, but for those that
`prism_hf` itself exports, which stand on its page alone. The names are those of the package's `__all__`. Fields of a
dataclass that say in their metadata what they are, as those of arguments do, are listed below it.
"""

import dataclasses
import importlib
import inspect
import re
from typing import Any

from mkdocs.structure.pages import Page

import prism_hf

NAMES = re.compile(r"^::: names of ([\w.]+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **context: object) -> str:
    """Put the names where a page asks for them."""
    return NAMES.sub(lambda match: "\n\n".join(map(documentation_of, names_of(match[1]))), markdown)


def on_page_content(html: str, page: Page, **context: object) -> str:
    """Types as transformers writes them, `` `int`, *optional* ``, without the signs, and a default once."""
    if not page.file.src_uri.startswith("api/"):
        return html
    html = re.sub(r"<code>[^<]*`[^<]*</code>", lambda match: match[0].replace("`", "").replace("*", ""), html)
    return re.sub(r",\s*default:\s*<code>[^<]*</code>", "", html)


def names_of(package: str) -> list[str]:
    """The public names of a package that stand on its page, in full."""
    names = importlib.import_module(package).__all__
    return [f"{package}.{name}" for name in names if package == "prism_hf" or name not in prism_hf.__all__]


def documentation_of(name: str) -> str:
    """What mkdocstrings reads, and a list of the fields that have a help."""
    package, _, last = name.rpartition(".")
    cls = getattr(importlib.import_module(package), last)
    own = inspect.get_annotations(cls) if dataclasses.is_dataclass(cls) and isinstance(cls, type) else {}
    fields = [field for field in dataclasses.fields(cls) if field.name in own] if own else []
    lines = [
        f"- `{field.name}`{default_of(field)}: {field.metadata['help']}" for field in fields if "help" in field.metadata
    ]
    return "\n".join([f"::: {name}", "", *lines])


def default_of(field: "dataclasses.Field[Any]") -> str:
    """The default of a field, as it is written behind its name."""
    return "" if field.default is dataclasses.MISSING else f", `{field.default!r}`"
