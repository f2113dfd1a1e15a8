"""An evaluation as each of two processes makes it: two_processes.py CHECKPOINT TASKS. Prints results and samples."""

import json
import sys

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from prism_hf.evaluation.harness.lm_eval import PrismLM

NAMES = ["own_answers", "own_choices", "own_texts"]


def results_of(checkpoint: str, tasks: str) -> str | None:
    lm = PrismLM(checkpoint, device="cpu", batch_size=2, mc_num=4, max_new_tokens=8, steps=4)
    manager = TaskManager(include_path=tasks, include_defaults=False)
    found = simple_evaluate(lm, tasks=NAMES, task_manager=manager, bootstrap_iters=0)
    if found is None:
        return None
    samples = {
        name: [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]
        for name, rows in found["samples"].items()
    }
    kept = {"results": found["results"], "samples": samples, "parallelism": found["config"]["parallelism"]}
    return json.dumps(kept, default=str)


if __name__ == "__main__":
    print(results_of(*sys.argv[1:]))
