"""Handing a generation to one of transformers' streamers while it is being made, and one for a terminal."""

import shutil
import unicodedata
from itertools import groupby
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.generation import BaseStreamer, TextDiffusionStreamer

from .denoising.canvas import Changes, Generation
from .denoising.schedule import Step


class Stream:
    """Hands a streamer the returned sequences from left to right: final tokens once, drafts of the block before.

    Called once a step.

    Args:
        generation (`Generation`): What comes before its first mask is handed over at once.
        streamer (`BaseStreamer`, *optional*): Gets the tokens; None gets none.

    Raises:
        ValueError: where the streamer is something else.
    """

    def __init__(self, generation: Generation, streamer: BaseStreamer | None):
        if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise ValueError(f"streamer is {streamer!r}: give one of transformers, such as TextStreamer(tokenizer).")
        self.streamer, self.shown = streamer, 0
        if streamer is not None:
            self._confirm(generation, generation.masked)

    def __call__(self, generation: Generation, step: Step, changes: Changes) -> None:
        if self.streamer is None:
            return
        if generation.ends_block:
            incomplete = generation.later | (generation.window & ~generation.is_complete[:, None])
            self._confirm(generation, incomplete & ~generation.finished[:, None])
        elif hasattr(self.streamer, "put_draft"):
            restore = generation.canvas.restore
            stop = _first_true(restore(generation.later).any(0))
            self.streamer.put_draft(restore(generation.tokens)[:, self.shown : stop].cpu())

    def _confirm(self, generation: Generation, pending: torch.Tensor) -> None:
        """Put the tokens before the first column in which some row is `pending` (B, L) bool, or every one has ended."""
        restore = generation.canvas.restore
        hidden = restore(pending).any(0) | restore(generation.cut_off).all(0)
        stop = max(_first_true(hidden), self.shown)
        self.streamer.put(restore(generation.tokens)[:, self.shown : stop].cpu())
        self.shown = stop

    def end(self) -> None:
        """Tell the streamer that nothing follows."""
        if self.streamer is not None:
            self.streamer.end()


def _first_true(columns: torch.Tensor) -> int:
    """The index of the first true one of `columns` (L,), L if there is none."""
    values = columns.tolist()
    return values.index(True) if True in values else len(values)


MASK_SIGN = "░"


class TerminalDraftStreamer(TextDiffusionStreamer):
    """transformers' `TextDiffusionStreamer` with masks shown as shades, and room for the draft made beforehand.

    Without that room, a draft at the bottom of the screen scrolls it, and the cursor does not come back to where the
    draft began. Of a draft that is higher than the screen, the beginning is shown.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Gives the tokens their text.
        mask_token_id (`int`): The mask.
        skip_prompt (`bool`, *optional*, defaults to `False`): Do not show the prompt.
        **kwargs: Of the tokenizer's `decode`.

    Example:
        ```python
        streamer = TerminalDraftStreamer(tokenizer, model.config.mask_token_id, skip_prompt=True)
        model.generate(input_ids, max_new_tokens=64, block_length=16, streamer=streamer)
        ```
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, mask_token_id: int, skip_prompt: bool = False, **kwargs: Any
    ):
        super().__init__(tokenizer, skip_prompt, **kwargs)
        self.mask_token_id = mask_token_id
        self.line = ""  # confirmed since the last line feed

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        self.line = "" if stream_end else (self.line + text).rpartition("\n")[2]
        super().on_finalized_text(text, stream_end)

    def put_draft(self, value: torch.Tensor, **kwargs: Any) -> None:
        """Show the tokens (1, N) in yellow, in place of the draft before."""
        self._clear_draft()
        (ids,) = value.tolist()
        text = ""
        for is_mask, group in groupby(ids, key=lambda token: token == self.mask_token_id):
            run = list(group)
            text += MASK_SIGN * len(run) if is_mask else str(self.tokenizer.decode(run, **self.decode_kwargs))
        columns, height = shutil.get_terminal_size()
        text = fitting(text, columns, height - 2)
        if self.line and sum(map(width, rows_of(self.line, columns)[-1])) == columns:
            # After a full row the cursor stays on its last character, and a draft would begin on that.
            print(flush=True)
            self.line = ""
        down = len(rows_of(text, columns)) + 1  # the confirmed text may have filled a part of the first row
        # ESC D scrolls at the bottom of the screen and keeps the column, unlike a line feed.
        print("\033D" * down + f"\033[{down}A\0337\033[33m{text}\033[0m", end="", flush=True)
        self._has_draft = True


def width(char: str) -> int:
    """Columns that a character takes on a screen."""
    return 0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")


def rows_of(text: str, columns: int) -> list[str]:
    """The rows that a text takes on a screen of that width, when it begins at the left."""
    rows = []
    for line in text.expandtabs().split("\n"):
        rows.append("")
        used = 0
        for char in line:
            used += width(char)
            if used > columns:
                rows.append("")
                used = width(char)
            rows[-1] += char
    return rows


def fitting(text: str, columns: int, height: int) -> str:
    """The beginning of a text, if it takes more than `height` rows."""
    rows = rows_of(text, columns)
    return text if len(rows) <= height else "\n".join(rows[:height])
