"""Running Python that a model wrote, and tests of it, where it can do no harm.

Each program has a Python process of its own (`python -I -S`) with an empty environment, no standard input, and limits
of time, memory, file sizes and open files. It finds the standard library and what is in the folders of installed
packages (no `.pth` files, as editable installations leave there). A second process outside of its walls,
that of the folder `sandboxed`, starts it, watches it, kills it with all that it has started, and says what came of it.
There are two kinds of isolation:

- `"namespaces"` (Linux): the process has its own mount, process, network, IPC and host name namespaces, and for who is
  not root a user namespace, which `unshare` makes. It sees no network, no other process, and of the files only the
  system's (`/usr`, `/lib`) and the interpreter's with its packages, all read only; the environment, home folders and
  /tmp are not there. It writes to a folder in memory of limited size, which ends with it. It has no capabilities and
  cannot gain any. The number of its processes is limited (on Linux before 5.14 together with others of the user).
- `"limits"`: nothing of that. The program has the rights of who calls: it can read, change and delete their files, use
  the network, end their processes and start any number of its own until the timeout. For a machine or container that
  holds nothing else.

With both, on Linux, a filter refuses the system calls that reach keys, other processes and devices, or that take memory
which is counted for no process, and so cannot be had (`sandboxed/system_calls.py`).

Model-written programs run in namespaces or not at all, unless the user says otherwise. The folder `sandboxed` is what
runs there, with the standard library only: one process builds the walls and stays outside, the program is its child.
The outer one alone can write the report, so that no output of a program is taken for one, and it keeps the limits, so
that the evaluator waits for an end and nothing else. Root's programs become another user, since Linux limits no process
of root's.

**Time** counts from the program's first line, not from the interpreter's start, and leaves out what it waited for a CPU
that other processes had: a program takes as long beside 31 others as alone, where the clock would fail right ones. It
is CPU seconds while the program runs or waits for a CPU, seconds of the clock while it sleeps. One that starts
processes is not spared this from then on.

**Memory**: one process cannot ask for more than the limit. That of several is added up every few milliseconds, and the
program ends where it is more. Beside it stand the files that it writes (`disk`) and what the kernel holds for pipes and
sockets, up to about 300 MiB with the default limits of processes and files.

Neither protects against a fault in the kernel, and neither against cheating: program and tests share an interpreter, as
in all of these benchmarks. A secret that the child hands over after the tests tells that they were run through, so that
a program which ends early, with an exit code of its choice, has not passed. But one that searches the frames of its
callers can find the secret, and what a function returns can claim to equal anything.
"""

import contextlib
import marshal
import math
import os
import selectors
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tqdm.auto import tqdm

from prism_hf.fields import Allowed, Positive, check_arguments

LAUNCHER = Path(__file__).with_name("sandboxed") / "__main__.py"
ISOLATIONS = ("namespaces", "limits")
RISK = (
    "but leaves a program the network and your files: use it only in a container or virtual machine that holds nothing "
    "else."
)
READY = b"ready\n"
OUTPUT_TAIL = 2000
MIB = 2**20
Isolation = Annotated[str, Allowed(choices=ISOLATIONS)]
Seconds = Annotated[float, Allowed(above=0, max=36_000)]
OUTCOMES = ("passed", "failed", "timed out", "out of memory", "crashed")
# Seconds for an interpreter to start on a crowded machine, how often that is tried, and the pauses between.
START, STARTS, PAUSE = 60.0, 3, 0.2
# The longest that a program can take by the clock, in timeouts: it may wait for a CPU most of the time.
PATIENCE = 50


@dataclass(frozen=True)
class ProgramResult:
    """What came of a program.

    Args:
        passed (`bool`): Whether its tests were run through and raised nothing.
        reason (`str`, *optional*): Why not: `"failed"` (something was raised, by a test or before), `"timed out"`,
            `"out of memory"` (its processes together; one alone gets a MemoryError) or `"crashed"` (ended, by itself or
            by a signal, before the tests were through).
        stderr (`str`): The end of what was written to standard error.

    Example:
        ```python
        >>> run_program("x = 1", "assert x == 2").reason
        'failed'
        ```
    """

    passed: bool
    reason: str | None
    stderr: str


def run_program(
    program: str,
    tests: str = "",
    timeout: Seconds = 10.0,
    isolation: Isolation = "namespaces",
    memory: Annotated[int, Allowed(min=32 * MIB, max=2**62)] = 1024 * MIB,
    disk: Annotated[int, Allowed(min=0, max=2**62)] = 64 * MIB,
    num_processes: Annotated[int, Allowed(min=1, max=2**31 - 1)] = 16,
    open_files: Annotated[int, Allowed(min=1, max=2**31 - 1)] = 64,
) -> ProgramResult:
    """Run `program` and then, in its module, `tests`: passed if neither raises anything.

    The module is not `__main__`. The module's documentation says what is guaranteed.

    Args:
        program (`str`): Python, as a model wrote it.
        tests (`str`, *optional*): Python that raises if the program is wrong.
        timeout (`float`, *optional*, defaults to 10.0): Seconds from its first line, as the module's documentation
            counts them; also of CPU time, rounded up.
        isolation (`str`, *optional*, defaults to `"namespaces"`): That or `"limits"`.
        memory (`int`, *optional*, defaults to 1 GiB): Bytes, of address space of a process and of the memory of all its
            processes.
        disk (`int`, *optional*, defaults to 64 MiB): Bytes of a file, with namespaces of all files.
        num_processes (`int`, *optional*, defaults to 16): Processes and threads, with namespaces only.
        open_files (`int`, *optional*, defaults to 64): Files that a process has open.

    Returns:
        `ProgramResult`: Whether it passed, and why not.

    Raises:
        ValueError: if the isolation is none of the two, or this machine cannot give it, whatever the program.

    Example:
        ```python
        >>> run_program("def double(x): return 2 * x", "assert double(2) == 4").passed
        True
        ```
    """
    check_arguments(run_program, locals())
    job = {
        "program": program,
        "tests": tests,
        "isolation": isolation,
        "prefixes": [sys.prefix, sys.base_prefix],
        "packages": site.getsitepackages(),
        "limits": {
            "timeout": timeout,
            "cpu_seconds": math.ceil(timeout),
            "memory": memory,
            "disk": disk,
            "num_processes": num_processes,
            "open_files": open_files,
        },
    }
    # A crowded machine may have no process or memory to spare for a moment.
    for attempt in range(1, STARTS + 1):
        try:
            started, outcome, stderr = _start(job, timeout)
        except OSError as error:
            started, stderr = False, str(error)
        if started:
            return ProgramResult(outcome == "passed", None if outcome == "passed" else outcome, stderr)
        time.sleep(PAUSE if attempt < STARTS else 0.0)
    raise ValueError(
        f"This machine cannot run programs with isolation={isolation!r}: {stderr.strip() or 'no reason given'}\n"
        f"isolation='limits' needs no namespaces, {RISK}"
    )


