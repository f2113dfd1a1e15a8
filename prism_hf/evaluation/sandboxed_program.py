"""What `sandbox.py` starts as `python -I sandboxed_program.py`, with a job on standard input. Standard library only.

Standard output is the way back: the job's `ready` when the walls stand, its `secret` when the tests have passed. The
program has other standard streams.
"""

import ctypes
import json
import linecache
import os
import resource
import sys
import traceback
import types

# Of <linux/mount.h>, <linux/prctl.h>, <linux/capability.h>; the number of mount_setattr is that of all architectures.
MS_BIND, MS_REC, MS_NOSUID, MS_NODEV = 4096, 16384, 2, 4
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 38, 0x20080522

# What an interpreter needs to run, where it is there; beside its own folders.
SYSTEM_PATHS = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")
WORKING_DIRECTORY = "/program"


def main() -> None:
    job = json.load(sys.stdin)
    if job["isolation"] == "namespaces":
        prefixes = (sys.prefix, sys.base_prefix)
        paths = {*SYSTEM_PATHS, *prefixes, *map(os.path.realpath, prefixes)}
        enter_new_root(job["folder"], paths, job["limits"]["disk"])
    else:
        os.chdir(job["folder"])
    report, nowhere = os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    # In a process namespace this process is the first, which no signal from within ends, and whose end ends all.
    program = os.fork()
    if program == 0:
        set_limits(job["limits"], job["isolation"])
        drop_privileges(job["user"] if job["isolation"] == "namespaces" else None)
        os.write(report, job["ready"].encode())
        run(job["program"], job["tests"], job["secret"].encode(), report)
    _, status = os.waitpid(program, 0)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def run(program: str, tests: str, secret: bytes, report: int) -> None:
    """Run a program and then tests in its module, report the secret if nothing was raised, end the process."""
    # Names that the program cannot bind anew.
    execute, write, leave, print_exception = exec, os.write, os._exit, traceback.print_exception
    stderr = os.fdopen(2, "w", closefd=False)
    try:
        module = types.ModuleType("program")  # not __main__, so that what a script does for a user is left out
        sys.modules["program"] = module
        for name, source in (("<program>", program), ("<tests>", tests)):
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        for code in [compile(program, "<program>", "exec"), compile(tests, "<tests>", "exec")]:
            execute(code, module.__dict__)
        write(report, secret)
        leave(0)
    except BaseException as error:  # SystemExit too: the tests have not been run through
        try:
            print_exception(error, file=stderr)
            stderr.flush()
        finally:
            leave(1)
    finally:
        leave(1)


def set_limits(limits: dict[str, int], isolation: str) -> None:
    """Resource limits for this process and each that it starts; `num_processes` is one for all of them."""
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["disk"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    # Without a user of its own, the number would be that of all processes of the user who calls.
    if isolation == "namespaces":
        wanted[resource.RLIMIT_NPROC] = limits["num_processes"]
    for kind, limit in wanted.items():
        _, hard = resource.getrlimit(kind)
        # A second after the signal that a program could ignore comes the one that it cannot.
        ceiling = limit + 1 if kind == resource.RLIMIT_CPU else limit
        if hard != resource.RLIM_INFINITY:
            limit, ceiling = min(limit, hard), min(ceiling, hard)
        resource.setrlimit(kind, (limit, ceiling))


def enter_new_root(folder: str, paths: set[str], size: int) -> None:
    """A root of its own in `folder`: `paths` to read only, and a working directory in memory of `size` bytes."""
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    for path in sorted(path for path in paths if os.path.exists(path)):
        target = folder + path
        if os.path.islink(path) and not os.path.exists(target):
            os.symlink(os.readlink(path), target)
        elif not os.path.exists(target):
            os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
            if not os.path.isdir(path):
                open(target, "x").close()
            mount(path, target, None, MS_BIND | MS_REC)
    os.mkdir(folder + WORKING_DIRECTORY)
    attributes = (ctypes.c_uint64 * 4)(MOUNT_ATTR_RDONLY)
    call(
        "syscall", MOUNT_SETATTR, AT_FDCWD, folder.encode(), AT_RECURSIVE,
        ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)),
    )  # fmt: skip
    mount("tmpfs", folder + WORKING_DIRECTORY, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes=4096,mode=777")
    os.chroot(folder)
    os.chdir(WORKING_DIRECTORY)


def drop_privileges(user: int | None) -> None:
    """Give up, for good, all that could pull the walls down. Who is root outside becomes `user`."""
    if sys.platform != "linux":
        return
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    nothing = ctypes.c_ulong(0)
    call("prctl", PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), nothing, nothing, nothing)
    call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    source, target, kind, data = (text and text.encode() for text in (source, target, kind, data))
    call("mount", source, target, kind, ctypes.c_ulong(flags), data)


def call(function: str, *arguments) -> None:
    """A function of the C library. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
