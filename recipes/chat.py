"""Chat with a model in a terminal, where an answer is seen as a draft until it is final.

    python recipes/chat.py --model_name_or_path path/or/name --dtype bfloat16

/clear forgets the conversation, /exit ends it. From a pipe, each line is a turn.
"""

import sys
from dataclasses import dataclass, field

import torch
from accelerate import PartialState
from transformers import TextStreamer

from prism_hf import RemaskGenerationConfig, load_model, remask_generate
from prism_hf.data import decode_completions, encode_prompts
from prism_hf.data.tokenizers import read_tokenizer
from prism_hf.fields import DTYPES, Seed, check_fields
from prism_hf.generation import TerminalDraftStreamer, fitted_to_tokenizer, prepare_generation_config
from prism_hf.models.attention import available_attention
from prism_hf.training import parse_arguments


@dataclass
class ChatArguments:
    model_name_or_path: str = field(metadata={"help": "A whole model or an adapter, from a folder or the Hub."})
    generation: dict = field(
        default_factory=lambda: {"max_new_tokens": 128, "block_length": 32},
        metadata={"help": "Fields of RemaskGenerationConfig, over the model's own."},
    )
    system_prompt: str | None = field(default=None, metadata={"help": "Put before the conversation."})
    seed: Seed = field(default=0, metadata={"help": "Of the sampler."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with the model or its tokenizer."}
    )
    dtype: str = field(default="auto", metadata={"help": "Of the weights.", "choices": ("auto", *DTYPES)})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2, ..."})
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})

    def __post_init__(self) -> None:
        check_fields(self)
        RemaskGenerationConfig(**self.generation)  # a misspelt field is to fail before the model is loaded


def main() -> None:
    (args,) = parse_arguments((ChatArguments,))
    device = PartialState(cpu=args.use_cpu).device
    tokenizer = read_tokenizer(args.model_name_or_path, trust_remote_code=args.trust_remote_code)
    if tokenizer.chat_template is None:
        raise ValueError(f"The tokenizer of {args.model_name_or_path} has no chat template: set its chat_template.")
    attention = available_attention(args.attn_implementation, args.use_cpu)
    model = load_model(
        args.model_name_or_path,
        dtype=args.dtype,
        attn_implementation=attention,
        trust_remote_code=args.trust_remote_code,
    )
    model.to(device)
    settings = fitted_to_tokenizer(model, tokenizer, args.generation)
    config, _ = prepare_generation_config(model, None, **settings)
    if sys.stdout.isatty():
        streamer = TerminalDraftStreamer(tokenizer, config.mask_token_id, skip_prompt=True, skip_special_tokens=True)
    else:
        streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    generator = torch.Generator().manual_seed(args.seed)
    start = [] if args.system_prompt is None else [{"role": "system", "content": args.system_prompt}]
    messages = list(start)
    while True:
        try:
            turn = input("> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            break
        if turn == "/exit":
            break
        if turn == "/clear":
            messages = list(start)
        if turn in ("", "/clear"):
            continue
        messages.append({"role": "user", "content": turn})
        prompt = torch.tensor(encode_prompts([messages], tokenizer, apply_chat_template=True), device=device)
        try:
            sequences = remask_generate(model, prompt, generator=generator, streamer=streamer, **settings)
        except KeyboardInterrupt:  # enough of this answer
            streamer.end()
            messages.pop()
            continue
        (answer,) = decode_completions(sequences[:, prompt.shape[1] :].tolist(), tokenizer, config.eos_token_id)
        messages.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    main()
