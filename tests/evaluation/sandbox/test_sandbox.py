"""Programs that do harm, or would rather not be tested."""

import contextlib
import functools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prism_hf.evaluation.sandbox import sandbox
from prism_hf.evaluation.sandbox.sandbox import (
    ISOLATIONS,
    check_isolation,
    command,
    isolation_problem,
    run_program,
    run_programs,
)

both = pytest.mark.parametrize("isolation", ISOLATIONS)
RIGHT = "def double(x):\n    return 2 * x\n"
TEST = "assert double(3) == 6, 'not the double'"


namespaces_problem = functools.cache(isolation_problem)


@pytest.fixture(autouse=True)
def isolated(request):
    isolation = request.node.callspec.params.get("isolation") if hasattr(request.node, "callspec") else "namespaces"
    if isolation != "limits" and (problem := namespaces_problem()):
        pytest.skip(problem)


@both
def test_right_passes_and_wrong_fails(isolation):
    result = run_program(RIGHT, TEST, isolation=isolation)
    assert (result.passed, result.reason, result.stderr) == (True, None, "")
    result = run_program(RIGHT.replace("2", "3"), TEST, isolation=isolation)
    assert not result.passed and result.reason == "failed"
    assert result.stderr.endswith("AssertionError: not the double\n") and "assert double(3) == 6" in result.stderr


@both
@pytest.mark.parametrize(
    "program, reason",
    [
        ("def double(x) return x", "failed"),
        ("raise SystemExit(0)", "failed"),
        ("import sys\ndef double(x): sys.exit(0)", "failed"),
        ("import os\nos._exit(0)", "crashed"),
        ("import os\ndef double(x): os._exit(0)", "crashed"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "crashed"),
        ("import ctypes\nctypes.string_at(0)", "crashed"),
        ("input()", "failed"),
    ],
)
def test_ending_early_is_not_passing(program, reason, isolation):
    result = run_program(program, TEST, isolation=isolation)
    assert not result.passed and result.reason == reason, result


@both
@pytest.mark.parametrize(
    "program",
    [
        "import builtins\nbuiltins.AssertionError = type('Quiet', (SystemExit,), {})",
        "import sys\nsys.excepthook = lambda *a: None\nsys.stderr = None\ndef double(x): return 0",
        "import atexit, os\natexit.register(os._exit, 0)\ndef double(x): return 0",
        "import os, traceback\nos._exit = traceback.print_exception = print\ndef double(x): return 0",
        # Every descriptor is told what might be the word for it.
        "import os\nfor fd in range(64):\n try: os.write(fd, b'ready\\n' * 2)\n except OSError: pass\nos._exit(0)",
        "import builtins\nbuiltins.compile = lambda *a: ''\nbuiltins.exec = print\ndef double(x): return 0",
        "class Odd(Exception):\n    def __str__(self): raise SystemExit(0)\ndef double(x): raise Odd",
    ],
)
def test_meddling_with_what_tells_failure_is_not_passing(program, isolation):
    assert not run_program(program, TEST, isolation=isolation).passed


@both
@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(1000)",
        "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\n"
        "while True: pass",
        "while True:\n    try: 1 / 0\n    except BaseException: pass",
        "import sys\nwhile True: print('x' * 10**6); print('y' * 10**6, file=sys.stderr)",
    ],
)
def test_what_does_not_end_is_ended(program, isolation):
    result = run_program(program, timeout=1.0, isolation=isolation)
    assert not result.passed and result.reason == "timed out"
    assert len(result.stderr) <= 2000


@both
def test_cpu_time_and_descriptors_are_limited(isolation):
    limits = "import resource as r\nassert r.getrlimit(r.RLIMIT_CPU)[0] == 3 and r.getrlimit(r.RLIMIT_CORE)[1] == 0"
    assert run_program(limits, timeout=2.5, isolation=isolation).passed
    result = run_program("files = [open('/dev/null') for _ in range(100)]", isolation=isolation)
    assert result.reason == "failed" and "Too many open files" in result.stderr


@both
def test_memory_is_limited(isolation):
    assert run_program("x = bytearray(100 << 20)", isolation=isolation).passed
    result = run_program("x = bytearray(100 << 20)", memory=100 << 20, isolation=isolation)
    assert result.reason == "failed" and "MemoryError" in result.stderr


