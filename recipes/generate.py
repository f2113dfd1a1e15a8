r"""Complete prompts, from a file or a pipe, or write samples from nothing, into a JSONL file.

    accelerate launch recipes/generate.py --model_name_or_path path/or/name --prompts_file prompts.jsonl \
        --output_file completions.jsonl --generation '{max_new_tokens: 256, block_length: 32}'
    cat prompts.txt | accelerate launch recipes/generate.py --config generate.yaml
    accelerate launch recipes/generate.py --model_name_or_path path/or/name --num_samples 5000 \
        --output_file samples.jsonl --generation '{max_new_tokens: 1024, steps: 256, do_sample: true, top_p: 0.9}'
    accelerate launch recipes/generate.py --config recipes/configs/llada_8b_mbpp_block32.yaml --num_samples 20

A prompt is a line, or the field "prompt" of a JSON line, whose other fields are kept. Started again after a kill, the
same command goes on (a pipe must bring the same prompts), with any number of processes.

With `task` (mbpp, humaneval) the prompts are those of a benchmark of code, `num_samples` completions of each problem,
which `prism-hf evaluate code` runs. With `settings`, names and fields of `generation`, there is an output for each:
`completions.jsonl` becomes `completions.NAME.jsonl`.

Samples from nothing are a row of masks each, or a BOS and masks. Their text goes on after an end of text, as that of
rows that many documents were packed into, unless `generation` has an `eos_token_id`. Beside the output stands
`<output_file>.manifest.json`: the model, its commit and digest, the settings, versions, forward passes and seconds.
`prism-hf evaluate` scores what was written.
"""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from prism_hf import RemaskGenerationConfig, generate_to_jsonl, load_model
from prism_hf.data import read_prompts
from prism_hf.data.tokenizers import read_tokenizer
from prism_hf.evaluation import weights_digest
from prism_hf.evaluation.tasks.code.arguments import ProblemArguments
from prism_hf.fields import DTYPES, Positive, Seed, check_fields
from prism_hf.hub.portable import portable
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.manifest import describe_source
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.share import by_main_process
from prism_hf.models.attention import available_attention
from prism_hf.training import parse_arguments


@dataclass
class GenerateArguments:
    model_name_or_path: str = field(metadata={"help": "A whole model or an adapter, from a folder or the Hub."})
    output_file: str = field(metadata={"help": "JSONL file of the prompts with their completions."})
    prompts_file: str | None = field(
        default=None, metadata={"help": "Text or JSONL; standard input if no prompts are given otherwise."}
    )
    num_samples: Positive | None = field(
        default=None, metadata={"help": "Write so many samples from nothing, or of each problem of task."}
    )
    add_bos_token: bool = field(default=False, metadata={"help": "Let a sample from nothing begin with BOS, or CLS."})
    generation: dict = field(
        default_factory=dict, metadata={"help": "Fields of RemaskGenerationConfig, over the model's own."}
    )
    settings: dict[str, dict] | None = field(
        default=None, metadata={"help": "By name, what differs from generation in an output of its own."}
    )
    batch_size: Positive = field(default=8, metadata={"help": "Prompts in a batch of a process."})
    apply_chat_template: bool = field(default=False, metadata={"help": "Make a prompt a user's turn."})
    seed: Seed = field(default=0, metadata={"help": "Of the sampler."})
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "The model's if not given; published MDLM weights come without: gpt2."}
    )
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the Hub."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model or its tokenizer."}
    )
    bf16: bool = field(default=False, metadata={"help": "Run the model under bfloat16 autocast."})
    dtype: str = field(default="auto", metadata={"help": "Of the weights.", "choices": ("auto", *DTYPES)})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})

    def __post_init__(self) -> None:
        check_fields(self)
        for generation in outputs_of(self).values():
            RemaskGenerationConfig(**generation)  # a misspelt field is to fail before the model is loaded


