"""Runs scripts in forks of itself, as imports take a short script most of its time.

A line of the standard input has the script and its arguments, as JSON; the line that answers has the exit status and
what was written.
"""

import json
import os
import runpy
import sys
import traceback

import prism_hf.models  # noqa: F401  (what the scripts import)
import prism_hf.training.prism_trainer  # noqa: F401


def run(arguments: list[str], output: int) -> None:
    """Run a script as if it had been started, what it prints and its errors going to one pipe; and end."""
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.argv, status = arguments, 0
    try:
        runpy.run_path(arguments[0], run_name="__main__")
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            run(json.loads(line), writing)
        os.close(writing)
        with os.fdopen(reading) as written:
            output = written.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), "output": output}), flush=True)