@both
def test_nothing_of_the_environment_is_seen(isolation, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hidden")
    # The C library's locale, which Python sets by itself, is all there is.
    result = run_program("import os\nassert set(os.environ) <= {'LC_CTYPE'}, os.environ", isolation=isolation)
    assert result.passed, result.stderr


@both
def test_a_working_directory_of_its_own(isolation):
    write = "import os\nassert os.listdir() == []\nopen('note', 'w').write('x')\nassert os.listdir() == ['note']"
    for result in run_programs([(write, "")] * 3, num_workers=2, progress=False, isolation=isolation):
        assert result.passed, result.stderr
    result = run_program("with open('large', 'wb') as f: f.write(bytes(2 << 20))", disk=1 << 20, isolation=isolation)
    assert not result.passed


def test_files_of_all_kinds_together_are_limited():
    program = "for n in range(20):\n    with open(str(n), 'wb') as file: file.write(bytes(1 << 20))"
    assert run_program(program, disk=32 << 20).passed
    result = run_program(program, disk=8 << 20)
    assert result.reason == "failed" and "No space left" in result.stderr


def test_no_file_outside_is_written_or_seen(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    for program in (
        f"open({str(secret)!r})",
        f"open({str(secret)!r}, 'w')",
        "open('/usr/new', 'w')",
        "open('/new', 'w')",
    ):
        result = run_program(program)
        assert result.reason == "failed" and ("No such file" in result.stderr or "Read-only" in result.stderr)
    assert secret.read_text() == "hidden" and not Path("/usr/new").exists()
    package = Path(sys.prefix) / "pyvenv.cfg"
    kept = package.read_text() if package.exists() else None
    assert not run_program(f"import os\nos.remove({str(package)!r})").passed
    assert kept is None or package.read_text() == kept


def test_the_walls_cannot_be_pulled_down():
    remount = (
        "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\n"
        "assert c.mount(None, b'/', None, ctypes.c_ulong(32), None) < 0\n"  # MS_REMOUNT, without read only
        "assert c.mount(b'tmpfs', b'/usr', b'tmpfs', ctypes.c_ulong(0), None) < 0\n"
        "for flag in (0x10000000, 0x00020000, 0x40000000): assert c.unshare(flag) < 0\n"  # user, mount, network
        "assert c.chroot(b'.') < 0\n"
    )
    result = run_program(remount)
    assert result.passed, result.stderr
    result = run_program("import os\nos.setuid(0)" if os.geteuid() == 0 else "import os\nos.setgroups([0])")
    assert result.reason == "failed" and "PermissionError" in result.stderr


def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        program = f"import socket\nsocket.create_connection({server.getsockname()}, timeout=5)"
        assert run_program(program, isolation="limits").passed  # as said: only namespaces keep it off
        result = run_program(program)
    assert result.reason == "failed" and "unreachable" in result.stderr


def test_processes_are_limited_and_none_is_left():
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert run_program(bomb, timeout=1.0).reason == "timed out"
    count = (
        "import os, time\npids = []\ntry:\n    while len(pids) < 100:\n        pid = os.fork()\n"
        "        if pid == 0: time.sleep(100)\n        pids.append(pid)\nexcept BlockingIOError: pass\n"
        "assert len(pids) < 16, len(pids)\nfor signum in (9, 15): \n    try: os.kill(1, signum)\n"
        "    except PermissionError: pass"
    )
    # Real root counts no processes unless the sandbox gave up its user.
    result = run_program(count, timeout=20.0)
    assert result.passed, result.stderr


@both
def test_what_a_program_started_ends_with_it(isolation, tmp_path):
    name = f"{time.time_ns()}.5"  # seconds to sleep that no other process sleeps
    start = f"import subprocess\nsubprocess.Popen(['/bin/sleep', '{name}'], start_new_session=True)"
    assert run_program(start, isolation=isolation).passed
    deadline = time.monotonic() + 20
    while (running := is_running(name)) and time.monotonic() < deadline:  # a killed process takes a moment to go
        time.sleep(0.05)
    assert not running


def is_running(argument):
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if argument.encode() in path.read_bytes():
                return True
    return False


@both
def test_time_counts_from_the_first_line_and_not_while_others_have_the_cpus(isolation):
    busy = "import time\nwhile time.process_time() - began < 0.1: pass"
    programs = [(f"import time\nbegan = time.process_time()\n{busy}", "")] * 24
    results = run_programs(programs, num_workers=24, progress=False, isolation=isolation, timeout=0.3)
    assert [result.reason for result in results] == [None] * 24
    results = run_programs(
        [("import time\ntime.sleep(9)", "")] * 8, 8, progress=False, isolation=isolation, timeout=0.3
    )
    assert [result.reason for result in results] == ["timed out"] * 8


@both
def test_memory_of_several_processes_is_added_up(isolation):
    fill = "data = bytearray(60 << 20)\nfor at in range(0, len(data), 4096): data[at] = 1\n"
    fork = "import os, time\nfor _ in range(5):\n    if os.fork() == 0: break\n"
    result = run_program(fork + fill + "time.sleep(20)", timeout=15.0, memory=128 << 20, isolation=isolation)
    assert result.reason == "out of memory", result
    # What they share, untouched, counts once.
    shared = fill + fork + "else:\n    for _ in range(5): os.wait()\ntime.sleep(0.2)"
    result = run_program(shared, timeout=15.0, memory=128 << 20, isolation=isolation)
    assert result.passed, result


@both
@pytest.mark.skipif(sys.platform != "linux", reason="the filter is one of Linux")
def test_what_is_counted_for_no_process_is_refused(isolation):
    program = (
        "import ctypes, mmap, os\nlibc = ctypes.CDLL(None)\nassert libc.shmget(0, 4096, 0o1600) < 0\n"
        "assert libc.msgget(0, 0o1600) < 0\n"
        "for take in (lambda: os.memfd_create('x'), lambda: mmap.mmap(-1, 4096)):\n"
        "    try: take()\n    except PermissionError: pass\n    else: raise AssertionError\n"
        "assert mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)"
    )
    result = run_program(program, isolation=isolation)
    assert result.passed, result.stderr


@both
def test_what_right_programs_use_is_allowed(isolation):
    program = (
        "import asyncio, concurrent.futures, decimal, numpy, random, subprocess, sys, tempfile, threading\n"
        "async def add(a, b):\n    await asyncio.sleep(0.01)\n    return a + b\n"
        "assert asyncio.run(add(1, 2)) == 3\n"
        "with concurrent.futures.ThreadPoolExecutor(4) as pool: assert sum(pool.map(abs, (-1, 2))) == 3\n"
        "assert subprocess.run([sys.executable, '-c', 'print(3)'], capture_output=True).stdout == b'3\\n'\n"
        "assert numpy.arange(3).sum() == 3\nassert tempfile.TemporaryFile(dir='.').write(b'x') == 1\n"
    )
    result = run_program(program, isolation=isolation)
    assert result.passed, result.stderr


@both
def test_a_program_has_what_an_interpreter_gives_it(isolation):
    program = "import sys\nassert not sys.path[0].endswith('sandboxed')\nexit, quit, copyright, help"
    result = run_program(program, isolation=isolation)
    assert result.passed, result.stderr
    result = run_program("exit()", isolation=isolation)
    assert result.reason == "failed" and "SystemExit" in result.stderr


def test_order_is_kept_and_workers_may_be_many():
    programs = [(f"def double(x): return {n} * x", TEST) for n in (1, 2, 3, 2)]
    results = run_programs(programs, num_workers=4, progress=False)
    assert [result.passed for result in results] == [False, True, False, True]


def test_no_isolation_is_lowered_by_itself(monkeypatch):
    with pytest.raises(ValueError, match="isolation='none' must be one of"):
        run_program(RIGHT, isolation="none")
    with pytest.raises(ValueError, match="timeout=0"):
        run_program(RIGHT, timeout=0)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="needs Linux and the command unshare.*isolation='limits'"):
        check_isolation("namespaces")
    assert isolation_problem("limits") is None


def test_a_kernel_that_refuses_namespaces_is_told(monkeypatch, tmp_path):
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\necho 'unshare failed: Operation not permitted' >&2\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command("namespaces")[0] == str(refusing)
    with pytest.raises(ValueError, match="(?s)unshare failed: Operation not permitted.*isolation='limits'"):
        check_isolation()


def test_a_user_who_is_not_root_has_the_same_walls():
    probe = "from sandbox import run_program as run\n" + "\n".join(
        f"assert run({program!r}).passed is {passed}"
        for program, passed in (
            ("1", True),
            ("open('x', 'w')", True),
            ("open('/usr/new', 'w')", False),
            ("import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) < 0", True),
            ("import ctypes\nassert ctypes.CDLL(None).mount(b'tmpfs', b'/usr', b'tmpfs', 0, None) < 0", True),
        )
    )
    as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    # By itself, since the package would import PyTorch first.
    folder = str(Path(sandbox.__file__).parent)
    run = subprocess.run([*as_user, sys.executable, "-c", probe], capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
