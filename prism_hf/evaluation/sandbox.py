"""Running Python that a model wrote, and tests of it, where it can do no harm.

Each program has a Python process of its own (`python -I`) with an empty environment, no standard input, and limits of
CPU time, memory, file sizes and open files. After the timeout it is killed with all that it has started. There are two
kinds of isolation:

- `"namespaces"` (Linux): the process has its own mount, process, network, IPC and host name namespaces, and for who is
  not root a user namespace, which `unshare` makes. It sees no network, no other process, and of the files only the
  system's (`/usr`, `/lib`) and the interpreter's with its packages, all read only; the environment, home folders and
  /tmp are not there. It writes to a folder in memory of limited size, which ends with it. It has no capabilities and
  cannot gain any. The number of its processes is limited (on Linux before 5.14 together with others of the user).
- `"limits"`: nothing of that. The program has the rights of who calls: it can read, change and delete their files and
  use the network, start any number of processes until the timeout, and leave behind those that make themselves leaders
  of a session. For a machine or container that holds nothing else.

Neither protects against a fault in the kernel, and neither against cheating: program and tests share an interpreter, as
in all of these benchmarks. A secret of the run tells that the tests were run through, so that a program which ends
early, with whatever exit code, has not passed. But one that searches the frames of its callers can find the secret, and
what a function returns can claim to equal anything.
"""

import contextlib
import json
import math
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

LAUNCHER = Path(__file__).with_name("sandboxed_program.py")
ISOLATIONS = ("namespaces", "limits")
RISK = (
    "but leaves a program the network and your files: use it only in a container or virtual machine that holds nothing "
    "else."
)
READY = "ready\n"
OUTPUT_TAIL = 2000
MIB = 2**20


@dataclass(frozen=True)
class ProgramResult:
    """Whether tests passed, else why not, and the end of what was written to standard error.

    reason: None, `"failed"` (something was raised, by a test or before), `"timed out"` or `"crashed"` (ended, by itself
    or by a signal, before the tests were through).
    """

    passed: bool
    reason: str | None
    stderr: str


def run_program(
    program: str,
    tests: str = "",
    timeout: float = 10.0,
    isolation: str = "namespaces",
    memory: int = 1024 * MIB,
    disk: int = 64 * MIB,
    num_processes: int = 16,
    open_files: int = 64,
) -> ProgramResult:
    """Run `program` and then, in its module, `tests`: passed if neither raises anything.

    The module is not `__main__`. The module's documentation says what is guaranteed.

    Args:
        timeout: seconds, of wall-clock time and of CPU time alike.
        isolation: `"namespaces"` or `"limits"`.
        memory: bytes of address space of each process.
        disk: bytes of a file, with namespaces of all files.
        num_processes: processes and threads, with namespaces only.

    Raises:
        ValueError: if the isolation is none of the two, or this machine cannot give it.
    """
    if isolation not in ISOLATIONS:
        raise ValueError(f"isolation={isolation!r} must be one of {', '.join(map(repr, ISOLATIONS))}.")
    if not timeout > 0:
        raise ValueError(f"timeout={timeout!r} must be more than 0 seconds.")
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            command(isolation), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}, cwd="/",
            start_new_session=True,
        )  # fmt: skip
        job = {
            "program": program, "tests": tests, "ready": READY, "secret": secret,
            "folder": os.path.realpath(folder),
            "isolation": isolation,
            # A user that nobody else is, and that has no files: the limit of processes is one of the user.
            "user": MIB + process.pid if os.geteuid() == 0 else None,
            "limits": {
                "cpu_seconds": math.ceil(timeout), "memory": memory, "disk": disk, "num_processes": num_processes,
                "open_files": open_files,
            },
        }  # fmt: skip
        try:
            report, stderr, in_time = communicate(process, json.dumps(job).encode(), timeout)
        finally:
            kill_session(process)
    if not report.startswith(READY.encode()):
        if not in_time:
            return ProgramResult(False, "timed out", stderr)
        raise ValueError(
            f"This machine cannot run programs with isolation={isolation!r}: {stderr.strip() or 'no reason given'}\n"
            f"isolation='limits' needs no namespaces, {RISK}"
        )
    if report == (READY + secret).encode():
        return ProgramResult(True, None, stderr)
    if not in_time or process.returncode == 128 + signal.SIGXCPU:
        return ProgramResult(False, "timed out", stderr)
    return ProgramResult(False, "failed" if process.returncode == 1 else "crashed", stderr)


def run_programs(
    programs: Sequence[tuple[str, str]], num_workers: int | None = None, progress: bool = True, **kwargs
) -> list[ProgramResult]:
    """`run_program` for pairs of a program and its tests, `num_workers` at a time (by default one a CPU), in order."""
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        results = pool.map(lambda pair: run_program(*pair, **kwargs), programs)
        return list(tqdm(results, total=len(programs), unit="program", leave=False, disable=not progress))


def isolation_problem(isolation: str = "namespaces") -> str | None:
    """Why this machine cannot give an isolation, tried with an empty program; None if it can."""
    try:
        result = run_program("", isolation=isolation, timeout=60.0)
    except ValueError as error:
        return str(error)
    return None if result.passed else f"An empty program {result.reason}: {result.stderr}"


def check_isolation(isolation: str = "namespaces") -> None:
    """Raise ValueError, with the remedy, if programs cannot be run with this isolation."""
    if problem := isolation_problem(isolation):
        raise ValueError(problem)


def command(isolation: str) -> list[str]:
    """The command that starts an interpreter in namespaces of its own, or as it is."""
    python = [sys.executable, "-I", str(LAUNCHER)]
    if isolation == "limits":
        return python
    unshare = shutil.which("unshare")
    if unshare is None:
        raise ValueError(
            "isolation='namespaces' needs Linux and the command unshare (of util-linux). isolation='limits' does not, "
            f"{RISK}"
        )
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [unshare, *user, "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child", *python]


def communicate(process: subprocess.Popen, job: bytes, timeout: float) -> tuple[bytes, str, bool]:
    """Hand a job over and wait for its end: the report, the tail of standard error, and whether it ended in time.

    What is written is read all the time, so that nobody waits for us, and dropped but for the tail.
    """
    deadline = time.monotonic() + timeout
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(job)
    kept = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map() and (left := deadline - time.monotonic()) > 0:
            # A descendant can hold the pipes open after the end.
            ended = process.poll() is not None
            ready = selector.select(0 if ended else min(left, 0.1))
            for key, _ in ready:
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                kept[key.fileobj] = (kept[key.fileobj] + chunk)[-OUTPUT_TAIL:]
            if ended and not ready:
                break
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
        in_time = True
    except subprocess.TimeoutExpired:
        in_time = False
    return kept[process.stdout], kept[process.stderr].decode(errors="replace"), in_time


def kill_session(process: subprocess.Popen) -> None:
    """End a process and its group, be it over already or not, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
