r"""Whether a model finds wrong tokens in programs, and mends them: the Code Revision Benchmark (arXiv 2512.15596).

    accelerate launch recipes/evaluate_revision.py --model_name_or_path path/or/name --task humaneval \
        --output_dir revision
    accelerate launch recipes/evaluate_revision.py --config recipes/configs/llada_8b_revision.yaml

Reference programs get a few wrong tokens; those that then fail their tests are kept. One forward of each tells how well
each of `scores` (quality, probability, margin) points at the wrong tokens. Then what scores at most `threshold` is
remasked and filled anew, in `steps` forwards, and the tests are run again.

Each program is a row of `revisions.jsonl` in the output folder, with the scores of its tokens and what was made of it;
`revision.md` is the table. Started again after a kill, the same command goes on, with any number of processes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from prism_hf import load_model
from prism_hf.data.tokenizers import read_tokenizer
from prism_hf.evaluation import (
    Revision,
    check_isolation,
    failing_revisions,
    judge_revisions,
    make_revisions,
    revise,
    revised_answers,
    revision_table,
    run_answers,
    weights_digest,
)
from prism_hf.evaluation.sandbox.sandbox import Isolation, Seconds
from prism_hf.evaluation.tasks.code.arguments import ProblemArguments
from prism_hf.evaluation.tasks.code.problems import CodeProblem, of_split
from prism_hf.evaluation.tasks.code.revising import SCORES, Score, Steps, check_scores
from prism_hf.evaluation.tasks.code.revision import KINDS, Kind
from prism_hf.fields import DTYPES, Positive, Seed, check_fields
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import json_digest
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.lines import whole_lines, write_whole
from prism_hf.jobs.manifest import describe_model, describe_source, versions
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.share import share_parts
from prism_hf.jobs.store import ResumableJsonl
from prism_hf.models.attention import available_attention
from prism_hf.training import parse_arguments


@dataclass
class RevisionArguments:
    model_name_or_path: str = field(metadata={"help": "A whole model or an adapter, from a folder or the Hub."})
    output_dir: str = field(metadata={"help": "Folder for what is found."})
    kinds: list[Kind] = field(
        default_factory=lambda: [*KINDS], metadata={"help": "What is replaced: operator, var, literal; a table each."}
    )
    num_replaced: Positive = field(default=1, metadata={"help": "Wrong tokens of a program."})
    num_variants: Positive = field(default=5, metadata={"help": "Programs of a problem and kind, at most."})
    num_problems: Positive | None = field(default=None, metadata={"help": "The first so many; all if not given."})
    scores: list[Score] = field(
        default_factory=lambda: [*SCORES],
        metadata={"help": "What finds wrong tokens: quality, probability, margin. Without a head, not quality."},
    )
    steps: Steps = field(default=2, metadata={"help": "Forwards of a revision, at most."})
    threshold: float = field(default=0.9, metadata={"help": "The highest score that is remasked."})
    batch_size: Positive = field(default=8, metadata={"help": "Programs in a batch of a process."})
    seed: Seed = field(default=42, metadata={"help": "Of the wrong tokens."})
    isolation: Isolation = field(default="namespaces", metadata={"help": "Of the programs: namespaces, or limits."})
    timeout: Seconds = field(default=10.0, metadata={"help": "Seconds of a program."})
    num_workers: Positive | None = field(default=None, metadata={"help": "Programs at once; one a CPU if not given."})
    tokenizer_name_or_path: str | None = field(default=None, metadata={"help": "The model's if not given."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model or its tokenizer."}
    )
    bf16: bool = field(default=False, metadata={"help": "Run the model under bfloat16 autocast."})
    dtype: str = field(default="auto", metadata={"help": "Of the weights.", "choices": ("auto", *DTYPES)})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})

    __post_init__ = check_fields


# What the rows depend on, beside the model and the problems.
DEPENDS_ON = (
    *("kinds", "num_replaced", "num_variants", "num_problems", "seed"),
    *("scores", "steps", "threshold", "batch_size", "isolation", "timeout", "bf16", "dtype"),
)


def main() -> None:
    end_with_launcher()
    args, problems = parse_arguments((RevisionArguments, ProblemArguments))
    check_isolation(args.isolation)
    state = PartialState(cpu=args.use_cpu)
    with output_lock(args.output_dir, is_folder=True):
        asked = of_split(problems.problems(), problems.split or "test")[: args.num_problems]
        rows = evaluate(args, asked, state)
        if state.is_main_process:
            table = revision_table(rows, args.kinds)
            write_whole(Path(args.output_dir) / "revision.md", table.rstrip("\n").split("\n"))
            print(table)
    state.destroy_process_group()


def evaluate(args: RevisionArguments, problems: list[CodeProblem], state: PartialState) -> list[dict[str, Any]]:
    """A row of each program that fails."""
    if args.tokenizer_name_or_path is None:
        tokenizer = read_tokenizer(args.model_name_or_path, args.model_revision, args.trust_remote_code)
    else:
        tokenizer = read_tokenizer(args.tokenizer_name_or_path, trust_remote_code=args.trust_remote_code)
    made = [
        each
        for kind in args.kinds
        for each in make_revisions(problems, tokenizer, kind, args.num_replaced, args.num_variants, args.seed)
    ]
    attention = available_attention(args.attn_implementation, args.use_cpu)
    model = load_model(
        args.model_name_or_path,
        dtype=args.dtype,
        attn_implementation=attention,
        revision=args.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    model = model.to(state.device).eval()
    check_scores(model, args.scores)
    output = ResumableJsonl(Path(args.output_dir) / "revisions.jsonl")
    settings = {name: vars(args)[name] for name in DEPENDS_ON}
    settings |= {"programs": json_digest([asdict(each) for each in made]), "weights": weights_digest(model)}
    with state.main_process_first():
        is_finished = output.begin(settings)
    parts = range(0, len(made), args.batch_size)

    def make(part: int) -> list[dict[str, Any]]:
        with torch.autocast(state.device.type, torch.bfloat16, enabled=args.bf16):
            return rows_of(args, model, tokenizer, problems, made[part : part + args.batch_size])

    def describe(rows: list[dict[str, Any]]) -> dict[str, Any]:
        source = describe_source(args.model_name_or_path, args.model_revision)
        named = {"tokenizer": portable(tokenizer.name_or_path), "num_programs": len(rows)}
        return settings | named | describe_model(model) | source | versions()

    if not is_finished:
        share_parts(output, parts, make, "programs")
    if state.is_main_process:
        output.finish(parts, describe)
    state.wait_for_everyone()
    return whole_lines(output.path)


def rows_of(
    args: RevisionArguments,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[CodeProblem],
    revisions: Sequence[Revision],
) -> list[dict[str, Any]]:
    """A row of each program that fails, with the scores of its tokens and what came of it by each."""
    run = {"isolation": args.isolation, "timeout": args.timeout, "num_workers": args.num_workers, "progress": False}
    kept, by_id = failing_revisions(revisions, problems, **run), {each.task_id: each for each in problems}
    mask, size = model.config.mask_token_id, args.batch_size
    judged = judge_revisions(model, kept, mask, args.scores, size)
    rows = [asdict(each) | {"scores": scores, "revised": {}} for each, scores in zip(kept, judged, strict=True)]
    for score in args.scores:
        written = revise(model, kept, mask, score, args.steps, args.threshold, size)
        answers = revised_answers(kept, written, problems, tokenizer)
        results = run_answers([by_id[each.task_id] for each in kept], answers, **run)
        for row, tokens, answer, result in zip(rows, written, answers, results, strict=True):
            told = {"tokens": tokens, "answer": answer, "passed": result.passed, "reason": result.reason}
            row["revised"][score] = told
    return rows


if __name__ == "__main__":
    main()
