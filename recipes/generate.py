r"""Complete prompts, from a file or a pipe, into a JSONL file.

    accelerate launch recipes/generate.py --model_name_or_path path/or/name --prompts_file prompts.jsonl \
        --output_file completions.jsonl --generation '{max_new_tokens: 256, block_length: 32}'
    cat prompts.txt | accelerate launch recipes/generate.py --config generate.yaml

A prompt is a line, or the field "prompt" of a JSON line, whose other fields are kept. Started again after a kill, the
same command goes on (a pipe must bring the same prompts), with any number of processes.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from prism_hf import RemaskGenerationConfig, generate_to_jsonl, load_model
from prism_hf.data import read_prompts
from prism_hf.data.tokenizers import read_tokenizer
from prism_hf.evaluation import weights_digest
from prism_hf.fields import DTYPES, Positive, Seed, check_fields
from prism_hf.hub.portable import portable
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.share import by_main_process
from prism_hf.models.attention import available_attention
from prism_hf.training import parse_arguments


@dataclass
class GenerateArguments:
    model_name_or_path: str = field(metadata={"help": "A whole model or an adapter, from a folder or the Hub."})
    output_file: str = field(metadata={"help": "JSONL file of the prompts with their completions."})
    prompts_file: str | None = field(default=None, metadata={"help": "Text or JSONL; standard input if not given."})
    generation: dict = field(
        default_factory=dict, metadata={"help": "Fields of RemaskGenerationConfig, over the model's own."}
    )
    batch_size: Positive = field(default=8, metadata={"help": "Prompts in a batch of a process."})
    apply_chat_template: bool = field(default=False, metadata={"help": "Make a prompt a user's turn."})
    seed: Seed = field(default=0, metadata={"help": "Of the sampler."})
    dtype: str = field(default="auto", metadata={"help": "Of the weights.", "choices": ("auto", *DTYPES)})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})

    __post_init__ = check_fields


def main() -> None:
    end_with_launcher()
    (args,) = parse_arguments((GenerateArguments,))
    RemaskGenerationConfig(**args.generation)  # a misspelt field is to fail before the model is loaded
    state = PartialState(cpu=args.use_cpu)
    with output_lock(args.output_file):
        generate(args, state)
    state.destroy_process_group()


def generate(args: GenerateArguments, state: PartialState) -> None:
    if args.prompts_file is not None and Path(args.prompts_file).resolve() == Path(args.output_file).resolve():
        raise ValueError(f"output_file and prompts_file are both {args.output_file}: name another output.")
    prompts = by_main_process(lambda: read_prompts(args.prompts_file))  # a pipe can be read once only
    tokenizer = read_tokenizer(args.model_name_or_path)
    attention = available_attention(args.attn_implementation, args.use_cpu)
    model = load_model(args.model_name_or_path, dtype=args.dtype, attn_implementation=attention)
    generate_to_jsonl(
        model.to(state.device),
        tokenizer,
        prompts,
        args.output_file,
        batch_size=args.batch_size,
        seed=args.seed,
        apply_chat_template=args.apply_chat_template,
        **args.generation,
        settings={"model": f"{portable(args.model_name_or_path)} {weights_digest(model)}", "dtype": args.dtype},
    )


if __name__ == "__main__":
    main()
