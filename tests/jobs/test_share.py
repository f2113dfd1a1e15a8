"""Two processes make the parts of one output."""

import json
import os
import socket
import subprocess
import sys

RANK = """
import json, sys, time
from pathlib import Path
from accelerate import PartialState
from prism_hf.jobs.share import by_main_process, share_parts
from prism_hf.jobs.store import ResumableJsonl

state, folder = PartialState(cpu=True), Path(sys.argv[1])
output, made = ResumableJsonl(folder / "rows.jsonl"), []

def make(part):
    time.sleep(0.3 * state.process_index)  # the other one is to wait
    made.append(part)
    return [{"part": part, "by": state.process_index}]

begun = by_main_process(lambda: output.begin({"seed": 0}) or state.process_index)
share_parts(output, range(6), make)
there = sorted(output.parts())
try:
    by_main_process(lambda: output.begin({"seed": 1}))
except ValueError as error:
    refused = str(error)
by_main_process(lambda: output.finish(range(6)))
(folder / f"{state.process_index}.json").write_text(json.dumps([begun, made, there, refused, output.path.exists()]))
"""


def test_parts_are_divided_and_what_the_main_process_says_is_known_to_all(tmp_path):
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "rows.jsonl.settings.json").write_text('{"seed": 0}')
    (tmp_path / "rows.jsonl.shard-00007").write_text('{"part": 1, "rows": [{"part": 1, "by": "before"}]}\n{"part": 0')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "rank.py"), str(tmp_path)],
            env=os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [made for _, made, *_ in told] == [[0, 3, 5], [2, 4]]
    for begun, _, there, refused, finished in told:
        assert begun == 0 and there == list(range(6)) and finished
        assert "seed=0, now 1" in refused
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["by"] for row in rows] == [0, "before", 1, 0, 1, 0]
    assert not list(tmp_path.glob("*.shard-*"))
