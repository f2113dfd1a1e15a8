r"""pass@k of completions of MBPP or HumanEval, from a file.

    python recipes/evaluate_code.py --problems_file HumanEval.jsonl.gz --prompts_file prompts.jsonl --num_samples 20
    accelerate launch recipes/generate.py --model_name_or_path path/or/name --prompts_file prompts.jsonl \
        --output_file completions.jsonl --generation '{max_new_tokens: 512, do_sample: true}'
    python recipes/evaluate_code.py --problems_file HumanEval.jsonl.gz --completions_file completions.jsonl \
        --output_dir scores --k 1 10
    python recipes/evaluate_code.py --config recipes/configs/code_scores.yaml

Completions are rows with `completion` and `task_id`: what generate.py writes, what compare.py keeps beside its results,
and what others score with HumanEval's own scripts. Each becomes a row of `scored.jsonl` in the output folder, with
where its code was found, whether it passed and why not; `pass_at_k.md` has the table.
"""

from dataclasses import dataclass, field
from pathlib import Path

from prism_hf.evaluation import (
    CodeProblem,
    check_enough,
    check_isolation,
    pass_table,
    read_completions,
    read_problems,
    score_completions,
)
from prism_hf.evaluation.sandbox.sandbox import Isolation, Seconds
from prism_hf.fields import Positive, check_fields
from prism_hf.jobs.lines import to_json, write_whole
from prism_hf.jobs.output_lock import output_lock
from prism_hf.training import parse_arguments


@dataclass
class CodeArguments:
    problems_file: str = field(metadata={"help": "mbpp.jsonl, HumanEval.jsonl.gz, or a file in the layout of either."})
    completions_file: str | None = field(default=None, metadata={"help": "JSONL of completions to score."})
    output_dir: str | None = field(default=None, metadata={"help": "Folder for what is scored."})
    k: list[Positive] = field(
        default_factory=lambda: [1], metadata={"help": "Of pass@k, at most the completions of each."}
    )
    prompts_file: str | None = field(default=None, metadata={"help": "Write the prompts there, and score nothing."})
    num_samples: Positive = field(default=1, metadata={"help": "How often each prompt is written."})
    isolation: Isolation = field(default="namespaces", metadata={"help": "Of the programs: namespaces, or limits."})
    timeout: Seconds = field(default=10.0, metadata={"help": "Seconds of a program."})
    num_workers: Positive | None = field(default=None, metadata={"help": "Programs at once; one a CPU if not given."})

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.prompts_file is None) == (self.completions_file is None):
            raise ValueError("Set prompts_file, to write prompts, or completions_file and output_dir, to score them.")
        if self.completions_file is not None and self.output_dir is None:
            raise ValueError("Set output_dir, the folder for what is scored.")
        if self.prompts_file is not None and Path(self.prompts_file).resolve() == Path(self.problems_file).resolve():
            raise ValueError(f"prompts_file and problems_file are both {self.prompts_file}: name another for prompts.")


def main() -> None:
    (args,) = parse_arguments((CodeArguments,))
    problems = read_problems(args.problems_file)
    if args.prompts_file is not None:
        write_prompts(args, problems)
    else:
        score(args, problems)


def write_prompts(args: CodeArguments, problems: list[CodeProblem]) -> None:
    rows = [{"task_id": each.task_id, "prompt": each.prompt} for each in problems for _ in range(args.num_samples)]
    with output_lock(args.prompts_file):
        write_whole(Path(args.prompts_file), map(to_json, rows))


def score(args: CodeArguments, problems: list[CodeProblem]) -> None:
    asked, completions = read_completions(args.completions_file, problems)
    check_enough(asked, args.k)
    check_isolation(args.isolation)
    folder = Path(args.output_dir)
    with output_lock(folder, is_folder=True):
        rows = score_completions(
            asked, completions, isolation=args.isolation, timeout=args.timeout, num_workers=args.num_workers
        )
        write_whole(folder / "scored.jsonl", map(to_json, rows))
        table = pass_table(rows, args.k, len(problems))
        table = f"# {Path(args.problems_file).name}, {Path(args.completions_file).name}\n\n{table}"
        (folder / "pass_at_k.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
