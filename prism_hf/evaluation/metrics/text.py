"""How likely text is to a language model of another kind, and how varied it is.

A text is scored as MDLM, ReMDM and PRISM do: a causal model reads it in its own tokens.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from prism_hf._compat import setting
from prism_hf.fields import Positive, check_arguments


def negative_log_likelihood(
    texts: Sequence[str],
    scorer: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
    max_length: int | None = None,
    prompts: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """For each text the sum of its tokens' cross-entropies, and their number.

    A text that comes first is scored from its second token on, as nothing stands before the first. An end of text is
    scored at its first occurrence only.

    Args:
        texts (`Sequence[str]`): What is scored.
        scorer (`PreTrainedModel`): A causal language model.
        tokenizer (`PreTrainedTokenizerBase`): The scorer's.
        batch_size (`int`, *optional*, defaults to 8): Texts in a batch, which changes nothing but time and memory.
        max_length (`int`, *optional*): Tokens, those of the prompt included, after which a text is cut; by default what
            the scorer can read.
        prompts (`Sequence[str]`, *optional*): What stands before each text and is read, not scored.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: The sums (N,), float64, in nats, and the numbers (N,), int64.

    Raises:
        ValueError: before the first forward, if a prompt leaves no room, or `max_length` is more than can be read.

    Example:
        ```python
        scorer, tokenizer = AutoModelForCausalLM.from_pretrained("gpt2"), AutoTokenizer.from_pretrained("gpt2")
        totals, numbers = negative_log_likelihood(["def f(x): return x"], scorer, tokenizer)
        ```
    """
    ids, scored = _encode_texts(texts, tokenizer, context_length(scorer, max_length), prompts)
    totals = torch.zeros(len(ids), dtype=torch.float64)
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        targets, counted = (_pad(rows[part], scorer.device)[:, 1:] for rows in (ids, scored))
        if not bool(counted.any()):
            continue
        logits = _read(scorer, ids[part]).logits[:, :-1]
        # Flat, as on CPU a class dimension that is not the last takes three times as long.
        losses = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
        totals[part] = losses.double().masked_fill(~counted, 0).sum(-1).cpu()
    return totals, _count(scored)


def count_scored_tokens(
    texts: Sequence[str],
    scorer: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    prompts: Sequence[str] | None = None,
) -> Tensor:
    """The second of what `negative_log_likelihood` returns, without a forward.

    Args:
        texts, scorer, tokenizer, max_length, prompts: See `negative_log_likelihood`.

    Returns:
        `torch.Tensor`: The numbers of tokens (N,), int64.

    Example:
        ```python
        numbers = count_scored_tokens(["def f(x): return x"], scorer, tokenizer)
        ```
    """
    _, scored = _encode_texts(texts, tokenizer, context_length(scorer, max_length), prompts)
    return _count(scored)


def generative_perplexity(totals: Tensor, num_tokens: Tensor) -> float:
    """exp of the mean cross-entropy of all tokens.

    Args:
        totals, num_tokens (`torch.Tensor` of shape `(N,)`): What `negative_log_likelihood` returns.

    Returns:
        `float`: The perplexity, NaN without tokens.

    Example:
        ```python
        >>> generative_perplexity(torch.tensor([0.0, 0.0]), torch.tensor([5, 1]))
        1.0
        ```
    """
    return (totals.double().sum() / num_tokens.sum()).exp().item()


def unigram_entropy(ids: Tensor, counted: Tensor | None = None) -> Tensor:
    """Entropy of each row's own token frequencies: log L if all differ, 0 if all are the same.

    A sample that says one thing again and again is likely to a language model, and has a low entropy.

    Args:
        ids (`torch.Tensor` of shape `(N, L)`): Tokens.
        counted (`torch.Tensor` of shape `(N, L)`, *optional*): Which tokens count, bool, at least one in each row; all
            if not given.

    Returns:
        `torch.Tensor`: The entropies (N,), float64, in nats.

    Example:
        ```python
        >>> unigram_entropy(torch.tensor([[1, 2, 3, 4], [1, 1, 2, 2]]))
        tensor([1.3863, 0.6931], dtype=torch.float64)
        ```
    """
    counted = torch.ones_like(ids, dtype=torch.bool) if counted is None else counted
    ids = ids.masked_fill(~counted, -1).contiguous()
    ordered = ids.sort(-1).values
    frequency = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
    number = counted.sum(-1, keepdim=True)
    return -((frequency.double() / number).log() * counted).sum(-1) / number[:, 0]


def distinct_n(samples: Sequence[Sequence[int]], n: Positive) -> float:
    """The share of different n-grams among all n-grams of the samples together (Li et al. 2016, arXiv 1510.03055).

    It falls with the number of samples: compare what has equally many, of one length.

    Args:
        samples (`Sequence[Sequence[int]]`): The tokens of each.
        n (`int`): The length of an n-gram.

    Returns:
        `float`: 1 if all differ; NaN if no sample has `n` tokens.

    Example:
        ```python
        >>> distinct_n([[1, 2, 1, 2], [1, 2]], n=2)  # (1, 2), (2, 1), (1, 2) and (1, 2)
        0.5
        ```
    """
    check_arguments(distinct_n, {"n": n})
    ngrams = [ngram for sample in samples for ngram in _ngrams(sample, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else math.nan


def repetition(samples: Sequence[Sequence[int]], n: Positive = 4) -> Tensor:
    """For each sample the share of its n-grams that occur in it before: rep-n (Welleck et al. 2020, arXiv 1908.04319).

    Args:
        samples (`Sequence[Sequence[int]]`): The tokens of each.
        n (`int`, *optional*, defaults to 4): The length of an n-gram.

    Returns:
        `torch.Tensor`: The shares (N,), float64; 0 where a sample has fewer than `n` tokens.

    Example:
        ```python
        >>> repetition([[1, 2, 3, 1, 2, 3], [1, 2, 3, 4, 5, 6]], n=2)  # (1, 2) and (2, 3) come again
        tensor([0.4000, 0.0000], dtype=torch.float64)
        ```
    """
    check_arguments(repetition, {"n": n})
    shares = []
    for sample in samples:
        ngrams = _ngrams(sample, n)
        shares.append(1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0)
    return torch.tensor(shares, dtype=torch.float64)


def _ngrams(sample: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return list(zip(*(sample[start:] for start in range(n)), strict=False))


def mauve(
    texts: Sequence[str],
    references: Sequence[str],
    scorer: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
    max_length: int | None = None,
    seed: int = 25,
    **kwargs: Any,
) -> float:
    """MAUVE (arXiv 2102.01454) between texts and texts written by people.

    The features are the scorer's last hidden state at the last token. It compares two sets, so that it has no score for
    each text, and is biased for small ones: thousands of texts are usual, and as many references.

    Args:
        texts (`Sequence[str]`): What is scored.
        references (`Sequence[str]`): Texts written by people.
        scorer, tokenizer, batch_size, max_length: See `negative_log_likelihood`.
        seed (`int`, *optional*, defaults to 25): Of the clustering; the default is that of the package.
        **kwargs: To `mauve.compute_mauve` of the package `mauve-text`, such as `num_buckets`.

    Returns:
        `float`: 1 if the two cannot be told apart, towards 0.

    Raises:
        ImportError: without the package.
        ValueError: if a text has no tokens.

    Example:
        ```python
        likeness = mauve(texts, references, scorer, tokenizer)
        ```
    """
    _compute_mauve()  # before anything is read
    states, people = (last_states(each, scorer, tokenizer, batch_size, max_length) for each in (texts, references))
    return mauve_of_states(states, people, seed, **kwargs)


def mauve_of_states(states: np.ndarray, references: np.ndarray, seed: int = 25, **kwargs: Any) -> float:
    """The same between what `last_states` returns: with several seeds, each text is read once.

    Args:
        states, references (`np.ndarray` of shape `(N, D)`): Of the texts, and of texts written by people.
        seed, **kwargs: See `mauve`.

    Returns:
        `float`: As of `mauve`. Raises ImportError without the package.

    Example:
        ```python
        states, references = (last_states(each, scorer, tokenizer) for each in (texts, references))
        likeness = [mauve_of_states(states, references, seed) for seed in range(5)]
        ```
    """
    return float(_compute_mauve()(p_features=references, q_features=states, seed=seed, **kwargs).mauve)


def _compute_mauve() -> Callable[..., Any]:
    """That of the package. Raises ImportError without it."""
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise ImportError("MAUVE needs a package: pip install mauve-text, or prism_hf[mauve].") from error
    return compute_mauve


def context_length(scorer: PreTrainedModel, max_length: int | None = None) -> int | None:
    """The tokens that are read of a text: `max_length`, or all that the scorer can; None if it knows no limit.

    Raises ValueError if `max_length` is more.
    """
    limit = setting(scorer.config, "max_position_embeddings")
    if limit is not None and max_length is not None and max_length > limit:
        raise ValueError(f"max_length={max_length} is more than the {limit} tokens that the scorer can read: lower it.")
    return limit if max_length is None else max_length


def last_states(
    texts: Sequence[str],
    scorer: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
    max_length: int | None = None,
) -> np.ndarray:
    """The scorer's last hidden state at each text's last token, (N, D), the features of MAUVE.

    For the arguments see `negative_log_likelihood`. Raises ValueError if a text has no tokens.

    Example:
        ```python
        states = last_states(["def f(x): return x"], scorer, tokenizer)
        ```
    """
    ids, _ = _encode_texts(texts, tokenizer, context_length(scorer, max_length))
    for text, row in zip(texts, ids, strict=True):
        if len(row) == 0:
            raise ValueError(f"A text has no tokens, so that nothing is known of it: {text!r}. Leave it out.")
    states = []
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size]
        last = torch.tensor([len(row) - 1 for row in batch], device=scorer.device)
        hidden = _read(scorer, batch, output_hidden_states=True).hidden_states[-1]
        states.append(hidden[torch.arange(len(batch), device=scorer.device), last].float().cpu())
    return torch.cat(states).numpy()


def _encode_texts(
    texts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    prompts: Sequence[str] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The tokens of each prompt and its text, (L_n,) int64, and which of them are scored, (L_n,) bool."""
    ids, scored = [], []
    for number, (prompt, text) in enumerate(zip(prompts or [""] * len(texts), texts, strict=True), start=1):
        context = tokenizer(prompt).input_ids
        if max_length is not None and len(context) >= max_length:
            raise ValueError(
                f"Prompt {number} has {len(context)} of the scorer's tokens, of which it reads {max_length} with the "
                "text: give shorter prompts or another scorer."
            )
        row = torch.tensor([*context, *tokenizer(text, add_special_tokens=False).input_ids], dtype=torch.int64)
        row = row[:max_length]
        ended = row == (-1 if tokenizer.eos_token_id is None else tokenizer.eos_token_id)
        ids.append(row)
        scored.append((torch.arange(len(row)) >= max(len(context), 1)) & ~(ended & (ended.cumsum(-1) > 1)))
    return ids, scored


def _pad(rows: list[Tensor], device: torch.device) -> Tensor:
    return pad_sequence(rows, batch_first=True).to(device)


@torch.no_grad()
def _read(scorer: PreTrainedModel, ids: list[Tensor], **kwargs: Any) -> CausalLMOutput:
    """The scorer's output for rows of different lengths, padded on the right, where a causal model does not look."""
    return scorer(input_ids=_pad(ids, scorer.device), use_cache=False, **kwargs)


def _count(scored: list[Tensor]) -> Tensor:
    return torch.tensor([int(each.sum()) for each in scored], dtype=torch.int64)
