"""Handing a generation to one of transformers' streamers while it is being made."""

import torch
from transformers.generation import BaseStreamer

from .canvas import Canvas


class Stream:
    """Hands a streamer the returned sequences from left to right: final tokens once, drafts of the block before."""

    def __init__(self, streamer: BaseStreamer, canvas: Canvas):
        self.streamer, self.canvas, self.shown = streamer, canvas, 0

    def confirm(self, tokens: torch.Tensor, pending: torch.Tensor) -> None:
        """Put the tokens before the first column in which some row is `pending` (B, L) bool."""
        stop = self.first_column(pending)
        self.streamer.put(self.canvas.restore(tokens)[:, self.shown : stop].cpu())
        self.shown = stop

    def draft(self, tokens: torch.Tensor, pending: torch.Tensor) -> None:
        """Show the tokens in between as a draft, where the streamer takes one."""
        if hasattr(self.streamer, "put_draft"):
            stop = self.first_column(pending)
            self.streamer.put_draft(self.canvas.restore(tokens)[:, self.shown : stop].cpu())

    def first_column(self, pending: torch.Tensor) -> int:
        columns = self.canvas.restore(pending).any(0).tolist()
        return columns.index(True) if True in columns else len(columns)
