r"""The bound of a model on a corpus, as perplexity with an interval, into a JSON file.

    accelerate launch recipes/evaluate_bound.py --model_name_or_path path/or/name --dataset_name prose.txt \
        --length 128 --output_file bound.json
    accelerate launch recipes/evaluate_bound.py --config recipes/configs/owt_170m_bound.yaml

The number is the `eval_perplexity` of a training: exp of the bound on a token's negative log-likelihood. The corpus may
be one that the model was not trained on, with a detokenizer by its name. Of a model with a quality head the backbone is
evaluated, of an adapter the model with it. Started again, it goes on with the batches that are missing.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers.trainer_utils import has_length
from transformers.utils import logging

from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments, load_model
from prism_hf.data import DataArguments, load_evaluation_data
from prism_hf.fields import DTYPES, NotNegative, Positive, Seed, check_fields
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import digest, json_digest
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.lines import to_json, write_whole
from prism_hf.jobs.manifest import describe_model, describe_source, versions
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.share import by_main_process, share_batches
from prism_hf.jobs.store import ResumableJsonl
from prism_hf.models.attention import available_attention
from prism_hf.resources import model_path
from prism_hf.training import parse_arguments
from prism_hf.training.bound import perplexity
from prism_hf.training.data_preparation.datasets import num_documents

logger = logging.get_logger(__name__)


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
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model or its tokenizer."}
    )
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
        evaluate(args, data_args, state)
        if state.is_main_process:
            print(told(json.loads(Path(args.output_file).read_bytes())))
    state.destroy_process_group()


def evaluate(args: BoundArguments, data_args: CorpusArguments, state: PartialState) -> None:
    """Write what is found, and what it was made with. A batch that is done is kept, and not done again."""
    trainer = trainer_of(args, data_args, state)
    rows, size = trainer.eval_dataset, args.batch_size
    num_rows = num_documents(rows)
    output = ResumableJsonl(Path(args.output_file))
    made = made_with(args, data_args) | describe_model(trainer.model)
    made |= describe_source(args.model_name_or_path, args.model_revision)

    def make(part: int, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"num_rows": len(batch), "sums": trainer.bound_sums(batch, part * size, num_rows)}]

    if by_main_process(lambda: output.begin(made | {"batch_size": size, "corpus": tokens_digest(rows)})):
        logger.warning(f"{output.path} is finished: nothing to do.")
        return
    num_batches = num_rows and -(-num_rows // size)
    parts = share_batches(output, batched(rows, size), make, "bound", num_batches)
    if state.is_main_process:
        found = bound_of(output.rows(parts)) | {"seconds": output.seconds()} | made | versions()
        write_whole(output.path, [to_json(found, indent=2)])
        output.drop_shards()


def trainer_of(args: BoundArguments, data_args: CorpusArguments, state: PartialState) -> MaskedDiffusionTrainer:
    """The trainer that evaluates the corpus as a training of the model would."""
    name = model_path(args.model_name_or_path)
    training_args = MaskedDiffusionTrainingArguments(
        str(Path(args.output_file).parent),
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
            data_args, args.seed, name, args.dataset_text_field, args.dataset_num_proc, args.trust_remote_code
        )
    attention = available_attention(args.attn_implementation, args.use_cpu)
    model = load_model(
        name,
        dtype=args.dtype,
        attn_implementation=attention,
        revision=args.model_revision,
        trust_remote_code=args.trust_remote_code,
    ).to(state.device)
    return MaskedDiffusionTrainer(model, training_args, eval_dataset=rows, processing_class=tokenizer)


def batched(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """The rows in lists of `size`, of which the last may be shorter."""
    rest = iter(rows)
    while batch := list(islice(rest, size)):
        yield batch


def tokens_digest(rows: Any) -> str | None:
    """A digest of all tokens; None of a stream, which is read once."""
    return json_digest([digest(torch.as_tensor(row["input_ids"])) for row in rows]) if has_length(rows) else None


def bound_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The perplexity, with its interval where there is one, of the sums of all batches."""
    found = perplexity(torch.tensor([part["sums"] for part in parts], dtype=torch.float64).sum(0))
    ends = {f"perplexity{end}": found.get(f"perplexity{end}") for end in ("", "_low", "_high")}
    nats = {"nats_per_token": math.log(found["perplexity"])}
    return ends | nats | {"num_rows": sum(part["num_rows"] for part in parts)}


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
