"""Work that the processes of a run share: each makes parts of an output, and the main process what is made once.

Which parts there are does not depend on how many processes share them, and each part is made of itself alone, with a
seed of its own. So an output is that of an unbroken run of one process, whatever was killed and started again.
"""

import time
from collections.abc import Callable, Sequence
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
        began = time.perf_counter()
        rows = make(part)
        output.append(part, rows, state.process_index, round(time.perf_counter() - began, 3))
    wait_for_slowest()


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
