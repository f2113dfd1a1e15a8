"""Runs one program, given with its tests as a job on standard input, and says on standard output what came of it.

This process stays outside: it makes the walls, starts the program within them and watches it. The program has other
standard streams, and one pipe to this process, on which it hands over the job's `secret` when its tests have passed.

Most of what a short program costs is this interpreter's start. So little is imported, and `site` does not run (`-S`),
of which the `.pth` files of installed packages alone can take as long as all else. What it gives a program is here: the
folders of packages, and `exit` and the like.
"""

import linecache
import marshal
import os
import signal
import site
import sys
import traceback
import types

sys.path.insert(0, os.path.dirname(__file__))
from supervision import Processes, supervise  # noqa: E402
from walls import adopt_orphans, drop_privileges, enter_new_root, hide_memory, refuse_system_calls, set_limits  # noqa: E402

# What an interpreter needs to run, where it is there; beside its own folders.
SYSTEM_PATHS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/urandom")
READY = b"ready\n"
PIPE = 3


def main() -> None:
    """Run the job on standard input, and write the report of it."""
    job = marshal.load(sys.stdin.buffer)
    own_namespaces = job["isolation"] == "namespaces"
    processes = Processes()  # opens /proc, which the new root lacks
    if own_namespaces:
        paths = {*SYSTEM_PATHS, *job["prefixes"], *map(os.path.realpath, job["prefixes"])}
        enter_new_root(job["folder"], paths, job["limits"]["disk"])
    else:
        os.chdir(job["folder"])
        adopt_orphans()
    report, nowhere, secret = os.dup(1), os.open(os.devnull, os.O_RDWR), os.urandom(16).hex().encode()
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    # The first process of a namespace gets the signals of the others only where it has a handler, as Python has one.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
    verdict, told = os.pipe()
    program = os.fork()
    if program == 0:
        signal.signal(signal.SIGINT, interrupt)
        os.dup2(told, PIPE)
        os.closerange(PIPE + 1, told + 1)
        os.nice(10)  # so that who watches it gets a CPU before it
        set_limits(job["limits"], own_namespaces)
        drop_privileges(job["user"] if own_namespaces else None)
        refuse_system_calls()
        os.write(PIPE, READY)
        run(job["program"], job["tests"], secret, job["packages"])
    hide_memory()
    os.close(told)
    if os.read(verdict, len(READY)) == READY:
        os.write(report, READY)
        outcome = supervise(program, verdict, secret, processes, job["limits"])
        os.write(report, outcome.encode())
    if not own_namespaces:  # else all end with this process
        processes.end_all()
    os._exit(0)


def add_builtins() -> None:
    """`exit`, `quit`, `copyright` and `help`, as `site` does."""
    site.setquit()
    site.setcopyright()
    site.sethelper()


def run(program: str, tests: str, secret: bytes, packages: list[str]) -> None:
    """Run a program and then tests in its module, hand over the secret if nothing was raised, end the process."""
    # Names that the program cannot bind anew.
    execute, write, leave, print_exception = exec, os.write, os._exit, traceback.print_exception
    stderr = os.fdopen(2, "w", closefd=False)
    del sys.path[0]  # this folder
    sys.path += packages
    add_builtins()
    try:
        module = types.ModuleType("program")  # not __main__, so that what a script does for a user is left out
        sys.modules["program"] = module
        for name, source in (("<program>", program), ("<tests>", tests)):
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        for code in [compile(program, "<program>", "exec"), compile(tests, "<tests>", "exec")]:
            execute(code, module.__dict__)
        write(PIPE, secret)
        leave(0)
    except BaseException as error:  # SystemExit too: the tests have not been run through
        try:
            print_exception(error, file=stderr)
            stderr.flush()
        finally:
            leave(1)
    finally:
        leave(1)


if __name__ == "__main__":
    main()
