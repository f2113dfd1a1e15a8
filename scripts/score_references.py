"""Score the references of MBPP and HumanEval, and broken ones, through files, and time it.

    python scripts/score_references.py mbpp.jsonl HumanEval.jsonl.gz

Of each file of problems, the references become a file of completions, and so do the same references with `return
object()` for the body of every function. Both are read and scored as `prism-hf evaluate code` does. Prints a Markdown
table; exits with 1 if a reference fails or a broken one passes.
"""

import argparse
import ast
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from prism_hf.evaluation import CodeProblem, read_completions, read_problems, score_to_jsonl

WRONG = ast.parse("return object()", mode="exec").body


def broken(problem: CodeProblem) -> str:
    """The reference of a problem with a wrong body in each of its functions, methods among them."""
    tree = ast.parse(f"{problem.given}{problem.reference}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = WRONG
    return ast.unparse(tree)


def score(problems: list[CodeProblem], texts: list[str], folder: Path, **run: object) -> tuple[list[dict], float]:
    """What becomes of one completion of each problem, written to a file and read from it, and seconds."""
    rows = [{"task_id": each.task_id, "completion": text} for each, text in zip(problems, texts, strict=True)]
    folder.mkdir()
    (folder / "completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    began = time.monotonic()
    asked, completions = read_completions(folder / "completions.jsonl", problems)
    scored = score_to_jsonl(asked, completions, folder / "scored.jsonl", **run)
    return scored, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problems", nargs="+", help="files in the layout of MBPP or HumanEval")
    parser.add_argument("--every", type=int, default=1, help="every so many problems only")
    parser.add_argument("--isolation", default="namespaces")
    parser.add_argument("--num_workers", type=int, default=None)
    options = parser.parse_args()
    run = {"isolation": options.isolation, "num_workers": options.num_workers, "timeout": 30.0}
    wrong = []
    print("| problems | completions | passed | programs a second | CPU seconds a program |\n|---|---|---|---|---|")
    for path in options.problems:
        problems = read_problems(path)[:: options.every]
        with tempfile.TemporaryDirectory() as folder:
            for kind, texts in (
                ("references", [each.reference for each in problems]),
                ("broken", list(map(broken, problems))),
            ):
                before = os.times()
                scored, seconds = score(problems, texts, Path(folder) / kind, **run)
                cpu = sum(os.times()[:4]) - sum(before[:4])
                passed = sum(row["passed"] for row in scored)
                wrong += [(kind, row["task_id"]) for row in scored if row["passed"] != (kind == "references")]
                rates = f"{len(scored) / seconds:.1f} | {cpu / len(scored):.3f}"
                print(f"| {Path(path).name} | {kind} | {passed} of {len(scored)} | {rates} |", flush=True)
    for kind, task_id in wrong:
        print(f"not as it should be: {kind}, {task_id}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
