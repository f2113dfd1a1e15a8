"""Success rate of a model on Sudoku puzzles, for a list of sampler settings.

    accelerate launch recipes/evaluate_sudoku.py --config recipes/configs/sudoku_evaluation.yaml

Each finished setting is a line of `results.jsonl` in the output folder; started again, it goes on with those that are
missing. Then `results.md` (the table), `results.png`, `reliability.png` and `corrections.png` are written.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForMaskedLM

import prism_hf.models  # noqa: F401  (registers PRISM and MDLM)
from prism_hf.data import Layout, read_sudoku_csv, to_grid, to_sequence
from prism_hf.evaluation import (
    Task,
    comparison_table,
    evaluate,
    load_sudoku,
    plot_comparison,
    plot_corrections,
    plot_reliability,
    quality_samples,
)
from prism_hf.evaluation.tasks.sudoku.task import adopt_results
from prism_hf.fields import Positive, Seed, check_fields
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.output_lock import output_lock
from prism_hf.models.attention import available_attention
from prism_hf.resources import model_path, resource_path
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
        evaluate_settings(args, path, state)
    state.destroy_process_group()


def evaluate_settings(args: EvaluationArguments, path: Path, state: PartialState) -> None:
    if args.puzzles_file is None:
        args.solutions_file = resource_path("sudoku/solutions.csv")
    task = load_sudoku(args.puzzles_file, args.num_puzzles, layout=args.layout, solutions_file=args.solutions_file)
    # By this what an earlier version has written, and an interrupted run of it has left, is found.
    task = replace(task, made_with={"num_puzzles": len(task.examples)})
    model = AutoModelForMaskedLM.from_pretrained(
        model_path(args.model_name_or_path or "sudoku_prism"),
        attn_implementation=available_attention(args.attn_implementation, args.use_cpu),
    )
    model.to(state.device).eval()

    adopt_results(path)
    rows = evaluate(model, task, args.settings or [], path, args.batch_size, args.seed, args.bf16)
    if state.is_main_process:
        folder, table = path.parent, comparison_table(rows)
        (folder / "results.md").write_text(table, encoding="utf-8")
        print(table)
        plot_comparison(folder / "results.png", rows)
        plot_last_correction(args, model, task, folder)


def plot_last_correction(args: EvaluationArguments, model, task: Task, folder: Path) -> None:
    """Draw how the last setting that corrects with PRISM does so, and whether its quality can be trusted."""
    corrected = [s for s in args.settings if s.get("remask_strategy") == "prism" and "retries" not in s]
    if not corrected:
        return
    puzzles = task.examples[: args.batch_size]
    output = model.generate(
        puzzles.to(model.device),
        generator=torch.Generator().manual_seed(args.seed),
        return_dict_in_generate=True,
        output_trajectory=True,
        **corrected[-1],
    )
    plot_corrections(folder / "corrections.png", puzzles, output)
    if args.solutions_file is not None:
        solutions = to_sequence(to_grid(read_sudoku_csv(args.solutions_file)), args.layout)[: len(puzzles)]
        plot_reliability(folder / "reliability.png", *quality_samples(output.trajectory, puzzles, solutions))


if __name__ == "__main__":
    main()
