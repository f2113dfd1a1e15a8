"""The arguments of recipes that read problems of programming, and the prompts that they ask for."""

from dataclasses import dataclass, field
from typing import Any

from prism_hf.fields import Positive, check_fields

from .problems import FORMS_OF_PROMPT, MBPP_SPLITS, CodeProblem, of_split, read_problems

# Where the problems are on the Hub, and the configuration that holds all of them.
ON_THE_HUB = {"mbpp": ("google-research-datasets/mbpp", "full"), "humaneval": ("openai/openai_humaneval", None)}


@dataclass
class ProblemArguments:
    """Which problems, and how they are asked.

    Example:
        ```python
        (args,) = parse_arguments((ProblemArguments,), ["--task", "humaneval", "--prompt_form", "signature"])
        rows = args.prompts(num_samples=20)
        ```
    """

    task: str | None = field(
        default=None,
        metadata={"help": "Complete the prompts of a benchmark of code, from the Hub.", "choices": tuple(ON_THE_HUB)},
    )
    problems_file: str | None = field(
        default=None,
        metadata={
            "help": "In the place of the Hub's: mbpp.jsonl, HumanEval.jsonl.gz, a file in the layout of either, a "
            "dataset's folder, or another name on the Hub."
        },
    )
    problems_config: str | None = field(
        default=None, metadata={"help": "Configuration of a dataset: full or sanitized of MBPP."}
    )
    split: str | None = field(
        default=None,
        metadata={
            "help": "Of MBPP, by task id: test if not given (11 to 510), validation, train, prompt, or all.",
            "choices": ("all", *MBPP_SPLITS),
        },
    )
    prompt_form: str = field(
        default="name",
        metadata={"help": "Give the function's name, or its signature, in the prompt.", "choices": FORMS_OF_PROMPT},
    )
    with_examples: bool = field(
        default=False, metadata={"help": "Leave HumanEval's doctests in the prompt; give MBPP's tests in it."}
    )

    def __post_init__(self) -> None:
        check_fields(self)

    def problems(self) -> list[CodeProblem]:
        """All problems, of whatever split. Raises ValueError if nothing says which."""
        if self.task is None and self.problems_file is None:
            raise ValueError("Set task, mbpp or humaneval, or problems_file.")
        name, config = ON_THE_HUB.get(self.task or "", (None, None))
        if self.problems_file is not None:
            name, config = self.problems_file, None
        return read_problems(name or "", self.problems_config or config)

    def prompts(self, num_samples: Positive = 1) -> list[dict[str, Any]]:
        """Rows with `task_id` and `prompt`, each problem of the split so many times, next to one another."""
        problems = of_split(self.problems(), self.split or "test")
        rows = [
            {"task_id": each.task_id, "prompt": each.prompt_in(self.prompt_form, self.with_examples)}
            for each in problems
        ]
        return [row for row in rows for _ in range(num_samples)]
