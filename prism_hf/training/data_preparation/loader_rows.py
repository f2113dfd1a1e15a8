"""Which rows of a distributed loader's batches are new.

Accelerate gives every process batches of one size, so it fills the last round of batches up with rows of the first one.
Those come last in a batch and are masked nowhere, so that they are in no loss, count or metric. Where each process
reads a stream by itself nobody knows how many there are, so the stream is filled up by us, with rows that are marked.
Where a stream ends within an accumulation window, `Trainer` would take no step: batches of doubled rows complete it.
"""

from collections.abc import Callable, Iterator, MutableMapping, Sized
from typing import Any, cast

from accelerate.data_loader import BatchSamplerShard, DataLoaderDispatcher, IterableDatasetShard, SkipBatchSampler
from torch.utils.data import IterableDataset

from ..packing import PACKED, PackedRows

NUM_FILLERS = "num_fillers"


def num_new_rows(loader: Any, batch: MutableMapping[str, Any], process_index: int) -> int:
    """How many rows of the batch that `loader` gave last are new: the first so many. Takes `num_fillers` out of it.

    Of a packed batch, how many of its documents.
    """
    size = len(batch.get(PACKED, batch["input_ids"]))
    fillers = batch.pop(NUM_FILLERS, 0)
    last_round = num_rows_of_last_round(loader) if loader is not None and loader.end_of_dataloader else None
    new = size - fillers if last_round is None else min(max(last_round - process_index * size, 0), size)
    if PACKED not in batch:
        return new
    if new == size:
        return len(batch["input_ids"])  # without waiting for the device
    return PackedRows.num_documents(batch[PACKED], batch["input_ids"].shape[1], new)


def num_rows_of_last_round(loader: Any) -> int | None:
    """New rows in the last batches of all processes, or None where each batch tells by itself."""
    if isinstance(loader, DataLoaderDispatcher):
        return loader.remainder
    shard = loader.batch_sampler
    while isinstance(shard, SkipBatchSampler):  # when training is resumed
        shard = shard.batch_sampler
    if not isinstance(shard, BatchSamplerShard) or shard.drop_last or shard.batch_size is None:
        return None
    size = shard.batch_size * (1 if shard.split_batches else shard.num_processes)
    return (len(shard.batch_sampler.sampler) - 1) % size + 1


class Filler(dict):
    """A row that fills the last batch of a stream up."""


class FilledStream(IterableDataset):
    """A stream, then its last row again until the number of rows is a multiple of `multiple`, as `Filler`s."""

    def __init__(self, dataset: IterableDataset, multiple: int):
        self.dataset = dataset
        self.multiple = multiple

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number = 0
        for number, row in enumerate(self.dataset, start=1):  # noqa: B007
            yield row
        for _ in range(-number % self.multiple):
            yield Filler(row)

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # while unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


class CountFillers:
    """A collator that puts the number of `Filler`s into the batch."""

    def __init__(self, collate: Callable):
        self.collate = collate

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.collate(rows), NUM_FILLERS: sum(isinstance(row, Filler) for row in rows)}


def tell_fillers(loader: Any) -> None:
    """Where each process reads a stream by itself, let batches hold `num_fillers`; nothing else tells new rows then."""
    shard = loader.dataset
    if isinstance(shard, IterableDatasetShard):
        size = shard.batch_size * (1 if shard.split_batches else shard.num_processes)
        shard.dataset = FilledStream(shard.dataset, size)
        loader.base_dataloader.collate_fn = CountFillers(loader.collate_fn)