def _start(job: dict[str, Any], timeout: float) -> tuple[bool, str, str]:
    """Run a job: whether the walls stood and the program began, what came of it, and the end of its standard error."""
    with tempfile.TemporaryDirectory(prefix="program-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            command(job["isolation"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )
        # A user that nobody else is, and that has no files: the limit of processes is one of the user.
        user = MIB + process.pid if os.geteuid() == 0 else None
        job = job | {"folder": os.path.realpath(folder), "user": user}
        try:
            report, stderr = _communicate(process, marshal.dumps(job), timeout)
        finally:
            _kill_session(process)
    outcome = report.removeprefix(READY).decode()
    return report.startswith(READY), outcome if outcome in OUTCOMES else "crashed", stderr


def run_programs(
    programs: Sequence[tuple[str, str]], num_workers: Positive | None = None, progress: bool = True, **kwargs: Any
) -> list[ProgramResult]:
    """`run_program` for several, some at a time.

    Args:
        programs (`Sequence[tuple[str, str]]`): Pairs of a program and its tests.
        num_workers (`int`, *optional*): Programs at once, by default one a CPU.
        progress (`bool`, *optional*, defaults to `True`): Show a progress bar.
        **kwargs: See `run_program`.

    Returns:
        `list[ProgramResult]`: What came of each, in order.

    Example:
        ```python
        results = run_programs([("x = 1", "assert x == 1"), ("x = 2", "assert x == 1")], timeout=5.0)
        ```
    """
    check_arguments(run_programs, {"num_workers": num_workers})
    with ThreadPoolExecutor(num_workers or os.cpu_count()) as pool:
        results = pool.map(lambda pair: run_program(*pair, **kwargs), programs)
        return list(tqdm(results, total=len(programs), unit="program", leave=False, disable=not progress))


def isolation_problem(isolation: str = "namespaces") -> str | None:
    """Why this machine cannot give an isolation, tried with an empty program.

    Args:
        isolation (`str`, *optional*, defaults to `"namespaces"`): See `run_program`.

    Returns:
        `str` or `None`: The reason with the remedy, None if it can.

    Example:
        ```python
        isolation = "namespaces" if isolation_problem() is None else "limits"
        ```
    """
    try:
        result = run_program("", isolation=isolation, timeout=60.0)
    except ValueError as error:
        return str(error)
    return None if result.passed else f"An empty program {result.reason}: {result.stderr}"


def check_isolation(isolation: str = "namespaces") -> None:
    """Check that this machine can give an isolation.

    Args:
        isolation (`str`, *optional*, defaults to `"namespaces"`): See `run_program`.

    Raises:
        ValueError: with the remedy, if it cannot.

    Example:
        ```python
        check_isolation("namespaces")
        ```
    """
    if problem := isolation_problem(isolation):
        raise ValueError(problem)


def command(isolation: str) -> list[str]:
    """The command that starts an interpreter in namespaces of its own, or as it is."""
    python = [sys.executable, "-I", "-S", str(LAUNCHER)]
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


def _communicate(process: subprocess.Popen, job: bytes, timeout: float) -> tuple[bytes, str]:
    """Hand a job over and wait for the end of the report: the report and the tail of standard error.

    What is written is read all the time, so that nobody waits for us, and dropped but for that. The program cannot
    reach the report. The limits are kept by who writes it; the deadline here is for the case that it does not.
    """
    deadline = time.monotonic() + START
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(job)
    report, stderr = b"", b""
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            selector.register(pipe, selectors.EVENT_READ)
        # A descendant can hold standard error open after the end.
        ended = False
        while not ended and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 65536)
                if key.fileobj is process.stderr:
                    stderr = (stderr + chunk)[-OUTPUT_TAIL:]
                elif not report.startswith(READY) and (report + chunk).startswith(READY):
                    deadline = time.monotonic() + START + PATIENCE * timeout
                if key.fileobj is process.stdout:
                    report += chunk
                    ended = not chunk
                if not chunk:
                    selector.unregister(key.fileobj)
        while ended and process.stderr in selector.get_map() and selector.select(0):
            chunk = os.read(process.stderr.fileno(), 65536)
            stderr = (stderr + chunk)[-OUTPUT_TAIL:]
            if not chunk or time.monotonic() > deadline:
                break
    return report, stderr.decode(errors="replace")


def _kill_session(process: subprocess.Popen) -> None:
    """End a process and its group, be it over already or not, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stderr.close()
