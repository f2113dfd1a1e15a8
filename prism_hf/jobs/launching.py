"""Processes that `accelerate launch` or `torchrun` has started: their end, and waiting for the slowest.

A process ends with its launcher: the kernel kills it (PR_SET_PDEATHSIG), and before that it has asked the launcher's
store whether there is one. Only the wait for the slowest process, where work has been shared, is long.
"""

import ctypes
import os
import signal
import sys
from datetime import timedelta
from functools import cache

import torch.distributed as dist

from prism_hf._compat import actions_of

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>
# What is set in the processes that a launcher starts: torchrun, and accelerate where it starts one alone.
LAUNCHED = ("TORCHELASTIC_RUN_ID", "ACCELERATE_USE_CPU")
# Arguments of `accelerate launch` which recipes have too, and are the recipe's, and those that say what is launched.
NOT_ACCELERATES = ("debug", "gradient_accumulation_steps", "help", "module", "no_python", "training_script")


@cache
def launch_flags() -> dict[str, bool]:
    """The arguments of `accelerate launch` by name, each with whether a value follows.

    Its own file of arguments is `accelerate_config`, as for `trl`.
    """
    from accelerate.commands.launch import launch_command_parser

    flags = {
        option.removeprefix("--"): action.nargs != 0
        for action in actions_of(launch_command_parser())
        if action.dest not in NOT_ACCELERATES
        for option in action.option_strings
        if option.startswith("--")
    }
    return flags | {"accelerate_config": True}


def end_with_launcher(limit: timedelta = timedelta(minutes=1)) -> None:
    """Let this process be killed when its launcher dies, however that happens; for a recipe's first line (Linux).

    Otherwise a process whose launcher was killed waits, for others that will never come, until its time limit.

    Args:
        limit (`timedelta`, *optional*, defaults to a minute): How long the launcher may take to answer.

    Raises:
        torch.distributed.DistError: after `limit`, if the launcher is dead already.
    """
    if sys.platform == "linux" and any(name in os.environ for name in LAUNCHED):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # The launcher's own store, which listens from before this process was started: if it does not, the launcher
        # died before the line above.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=limit)


def wait_for_slowest(limit: timedelta = timedelta(days=7)) -> None:
    """Wait until all processes are here, however long they work; the limit of other waits tells that one has died."""
    if dist.is_available() and dist.is_initialized():
        group = dist.new_group(timeout=limit)
        dist.barrier(group)
        dist.destroy_process_group(group)
