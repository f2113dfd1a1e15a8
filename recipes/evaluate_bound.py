r"""The bound of a model on a corpus, as perplexity with an interval, into a JSON file.

    accelerate launch recipes/evaluate_bound.py --model_name_or_path path/or/name --dataset_name prose.txt \
        --length 128 --output_file bound.json
    accelerate launch recipes/evaluate_bound.py --config recipes/configs/owt_170m_bound.yaml

The number is the `eval_perplexity` of a training: exp of the bound on a token's negative log-likelihood. The corpus may
be one that the model was not trained on, with a detokenizer by its name. Of a model with a quality head the backbone is
evaluated, of an adapter the model with it.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, load_model
from prism_hf.data import DataArguments, load_evaluation_data
from prism_hf.fields import DTYPES, NotNegative, Positive, Seed, check_fields
from prism_hf.hub.portable import portable
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.lines import to_json, write_whole
from prism_hf.jobs.manifest import describe_model, describe_source, versions
from prism_hf.jobs.output_lock import output_lock
from prism_hf.models.attention import available_attention
from prism_hf.resources import model_path
from prism_hf.training import parse_arguments


@dataclass
class BoundArguments:
    model_name_or_path: str = field(metadata={"help": "A whole model or an adapter, from a folder or the Hub."})
    output_file: str = field(metadata={"help": "JSON file of what is found."})
    num_eval_masks: Positive = field(default=1, metadata={"help": "Masks of each row, over which a mean is taken."})
    batch_size: Positive = field(default=8, metadata={"help": "Rows in a batch of a process."})
    seed: Seed = field(default=0, metadata={"help": "Of the masks, and of a share that is held out."})
    dataset_text_field: str = field(default="text", metadata={"help": "Column that holds the text."})
    dataset_num_proc: Positive | None = field(default=None, metadata={"help": "Processes that tokenize."})
    max_length: Positive | None = field(default=1024, metadata={"help": "Tokens after which rows are cut."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."})
    bf16: bool = field(default=False, metadata={"help": "Run the model under bfloat16 autocast."})
    dtype: str = field(default="float32", metadata={"help": "Of the weights.", "choices": ("auto", *DTYPES)})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})

    __post_init__ = check_fields


@dataclass
class CorpusArguments(DataArguments):
    """The data of a training, of which by default all text of the test split is read, or of a file all that it has."""

    dataset: str | None = field(default="text", metadata=DataArguments.__dataclass_fields__["dataset"].metadata)
    held_out: NotNegative = field(
        default=0, metadata={"help": "As in a training: a share, or the last documents, of dataset_train_split."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset_test_split == "test" and self.dataset_name and Path(self.dataset_name).is_file():
            self.dataset_test_split = self.dataset_train_split  # which is what a file has


def main() -> None:
    end_with_launcher()
    args, data_args = parse_arguments((BoundArguments, CorpusArguments))
    state = PartialState(cpu=args.use_cpu)
    with output_lock(args.output_file):
        found = evaluate(args, data_args)
        if state.is_main_process:
            write_whole(Path(args.output_file), [to_json(found, indent=2)])
            print(told(found))
    state.destroy_process_group()


def evaluate(args: BoundArguments, data_args: CorpusArguments) -> dict[str, Any]:
    """What is found, and what it was made with."""
    name = model_path(args.model_name_or_path)
    training_args = MaskedDiffusionTrainingArguments(
        str(Path(args.output_file).parent),
        per_device_eval_batch_size=args.batch_size,
        num_eval_masks=args.num_eval_masks,
        seed=args.seed,
        bf16=args.bf16,
        max_length=args.max_length,
        dataset_text_field=args.dataset_text_field,
        dataset_num_proc=args.dataset_num_proc,
        use_cpu=args.use_cpu,
        report_to="none",
    )
    with training_args.main_process_first(desc="loading the data"):
        rows, tokenizer = load_evaluation_data(
            data_args, args.seed, name, args.dataset_text_field, args.dataset_num_proc
        )
    attention = available_attention(args.attn_implementation, args.use_cpu)
    model = load_model(name, dtype=args.dtype, attn_implementation=attention, revision=args.model_revision)
    trainer = MaskedDiffusionTrainer(model, training_args, eval_dataset=rows, processing_class=tokenizer)
    metrics = trainer.evaluate()
    ends = {end: metrics.get(f"eval_perplexity{end}") for end in ("", "_low", "_high")}
    return {
        **{f"perplexity{end}": value for end, value in ends.items()},
        "nats_per_token": math.log(ends[""]),
        "num_rows": trainer.num_evaluated,
        "seconds": round(metrics["eval_runtime"], 2),
        **made_with(args, data_args),
        **describe_model(model),
        **describe_source(args.model_name_or_path, args.model_revision),
        **versions(),
    }


def made_with(args: BoundArguments, data_args: CorpusArguments) -> dict[str, Any]:
    """The arguments that what is found depends on."""
    split = data_args.dataset_train_split if data_args.held_out else data_args.dataset_test_split
    corpus = ("dataset", "dataset_config", "held_out", "length", "wrap", "sample_by", "detokenizer")
    settings = ("num_eval_masks", "seed", "bf16", "max_length")
    return (
        {"dataset_name": portable(data_args.dataset_name), "dataset_split": split}
        | {name: vars(data_args)[name] for name in corpus}
        | {name: vars(args)[name] for name in settings}
        | {"tokenizer": portable(data_args.tokenizer_name_or_path or args.model_name_or_path)}
    )


def told(found: dict[str, Any]) -> str:
    """A line of what is found."""
    ends = [found[f"perplexity{end}"] for end in ("", "_low", "_high")]
    interval = "" if ends[1] is None else f" (95% interval {ends[1]:.4g} to {ends[2]:.4g})"
    nats, rows = found["nats_per_token"], found["num_rows"]
    return f"perplexity at most {ends[0]:.4g}{interval}, {nats:.4f} nats a token, {rows} rows"


if __name__ == "__main__":
    main()
