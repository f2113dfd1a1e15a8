"""Success rate of a model on Sudoku puzzles, for a list of sampler settings.

    accelerate launch recipes/evaluate_sudoku.py --config recipes/configs/sudoku_evaluation.yaml

Each finished setting is a line of `results.jsonl` in the output folder; started again, it goes on with those that are
missing. Then `results.md` (the table), `results.png`, `reliability.png` and `corrections.png` are written.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForMaskedLM

import prism_hf.models  # noqa: F401  (registers PRISM and MDLM)
from prism_hf.data import Layout, read_sudoku_csv, to_grid, to_sequence
from prism_hf.evaluation import (
    evaluate_sudoku,
    markdown_table,
    plot_corrections,
    plot_reliability,
    plot_success,
    quality_samples,
)
from prism_hf.fields import Positive, Seed, check_fields
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.output_lock import output_lock
from prism_hf.resources import resource_path
from prism_hf.training import parse_arguments


@dataclass
class EvaluationArguments:
    output_dir: str = field(metadata={"help": "Folder for results."})
    settings: list[dict] | None = field(
        default=None, metadata={"help": "Generation settings, a row of the table each."}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "The model; the shipped PRISM if not given."}
    )
    puzzles_file: str | None = field(default=None, metadata={"help": "CSV of puzzles; the shipped ones if not given."})
    solutions_file: str | None = field(default=None, metadata={"help": "CSV of their solutions, for cell accuracy."})
    num_puzzles: Positive | None = field(default=None, metadata={"help": "Take the first so many; all if not given."})
    layout: Layout = field(default=89, metadata={"help": "What the model reads: 89 tokens, or the 81 cells."})
    batch_size: Positive = field(default=250, metadata={"help": "Puzzles in a batch."})
    seed: Seed = field(default=0, metadata={"help": "Of the sampler."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})
    bf16: bool = field(default=False, metadata={"help": "Run the model under bfloat16 autocast."})

    __post_init__ = check_fields


def main() -> None:
    end_with_launcher()
    (args,) = parse_arguments((EvaluationArguments,))
    state = PartialState(cpu=args.use_cpu)
    path = Path(args.output_dir) / "results.jsonl"
    with output_lock(path):
        evaluate(args, path, state)
    state.destroy_process_group()


def evaluate(args: EvaluationArguments, path: Path, state: PartialState) -> None:
    puzzles_file = args.puzzles_file or resource_path("sudoku/puzzles.csv")
    solutions_file = args.solutions_file
    if args.puzzles_file is None:
        solutions_file = resource_path("sudoku/solutions.csv")
    puzzles = to_sequence(to_grid(read_sudoku_csv(puzzles_file)), args.layout)[: args.num_puzzles]
    solutions = None
    if solutions_file is not None:
        solutions = to_sequence(to_grid(read_sudoku_csv(solutions_file)), args.layout)[: args.num_puzzles]
    model = AutoModelForMaskedLM.from_pretrained(
        args.model_name_or_path or resource_path("sudoku_prism"), attn_implementation=args.attn_implementation
    )
    model.to(state.device).eval()

    rows = evaluate_sudoku(
        model, puzzles, args.settings, path, solutions=solutions, batch_size=args.batch_size, seed=args.seed,
        bf16=args.bf16,
    )  # fmt: skip
    if state.is_main_process:
        report(args, model, rows, puzzles, solutions)


def report(args: EvaluationArguments, model, rows: list[dict], puzzles: torch.Tensor, solutions: torch.Tensor) -> None:
    folder = Path(args.output_dir)
    table = markdown_table(rows)
    (folder / "results.md").write_text(table, encoding="utf-8")
    print(table)
    plot_success(folder / "results.png", rows)
    corrected = [s for s in args.settings if s.get("remask_strategy") == "prism" and "retries" not in s]
    if corrected:
        shown = puzzles[: args.batch_size]
        output = model.generate(
            shown.to(model.device), generator=torch.Generator().manual_seed(args.seed),
            return_dict_in_generate=True, output_trajectory=True, **corrected[-1],
        )  # fmt: skip
        plot_corrections(folder / "corrections.png", shown, output)
        if solutions is not None:
            judged = quality_samples(output.trajectory, shown, solutions[: args.batch_size])
            plot_reliability(folder / "reliability.png", *judged)


if __name__ == "__main__":
    main()
