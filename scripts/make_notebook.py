"""Make docs/quickstart.ipynb of docs/quickstart.md: each block of Python is a cell, what stands between is text.

python scripts/make_notebook.py
"""

import re
from pathlib import Path

import jupytext
import nbformat

DOCS = Path(__file__).parents[1] / "docs"


def make_notebook(page: str) -> str:
    """The notebook of a page, as JSON. Links to other pages lead nowhere in a notebook and become their text."""
    page = re.sub(r"\[([^\]]+)\]\((?!http)[^)]+\)", r"\1", page).replace(
        "The same page is a notebook: quickstart.ipynb.\n\n", ""
    )
    notebook = jupytext.reads(page, fmt="md")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return nbformat.writes(notebook) + "\n"


if __name__ == "__main__":
    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    (DOCS / "quickstart.ipynb").write_text(make_notebook(page), encoding="utf-8")
