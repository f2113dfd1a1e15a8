"""A disk that is full, and outputs that the version before has begun."""

import resource
import shutil
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def files_up_to():
    @contextmanager
    def files_up_to(size):
        """As on a disk that is full: what goes beyond is written in part, then not at all."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return files_up_to


@pytest.fixture
def begun_before(tmp_path):
    """A folder with outputs of version 0.1, killed in the middle: completions of seven prompts, and results."""
    return Path(shutil.copytree(Path(__file__).parents[1] / "fixtures" / "outputs_of_0_1", tmp_path / "begun_before"))
