"""Write a corpus of English prose as JSONL, taken from the documentation in packages of Debian.

The packages are fetched, not installed (115 MB), and unpacked into one folder:

    apt-get download linux-doc-6.1 postgresql-doc-15 perl-doc python3.11-doc apache2-doc gimp-help-en \
        libreoffice-help-en-us debian-handbook debian-reference-en
    for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    python scripts/make_prose.py unpacked prose

Their licences: GPL-2 (Linux, the Debian reference), PostgreSQL, Artistic or GPL-1+ (Perl), PSF-2 (Python), Apache-2.0
(Apache), GFDL-1.2+ (GIMP), MPL-2.0 (LibreOffice), CC-BY-SA-3.0 or GPL-2+ (the handbook); `copyright` in each says it.

A row is one piece of a page: paragraphs one after another, up to about 2,000 characters. Code, lists and tables are
left out, and every paragraph that was seen before. All pieces of a page are on one side of the split: `train.jsonl`,
`test.jsonl` (references and losses) and `validation.jsonl` (for what is chosen by looking, arguments above all).
"""

import argparse
import gzip
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path

from prism_hf.data.splits import split_of

SHARES = {"test": 0.05, "validation": 0.05}  # of the pages
PIECE = 2_000  # characters
SHORTEST = 100  # characters of a paragraph
# Pages in other languages than English, and lists of changes.
LEFT_OUT = re.compile(r"/debian-handbook/html/(?!en-US)|/apache2-doc/manual/(?!en/)|/translations/|changelog")
SPACES = re.compile(r"\s+")
# Letters, and what prose has beside them.
PROSE = re.compile(r"[A-Za-z ,.;:'()-]")
POD = re.compile(r"(?:E<(\w+)>|[A-Z](?:<<+ (.*?) >>+|<([^<>]*)>))")
ESCAPES = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}


class Paragraphs(HTMLParser):
    """Collects the text of a page's paragraphs, without code blocks, tables and footers."""

    outside = frozenset(("pre", "table", "script", "style", "footer", "nav", "head"))

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text: list[str] | None = None
        self.depth = 0  # of elements that are left out

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.outside:
            self.depth += 1
        elif tag == "p" or (tag == "div" and ("class", "para") in attrs):
            self.finish()
            self.text = []

    def handle_endtag(self, tag: str) -> None:
        if tag in self.outside:
            self.depth = max(0, self.depth - 1)
        if tag in ("p", "div", "li", "dd", "blockquote"):
            self.finish()

    def handle_data(self, data: str) -> None:
        if self.text is not None and not self.depth:
            self.text.append(data)

    def finish(self) -> None:
        if self.text:
            self.found.append("".join(self.text))
        self.text = None


def html_paragraphs(page: str) -> list[str]:
    parser = Paragraphs()
    parser.feed(page)
    parser.close()
    parser.finish()
    return parser.found


def pod_paragraphs(page: str) -> list[str]:
    """Perl's: those that are neither commands nor verbatim, with their marks resolved from the inside out."""
    found = [part for part in re.split(r"\n\s*\n", page) if part and part[0] not in "= \t\n"]
    for _ in range(3):
        found = [POD.sub(_marked, part) for part in found]
    return found


def _marked(match: re.Match) -> str:
    if match[1] is not None:
        return ESCAPES.get(match[1], match[0])
    return (match[2] or match[3] or "").split("|")[0]


def paragraphs(path: Path) -> list[str]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    page = data.decode("utf-8", errors="replace")
    return pod_paragraphs(page) if ".pod" in path.suffixes else html_paragraphs(page)


def is_prose(text: str) -> bool:
    return (
        len(text) >= SHORTEST
        and text[0].isalpha()
        and text[0].isupper()
        and text[-1] in ".!?"
        and len(PROSE.findall(text)) >= 0.96 * len(text)
    )


def pages(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each page's name and its prose, without what an earlier page has."""
    seen: set[str] = set()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not re.search(r"\.(html|html\.en|pod)(\.gz)?$", name) or LEFT_OUT.search(f"/{name}") or not path.is_file():
            continue
        kept = []
        for text in paragraphs(path):
            text = SPACES.sub(" ", text.replace("\u2019", "'").replace("\u00b6", "")).strip()
            if is_prose(text) and text not in seen:
                seen.add(text)
                kept.append(text)
        if kept:
            yield name, kept


def pieces(texts: list[str]) -> Iterator[str]:
    piece: list[str] = []
    for text in texts:
        if piece and sum(map(len, piece)) + len(text) > PIECE:
            yield "\n\n".join(piece)
            piece = []
        piece.append(text)
    yield "\n\n".join(piece)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the unpacked packages")
    parser.add_argument("output", type=Path, help="folder for the JSONL files")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("train", *SHARES), (0, 0))
    with ExitStack() as stack:
        files = {
            split: stack.enter_context(open(args.output / f"{split}.jsonl", "w", encoding="utf-8")) for split in counts
        }
        for name, texts in pages(args.folder):
            split = split_of(name, SHARES, seed=0)
            for text in pieces(texts):
                files[split].write(json.dumps({"text": text, "page": name}, ensure_ascii=False) + "\n")
                rows, characters = counts[split]
                counts[split] = rows + 1, characters + len(text)
    for split, (rows, characters) in counts.items():
        print(f"{split}: {rows} rows, {characters / 1e6:.2f}M characters")


if __name__ == "__main__":
    main()
