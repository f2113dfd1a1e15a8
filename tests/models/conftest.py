"""What several of these tests measure."""

from pathlib import Path

import pytest


def resident(field: str) -> int:
    """Bytes of this process in memory, by a line of /proc/self/status."""
    return int(next(line for line in open("/proc/self/status") if line.startswith(field)).split()[1]) * 1024


@pytest.fixture
def growth():
    """A function: by how many bytes this process grows at most while another function runs."""

    def of(function, *arguments) -> int:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
        before = resident("VmRSS")
        function(*arguments)
        return resident("VmHWM") - before

    return of
