"""Runs scripts one after the other in the processes of one launch: in_turn.py FOLDER.

Most of a launch goes into imports, so the tests share one. `FOLDER/<number>.json` names a script to run: its arguments
with its own path first, and a free port. Each process then writes `FOLDER/<number>-<rank>.json`: what was printed and
what went wrong.
"""

import contextlib
import gc
import io
import itertools
import json
import os
import runpy
import sys
import time
import traceback
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import prism_hf.models  # noqa: F401  (what the scripts import)
import prism_hf.training.prism_trainer  # noqa: F401


def run(arguments: list[str]) -> dict[str, str | None]:
    """Run a script as if it had been launched."""
    printed, error = io.StringIO(), None
    sys.argv = arguments
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except BaseException:
            error = traceback.format_exc()
    gc.collect()  # DDP must be gone before its process group
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for state in (GradientState, AcceleratorState, PartialState):
        state._reset_state()
    return {"printed": printed.getvalue(), "error": error}


def await_file(path: Path, launcher: int) -> None:
    while not path.exists():
        if os.getppid() != launcher:
            raise SystemExit
        time.sleep(0.02)


if __name__ == "__main__":
    folder, launcher = Path(sys.argv[1]), os.getppid()
    for number in itertools.count():
        await_file(folder / f"{number}.json", launcher)
        asked = json.loads((folder / f"{number}.json").read_text())
        # The launcher's own store still holds what the processes told each other in the script before.
        os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": str(asked["port"])}
        found = run(asked["arguments"])
        answer = folder / f"{number}-{os.environ['RANK']}.json"
        answer.with_suffix(".part").write_text(json.dumps(found))
        answer.with_suffix(".part").rename(answer)
