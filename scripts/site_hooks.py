"""What `mkdocs build` calls while it makes the documentation site: the names of a room, and types without signs.

A line `::: names of PACKAGE` on a page becomes the documentation of each public name of the package, but for those that
`prism_hf` itself exports, which stand on its page alone. The names are those of the package's `__all__`.
"""

import importlib
import re

from mkdocs.structure.pages import Page

import prism_hf

NAMES = re.compile(r"^::: names of ([\w.]+)$", re.MULTILINE)


def on_page_markdown(markdown: str, **context: object) -> str:
    return NAMES.sub(lambda match: "\n\n".join(f"::: {name}" for name in names_of(match[1])), markdown)


def on_page_content(html: str, page: Page, **context: object) -> str:
    """Types as transformers writes them, `` `int`, *optional* ``, without the signs that a type shows as they are."""
    if not page.file.src_uri.startswith("api/"):
        return html
    return re.sub(r"<code>[^<]*`[^<]*</code>", lambda match: match[0].replace("`", "").replace("*", ""), html)


def names_of(package: str) -> list[str]:
    """The public names of a package that have a docstring to show, in full."""
    names = importlib.import_module(package).__all__
    return [f"{package}.{name}" for name in names if package == "prism_hf" or name not in prism_hf.__all__]
