"""Draw the pictures of README and docs/ as SVG, readable on a light page and on a dark one.

    python scripts/draw_pictures.py docs/pictures

`correction.svg` is what the Sudoku model that ships did: of 100 of the puzzles that ship, the correction with the
lowest quality at which one cell alone was wrong, in a grid that was solved in the end. The others explain with words.
"""

import argparse
import math
from html import escape
from pathlib import Path
from typing import NamedTuple

import torch

from prism_hf import load_model
from prism_hf.data import read_sudoku_csv, to_grid, to_sequence
from prism_hf.resources import resource_path

CELL, FONT = 30, "font-family='Helvetica, Arial, sans-serif'"
INK, GREY = "#14181d", "#78838f"  # on colours; on the page, be it white or black
GIVEN, MASK, UNREAD = "#d3d8de", "#8a94a0", "#ffe79a"
LOW, MIDDLE, HIGH = (240, 138, 44), (238, 232, 220), (96, 168, 240)  # of quality 0, 1/2 and 1
RING = "#d81b60"


def quality_color(quality: float) -> str:
    """Orange at 0, nearly white at 1/2, blue at 1."""
    start, end, share = (LOW, MIDDLE, 2 * quality) if quality < 0.5 else (MIDDLE, HIGH, 2 * quality - 1)
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(start, end, strict=True))


def box(x, y, fill: str, width: float = CELL, height: float = CELL, stroke: str = "none", line: int = 3) -> str:
    size = f"width='{width - 2:g}' height='{height - 2:g}' rx='3'"
    return f"<rect x='{x + 1:g}' y='{y + 1:g}' {size} fill='{fill}' stroke='{stroke}' stroke-width='{line}'/>"


def text(x: float, y: float, words: str, size: float = 15, fill: str = GREY, anchor: str = "middle", bold=False) -> str:
    weight = " font-weight='bold'" if bold else ""
    place = f"x='{x:g}' y='{y:g}' font-size='{size}' text-anchor='{anchor}'"
    return f"<text {place} fill='{fill}'{weight}>{escape(words)}</text>"


