"""The system calls that a program is refused, as a filter that the kernel applies to it and all that it starts.

A list of what is refused, not of what is allowed, since a program may be any Python: what reaches other processes, keys
or devices, what changes the system, and what takes memory that is counted for no process. See seccomp(2).
"""

import errno
import os
import struct

# What is refused: names with their numbers on x86_64 and, from asm-generic/unistd.h, on machines of a younger kernel
# port.
REFUSED = {
    "keys of who called": "add_key 248 217, request_key 249 218, keyctl 250 219",
    "memory that belongs to no process: System V and POSIX objects, files without a name, queues": (
        "shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, msgget 68 186, mq_open 240 180, "
        "memfd_create 319 279, memfd_secret 447 447, io_uring_setup 425 425, bpf 321 280, "
        "perf_event_open 298 241, userfaultfd 323 282"
    ),
    "other processes": (
        "ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, "
        "pidfd_getfd 438 438, process_madvise 440 440, migrate_pages 256 238, move_pages 279 239"
    ),
    "walls": (
        "unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, "
        "move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, "
        "open_tree 428 428, mount_setattr 442 442, name_to_handle_at 303 264, open_by_handle_at 304 265, "
        "mknodat 259 33, mknod 133 -"
    ),
    "the system": (
        "swapon 167 224, swapoff 168 225, reboot 169 142, kexec_load 246 104, kexec_file_load 320 294, "
        "init_module 175 105, finit_module 313 273, delete_module 176 106, acct 163 89, quotactl 179 60, "
        "fanotify_init 300 262, settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, "
        "clock_adjtime 305 266, sethostname 170 161, setdomainname 171 162, syslog 103 116, "
        "personality 135 92, vhangup 153 58, modify_ldt 154 -, iopl 172 -, ioperm 173 -"
    ),
}
# Allowed with some arguments only.
CLONE, CLONE3 = (56, 220), (435, 435)
SOCKET, SOCKETPAIR, SETSOCKOPT = (41, 198), (53, 199), (54, 208)
MMAP, PRCTL = (9, 222), (157, 167)
# By os.uname().machine: the column of the numbers, and the word by which the kernel names the architecture.
MACHINES = {
    "x86_64": (0, 0xC000003E),
    "aarch64": (1, 0xC00000B7),
    "riscv64": (1, 0xC00000F3),
    "loongarch64": (1, 0xC0000102),
}

NEW_NAMESPACES = 0x7E020080  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET, NEWTIME
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
SOL_SOCKET, BUFFER_SIZES = 1, (7, 8, 32, 33)  # SO_SNDBUF, SO_RCVBUF and their FORCE
MAP_SHARED_ANONYMOUS, MAP_KINDS = (0x21, 0x23), 0x23  # also with MAP_SHARED_VALIDATE
PR_SET_THP_DISABLE = 41
X32 = 0x40000000

LOAD, JUMP_EQUAL, JUMP_AT_LEAST, JUMP_BITS, AND, RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def system_call_filter() -> bytes:
    """The filter, an array of struct sock_filter. Raises OSError on a machine whose numbers are not known."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise OSError(f"The system calls of {machine} are not known, only those of {', '.join(MACHINES)}.")
    column, architecture = MACHINES[machine]
    refuse, absent = ERROR | errno.EPERM, ERROR | errno.ENOSYS
    lines = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    if machine == "x86_64":
        lines += [(JUMP_AT_LEAST, 0, 1, X32), (RETURN, 0, 0, absent)]
    for words in ", ".join(REFUSED.values()).split(", "):
        if (number := words.split()[1 + column]) != "-":
            lines += when(int(number), [(RETURN, 0, 0, refuse)])
    # What it asks for is in memory, where a filter cannot read it; C libraries then take the older call.
    lines += when(CLONE3[column], [(RETURN, 0, 0, absent)])
    lines += when(CLONE[column], [argument(0), (JUMP_BITS, 0, 1, NEW_NAMESPACES), (RETURN, 0, 0, refuse)])
    families = [(JUMP_EQUAL, 0, 1, family) for family in (AF_UNIX, AF_INET, AF_INET6)]
    families = [line for family in families for line in (family, (RETURN, 0, 0, ALLOW))]
    for call in (SOCKET, SOCKETPAIR):
        lines += when(call[column], [argument(0), *families, (RETURN, 0, 0, ERROR | errno.EAFNOSUPPORT)])
    lines += when(
        SETSOCKOPT[column],
        [argument(1), (JUMP_EQUAL, 1, 0, SOL_SOCKET), (RETURN, 0, 0, ALLOW), argument(2), *refused(BUFFER_SIZES)],
    )
    lines += when(MMAP[column], [argument(3), (AND, 0, 0, MAP_KINDS), *refused(MAP_SHARED_ANONYMOUS)])
    lines += when(PRCTL[column], [argument(0), *refused((PR_SET_THP_DISABLE,))])
    lines.append((RETURN, 0, 0, ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def when(number: int, lines: list[tuple]) -> list[tuple]:
    """Lines for the system call `number`, after which it is allowed. Others go on behind them."""
    return [(JUMP_EQUAL, 0, len(lines) + 1, number), *lines, (RETURN, 0, 0, ALLOW)]


def argument(index: int) -> tuple:
    """Load the lower half of an argument."""
    return (LOAD, 0, 0, ARGUMENTS + 8 * index)


def refused(values: tuple[int, ...]) -> list[tuple]:
    """Refuse the call if what is loaded is one of `values`."""
    return [line for value in values for line in ((JUMP_EQUAL, 0, 1, value), (RETURN, 0, 0, ERROR | errno.EPERM))]
