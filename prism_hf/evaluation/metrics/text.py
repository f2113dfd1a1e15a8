"""How likely text is to a language model of another kind, and how varied it is.

A text is scored as MDLM, ReMDM and PRISM do: a causal model reads it in its own tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase


def negative_log_likelihood(
    texts: Sequence[str],
    scorer,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
    max_length: int | None = None,
    prompts: Sequence[str] | None = None,
) -> tuple[Tensor, Tensor]:
    """For each text the sum of its tokens' cross-entropies, (N,) float64 in nats, and their number, (N,) int64.

    A text that comes first is scored from its second token on, as nothing stands before the first. An end of text is
    scored at its first occurrence only.

    Args:
        scorer: a causal language model.
        tokenizer: the scorer's.
        batch_size: texts in a batch, which changes nothing but time and memory.
        max_length: tokens, those of the prompt included, after which a text is cut; what the scorer can read if None.
        prompts: what stands before each text and is read, not scored.

    Raises:
        ValueError: before the first forward, if a prompt leaves no room, or `max_length` is more than can be read.
    """
    ids, scored = encode_texts(texts, tokenizer, context_length(scorer, max_length), prompts)
    totals = torch.zeros(len(ids), dtype=torch.float64)
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        targets, counted = (pad(rows[part], scorer.device)[:, 1:] for rows in (ids, scored))
        if not bool(counted.any()):
            continue
        logits = read(scorer, ids[part]).logits[:, :-1]
        losses = cross_entropy(logits.float().transpose(1, 2), targets, reduction="none").double()
        totals[part] = losses.masked_fill(~counted, 0).sum(-1).cpu()
    return totals, count(scored)


def count_scored_tokens(
    texts: Sequence[str],
    scorer,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None = None,
    prompts: Sequence[str] | None = None,
) -> Tensor:
    """The second of what `negative_log_likelihood` returns, (N,) int64, without a forward."""
    _, scored = encode_texts(texts, tokenizer, context_length(scorer, max_length), prompts)
    return count(scored)


def count(scored: list[Tensor]) -> Tensor:
    return torch.tensor([int(each.sum()) for each in scored], dtype=torch.int64)


def generative_perplexity(totals: Tensor, num_tokens: Tensor) -> float:
    """exp of the mean cross-entropy of all tokens, from what `negative_log_likelihood` returns; NaN without tokens."""
    return (totals.double().sum() / num_tokens.sum()).exp().item()


def unigram_entropy(ids: Tensor, counted: Tensor | None = None) -> Tensor:
    """Entropy of each row's own token frequencies, (N,) float64 in nats: log L if all differ, 0 if all are the same.

    A sample that says one thing again and again is likely to a language model, and has a low entropy.

    Args:
        ids: (N, L) tokens.
        counted: (N, L) bool, the tokens that count, at least one in each row; all if None.
    """
    counted = torch.ones_like(ids, dtype=torch.bool) if counted is None else counted
    ids = ids.masked_fill(~counted, -1).contiguous()
    ordered = ids.sort(-1).values
    frequency = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
    number = counted.sum(-1, keepdim=True)
    return -((frequency.double() / number).log() * counted).sum(-1) / number[:, 0]


def mauve(
    texts: Sequence[str],
    references: Sequence[str],
    scorer,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
    max_length: int | None = None,
    seed: int = 25,
    **kwargs,
) -> float:
    """MAUVE (arXiv 2102.01454) between texts and texts written by people: 1 if they cannot be told apart, towards 0.

    The features are the scorer's last hidden state at the last token. It compares two sets, so that it has no score for
    each text, and is biased for small ones: thousands of texts are usual, and as many references.

    Args:
        seed: of the clustering; the default is that of the package.
        kwargs: to `mauve.compute_mauve` of the package `mauve-text`, such as `num_buckets`.

    Raises:
        ImportError: without the package.
        ValueError: if a text has no tokens.
    """
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise ImportError("MAUVE needs a package: pip install mauve-text, or prism_hf[mauve].") from error
    max_length = context_length(scorer, max_length)
    features = [last_states(each, scorer, tokenizer, batch_size, max_length) for each in (references, texts)]
    return float(compute_mauve(p_features=features[0], q_features=features[1], seed=seed, **kwargs).mauve)


def last_states(texts: Sequence[str], scorer, tokenizer: PreTrainedTokenizerBase, batch_size: int, max_length: int):
    """The scorer's last hidden state at each text's last token, an array (N, D)."""
    ids, _ = encode_texts(texts, tokenizer, max_length)
    for text, row in zip(texts, ids, strict=True):
        if len(row) == 0:
            raise ValueError(f"A text has no tokens, so that nothing is known of it: {text!r}. Leave it out.")
    states = []
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size]
        last = torch.tensor([len(row) - 1 for row in batch], device=scorer.device)
        hidden = read(scorer, batch, output_hidden_states=True).hidden_states[-1]
        states.append(hidden[torch.arange(len(batch), device=scorer.device), last].float().cpu())
    return torch.cat(states).numpy()


def context_length(scorer, max_length: int | None = None) -> int | None:
    """The tokens that are read of a text: `max_length`, or all that the scorer can; None if it knows no limit.

    Raises ValueError if `max_length` is more.
    """
    limit = getattr(scorer.config, "max_position_embeddings", None)
    if limit is not None and max_length is not None and max_length > limit:
        raise ValueError(f"max_length={max_length} is more than the {limit} tokens that the scorer can read: lower it.")
    return limit if max_length is None else max_length


def encode_texts(
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


def pad(rows: list[Tensor], device: torch.device) -> Tensor:
    return pad_sequence(rows, batch_first=True).to(device)


@torch.no_grad()
def read(scorer, ids: list[Tensor], **kwargs):
    """The scorer's output for rows of different lengths, padded on the right, where a causal model does not look."""
    return scorer(input_ids=pad(ids, scorer.device), use_cache=False, **kwargs)
