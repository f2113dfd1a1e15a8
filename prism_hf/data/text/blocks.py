"""Blocks of one length, cut from documents that follow one another as if they were one.

MDLM, ReMDM and PRISM cut OpenWebText so, with one difference: they drop what is left over after every 1,000 documents,
and here only what is left over after the last. So a block has the same tokens however the documents are read: at once,
as a stream, or by how many processes.

`TextBlocks` copies no token: it looks a block up among the tokenized documents, which `datasets` maps from the disk.
`TextStream` holds the documents of the block that it is in. Its state is that of the stream that it reads, and what is
left of the last document, so that it goes on without reading anew what came before.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor


class TextBlocks(torch.utils.data.Dataset):
    """Blocks of `length` tokens: BOS, `length - 2` tokens of the documents, EOS.

    An item holds `input_ids` (length,) long and `maskable` (length,) bool, all True.

    Args:
        documents (`Dataset`): With columns `input_ids`, the tokens of a document with its end, and `num_tokens`.
        length (`int`): Of a block.
        bos_token_id (`int`): What begins it.
        eos_token_id (`int`): What ends it.
    """

    def __init__(self, documents: Dataset, length: int, bos_token_id: int, eos_token_id: int):
        self.documents = documents.with_format("arrow")
        lengths = np.concatenate([[0], *(batch["num_tokens"] for batch in self.documents.iter(100_000))])
        self.ends = lengths.cumsum(dtype=np.int64)
        self.length = length
        self.special = bos_token_id, eos_token_id

    def __len__(self) -> int:
        return int(self.ends[-1]) // (self.length - 2)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} blocks, and none with the number {index}.")
        start = index % len(self) * (self.length - 2)
        first, last = np.searchsorted(self.ends, [start, start + self.length - 3], side="right") - 1
        tokens = self.documents[int(first) : int(last) + 1]["input_ids"].combine_chunks().flatten().to_numpy()
        return block(tokens[start - self.ends[first] :][: self.length - 2], *self.special)


class TextStream(torch.utils.data.IterableDataset):
    """The blocks of `TextBlocks` from a stream of documents.

    `state_dict` tells where the stream is, and with `load_state_dict` another one goes on from there.

    Args:
        documents (`IterableDataset`): With a column `input_ids`, the tokens of a document with its end.
        length (`int`): Of a block.
        bos_token_id (`int`): What begins it.
        eos_token_id (`int`): What ends it.
    """

    def __init__(self, documents: IterableDataset, length: int, bos_token_id: int, eos_token_id: int):
        self.documents = documents
        self.length = length
        self.special = bos_token_id, eos_token_id
        self.reading = documents  # what the state is of
        self.tokens: list[int] = []  # that were read, and those in no block so far begin at `start`
        self.start = 0
        self.goes_on = False

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        if not self.goes_on:
            self.reading, self.tokens, self.start = self.documents, [], 0
        self.goes_on = False
        yield from self.whole_blocks()
        for document in self.reading:
            self.tokens, self.start = self.tokens[self.start :] + list(document["input_ids"]), 0
            yield from self.whole_blocks()

    def whole_blocks(self) -> Iterator[dict[str, Tensor]]:
        size = self.length - 2
        while len(self.tokens) - self.start >= size:
            self.start += size
            yield block(np.array(self.tokens[self.start - size : self.start]), *self.special)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, as JSON has it."""
        return {"documents": self.reading.state_dict(), "left": self.tokens[self.start :]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next epoch begin there."""
        # A copy: `datasets` would begin every further epoch there too.
        self.reading = copy.deepcopy(self.documents)
        self.reading.set_epoch(state_dict["documents"]["epoch"])  # or it would not begin there
        self.reading.load_state_dict(state_dict["documents"])
        self.tokens, self.start = list(state_dict["left"]), 0
        self.goes_on = True

    def set_epoch(self, epoch: int) -> None:
        """Let a shuffled stream take the order of this epoch."""
        self.documents.set_epoch(epoch)


def block(tokens: np.ndarray, bos_token_id: int, eos_token_id: int) -> dict[str, Tensor]:
    """A row of tokens between BOS and EOS, all of which are learned."""
    input_ids = torch.from_numpy(np.concatenate([[bos_token_id], tokens, [eos_token_id]]))
    return {"input_ids": input_ids, "maskable": torch.ones_like(input_ids, dtype=torch.bool)}
