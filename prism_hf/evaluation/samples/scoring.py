"""What a causal language model of others says of files of samples, kept in a file of results as it comes.

Of each file there is a row with what each sample scored, and, with references, one of MAUVE. A row holds digests of the
samples and of the scorer: what is there is not computed again, whatever the file is called now.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prism_hf.evaluation.metrics.text import (
    distinct_n,
    last_states,
    mauve_of_states,
    negative_log_likelihood,
    repetition,
    unigram_entropy,
)
from prism_hf.evaluation.tasks.text import Reader
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import weights_digest
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.results import share_row

from .files import Samples

PART = 32  # samples that one process scores at a time, whatever the scorer's batch
NGRAMS = (1, 2, 3, 4)


@dataclass(frozen=True)
class SampleScores:
    """What a file of samples scored.

    Args:
        samples (`Samples`): The samples.
        totals (`torch.Tensor` of shape `(N,)`): The cross-entropy of each under the scorer, summed over its tokens.
        num_tokens (`torch.Tensor` of shape `(N,)`): How many they were.
        entropy, repetition (`torch.Tensor` of shape `(N,)`, *optional*): Of each, where the tokens are known.
        distinct (`list[float]`, *optional*): distinct-1 to distinct-4 of all, where the tokens are known.
        mauve (`list[float]`): By seed of the clustering; empty without references.

    Example:
        ```python
        scores = score_samples([read_samples("samples.jsonl")], as_reader(scorer, tokenizer), "results.jsonl")
        print(scores[0].perplexity)
        ```
    """

    samples: Samples
    totals: Tensor
    num_tokens: Tensor
    entropy: Tensor | None
    repetition: Tensor | None
    distinct: list[float] | None
    mauve: list[float]

    @property
    def perplexity(self) -> float:
        """exp of the mean cross-entropy of all tokens."""
        return (self.totals.sum() / self.num_tokens.sum()).exp().item()


def score_samples(
    files: list[Samples],
    reader: Reader,
    path: str | Path,
    scorer_name: str | None = None,
    max_length: int | None = None,
    references: list[str] | None = None,
    num_seeds: int = 5,
    num_buckets: int | None = None,
) -> list[SampleScores]:
    """Score the samples of each file. Under `accelerate launch` the processes share them.

    Args:
        files (`list[Samples]`): What `read_samples` returns.
        reader (`Reader`): The scorer with its tokenizer, of `as_reader`.
        path (`str | Path`): The JSONL file of results. What is there, of the same samples and scorer, is not computed
            again; of what was interrupted, the finished parts are kept beside it.
        scorer_name (`str`, *optional*): Kept in each row; by default that by which the scorer was loaded.
        max_length (`int`, *optional*): The scorer's tokens after which a text is cut, by default what it can read.
        references (`list[str]`, *optional*): Texts written by people, for MAUVE.
        num_seeds (`int`, *optional*, defaults to 5): Seeds of MAUVE's clustering, from 0 on.
        num_buckets (`int`, *optional*): Its clusters; by default a tenth of the number of texts.

    Returns:
        `list[SampleScores]`: In the order of the files.

    Raises:
        ValueError: if another run writes the results, or the scorer cannot read a prompt.

    Example:
        ```python
        files = [read_samples(path) for path in ("none.jsonl", "prism.jsonl")]
        print(samples_table(score_samples(files, as_reader(scorer, tokenizer), "results.jsonl")))
        ```
    """
    end_of_text = reader.tokenizer.eos_token or ""
    scorer = f"{portable(scorer_name or reader.scorer.name_or_path)} {weights_digest(reader.scorer)}"
    made_with = {"scorer": scorer, "dtype": str(reader.scorer.dtype).removeprefix("torch."), "max_length": max_length}
    states_of = _states_once(reader, max_length)
    seeds = range(0 if references is None else num_seeds)
    path = Path(path)

    def score(file: Samples) -> SampleScores:
        read = file.with_end_of_text(end_of_text)
        row = _score_row(read, reader, path, made_with, max_length)
        likeness: list[float | None] = []
        if references is not None:
            told = made_with | {"num_buckets": num_buckets, "num_seeds": num_seeds}
            likeness = _mauve_row(read, references, path, told, seeds, states_of, num_buckets)["mauve"]
        return SampleScores(
            samples=file,
            totals=torch.tensor(row["totals"], dtype=torch.float64),
            num_tokens=torch.tensor(row["num_tokens"]),
            entropy=_tensor(row["entropy"]),
            repetition=_tensor(row["repetition"]),
            distinct=_numbers(row["distinct"]),
            mauve=_numbers(likeness) or [],
        )

    with output_lock(path):
        return list(map(score, files))


def _numbers(values: list[float | None] | None) -> list[float] | None:
    """What a file of results has for numbers, NaN among them."""
    return None if values is None else [math.nan if value is None else value for value in values]


def _tensor(values: list[float | None] | None) -> Tensor | None:
    return None if values is None else torch.tensor(_numbers(values), dtype=torch.float64)


def _score_row(
    file: Samples, reader: Reader, path: Path, made_with: dict[str, Any], max_length: int | None
) -> dict[str, Any]:
    """The row of a file: lists of what each sample scored, and the shares of its n-grams that differ."""

    def score(start: int) -> list[dict[str, Any]]:
        part = slice(start, start + PART)
        totals, numbers = negative_log_likelihood(
            file.completions[part], *reader, max_length=max_length, prompts=file.prompts[part]
        )
        return [
            {"total": total, "number": number} for total, number in zip(totals.tolist(), numbers.tolist(), strict=True)
        ]

    def finish(scored: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "file": file.name,
            "totals": [each["total"] for each in scored],
            "num_tokens": [each["number"] for each in scored],
            **measures_of_tokens(file.tokens),
        }

    made = {"measured": "text", "samples": file.digest, "num_samples": len(file.completions)} | made_with
    return share_row(path, made, range(0, len(file.completions), PART), score, finish, file.name)


def measures_of_tokens(tokens: list[list[int]] | None) -> dict[str, Any]:
    """Entropy and repetition of each sample and distinct-n of all, by the tokens that the model wrote."""
    if tokens is None:
        return {"entropy": None, "repetition": None, "distinct": None}
    longest = max(map(len, tokens))
    ids = torch.tensor([[*row, *[-1] * (longest - len(row))] for row in tokens])
    entropy = unigram_entropy(ids, ids >= 0) if longest else torch.zeros(len(tokens))
    return {
        "entropy": entropy.nan_to_num(0.0).tolist(),
        "repetition": repetition(tokens).tolist(),
        "distinct": [distinct_n(tokens, n) for n in NGRAMS],
    }


def _states_once(reader: Reader, max_length: int | None) -> Callable[[tuple[str, ...]], np.ndarray]:
    """Reads texts for MAUVE, the same ones once: those of a file for all seeds, and the references for all files."""

    @lru_cache(maxsize=2)  # a file's and the references'
    def states_of(texts: tuple[str, ...]) -> np.ndarray:
        return last_states(texts, *reader, max_length=max_length)

    return states_of


def _mauve_row(
    file: Samples,
    references: list[str],
    path: Path,
    made_with: dict[str, Any],
    seeds: range,
    states_of: Callable[[tuple[str, ...]], np.ndarray],
    num_buckets: int | None,
) -> dict[str, Any]:
    """The row of MAUVE between a file and the references, by seed; NaN where no sample has text."""
    texts = tuple(text for text in map("".join, zip(file.prompts, file.completions, strict=True)) if text.strip())

    def score(seed: int) -> list[dict[str, Any]]:
        if not texts:
            return [{"mauve": None}]
        states = states_of(texts), states_of(tuple(references))
        return [{"mauve": mauve_of_states(*states, seed=seed, num_buckets=num_buckets or "auto")}]

    def finish(scored: list[dict[str, Any]]) -> dict[str, Any]:
        return {"file": file.name, "mauve": [each["mauve"] for each in scored]}

    whole = Samples("", [""] * len(references), references)
    made = {"measured": "MAUVE", "samples": file.digest, "references": whole.digest} | made_with
    return share_row(path, made, seeds, score, finish, f"{file.name}, MAUVE")
