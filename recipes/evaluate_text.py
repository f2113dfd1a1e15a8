r"""How likely and how varied samples of text are, from the files that hold them, side by side.

    accelerate launch recipes/generate.py --model_name_or_path path/or/name --num_samples 512 \
        --output_file samples/prism_64.jsonl --generation '{max_new_tokens: 128, steps: 64, do_sample: true}'
    accelerate launch recipes/evaluate_text.py --samples samples/*.jsonl --output_dir scores \
        --scorer gpt2-large --references_file held_out.jsonl --reference none

A causal language model of others, the scorer, reads the samples: from the Hub, a folder, or a GGUF file
(`--scorer_gguf_file` within `--scorer`). The defaults are those of MDLM, ReMDM and PRISM: gpt2-large in float32, which
reads 1,024 tokens; an end of text is scored at its first place only. `results.jsonl` in the output folder keeps what
each sample scored; started again, also with other files, the recipe goes on with what is missing. Then
`samples.md` and `samples.png` are written: perplexity beside entropy, as the one falls where a sampler repeats itself.

With `--tokenizer_name_or_path`, that of the model, the references are encoded and decoded by it and cut to the longest
sample, so that a text that a tokenizer can only write in lower case is not set against one that has capitals.
"""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import PartialState
from transformers.utils import logging

from prism_hf.data.tokenizers import read_tokenizer
from prism_hf.evaluation.samples.files import Samples, in_style_of, read_samples
from prism_hf.evaluation.samples.report import plot_samples, samples_table
from prism_hf.evaluation.samples.scoring import score_samples
from prism_hf.evaluation.tasks.text import as_reader, read_references
from prism_hf.fields import DTYPES, Positive, check_fields
from prism_hf.hub.portable import portable
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.output_lock import output_lock
from prism_hf.training import parse_arguments

logger = logging.get_logger("prism_hf.evaluate_text")


@dataclass
class TextArguments:
    samples: list[str] = field(metadata={"help": "JSONL files of samples."})
    output_dir: str = field(metadata={"help": "Folder for what is scored."})
    scorer: str = field(default="gpt2-large", metadata={"help": "A causal language model, from the Hub or a folder."})
    scorer_gguf_file: str | None = field(default=None, metadata={"help": "The GGUF file of the scorer."})
    scorer_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the scorer on the Hub."})
    scorer_dtype: str = field(default="float32", metadata={"help": "Of the scorer's weights.", "choices": DTYPES})
    scorer_batch_size: Positive = field(default=8, metadata={"help": "Samples that the scorer reads at once."})
    max_length: Positive | None = field(
        default=None, metadata={"help": "The scorer's tokens after which a sample is cut, by default what it can read."}
    )
    references_file: str | None = field(
        default=None, metadata={"help": "Texts of people, one a line, as text or JSON with a field text, for MAUVE."}
    )
    tokenizer_name_or_path: str | None = field(
        default=None, metadata={"help": "Encode and decode the references by this, the model's."}
    )
    num_mauve_seeds: Positive = field(default=5, metadata={"help": "Clusterings that MAUVE is the mean of."})
    num_mauve_buckets: Positive | None = field(
        default=None, metadata={"help": "Clusters of MAUVE; by default a tenth of the texts."}
    )
    reference: str | None = field(
        default=None, metadata={"help": "Strategy, at the same steps, or file that the others are paired with."}
    )
    use_cpu: bool = field(default=not torch.accelerator.is_available(), metadata={"help": "Run on the CPU."})

    def __post_init__(self) -> None:
        check_fields(self)
        twice = sorted({path for path in self.samples if self.samples.count(path) > 1})
        if twice:
            raise ValueError(f"samples names {twice[0]} twice: name it once.")
        if self.tokenizer_name_or_path is not None and self.references_file is None:
            raise ValueError("tokenizer_name_or_path is for references: set references_file, or leave it out.")


def main() -> None:
    end_with_launcher()
    (args,) = parse_arguments((TextArguments,))
    state = PartialState(cpu=args.use_cpu)
    path = Path(args.output_dir) / "results.jsonl"
    with output_lock(path):
        evaluate_text(args, path, state)
    state.destroy_process_group()


def evaluate_text(args: TextArguments, path: Path, state: PartialState) -> None:
    files = [read_samples(each) for each in args.samples]
    people, style = references_of(args, files)
    reader = as_reader(
        args.scorer,
        batch_size=args.scorer_batch_size,
        device=state.device,
        dtype=getattr(torch, args.scorer_dtype),
        revision=args.scorer_revision,
        **({} if args.scorer_gguf_file is None else {"gguf_file": args.scorer_gguf_file}),
    )
    name = "/".join(filter(None, (portable(args.scorer), args.scorer_gguf_file)))
    common = {"scorer_name": name, "max_length": args.max_length}
    seeds = {"num_seeds": args.num_mauve_seeds, "num_buckets": args.num_mauve_buckets}
    has_mauve = find_spec("mauve") is not None
    texts = people.completions if people is not None and has_mauve else None
    scores = score_samples(files, reader, path, references=texts, **common, **seeds)
    if people is not None:
        scores += score_samples([people], reader, path, **common)
        if not has_mauve:
            logger.warning("MAUVE is left out, since its package is not installed: pip install mauve-text.")
    if state.is_main_process:
        report = heading(args, name, style) + samples_table(scores, args.reference)
        (path.parent / "samples.md").write_text(report, encoding="utf-8")
        print(report)
        plot_samples(path.parent / "samples.png", scores, args.reference)


def references_of(args: TextArguments, files: list[Samples]) -> tuple[Samples | None, str]:
    """Texts of people, and a sentence on what was done to them."""
    if args.references_file is None:
        return None, ""
    texts = read_references(args.references_file)
    said = f" References: {len(texts)} texts of {portable(args.references_file)}"
    if args.tokenizer_name_or_path is None:
        return Samples("references", [""] * len(texts), texts), f"{said}, as they are."
    length = max((len(row) for file in files for row in file.tokens or []), default=None)
    name = portable(args.tokenizer_name_or_path)
    cut = "" if length is None else f", cut to {length} tokens"
    people = in_style_of(texts, read_tokenizer(args.tokenizer_name_or_path), length)
    return people, f"{said}, encoded by the tokenizer of {name}{cut} and decoded, as the samples were."


def heading(args: TextArguments, name: str, style: str) -> str:
    cut = "" if args.max_length is None else f", cut to {args.max_length} of its tokens"
    return (
        f"# Samples of text\n\nPerplexity is that of {name} in {args.scorer_dtype}{cut}, over all tokens of a file; "
        "entropy is that of a sample's own tokens, in nats. Brackets are 95% intervals by the bootstrap over samples; "
        "of MAUVE, the lowest and highest of its seeds. distinct-n is the share of different n-grams among all of a "
        "file, repetition the share of a sample's 4-grams that occur in it before; both are of tokens. Differences are "
        f"in nats, by a paired bootstrap.{style} A lower perplexity at a lower entropy is no win.\n\n"
    )


if __name__ == "__main__":
    main()
