"""Remasking strategies on one model and one task, at equal numbers of forward passes.

    accelerate launch recipes/compare.py --config recipes/configs/sudoku_compare.yaml

Where a strategy lists several values of an argument, the best is chosen on other examples than those reported, anew for
each order, temperature and budget. Each finished setting is a line of `results.jsonl` in the output folder; started
again, it goes on with the batches that are missing. Then `comparison.md` and `comparison.png` are written, and
`parallelism.png`, whose scores are against tokens per forward.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from prism_hf import load_model
from prism_hf.evaluation import (
    Match,
    compare,
    comparison_table,
    expand_grid,
    load_task,
    plot_comparison,
    weights_digest,
)
from prism_hf.evaluation.comparison.grid import GridPoint
from prism_hf.evaluation.tasks.registry import check_task
from prism_hf.fields import NotNegative, Positive, Seed, build_config, check_fields, did_you_mean
from prism_hf.generation import Order
from prism_hf.hub.portable import portable
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.output_lock import output_lock
from prism_hf.models.attention import available_attention
from prism_hf.resources import model_path
from prism_hf.training import parse_arguments


@dataclass
class ComparisonArguments:
    output_dir: str = field(metadata={"help": "Folder for results."})
    task: dict = field(metadata={"help": "The task's name and arguments: {name: sudoku, layout: 81}."})
    strategies: list[dict] | None = field(
        default=None,
        metadata={"help": "Name and arguments of each. Of a list the best is chosen; of what `curve` names all stay."},
    )
    orders: list[Order] = field(default_factory=lambda: ["random"], metadata={"help": "Unmasking orders."})
    temperatures: list[NotNegative] = field(
        default_factory=lambda: [1.0], metadata={"help": "Of the tokens drawn; 0 takes the likeliest."}
    )
    budgets: list[Positive] = field(default_factory=lambda: [51], metadata={"help": "Numbers of forward passes."})
    match: dict | None = field(
        default=None,
        metadata={"help": "What all rows are to agree in, {value: 4.36, measure: entropy, by: temperature}."},
    )
    reference: str = field(default="prism", metadata={"help": "The strategy that the others are tested against."})
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "A whole model or an adapter; the shipped PRISM if not given."}
    )
    critic_name_or_path: str | None = field(default=None, metadata={"help": "The network that token_critic asks."})
    batch_size: Positive = field(default=250, metadata={"help": "Examples in a batch."})
    seed: Seed = field(default=0, metadata={"help": "Of the sampler."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})
    bf16: bool = field(default=False, metadata={"help": "Run the model under bfloat16 autocast."})
    torch_compile: bool = field(default=False, metadata={"help": "Compile the model and the critic."})

    def __post_init__(self) -> None:
        check_fields(self)
        check_task(**self.task)
        labels = [point.label for point in self.points(self.critic_name_or_path)]
        if self.reference not in labels:
            near = did_you_mean(self.reference, labels)
            raise ValueError(f"reference={self.reference!r} is not among the strategies compared: name one.{near}")
        self.matching()

    def points(self, critic_name: str | None) -> list[GridPoint]:
        """What is compared, where the network that token_critic asks goes by that name."""
        return expand_grid(self.strategies or [], self.orders, self.temperatures, self.budgets, critic_name)

    def matching(self) -> Match | None:
        """What all rows are to agree in."""
        return None if self.match is None else build_config(Match, self.match, "match")


def main() -> None:
    end_with_launcher()
    (args,) = parse_arguments((ComparisonArguments,))
    state = PartialState(cpu=args.use_cpu)
    path = Path(args.output_dir) / "results.jsonl"
    with output_lock(path):
        compare_strategies(args, path, state)
    state.destroy_process_group()


def compare_strategies(args: ComparisonArguments, path: Path, state: PartialState) -> None:
    attention = available_attention(args.attn_implementation, args.use_cpu)

    def load(name: str):
        network = load_model(name, attn_implementation=attention).to(state.device)
        if args.torch_compile:
            network.compile()
        return network

    critic = critic_name = None
    if args.critic_name_or_path is not None:
        critic = load(args.critic_name_or_path)
        critic_name = f"{portable(args.critic_name_or_path)} {weights_digest(critic)}"
    points, match = args.points(critic_name), args.matching()
    model_name = portable(args.model_name_or_path) or "sudoku_prism"
    model = load(model_path(args.model_name_or_path or "sudoku_prism"))
    task = load_task(**args.task, model=model)

    folder = path.parent
    rows = compare(model, task, points, path, model_name, args.batch_size, args.seed, args.bf16, critic, match)
    if state.is_main_process:
        binary = rows[0]["scores"].dtype == torch.bool
        paired = "; in brackets, how many only the row gets right : how many only the reference" if binary else ""
        agreed = "" if match is None else f" {match}"
        heading = (
            f"# {args.task['name']}: remasking strategies at equal forward passes\n\n"
            f"Model: {model_name}. {task.origin} Seed {args.seed}, batches of {args.batch_size}. A forward pass of a "
            "second network counts as one. Seconds are those of the whole setting on this machine. Each row is tested "
            f"against {args.reference} with the same tokens and order (where it has none of that order, with its best, "
            f"which is named) on the same examples{paired}. {'p-values' if binary else 'Intervals'} are not adjusted "
            f"for the number of tests.{agreed}\n\n"
        )
        report = heading + comparison_table(rows, task.measured, args.reference)
        (folder / "comparison.md").write_text(report, encoding="utf-8")
        print(report)
        plot_comparison(folder / "comparison.png", rows, task.measured, args.reference)
        plot_comparison(folder / "parallelism.png", rows, task.measured, args.reference, against="tokens per forward")


if __name__ == "__main__":
    main()
