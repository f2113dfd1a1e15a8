"""A stream that goes on where it was when a checkpoint was written, without reading anew what came before.

`Trainer` reads a stream from its start when it resumes, and drops what was trained on. In the first epoch that is
exact, and for a large corpus takes hours. With `ignore_data_skip=True` it drops nothing, and would train on the start
again; here the stream's own state, which a checkpoint then has in `stream_state.json`, takes it to where it was. That
is exact in any epoch, but for a stream shuffled by a buffer, whose content no state of `datasets` has.

A loader reads ahead of the step, so the states of the last few batches are kept.
"""

import copy
import json
import os
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import IterableDataset

STREAM_STATE_NAME = "stream_state.json"
NUM_STATES = 4  # batches that a loader may be ahead


@runtime_checkable
class Stateful(Protocol):
    """What `datasets.IterableDataset` and `TextStream` are."""

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let it begin there."""

    def set_epoch(self, epoch: int) -> None:
        """Let a shuffled stream take the order of this epoch."""


class ResumedStream(IterableDataset):
    """The rows of a stateful stream, which keeps its state after each of its last batches.

    Args:
        dataset (`Stateful`): The stream.
        rows (`int`): Of a batch, over all processes.
    """

    def __init__(self, dataset: Any, rows: int):
        self.dataset = dataset
        self.rows = rows
        self.states: dict[int, dict[str, Any]] = {}  # by the number of batches in this epoch
        self.epoch = self.first_epoch = 0
        self.restored: Any = None

    def set_epoch(self, epoch: int) -> None:
        """The epochs of a resumed training begin with the one in which it was."""
        self.epoch = self.first_epoch + epoch
        self.dataset.set_epoch(self.epoch)

    def __iter__(self) -> Iterator[Any]:
        stream, self.restored = self.dataset if self.restored is None else self.restored, None
        self.states, number = {}, 0
        for number, row in enumerate(stream, start=1):
            if number % self.rows == 0:
                self.remember(number // self.rows, self.epoch, copy.deepcopy(stream.state_dict()))
            yield row
        self.remember(-(-number // self.rows), self.epoch + 1, None)  # the last batch, be it whole or not

    def remember(self, batches: int, epoch: int, state: dict[str, Any] | None) -> None:
        """Keep a state; None is the start of the epoch."""
        self.states[batches] = {"epoch": epoch, "state": state}
        self.states = dict(list(self.states.items())[-NUM_STATES:])

    def save(self, folder: str, batches: int) -> None:
        """Write where the stream was after so many batches of this epoch."""
        with open(os.path.join(folder, STREAM_STATE_NAME), "w") as file:
            json.dump(self.states[batches], file)

    def restore(self, folder: str) -> None:
        """Let the next epoch begin where a checkpoint says.

        Raises:
            ValueError: if it does not say it, or cannot be read.
        """
        path = os.path.join(folder, STREAM_STATE_NAME)
        if not os.path.isfile(path):
            raise ValueError(
                f"{folder} does not say where the stream was, as it was written without ignore_data_skip=True: resume "
                "it without, once."
            )
        with open(path) as file:
            try:
                saved = json.load(file)
            except ValueError as error:
                raise ValueError(
                    f"{path} is damaged: {error}. Copy it again, resume an earlier checkpoint, or resume without "
                    "ignore_data_skip=True, once, which reads the stream from its start."
                ) from error
        self.first_epoch = saved["epoch"]
        if saved["state"] is not None:
            # A copy: `datasets` begins each further epoch at a state that it was given.
            self.restored = copy.deepcopy(self.dataset)
            self.restored.set_epoch(self.first_epoch)
            self.restored.load_state_dict(saved["state"])
