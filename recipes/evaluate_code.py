r"""pass@k of completions of MBPP or HumanEval, from files.

    prism-hf generate --config llada_8b_mbpp_block32 --output_file outputs/mbpp.jsonl
    python recipes/evaluate_code.py --task mbpp --samples outputs/mbpp.*.jsonl --output_dir scores
    python recipes/evaluate_code.py --problems_file HumanEval.jsonl.gz --samples completions.jsonl \
        --output_dir scores --k 1 10
    python recipes/evaluate_code.py --config recipes/configs/code_scores.yaml

Completions are rows with `completion` (or `solution`) and `task_id`: what generate.py writes, what compare.py keeps
beside its results, and what others score with HumanEval's own scripts, PRISM's or EvalPlus. Each becomes a row of
`NAME.scored.jsonl` in the output folder, with where its code was found, whether it passed and why not, as soon as it
was run, so that a run that was killed goes on; `pass_at_k.md` has the table of all files.

With `prompts_file` in the place of `samples`, the prompts are written there for another program to complete.
"""

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from prism_hf._deprecation import warn_renamed
from prism_hf.evaluation import CodeProblem, check_enough, check_isolation, pass_table, read_completions, score_to_jsonl
from prism_hf.evaluation.sandbox.sandbox import Isolation, Seconds
from prism_hf.evaluation.tasks.code.arguments import ProblemArguments
from prism_hf.evaluation.tasks.code.problems import MBPP_SPLITS
from prism_hf.fields import Positive, check_fields
from prism_hf.jobs.lines import to_json, write_whole
from prism_hf.jobs.output_lock import output_lock
from prism_hf.training import parse_arguments


@dataclass
class CodeArguments:
    samples: list[str] | None = field(default=None, metadata={"help": "JSONL files of completions to score."})
    completions_file: str | None = field(default=None, metadata={"help": "Old name of samples."})
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
        if self.completions_file is not None:
            warn_renamed("completions_file of a recipe", "samples")
            self.samples, self.completions_file = [*(self.samples or []), self.completions_file], None
        if (self.prompts_file is None) == (self.samples is None):
            raise ValueError("Set samples and output_dir, to score them, or prompts_file, to write prompts.")
        if self.samples is not None and self.output_dir is None:
            raise ValueError("Set output_dir, the folder for what is scored.")


def main() -> None:
    args, problems = parse_arguments((CodeArguments, ProblemArguments))
    if args.prompts_file is not None:
        write_prompts(args, problems)
    else:
        score(args, problems.problems())


def write_prompts(args: CodeArguments, problems: ProblemArguments) -> None:
    source = problems.problems_file
    if source is not None and Path(args.prompts_file).resolve() == Path(source).resolve():
        raise ValueError(f"prompts_file and problems_file are both {args.prompts_file}: name another for prompts.")
    with output_lock(args.prompts_file):
        write_whole(Path(args.prompts_file), map(to_json, problems.prompts(args.num_samples)))


def score(args: CodeArguments, problems: list[CodeProblem]) -> None:
    names = names_of(args.samples)
    read = {name: read_completions(path, problems) for name, path in names.items()}
    for asked, _ in read.values():
        check_enough(asked, args.k)
    check_isolation(args.isolation)
    folder, run = Path(args.output_dir), {"isolation": args.isolation, "timeout": args.timeout}
    with output_lock(folder, is_folder=True):
        rows = {
            name: score_to_jsonl(
                asked, texts, folder / f"{name.replace('/', '.')}.scored.jsonl", num_workers=args.num_workers, **run
            )
            for name, (asked, texts) in read.items()
        }
        asked = {problem.task_id for each, _ in read.values() for problem in each}
        of_test = [problem for problem in problems if problem.task_id in MBPP_SPLITS["test"]]
        is_test = asked <= {problem.task_id for problem in of_test}
        table = pass_table(rows, args.k, len(of_test if is_test else problems))
        write_whole(folder / "pass_at_k.md", table.rstrip("\n").split("\n"))
    print(table)


def names_of(paths: list[str]) -> dict[str, str]:
    """The files by what tells them apart: their names, with as many of the folders above as are needed."""
    if len({Path(path).resolve() for path in paths}) < len(paths):
        raise ValueError(f"samples names a file twice: {', '.join(paths)}.")
    for parts in count(1):
        names = {"/".join(Path(path).resolve().with_suffix("").parts[-parts:]): path for path in paths}
        if len(names) == len(paths):
            return names


if __name__ == "__main__":
    main()
