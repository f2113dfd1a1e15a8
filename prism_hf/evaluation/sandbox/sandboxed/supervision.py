"""Watching a program from outside: the time and the memory that it takes with all that it starts."""

import contextlib
import os
import select
import signal
import time

# Seconds between two looks, while there is one process, whose own limit holds, and while there are several.
ALONE, SEVERAL = 0.005, 0.002


class Processes:
    """The processes that this one and its children have started, as /proc lists them; none where there is no /proc.

    /proc is read through a descriptor, so that it need not be in the root. Process ids are those of its namespace.
    """

    def __init__(self) -> None:
        try:
            self.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
            self.own = os.readlink("self", dir_fd=self.proc)
        except OSError:
            self.proc = None

    def all(self) -> list[str]:
        found, unseen = [], [] if self.proc is None else [self.own]
        while unseen:
            started = self.children(unseen.pop())
            found += started
            unseen += started
        return found

    def children(self, pid: str) -> list[str]:
        try:
            folder = os.open(f"{pid}/task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self.proc)
        except OSError:  # it has ended
            return []
        try:
            threads = os.listdir(folder)
        except OSError:
            threads = []
        finally:
            os.close(folder)
        return [child for thread in threads for child in self.read(f"{pid}/task/{thread}/children").split()]

    def memory(self, pids: list[str]) -> dict[str, int]:
        """Bytes that each process holds; pages that several share count for each."""
        held = {pid: self.sizes(f"{pid}/status") for pid in pids}
        # One that lends its memory to a child, as to start a command, waits for it in state D.
        borrowed = {(sizes.get("PPid"), sizes.get("VmSize")) for sizes in held.values()}
        return {
            pid: added(sizes, "RssAnon", "RssShmem", "VmSwap")
            for pid, sizes in held.items()
            if sizes.get("State") != "D" or (pid, sizes.get("VmSize")) not in borrowed
        }

    def share(self, pid: str) -> int | None:
        """Bytes that a process holds, of pages that others hold too its part, None where that cannot be read. Slow."""
        sizes = self.sizes(f"{pid}/smaps_rollup")
        return added(sizes, "Pss_Anon", "Pss_Shmem", "SwapPss") if "Pss_Anon" in sizes else None

    def take_too_much(self, pids: list[str], most: float) -> bool:
        """Whether processes hold more than `most` bytes together. They are stopped where that takes time to know."""
        held = self.memory(pids)
        if sum(held.values()) <= most:
            return False
        self.signal(pids, signal.SIGSTOP)
        shares = {pid: self.share(pid) for pid in held}
        if sum(held[pid] if share is None else share for pid, share in shares.items()) > most:
            return True
        self.signal(pids, signal.SIGCONT)
        return False

    def signal(self, pids: list[str], number: int) -> None:
        """Signal them: all others of a process namespace at once, else one after the other."""
        for pid in [-1] if os.getpid() == 1 else map(int, pids):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    def sizes(self, path: str) -> dict[str, str]:
        lines = (line.split(":", 1) for line in self.read(path).splitlines() if ":" in line)
        return {name: value.split()[0] for name, value in lines if value.strip()}

    def work(self, pid: str) -> tuple[bool, float] | None:
        """Whether a process runs, or would if a CPU were free, and the CPU seconds that it has had; None if unknown."""
        state = self.read(f"{pid}/stat").rpartition(") ")[2][:1]
        words = self.read(f"{pid}/schedstat").split()
        return (state == "R", int(words[0]) / 1e9) if len(words) == 3 else None

    def read(self, path: str) -> str:
        """The text of a file of /proc, empty if its process has ended."""
        try:
            file = os.open(path, os.O_RDONLY, dir_fd=self.proc)
        except OSError:
            return ""
        try:
            return os.read(file, 65536).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(file)

    def end_all(self) -> None:
        """Kill them, those too that they start meanwhile. Only where /proc has the process ids of this process."""
        deadline = time.monotonic() + 1.0
        while (pids := self.all()) and time.monotonic() < deadline:
            self.signal(pids, signal.SIGKILL)
            reap()


def supervise(program: int, verdict: int, secret: bytes, processes: Processes, limits: dict[str, float]) -> str:
    """Wait for a program's end or its limits: "passed", "failed", "crashed", "timed out" or "out of memory".

    verdict: the pipe on which the program hands over `secret`; it may write there whatever it likes.
    limits: `timeout` in seconds, without those in which no CPU was free for it, until it starts another process; and
    `memory` in bytes, of all processes together.
    """
    clock = Clock()
    pause, said, listening = ALONE, b"", True
    while True:
        if not listening:
            time.sleep(pause)
        elif select.select([verdict], [], [], pause)[0]:
            chunk = os.read(verdict, 4096)
            said += chunk
            if said.startswith(secret):
                return "passed"
            listening = bool(chunk) and secret.startswith(said)
        status = reap().get(program)
        if status is not None:
            told = listening and select.select([verdict], [], [], 0)[0]
            return "passed" if told and os.read(verdict, 4096).startswith(secret) else ending(status)
        looked = time.monotonic()
        pids = processes.all()
        if clock.taken(processes, pids) > limits["timeout"]:
            return "timed out"
        if not clock.alone:
            if processes.take_too_much(pids, limits["memory"]):
                return "out of memory"
            pause = max(SEVERAL, time.monotonic() - looked)


class Clock:
    """The seconds that a program has taken: those of a CPU while it runs or waits for one, all others while it sleeps.

    From when it has started another process on, all seconds count: else it could make itself wait.
    """

    def __init__(self) -> None:
        self.seconds, self.alone, self.looked, self.worked = 0.0, True, time.monotonic(), 0.0

    def taken(self, processes: Processes, pids: list[str]) -> float:
        """The seconds up to now, of a program that has these processes now. To be asked often."""
        passed = time.monotonic() - self.looked
        self.looked += passed
        self.alone = self.alone and len(pids) <= 1
        work = processes.work(pids[0]) if self.alone and pids else None
        if work is not None:
            runs, worked = work
            if runs:
                passed = min(passed, worked - self.worked)
            self.worked = worked
        self.seconds += passed
        return self.seconds


def reap() -> dict[int, int]:
    """The statuses of children that have ended, by process id."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    return ended


def ending(status: int) -> str:
    """How a program ended, by its status."""
    if os.WIFSIGNALED(status):
        return "timed out" if os.WTERMSIG(status) == signal.SIGXCPU else "crashed"
    return "failed" if os.WEXITSTATUS(status) == 1 else "crashed"


def added(sizes: dict[str, str], *names: str) -> int:
    """Bytes of entries in kB, of which some may be missing."""
    return 1024 * sum(int(sizes.get(name, 0)) for name in names)
