"""The task of writing text, from nothing or from prompts, that another language model finds likely."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.data.files import existing_file, read_object, text_lines
from prism_hf.data.prompts import encode_prompts, read_prompts, tokens_without_text
from prism_hf.evaluation.metrics.text import (
    context_length,
    count_scored_tokens,
    generative_perplexity,
    mauve,
    negative_log_likelihood,
    unigram_entropy,
)
from prism_hf.fields import Allowed, Count, Positive, check_arguments
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import json_digest, weights_digest

from .task import Task, load_tokenizer

logger = logging.get_logger(__name__)

# Text from nothing is told from that to tune on by its random numbers alone. PyTorch reads 32 bits of a seed.
TUNING_SEED = 2**30


def load_text(
    model,
    length: Annotated[int, Allowed(min=2)] = 128,  # the first token of a text is not scored
    num_samples: Positive = 64,
    num_tuning_samples: Count = 0,
    prompts_file: str | None = None,
    scorer: str = "gpt2-large",
    tokenizer: str | None = None,
    scorer_batch_size: Positive = 8,
    references_file: str | None = None,
) -> Task:
    """Samples of `length` tokens. Score: mean log-likelihood of a sample's tokens under `scorer`, in nats.

    Beside it the generative perplexity of all samples and the mean entropy of the tokens within a sample: where the one
    falls with the other, the text repeats itself.

    Args:
        model: the model compared.
        length: tokens of the model, those of a prompt included. Prompts may differ in length.
        num_samples, num_tuning_samples: with prompts, one sample a prompt: the first of the file, and those that follow
            to tune on.
        prompts_file: text or JSONL, see `read_prompts`; nothing is given if None. Of equal prompts one counts.
        scorer: a causal language model, from the Hub or a folder, with its tokenizer.
        tokenizer: of the model, from the Hub or a folder; that saved with it if None.
        scorer_batch_size: samples that the scorer reads at once.
        references_file: texts written by people, one a line, as text or as JSON with a field `text`; MAUVE between them
            and the samples then is a column, from the scorer's states. Thousands of each are usual. Without the package
            mauve-text it is left out, which is said before anything is computed.

    Raises:
        ValueError: if a number is too small, a tokenizer is missing or of another model, the scorer cannot read
            `length` tokens, or there are too few prompts or one that is too long.
    """
    check_arguments(load_text, locals(), "the task text")
    number, mask_token_id = num_samples + num_tuning_samples, model.config.mask_token_id
    prompts = None if prompts_file is None else distinct_prompts(prompts_file, number)
    named = f"set the task's tokenizer to what {model.name_or_path} was trained with, such as gpt2"
    own_tokenizer = load_tokenizer(tokenizer or model.name_or_path, model.config.vocab_size, named)
    if own_tokenizer.mask_token_id not in (None, mask_token_id):
        raise ValueError(f"The tokenizer has mask {own_tokenizer.mask_token_id}, the model {mask_token_id}: {named}.")
    scoring_model, scoring_tokenizer = load_scorer(scorer, length, model.device)
    examples = torch.full((number, length), mask_token_id)
    if prompts is not None:
        examples = masked_examples(prompts, own_tokenizer, length, mask_token_id)

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
    score, judge, measures = make_measures(
        own_tokenizer, mask_token_id, scoring_model, scoring_tokenizer, scorer_batch_size, examples, references
    )
    return Task(
        examples=examples[:num_samples],
        tuning_examples=examples[num_samples:],
        score=score,
        judge=judge,
        measured="log-likelihood",
        origin=origin,
        measures=measures,
        made_with={
            "scorer": f"{scorer} {weights_digest(scoring_model)}",
            "tokenizer": tokenizer or model.name_or_path,
        }
        | ({} if references is None else {"references": json_digest(references)}),
        tuning_seed=TUNING_SEED,
        never_drawn=tokens_without_text(own_tokenizer, model.config.vocab_size, mask_token_id),
    )


def make_measures(
    own_tokenizer: PreTrainedTokenizerBase,
    mask_token_id: int,
    scorer,
    scoring_tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    examples: Tensor,
    references: list[str] | None = None,
) -> tuple[Callable, Callable, dict[str, Callable[[Tensor, Tensor, Tensor], float]]]:
    """`score`, `judge` and `measures` of a `Task` whose completed examples are text.

    Raises ValueError if the scorer cannot read a prompt of `examples`.
    """
    end_of_text = scoring_tokenizer.eos_token or ""

    def texts_of(sequences: Tensor, examples: Tensor) -> tuple[list[str], list[str]]:
        """What was generated, and what was given before it."""
        whole = [decode(row, own_tokenizer, end_of_text) for row in sequences.tolist()]
        given = [
            decode([token for token in row if token != mask_token_id], own_tokenizer, end_of_text)
            for row in examples.tolist()
        ]
        return [text[len(prompt) :] for text, prompt in zip(whole, given, strict=True)], given

    def score(sequences: Tensor, examples: Tensor) -> Tensor:
        texts, given = texts_of(sequences, examples)
        totals, numbers = negative_log_likelihood(texts, scorer, scoring_tokenizer, batch_size, prompts=given)
        # A sample without a token to score is as bad as a scorer that knows nothing would find it.
        return torch.where(numbers > 0, -totals / numbers.clamp(min=1), -math.log(scorer.config.vocab_size))

    def perplexity(scores: Tensor, sequences: Tensor, examples: Tensor) -> float:
        texts, given = texts_of(sequences, examples)
        numbers = count_scored_tokens(texts, scorer, scoring_tokenizer, prompts=given)
        return generative_perplexity(-scores * numbers, numbers)

    def entropy(scores: Tensor, sequences: Tensor, examples: Tensor) -> float:
        return unigram_entropy(sequences, examples == mask_token_id).mean().item()

    def judge(sequences: Tensor, examples: Tensor) -> tuple[Tensor, list[dict[str, Any]]]:
        scores, (texts, given) = score(sequences, examples), texts_of(sequences, examples)
        kept = zip(given, texts, scores.tolist(), strict=True)
        return scores, [{"prompt": prompt, "completion": text, "score": each} for prompt, text, each in kept]

    def likeness(scores: Tensor, sequences: Tensor, examples: Tensor) -> float:
        texts, given = texts_of(sequences, examples)
        whole = [prompt + text for prompt, text in zip(given, texts, strict=True) if (prompt + text).strip()]
        return mauve(whole, references, scorer, scoring_tokenizer, batch_size) if whole else math.nan

    perplexity(torch.zeros(len(examples)), examples, examples)  # reads the prompts alone
    measures = {"generative perplexity": perplexity, "entropy": entropy}
    return score, judge, measures | ({} if references is None else {"MAUVE": likeness})


def load_scorer(name: str, length: int, device: torch.device) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer. Raises ValueError if it cannot score texts of `length` tokens."""
    scorer = AutoModelForCausalLM.from_pretrained(name).to(device).eval()
    tokenizer = load_tokenizer(name, scorer.config.vocab_size, "name a scorer that has one, such as gpt2-large")
    limit = context_length(scorer)
    if limit is not None and limit < length:
        raise ValueError(
            f"The scorer {name} reads {limit} tokens, fewer than length={length}: lower length, or name another."
        )
    return scorer, tokenizer


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


