"""One run at a time on an output: a lock that says who holds it.

The lock is the kernel's (flock), not a file that is there, so nothing is left to clean up after a kill. Locks are of
the main process, and are taken again within one that is held.
"""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from accelerate import PartialState
from transformers.utils import logging

logger = logging.get_logger(__name__)

# What this process holds, so that a function that locks an output can be called where it is locked already.
HELD: set[Path] = set()
# transformers uploads nothing of an output folder that begins with an underscore.
FOLDER_LOCK = "_running.lock"
BUSY = (errno.EAGAIN, errno.EACCES)


@contextmanager
def output_lock(path: str | Path, is_folder: bool = False) -> Iterator[None]:
    """Hold an output, a file or a folder, which is made if it is not there. A run's main process holds it for all.

    The lock ends with the process that holds it, however that ends. The file that carries it, `<path>.lock` or
    `_running.lock` in the folder, says who that is, and goes with it.

    Raises:
        ValueError: if another run holds the output, or it cannot be written to.
    """
    path = Path(path).resolve()
    if path in HELD or not PartialState().is_main_process:
        yield
        return
    carrier = path / FOLDER_LOCK if is_folder else path.with_name(path.name + ".lock")
    with _acquire(carrier, path) as file:
        # A process that is forked, to load data say, is not to hold on to the output after this one's end.
        os.register_at_fork(after_in_child=file.close)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%Y-%m-%d %H:%M:%S %Z')}")
        file.flush()
        HELD.add(path)
        try:
            yield
        finally:
            HELD.discard(path)
            carrier.unlink(missing_ok=True)  # while it is locked, so that it is nobody else's


def _acquire(carrier: Path, path: Path) -> IO[str]:
    """The open file that carries the lock of `path`, locked. Raises as `output_lock`."""
    while True:
        try:
            carrier.parent.mkdir(parents=True, exist_ok=True)
            file = open(carrier, "a+", encoding="utf-8")  # noqa: SIM115 (the caller's `with` closes it)
        except OSError as error:
            raise ValueError(f"The output {path} cannot be written: {error}. Name another, or allow it.") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in BUSY:
                logger.warning(f"{path} is not locked, as its file system has no locks ({error}): start one run only.")
                return file
            file.seek(0)
            holder = file.read() or "a process that has just begun"
            file.close()
            raise ValueError(
                f"Another run works on {path}: {holder}. Wait for it or end it, or name another output."
            ) from error
        if carrier.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(carrier)):
            return file
        file.close()  # the run before has removed it in the meantime
