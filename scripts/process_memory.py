"""What Linux tells in /proc of this process' memory, for the scripts beside this file."""

from pathlib import Path


def memory(field: str, file: str = "self/status") -> int:
    """A line of a file of /proc in bytes: of `self/status`, VmRSS is what is in use, VmHWM the peak so far."""
    for line in Path("/proc", file).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no {field} in /proc/{file}")


def reset_peak() -> None:
    """Let VmHWM start anew from what is in use."""
    Path("/proc/self/clear_refs").write_text("5")
