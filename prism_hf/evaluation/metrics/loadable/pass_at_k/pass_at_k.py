"""pass@k of programs that run in the sandbox, for `evaluate`: what its `code_eval` is, without the danger."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from prism_hf.evaluation.metrics.code import pass_at_k
from prism_hf.evaluation.sandbox.sandbox import ProgramResult, check_isolation, run_programs
from prism_hf.fields import Positive, check_value

CITATION = "Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374."
INPUTS = """
Args:
    predictions (`list[list[str]]`): The programs written for each problem.
    references (`list[str]`): The tests of each problem, Python that raises if the program is wrong.
    k (`int` or `list[int]`, *optional*, defaults to `[1, 10, 100]`): Of pass@k. One that is more than there are
        programs for each problem is left out.
    num_workers (`int`, *optional*, defaults to 4): Programs at once.
    timeout (`float`, *optional*, defaults to 3.0): Seconds of a program.
    isolation (`str`, *optional*, defaults to `"namespaces"`): See `prism_hf.evaluation.run_program`, as for what
        follows.
    **kwargs: Its limits, such as `memory`.

Returns:
    `tuple`: `{"pass@1": ...}`, and for the number of each problem, from 0 on, a list of `(number, result)`: a program's
    number and `{"task_id", "passed", "result", "completion_id"}`, where `result` is `"passed"` or why not.
"""


class PassAtK(evaluate.Metric):
    """`pass_at_k` of what `run_programs` returns."""

    def _info(self) -> evaluate.MetricInfo:
        programs, tests = datasets.Sequence(datasets.Value("string")), datasets.Value("string")
        return evaluate.MetricInfo(
            description="The unbiased estimate that one of k programs passes, each run in a sandbox of its own.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": programs, "references": tests}),
        )

    def _compute(
        self,
        predictions: list[list[str]],
        references: list[str],
        k: int | Sequence[int] = (1, 10, 100),
        num_workers: int = 4,
        timeout: float = 3.0,
        isolation: str = "namespaces",
        **kwargs: Any,
    ) -> tuple[dict[str, float], dict[int, list[tuple[int, dict[str, Any]]]]]:
        ks = [k] if isinstance(k, int) else list(k)
        check_value("k", ks, list[Positive])
        if not predictions:
            raise ValueError("There are no problems to score; expected at least one.")
        if not all(predictions):
            raise ValueError(f"Problem {[*map(bool, predictions)].index(False)} has no programs: leave it out.")
        check_isolation(isolation)
        pairs = [(program, tests) for row, tests in zip(predictions, references, strict=True) for program in row]
        run = {"timeout": timeout, "isolation": isolation, **kwargs}
        outcomes = iter(run_programs(pairs, num_workers, progress=False, **run))
        results = {
            task_id: [(number, _row(task_id, number, next(outcomes))) for number in range(len(row))]
            for task_id, row in enumerate(predictions)
        }
        counts = [(len(row), sum(result["passed"] for _, result in row)) for row in results.values()]
        possible = [each for each in ks if all(number >= each for number, _ in counts)]
        shares = {f"pass@{each}": sum(pass_at_k(*count, each) for count in counts) / len(counts) for each in possible}
        return shares, results


def _row(task_id: int, number: int, outcome: ProgramResult) -> dict[str, Any]:
    """What is told of a program, under the names that `code_eval` gives."""
    told = outcome.reason or "passed"
    if told == "failed":
        told = f"failed: {(outcome.stderr.strip().splitlines() or [''])[-1]}"
    return {"task_id": task_id, "passed": outcome.passed, "result": told, "completion_id": number}