def distinct_prompts(path: str, number: int) -> list[str]:
    """The first `number` prompts of a file that differ. Raises ValueError if there are fewer."""
    prompts = list(dict.fromkeys(row["prompt"] for row in read_prompts(path)))
    if len(prompts) < number:
        raise ValueError(
            f"{path} has {len(prompts)} different prompts, fewer than num_samples + num_tuning_samples = {number}."
        )
    return prompts[:number]


def masked_examples(prompts: list[str], tokenizer: PreTrainedTokenizerBase, length: int, mask_token_id: int) -> Tensor:
    """Each prompt and masks after it, (N, length). Raises ValueError for one that leaves none or holds some."""
    examples = torch.full((len(prompts), length), mask_token_id)
    encoded = encode_prompts(prompts, tokenizer, mask_token_id=mask_token_id)
    for number, (row, ids) in enumerate(zip(examples, encoded, strict=True), start=1):
        if len(ids) >= length:
            raise ValueError(f"Prompt {number} has {len(ids)} tokens, which leaves none of length={length}: raise it.")
        row[: len(ids)] = torch.tensor(ids, dtype=row.dtype)
    return examples


def decode(ids: list[int], tokenizer: PreTrainedTokenizerBase, end_of_text: str) -> str:
    """The text of tokens, in which `end_of_text` stands where it ends, and no other special token."""
    parts = [[]]
    for token in ids:
        if token == tokenizer.eos_token_id:
            parts.append([])
        else:
            parts[-1].append(token)
    return end_of_text.join(tokenizer.batch_decode(parts, skip_special_tokens=True))