def main() -> None:
    end_with_launcher()
    args, problems = parse_arguments((GenerateArguments, ProblemArguments))
    check_sources(args, problems)
    state = PartialState(cpu=args.use_cpu)
    with ExitStack() as locks:
        for output_file in outputs_of(args):
            locks.enter_context(output_lock(output_file))
        generate(args, problems, state)
    state.destroy_process_group()


def check_sources(args: GenerateArguments, problems: ProblemArguments) -> None:
    """Raise ValueError where the arguments name two sources of prompts, or what none of them has."""
    has_task = problems.task is not None or problems.problems_file is not None
    if has_task and args.prompts_file is not None:
        raise ValueError("prompts_file says what to complete, and so does a task: set one of the two.")
    if args.num_samples is not None and args.prompts_file is not None:
        raise ValueError(
            "num_samples writes from nothing, and prompts_file says what to complete: set one of the two. Several "
            "completions of a prompt are num_return_sequences of generation."
        )
    from_nothing = args.num_samples is not None and not has_task
    if from_nothing and args.apply_chat_template:
        raise ValueError("apply_chat_template=True has no prompt to make a turn of with num_samples: leave it out.")
    if args.add_bos_token and not from_nothing:
        raise ValueError("add_bos_token=True is for samples from nothing: set num_samples, or leave it out.")
    inputs = [Path(each).resolve() for each in (args.prompts_file, problems.problems_file) if each is not None]
    for output in outputs_of(args):
        if Path(output).resolve() in inputs:
            raise ValueError(f"The output and the prompts are both {output}: name another output.")


def outputs_of(args: GenerateArguments) -> dict[str, dict[str, Any]]:
    """The output files, each with its fields of RemaskGenerationConfig."""
    if args.settings is None:
        return {args.output_file: args.generation}
    path = Path(args.output_file)
    return {
        str(path.with_name(f"{path.stem}.{name}{path.suffix}")): args.generation | fields
        for name, fields in args.settings.items()
    }


def generate(args: GenerateArguments, problems: ProblemArguments, state: PartialState) -> None:
    if args.tokenizer_name_or_path is None:
        tokenizer = read_tokenizer(args.model_name_or_path, args.model_revision, args.trust_remote_code)
    else:
        tokenizer = read_tokenizer(args.tokenizer_name_or_path, trust_remote_code=args.trust_remote_code)
    rows, of_prompts = prompts_of(args, problems, tokenizer)
    attention = available_attention(args.attn_implementation, args.use_cpu)
    model = load_model(
        args.model_name_or_path,
        dtype=args.dtype,
        attn_implementation=attention,
        revision=args.model_revision,
        trust_remote_code=args.trust_remote_code,
    )
    source = describe_source(args.model_name_or_path, args.model_revision)
    for output_file, generation in outputs_of(args).items():
        generate_to_jsonl(
            model.to(state.device),
            tokenizer,
            rows,
            output_file,
            batch_size=args.batch_size,
            seed=args.seed,
            apply_chat_template=args.apply_chat_template,
            bf16=args.bf16,
            settings={"model": f"{portable(args.model_name_or_path)} {weights_digest(model)}", "dtype": args.dtype},
            source=source,
            **of_prompts | generation,
        )


def prompts_of(
    args: GenerateArguments, problems: ProblemArguments, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[dict], dict[str, Any]]:
    """The rows to complete, and what their kind sets of `generate_to_jsonl`."""
    if problems.task is not None or problems.problems_file is not None:
        return by_main_process(lambda: problems.prompts(args.num_samples or 1)), {}
    if args.num_samples is None:
        return by_main_process(lambda: read_prompts(args.prompts_file)), {}  # a pipe can be read once only
    first = ""
    if args.add_bos_token:
        first = tokenizer.bos_token or tokenizer.cls_token
        if first is None:
            raise ValueError("add_bos_token=True: the tokenizer has neither a BOS nor a CLS token. Leave it out.")
    return [{"prompt": first}] * args.num_samples, {"add_special_tokens": False, "eos_token_id": None}


if __name__ == "__main__":
    main()