def svg(width: float, height: float, title: str, parts: list[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:g} {height:g}' width='{width:g}' {FONT}>"
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"]) + "\n"


class Frame(NamedTuple):
    """A grid of 81 cells, and the quality of those that were read."""

    grid: list[int]
    quality: list[float]


class Correction(NamedTuple):
    frames: list[Frame]
    given: list[bool]
    cell: int
    removed: int
    rewritten: int


def find_correction() -> Correction:
    """The grid as the step that removes the cell reads it, after it, and as the step after the rewriting reads it."""
    model = load_model(resource_path("sudoku_prism"))
    files = (resource_path(f"sudoku/{name}.csv") for name in ("puzzles", "solutions"))
    puzzles, solutions = (to_sequence(to_grid(read_sudoku_csv(file)), layout=81)[:100] for file in files)
    output = model.generate(
        puzzles,
        order="random",
        do_sample=True,
        steps=51,
        remask_strategy="prism",
        num_remask=2,
        generator=torch.Generator().manual_seed(0),
        return_dict_in_generate=True,
        output_trajectory=True,
    )
    record = output.trajectory
    before = torch.cat([puzzles[None], record.canvas])
    wrong = (before[:-1] != solutions) & (before[:-1] != 0)
    solved = (output.sequences == solutions).all(1)
    chosen = record.remasked & (wrong & (wrong.sum(-1, keepdim=True) == 1)) & solved[:, None]
    step, row, cell = min(chosen.nonzero().tolist(), key=lambda place: record.quality[tuple(place)].item())
    rewritten = next(i for i in range(step + 1, len(before)) if record.filled[i, row, cell])
    unread = torch.full((81,), torch.nan)
    after = torch.where(before[step, row] == before[step + 1, row], record.quality[step, row], unread)
    frames = (
        (before[step, row], record.quality[step, row]),
        (before[step + 1, row], after),
        (before[rewritten + 1, row], record.quality[rewritten + 1, row]),
    )
    frames = [Frame(grid.tolist(), quality.tolist()) for grid, quality in frames]
    return Correction(frames, (puzzles[row] != 0).tolist(), cell, step + 1, rewritten + 1)


def draw_grid(left: float, frame: Frame, given: list[bool], cell: int) -> list[str]:
    parts = []
    for place, (token, quality) in enumerate(zip(frame.grid, frame.quality, strict=True)):
        x, y = left + place % 9 * CELL + place % 9 // 3 * 4, place // 9 * CELL + place // 27 * 4
        written = UNREAD if math.isnan(quality) else quality_color(quality)
        fill = GIVEN if given[place] else written if token else MASK
        parts.append(box(x, y, fill, stroke=RING if place == cell else "none"))
        if token:
            parts.append(text(x + CELL / 2, y + CELL / 2 + 7, str(token), 19, INK, bold=given[place]))
    return parts


def draw_correction() -> str:
    frames, given, cell, removed, rewritten = find_correction()
    grid, gap, parts = 9 * CELL + 8, 34, []
    first, _, last = frames
    captions = (
        (f"Step {removed} reads the grid:", f"the {first.grid[cell]} has quality {first.quality[cell]:.2f}"),
        ("It is masked again;", "other cells are filled"),
        (f"Step {rewritten} writes {last.grid[cell]}:", f"quality {last.quality[cell]:.2f}"),
    )
    for number, (frame, words) in enumerate(zip(frames, captions, strict=True)):
        left = number * (grid + gap)
        parts += draw_grid(left, frame, given, cell)
        parts += [text(left + grid / 2, grid + 26 + 21 * line, each, 17) for line, each in enumerate(words)]
    legend = grid + 66
    parts += [box(24 * i, legend, quality_color(i / 9), 24, 18) for i in range(10)]
    parts.append(text(252, legend + 14, "quality, 0 to 1", 16, anchor="start"))
    for x, fill, words in ((420, GIVEN, "given"), (530, MASK, "mask"), (640, UNREAD, "just written")):
        edge = GREY if fill == UNREAD else "none"
        parts += [box(x, legend, fill, 24, 18, edge, 1), text(x + 32, legend + 14, words, 16, anchor="start")]
    return svg(3 * grid + 2 * gap, legend + 22, "A wrong cell of a Sudoku is found, masked again, rewritten", parts)


def draw_row(top: float, label: str, words: str, colors: dict[str, str], left: float = 150, width: float = 74) -> list:
    """A row of tokens; `_` is a mask, and `word:kind` has the colour of its kind."""
    parts = [text(left - 12, top + 20, label, 16, anchor="end")]
    for number, each in enumerate(words.split()):
        word, _, kind = each.partition(":")
        x = left + number * width
        parts.append(box(x, top, MASK if word == "_" else colors[kind], width))
        if word != "_":
            parts.append(text(x + width / 2, top + 20, word, 16, INK))
    return parts


def draw_masked_diffusion() -> str:
    colors = {"": GIVEN, "new": UNREAD}
    rows = (
        ("all masks", "_ _ _ _ _ _ _"),
        ("step 1", "_ _ river:new _ _ _ _"),
        ("step 2", "the:new _ river _ to:new _ _"),
        ("step 3", "the _ river flows:new to _ sea:new"),
        ("step 4", "the old:new river flows to the:new sea"),
    )
    parts = [part for n, (label, words) in enumerate(rows) for part in draw_row(38 * n, label, words, colors)]
    parts += [
        box(150, 200, UNREAD, 24, 18, GREY, 1),
        text(182, 214, "just written, and never changed again", 16, anchor="start"),
    ]
    return svg(670, 222, "A masked diffusion model fills masks in any order", parts)


def draw_prism_step() -> str:
    colors = {"": GIVEN, "draft": UNREAD, "right": quality_color(0.95), "wrong": quality_color(0.1)}
    rows = (
        ("x, a text", "the old river flows to the sea"),
        ("z, masked", "the _ _ flows to _ sea"),
        ("y, a draft", "the _ road:draft flows to the:draft sea"),
        ("target", "· · 0:wrong · · 1:right ·"),
    )
    parts = [part for n, (label, words) in enumerate(rows) for part in draw_row(38 * n, label, words, colors)]
    parts.append(text(150, 176, "K = 2 masks of z are filled; the head learns which are right", 16, anchor="start"))
    return svg(
        670, 184, "A training step of PRISM: a text, its masked version, a draft, and targets of the quality", parts
    )


def draw_blocks() -> str:
    kept, computed = quality_color(0.9), quality_color(0.12)
    places, width = ("prompt", "block 1", "block 2", "block 3", "block 4"), 100
    rows = (("no cache", "ccccc"), ("prefix", "kkccc"), ("dual", "kkckk"))
    parts = []
    for number, (label, kinds) in enumerate((("", "     "), *rows)):
        top = 38 * number
        parts.append(text(98, top + 20, label, 16, anchor="end"))
        for place, kind in enumerate(kinds):
            x = 110 + place * width
            if kind == " ":
                parts.append(text(x + width / 2, 20, places[place], 16, bold=place == 2))
            else:
                parts.append(box(x, top, kept if kind == "k" else computed, width))
    for x, fill, words in ((110, computed, "computed in each step"), (330, kept, "kept from the block's first step")):
        parts += [box(x, 160, fill, 24, 18), text(x + 32, 174, words, 16, anchor="start")]
    return svg(620, 182, "What a step computes while block 2 is written, with each cache", parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (args.folder / f"{name}.svg").write_text(draw(), encoding="utf-8")


PICTURES = {
    "correction": draw_correction,
    "masked_diffusion": draw_masked_diffusion,
    "prism_step": draw_prism_step,
    "blocks": draw_blocks,
}

if __name__ == "__main__":
    main()
