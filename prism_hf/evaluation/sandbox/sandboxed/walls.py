"""What a program cannot pass: another root, limits of its resources, no privileges, refused system calls."""

import ctypes
import os
import resource
import sys

from system_calls import system_call_filter

# Of <linux/mount.h>, <linux/prctl.h>, <linux/capability.h>; the number of mount_setattr is that of all architectures.
MS_BIND, MS_REC, MS_NOSUID, MS_NODEV = 4096, 16384, 2, 4
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_THP_DISABLE = 4, 22, 36, 38, 41
SECCOMP_MODE_FILTER, CAPABILITY_VERSION_3 = 2, 0x20080522

WORKING_DIRECTORY = "/program"
LINUX = sys.platform == "linux"


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
    size_of_attributes = ctypes.c_size_t(ctypes.sizeof(attributes))
    where = (AT_FDCWD, folder.encode(), AT_RECURSIVE)
    call("syscall", MOUNT_SETATTR, *where, ctypes.byref(attributes), size_of_attributes)
    mount("tmpfs", folder + WORKING_DIRECTORY, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes=4096,mode=777")
    os.chroot(folder)
    os.chdir(WORKING_DIRECTORY)


def set_limits(limits: dict[str, int], own_user: bool) -> None:
    """Resource limits for this process and each that it starts; `num_processes` is one for all of them."""
    wanted = {
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["disk"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    # Without a user of its own, the number would be that of all processes of the user who calls.
    if own_user:
        wanted[resource.RLIMIT_NPROC] = limits["num_processes"]
    for kind, limit in wanted.items():
        _, hard = resource.getrlimit(kind)
        # A second after the signal that a program could ignore comes the one that it cannot.
        ceiling = limit + 1 if kind == resource.RLIMIT_CPU else limit
        if hard != resource.RLIM_INFINITY:
            limit, ceiling = min(limit, hard), min(ceiling, hard)
        resource.setrlimit(kind, (limit, ceiling))


def adopt_orphans() -> None:
    """What descendants leave running becomes a child of this process."""
    if LINUX:
        prctl(PR_SET_CHILD_SUBREAPER, 1)


def hide_memory() -> None:
    """No process of the same user can look into this one or take its descriptors."""
    if LINUX:
        prctl(PR_SET_DUMPABLE, 0)


def drop_privileges(user: int | None) -> None:
    """Give up, for good, all that could pull the walls down. Who is root outside becomes `user`."""
    if not LINUX:
        return
    if user is not None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    call("capset", (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)())


def refuse_system_calls() -> None:
    """Refuse those of `system_calls.py`, for good. Memory then comes in small pages, which takes time to fill."""
    if not LINUX:
        return

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))

    lines = system_call_filter()
    program = Program(len(lines) // 8, lines)
    prctl(PR_SET_THP_DISABLE, 1)
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2)."""
    texts = [text and text.encode() for text in (source, target, kind, data)]
    call("mount", *texts[:3], ctypes.c_ulong(flags), texts[3])


def prctl(option: int, *arguments: int) -> None:
    """prctl(2)."""
    call("prctl", option, *map(ctypes.c_ulong, (*arguments, 0, 0, 0, 0)[:4]))


def call(function: str, *arguments: object) -> None:
    """A function of the C library. Raises OSError."""
    if getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")
