"""The task of writing text, from nothing or from prompts, that another language model finds likely."""

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.data.files import existing_file, read_object, text_lines
from prism_hf.data.prompts import decode_with_ends, encode_prompts, read_prompts, tokens_without_text
from prism_hf.evaluation.metrics.text import (
    context_length,
    count_scored_tokens,
    distinct_n,
    generative_perplexity,
    mauve,
    negative_log_likelihood,
    repetition,
    unigram_entropy,
)
from prism_hf.fields import Allowed, Count, Positive, check_arguments
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import json_digest, weights_digest
from prism_hf.jobs.manifest import describe_tokenizer

from .task import Judgement, Task, Writing, load_tokenizer, tokenizer_of_model

logger = logging.get_logger(__name__)

# Text from nothing is told from that to tune on by its random numbers alone. PyTorch reads 32 bits of a seed.
TUNING_SEED = 2**30


def load_text(
    model: Any,
    length: Annotated[int, Allowed(min=2)] = 128,  # the first token of a text is not scored
    num_samples: Positive = 64,
    num_tuning_samples: Count = 0,
    prompts_file: str | None = None,
    scorer: str = "gpt2-large",
    scorer_gguf_file: str | None = None,
    tokenizer: str | None = None,
    scorer_batch_size: Positive = 8,
    references_file: str | None = None,
) -> Task:
    """Text to write. Score: mean log-likelihood of a sample's tokens under `scorer`, in nats.

    Beside it stand the generative perplexity of all samples and the mean entropy of the tokens within a sample: where
    the one falls with the other, the text repeats itself.

    Args:
        model (`PreTrainedModel`): The model compared.
        length (`int`, *optional*, defaults to 128): Tokens of a sample, those of a prompt included. Prompts may differ
            in length.
        num_samples (`int`, *optional*, defaults to 64): With prompts, one a prompt, the first of the file.
        num_tuning_samples (`int`, *optional*, defaults to 0): Others to choose arguments on; with prompts, of those
            that follow.
        prompts_file (`str`, *optional*): Text or JSONL, see `read_prompts`. Of equal prompts one counts.
        scorer (`str`, *optional*, defaults to `"gpt2-large"`): A causal language model, from the Hub or a folder, with
            its tokenizer.
        scorer_gguf_file (`str`, *optional*): The GGUF file of the scorer, which holds both (`prism_hf[gguf]`).
        tokenizer (`str`, *optional*): That of the model, from the Hub or a folder; by default the one saved with it.
        scorer_batch_size (`int`, *optional*, defaults to 8): Samples that the scorer reads at once.
        references_file (`str`, *optional*): Texts written by people, one a line, as text or as JSON with a field
            `text`; MAUVE between them and the samples then is a column, from the scorer's states. Thousands of each are
            usual. Without the package mauve-text it is left out, which is said before anything is computed.

    Returns:
        `Task`: The task.

    Raises:
        ValueError: if a number is too small, a tokenizer is missing or of another model, the scorer cannot read
            `length` tokens, or there are too few prompts or one that is too long.

    Example:
        ```python
        task = load_task("text", model, length=1024, tokenizer="gpt2", num_samples=64)
        ```
    """
    check_arguments(load_text, locals(), "the task text")
    number, mask_token_id = num_samples + num_tuning_samples, model.config.mask_token_id
    prompts = None if prompts_file is None else _distinct_prompts(prompts_file, number)
    own_tokenizer = tokenizer_of_model(model, tokenizer)
    places = {} if scorer_gguf_file is None else {"gguf_file": scorer_gguf_file}
    reader = _load_reader(scorer, length, model.device, scorer_batch_size, **places)
    examples = torch.full((number, length), mask_token_id)
    if prompts is not None:
        examples = _masked_examples(prompts, own_tokenizer, length, mask_token_id)

    source = "from nothing" if prompts is None else f"from prompts of {Path(prompts_file).name}"
    origin = f"{num_samples} samples of {length} tokens {source}, scored by {portable(scorer)} in nats a token."
    if num_tuning_samples:
        others = "with other random numbers" if prompts is None else "from the prompts that follow"
        origin += f" Arguments were chosen on {num_tuning_samples} others, {others}."
    references = None if references_file is None else read_references(references_file)
    if references is not None and find_spec("mauve") is None:
        logger.warning("MAUVE is left out, since its package is not installed: pip install mauve-text.")
        origin += " MAUVE is left out, since the package mauve-text is not installed."
        references = None
    judged_with = {"scorer": f"{scorer} {weights_digest(reader.scorer)}"}
    if references is not None:
        judged_with["references"] = json_digest(references)
    return Task(
        examples=examples[:num_samples],
        tuning_examples=examples[num_samples:],
        judge=_judge(own_tokenizer, mask_token_id, reader, examples, references),
        measured="log-likelihood",
        origin=origin,
        made_with={"tokenizer": tokenizer or model.name_or_path},
        tuning_seed=TUNING_SEED,
        never_drawn=tokens_without_text(own_tokenizer, model.config.vocab_size, mask_token_id),
        judged_with=judged_with,
        writing=Writing(partial(_texts_of, own_tokenizer, mask_token_id), describe_tokenizer(own_tokenizer)),
    )


