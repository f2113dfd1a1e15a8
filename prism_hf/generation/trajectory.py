"""What a generation did at each step, and two ways to look at it: a page and a text for the terminal."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from .denoising.canvas import Canvas, Changes, Generation
from .denoising.schedule import Step

TEMPLATE = Path(__file__).with_name("trajectory.html")
# Black on orange (lowest quality of the step) to blue (highest), of 256 colours; the page has the same five.
QUALITY_COLORS = ("38;5;16;48;5;208", "38;5;16;48;5;223", "38;5;16;48;5;252", "38;5;16;48;5;153", "38;5;16;48;5;75")
MASK_SIGN = "░"


@dataclass
class Trajectory:
    """Every step of a generation, S of them, laid out as the returned sequences.

    Args:
        canvas (`torch.LongTensor`): (S, B, L), after the step.
        filled (`torch.BoolTensor`): (S, B, L), what the step unmasked. A position that a loop step remasks before its
            forward can be unmasked again in the same step.
        remasked (`torch.BoolTensor`): (S, B, L), what it remasked.
        quality (`torch.Tensor`, *optional*): (S, B, L), of the canvas that the forward saw, NaN where a loop step had
            just removed the token or a cache spared it; None if the strategy reads none.

    Example:
        ```python
        recorded = {"return_dict_in_generate": True, "output_trajectory": True}
        trajectory = model.generate(input_ids, max_new_tokens=64, **recorded).trajectory
        print(trajectory.to_text(tokenizer), trajectory.corrections().sum())
        trajectory.to_html("trajectory.html", tokenizer)
        ```
    """

    canvas: torch.Tensor
    filled: torch.Tensor
    remasked: torch.Tensor
    quality: torch.Tensor | None = None

    def corrections(self) -> torch.Tensor:
        """Which of `filled` correct a token: (S, B, L) bool; `.sum((0, 2))` is their number in each row.

        A correction is a position that was remasked and is filled with a token other than the one it had last.
        """
        before = torch.cat([self.canvas[:1], self.canvas[:-1]])
        removed = torch.full_like(self.canvas[0], -1)  # no token yet
        corrections = []
        for step in range(len(self.canvas)):
            removed = torch.where(self.remasked[step], before[step], removed)
            corrections.append(self.filled[step] & (removed >= 0) & (self.canvas[step] != removed))
        return torch.stack(corrections)

    def to_html(
        self,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase | None = None,
        row: int | None = 0,
        line_length: int | None = None,
    ) -> None:
        """Write a page that shows a row of the batch at every step; it needs no network and no other file.

        The colour of a token says where its quality stands among those that the step's forward read: the fifth with the
        lowest is orange, whatever the values. So a remasked token shows why it went, with its quality above it. What
        the step unmasks has none yet. Empty lines that follow one another are drawn as one, and so is a run of one
        special token, such as the eos after a text, with its length.

        Args:
            path (`str | Path`): The page.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): Gives the tokens their text; else the page has their ids.
            row (`int`, *optional*, defaults to 0): The row. None: all, with a choice on the page.
            line_length (`int`, *optional*): Break the line after every so many tokens, for grids whose sequence has no
                newlines.
        """
        rows = range(self.canvas.shape[1]) if row is None else [row]
        data = json.dumps(self._data(tokenizer, rows, line_length), allow_nan=False, separators=(",", ":"))
        # The only way out of a script element is a "<".
        page = TEMPLATE.read_text(encoding="utf-8").replace("{{trajectory}}", data.replace("<", "\\u003c"))
        Path(path).write_text(page, encoding="utf-8")

    def to_text(
        self,
        tokenizer: PreTrainedTokenizerBase | None = None,
        row: int = 0,
        line_length: int | None = None,
        steps: Iterable[int] | None = None,
        color: bool = True,
    ) -> str:
        """One row of the batch at every step as text for a terminal, in the colours of the page.

        Args:
            tokenizer (`PreTrainedTokenizerBase`, *optional*): As for `to_html`.
            row (`int`, *optional*, defaults to 0): The row.
            line_length (`int`, *optional*): As for `to_html`.
            steps (`Iterable[int]`, *optional*): Show these only, counted from 1 (0 is before the first).
            color (`bool`, *optional*, defaults to `True`): Mark by ANSI escapes; else by plain characters.
        """
        data = self._data(tokenizer, [row], line_length)
        data |= data["rows"][0]
        last = len(self.canvas)
        wanted = set(range(last + 1)) if steps is None else set(steps)
        if not wanted <= set(range(last + 1)):
            raise ValueError(
                f"steps has {sorted(wanted - set(range(last + 1)))}; the trajectory has steps 0 to {last}."
            )
        parts = [_legend(color, self.quality is not None)]
        parts += [_frame_text(frame, data, color) for frame in _frames(data) if frame.step in wanted]
        return "\n\n".join(parts) + "\n"

    def _data(self, tokenizer: Any, rows: Iterable[int], line_length: int | None) -> dict[str, Any]:
        """Rows as JSON values, and the text of every token that occurs in them."""
        rows, num_rows = list(rows), self.canvas.shape[1]
        for row in rows:
            if not 0 <= row < num_rows:
                raise ValueError(f"row={row} is not in the batch: it has rows 0 to {num_rows - 1}.")
        if line_length is not None and line_length < 1:
            raise ValueError(f"line_length must be at least 1, got {line_length}.")
        texts, special = _token_texts(self.canvas[:, rows].unique().tolist(), tokenizer)
        corrected = self.corrections()
        return {
            "texts": texts,
            "marks": {token: mark for token, text in texts.items() if (mark := _mark_whitespace(text)) != text},
            "special": special,
            "lineLength": line_length,
            "rows": [self._row_data(row, corrected[:, row].cpu()) for row in rows],
        }

    def _row_data(self, row: int, corrected: torch.Tensor) -> dict[str, Any]:
        """What changes at each step of a row."""
        canvas, filled, remasked = (t[:, row].cpu() for t in (self.canvas, self.filled, self.remasked))
        quality = None if self.quality is None else self.quality[:, row].float().cpu()
        steps, held = [], torch.zeros_like(filled[0])
        for step in range(len(canvas)):
            changes = {
                "filled": [[i, canvas[step, i].item()] for i in _positions(filled[step])],
                "remasked": _positions(remasked[step]),
                "corrected": _positions(corrected[step]),
            }
            if quality is not None:
                read = held & ~quality[step].isnan()
                values = zip(read.tolist(), quality[step].tolist(), strict=True)
                changes["quality"] = [round(value, 4) if is_read else None for is_read, value in values]
                changes["shades"] = _shades(quality[step], read)
            steps.append(changes)
            held = (held & ~remasked[step]) | filled[step]
        return {"row": row, "prompt": torch.where(filled.any(0), -1, canvas[-1]).tolist(), "steps": steps}


class Recorder:
    """Records a generation, if its config asks for it. Called once a step."""

    def __init__(self, generation: Generation) -> None:
        self.records: list[tuple] = []
        self.is_on = generation.config.output_trajectory

    def __call__(self, generation: Generation, step: Step, changes: Changes) -> None:
        if self.is_on:
            self.records.append((generation.tokens, *changes))

    def trajectory(self, canvas: Canvas) -> Trajectory | None:
        """What was recorded, in the columns of the returned sequences."""
        if not self.records:
            return None
        series = [torch.stack(values) for values in zip(*self.records, strict=True) if values[0] is not None]
        return Trajectory(*map(canvas.restore, series))


def _positions(mask: torch.Tensor) -> list[int]:
    return mask.nonzero().flatten().tolist()


def _shades(quality: torch.Tensor, read: torch.Tensor) -> str:
    """In which fifth of the qualities (L,) that were read each stands: 0 to 4, or "-" for one that was not."""
    values = quality[read]
    lower, upper = (torch.searchsorted(values.sort().values, values, side=side) for side in ("left", "right"))
    # Equal values share the middle of their places, so that where all are equal none is low.
    places = (lower + upper) / (2 * max(len(values), 1))
    shades = iter((places * len(QUALITY_COLORS)).long().clamp(max=len(QUALITY_COLORS) - 1).tolist())
    return "".join(str(next(shades)) if is_read else "-" for is_read in read.tolist())


def _token_texts(tokens: list[int], tokenizer: Any) -> tuple[dict[int, str], list[int]]:
    """The text of each token as it stands inside a sequence, unprintable characters escaped, and the special tokens."""
    if tokenizer is None:
        return {token: f"{token} " for token in tokens}, []
    added = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(token for token, content in added if content.special)}
    return {token: _token_text(token, tokenizer) for token in tokens}, [token for token in tokens if token in special]


def _token_text(token: int, tokenizer: Any) -> str:
    # Decoders drop the space before the first token (or put one between tokens): the second of two has it right.
    alone, twice = (tokenizer.decode([token] * n, clean_up_tokenization_spaces=False) for n in (1, 2))
    text = twice[len(alone) :] if twice.startswith(alone) else alone
    if "\ufffd" in text:  # part of a character, which has no text
        text = _byte_text(tokenizer.convert_ids_to_tokens(token))
    text = text or f"<{token}>"
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def _byte_text(piece: str) -> str:
    r"""The bytes behind a token of a byte-level BPE, such as \xe2\x80; other tokens as they are."""
    # GPT-2's alphabet: printable bytes stand for themselves, the others follow from U+0100 on.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}
    if not set(piece) <= set(alphabet):
        return piece
    return bytes(alphabet[c] for c in piece).decode("utf-8", errors="backslashreplace")


def _mark_whitespace(text: str) -> str:
    marked = text.replace(" ", "␣") if text.isspace() else text
    return marked.replace("\t", "→\t").replace("\n", "↵\n")


class _Frame(NamedTuple):
    """The canvas after `step` steps; tokens holds the token at each position, -1 for a mask."""

    step: int
    tokens: list[int]
    changes: dict
    removed: dict[int, int]
    num_corrections: int


def _frames(data: dict) -> Iterator[_Frame]:
    tokens, num_corrections = list(data["prompt"]), 0
    removed: dict[int, int] = {}
    yield _Frame(0, tokens, {"filled": [], "remasked": [], "corrected": []}, removed, 0)
    for step, changes in enumerate(data["steps"], start=1):
        tokens, removed = list(tokens), dict(removed)
        for position in changes["remasked"]:
            removed[position], tokens[position] = tokens[position], -1
        for position, token in changes["filled"]:
            tokens[position] = token
        num_corrections += len(changes["corrected"])
        yield _Frame(step, tokens, changes, removed, num_corrections)


def _styled(text: str, codes: str) -> str:
    # A background that is still on at a newline would colour the rest of the terminal's line.
    return "\n".join(f"\033[{codes}m{line}\033[0m" if line else "" for line in text.split("\n"))


def _legend(color: bool, has_quality: bool) -> str:
    if not color:
        return f"{{+filled in this step+}} [-remasked in this step-] {MASK_SIGN} mask"
    names = (" lowest ", "   ", "   ", "   ", " highest ")
    scale = "".join(_styled(name, codes) for name, codes in zip(names, QUALITY_COLORS, strict=True))
    signs = f"{_styled('filled in this step', '1;4')}  {_styled('remasked in this step', '9')}  {MASK_SIGN} mask"
    return f"quality in the step {scale}  {signs}" if has_quality else signs


def _frame_text(frame: _Frame, data: dict, color: bool) -> str:
    changes, shades = frame.changes, frame.changes.get("shades", "-" * len(frame.tokens))
    text_of = data["texts"] | data["marks"]
    filled, remasked = {position for position, _ in changes["filled"]}, set(changes["remasked"])
    pieces = []
    for position, token in enumerate(frame.tokens):
        if data["prompt"][position] >= 0:
            piece = data["texts"][token]
        elif position in filled:
            piece = _styled(text_of[token], "1;4") if color else f"{{+{text_of[token]}+}}"
        elif position in remasked:
            codes = "9" if shades[position] == "-" else "9;" + QUALITY_COLORS[int(shades[position])]
            text = text_of[frame.removed[position]]
            piece = _styled(text, codes) if color else f"[-{text}-]"
        elif token < 0:
            piece = MASK_SIGN
        else:
            codes = "4" if shades[position] == "-" else QUALITY_COLORS[int(shades[position])]
            piece = _styled(text_of[token], codes) if color else text_of[token]
        ends_line = data["lineLength"] and (position + 1) % data["lineLength"] == 0
        pieces.append(piece + "\n" if ends_line else piece)
    counts = f"{len(filled)} filled, {len(remasked)} remasked, {frame.num_corrections} corrections so far"
    title = f"step {frame.step} of {len(data['steps'])}: {counts}"
    text_of = data["texts"]
    replaced = [f"{text_of[frame.removed[i]]!r} to {text_of[frame.tokens[i]]!r}" for i in changes["corrected"]]
    return "\n".join(
        [title, *(["corrected: " + ", ".join(replaced)] if replaced else []), "".join(pieces).rstrip("\n")]
    )
