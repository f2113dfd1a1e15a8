"""Work that the processes of a run share: each makes parts of an output, and the main process what is made once.

Which parts there are does not depend on how many processes share them, and each part is made of itself alone, with a
seed of its own. So an output is that of an unbroken run of one process, whatever was killed and started again.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from tqdm.auto import tqdm

from .launching import wait_for_slowest
from .store import ResumableJsonl

T = TypeVar("T")


def share_parts(
    output: ResumableJsonl,
    parts: Sequence[int],
    make: Callable[[int], list[dict[str, Any]]],
    description: str | None = None,
) -> None:
    """Make the parts that an output lacks, each process some of them, and wait until all are there.

    `make` returns the rows of a part, and `description` stands before the progress bar. All processes are given the
    same parts and see one file system.
    """
    state = PartialState()
    done = by_main_process(lambda: list(output.parts()))
    own = [part for part in parts if part not in done][state.process_index :: state.num_processes]
    for part in tqdm(own, description, unit="batch", disable=not state.is_main_process):
        _keep(output, part, make, part)
    wait_for_slowest()


def share_batches(
    output: ResumableJsonl,
    batches: Iterable[T],
    make: Callable[[int, T], list[dict[str, Any]]],
    description: str | None = None,
    num_batches: int | None = None,
) -> range:
    """As `share_parts`, of batches that every process reads in one order, a stream's say; returns their numbers.

    `make` is given the number of a batch too. `num_batches` is for the progress bar, where it is known.
    """
    state = PartialState()
    done = by_main_process(lambda: set(output.parts()))
    number = turn = 0
    disable = not state.is_main_process
    for number, batch in enumerate(tqdm(batches, description, num_batches, unit="batch", disable=disable), start=1):
        part = number - 1
        if part in done:
            continue
        if turn % state.num_processes == state.process_index:
            _keep(output, part, make, part, batch)
        turn += 1
    wait_for_slowest()
    return range(number)


def _keep(output: ResumableJsonl, part: int, make: Callable[..., list[dict[str, Any]]], *arguments: Any) -> None:
    """Append what is made to the shard of this process, with the time that it took."""
    began = time.perf_counter()
    rows = make(*arguments)
    output.append(part, rows, PartialState().process_index, round(time.perf_counter() - began, 3))


def by_main_process(compute: Callable[[], T]) -> T:
    """What the main process computes, or raises, in all processes, which wait for it, however long that takes."""
    computed: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            computed[0] = compute()
        except Exception as error:
            computed[1] = error
    wait_for_slowest()
    value, raised = broadcast_object_list(computed)
    if raised is not None:
        raise raised
    return value