def _texts_of(
    tokenizer: PreTrainedTokenizerBase,
    mask_token_id: int,
    sequences: Tensor,
    examples: Tensor,
    end_of_text: str | None = None,
) -> list[dict[str, Any]]:
    """The prompt of each example, and what was written after it. end_of_text: by default the tokenizer's own."""
    end_of_text = (tokenizer.eos_token or "") if end_of_text is None else end_of_text
    rows = []
    for sequence, example in zip(sequences.tolist(), examples.tolist(), strict=True):
        prompt = decode_with_ends([token for token in example if token != mask_token_id], tokenizer, end_of_text)
        rows.append({"prompt": prompt, "completion": decode_with_ends(sequence, tokenizer, end_of_text)[len(prompt) :]})
    return rows


class Reader(NamedTuple):
    """A causal language model with its tokenizer, and how many texts it reads at once."""

    scorer: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int


def as_reader(
    scorer: str | PreTrainedModel,
    tokenizer: str | PreTrainedTokenizerBase | None = None,
    batch_size: int = 8,
    device: torch.device | None = None,
    **kwargs: Any,
) -> Reader:
    """A scorer by its name, which then is put on `device`, by default the accelerator if there is one; or itself.

    tokenizer: the scorer's, by default the one saved with it. kwargs: to `from_pretrained` of a scorer by its name,
    such as `dtype`, and `gguf_file`, of which the tokenizer is read too. Raises ValueError if there is none.

    Example:
        ```python
        reader = as_reader("gpt2-large", batch_size=32)
        ```
    """
    model: Any = scorer
    if isinstance(scorer, str):
        model = AutoModelForCausalLM.from_pretrained(scorer, **kwargs)
        model.to(device or torch.accelerator.current_accelerator(check_available=True) or "cpu").eval()
    if tokenizer is None or isinstance(tokenizer, str):
        name = tokenizer or (scorer if isinstance(scorer, str) else model.name_or_path)
        remedy = "name a scorer that has one, such as gpt2-large"
        places = {key: kwargs[key] for key in ("gguf_file", "revision") if key in kwargs and tokenizer is None}
        tokenizer = load_tokenizer(name, model.config.vocab_size, remedy, **places)
    return Reader(model, tokenizer, batch_size)


def _judge(
    own_tokenizer: PreTrainedTokenizerBase,
    mask_token_id: int,
    reader: Reader,
    examples: Tensor,
    references: list[str] | None,
) -> Callable[[Tensor, Tensor], Judgement]:
    """The judge of a `Task` whose completed examples are text.

    Raises ValueError if the scorer cannot read a prompt of `examples`.
    """
    end_of_text = reader.tokenizer.eos_token or ""

    def judge(sequences: Tensor, examples: Tensor) -> Judgement:
        rows = _texts_of(own_tokenizer, mask_token_id, sequences, examples, end_of_text)
        given, texts = [row["prompt"] for row in rows], [row["completion"] for row in rows]
        totals, numbers = negative_log_likelihood(texts, *reader, prompts=given)
        # A sample without a token to score is as bad as a scorer that knows nothing would find it.
        scores = torch.where(numbers > 0, -totals / numbers.clamp(min=1), -math.log(reader.scorer.config.vocab_size))
        written = [row[masked].tolist() for row, masked in zip(sequences, examples == mask_token_id, strict=True)]
        measures: dict[str, float | str] = {
            "generative perplexity": generative_perplexity(-scores * numbers, numbers),
            "entropy": unigram_entropy(sequences, examples == mask_token_id).mean().item(),
            "distinct-2": distinct_n(written, 2),
            "repetition": repetition(written).mean().item(),
        }
        if references is not None:
            said = [prompt + text for prompt, text in zip(given, texts, strict=True) if (prompt + text).strip()]
            measures["MAUVE"] = mauve(said, references, *reader) if said else math.nan
        return Judgement(scores, measures=measures)

    prompts = [row["prompt"] for row in _texts_of(own_tokenizer, mask_token_id, examples, examples, end_of_text)]
    count_scored_tokens([""] * len(prompts), *reader[:2], prompts=prompts)  # reads the prompts alone
    return judge


def _load_reader(name: str, length: int, device: torch.device, batch_size: int, **kwargs: Any) -> Reader:
    """A scorer with its tokenizer. Raises ValueError if it cannot score texts of `length` tokens."""
    reader = as_reader(name, batch_size=batch_size, device=device, **kwargs)
    limit = context_length(reader.scorer)
    if limit is not None and limit < length:
        raise ValueError(
            f"The scorer {name} reads {limit} tokens, fewer than length={length}: lower length, or name another."
        )
    return reader


def read_references(path: str) -> list[str]:
    """The texts of a file, one a line. Raises ValueError where a JSON object has no `text`, or if there are none."""
    file, texts = existing_file(path), []
    for number, line in text_lines(file.read_bytes(), path).items():
        if file.suffix in (".json", ".jsonl"):
            text = read_object(line, f"{path}, line {number}").get("text")
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{path}, line {number} must have a field 'text' that is not empty, got {text!r}.")
            texts.append(text)
        else:
            texts.append(line)
    if not texts:
        raise ValueError(f"{path} has no texts: give one a line, as text or, in a .jsonl file, as JSON.")
    return texts


def _distinct_prompts(path: str, number: int) -> list[str]:
    """The first `number` prompts of a file that differ. Raises ValueError if there are fewer."""
    prompts = list(dict.fromkeys(row["prompt"] for row in read_prompts(path)))
    if len(prompts) < number:
        raise ValueError(
            f"{path} has {len(prompts)} different prompts, fewer than num_samples + num_tuning_samples = {number}."
        )
    return prompts[:number]


def _masked_examples(prompts: list[str], tokenizer: PreTrainedTokenizerBase, length: int, mask_token_id: int) -> Tensor:
    """Each prompt and masks after it, (N, length). Raises ValueError for one that leaves none or holds some."""
    examples = torch.full((len(prompts), length), mask_token_id)
    encoded = encode_prompts(prompts, tokenizer, mask_token_id=mask_token_id)
    for number, (row, ids) in enumerate(zip(examples, encoded, strict=True), start=1):
        if len(ids) >= length:
            raise ValueError(f"Prompt {number} has {len(ids)} tokens, which leaves none of length={length}: raise it.")
        row[: len(ids)] = torch.tensor(ids, dtype=row.dtype)
    return examples
