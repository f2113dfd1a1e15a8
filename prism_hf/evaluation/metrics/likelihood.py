"""How likely a masked diffusion model finds a text: Monte-Carlo bounds, as LLaDA and Dream are evaluated by.

A diffusion model has no likelihood that can be read off one forward. What is estimated is the mean, over masked copies
of a text, of `weight * sum of -log p(token | what is not masked)`, which bounds `-log p(text)` from above and is equal
to it for a model whose conditional distributions belong to one joint distribution.

The logits are read as the model gives them: where it does not exclude the mask token itself, that has its share of the
probability, as in the published code.

The rows of a forward are of one length, so that nothing is padded: what a text gets does not depend on what is beside
it. Random numbers come from a seed of each text.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from prism_hf.backbones import forward_parameters, takes_positions
from prism_hf.fields import Count, NotNegative, Positive, check_arguments, check_names
from prism_hf.generation.denoising.reading import family_of, logits_in, logits_of

DREAM_EPSILON = 1e-3  # the least share of a text that is masked

Draw = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


def llada_masks(length: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masks (rows, length) bool and weights (rows,) of LLaDA: a set number of masks in each row, evenly spread.

    k is uniform in 1..length; row j has `(round(k + j length / rows) - 1) mod length + 1` masks at random places, and
    the weight is length over that number. As published, halves are rounded to even, so that where `length / rows` has
    some (an odd length in 8 rows), not all numbers of masks are equally likely, and the bound is off by a few per cent
    of a short text's; not with one row, nor where rows divide the length.
    """
    k = torch.randint(1, length + 1, (), generator=generator)
    counts = torch.round(k + torch.arange(rows, dtype=torch.float64) * length / rows).long()
    counts = (counts - 1) % length + 1
    ranks = torch.rand(rows, length, generator=generator, dtype=torch.float64).argsort(-1).argsort(-1)
    return ranks < counts[:, None], length / counts.double()


def dream_masks(length: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masks (rows, length) bool and weights (rows,) of Dream: each token alone, with a share t that the rows spread.

    The last token is never masked: it is the EOS that Dream's evaluation appends to a text.
    """
    first = torch.rand((), generator=generator, dtype=torch.float64)
    shares = (first + torch.arange(rows, dtype=torch.float64) / rows) % 1
    shares = (1 - DREAM_EPSILON) * shares + DREAM_EPSILON
    masked = torch.rand(rows, length, generator=generator, dtype=torch.float64) < shares[:, None]
    masked[:, -1] = False
    return masked, 1 / shares


LIKELIHOODS: dict[str, Draw] = {"llada": llada_masks, "dream": dream_masks}


class Continuation(NamedTuple):
    """A text whose likelihood is asked for, after what is given.

    Args:
        prefix (`list[int]`): What is given, at least one token for `"dream"`.
        target (`list[int]`): What is scored.
        seed (`int`, *optional*, defaults to 0): Of its random numbers.

    Example:
        ```python
        row = solutions[0].tolist()
        continuation = Continuation(row[:41], row[41:], seed=1)
        ```
    """

    prefix: list[int]
    target: list[int]
    seed: int = 0


def log_likelihood_bound(
    model: Any,
    texts: Sequence[Continuation],
    mask_token_id: Count,
    likelihood: str = "llada",
    mc_num: Positive = 128,
    mc_batch_size: Positive = 8,
    batch_size: Positive = 8,
    cfg_scale: NotNegative = 0.0,
) -> list[float]:
    """A Monte-Carlo bound from below on the log-likelihood of each target after its prefix, in nats.

    Args:
        model (`Callable`): See `remask_generate`.
        texts (`Sequence[Continuation]`): Prefix, target and seed of each.
        mask_token_id (`int`): The mask.
        likelihood (`str`, *optional*, defaults to `"llada"`): By whose rule tokens are masked: `"llada"`, or `"dream"`,
            which takes the last token of a target as its EOS and does not score it.
        mc_num (`int`, *optional*, defaults to 128): Masked copies of a text.
        mc_batch_size (`int`, *optional*, defaults to 8): Copies whose numbers of masks are spread evenly; it divides
            `mc_num`. In the published code it is also the batch of a forward; here that changes no number.
        batch_size (`int`, *optional*, defaults to 8): Rows of a forward.
        cfg_scale (`float`, *optional*, defaults to 0.0): Classifier-free guidance, as in `RemaskGenerationConfig`.

    Raises:
        ValueError: for an empty target, or an `mc_num` that `mc_batch_size` does not divide.

    Example:
        ```python
        row = solutions[0].tolist()
        (bound,) = log_likelihood_bound(model, [Continuation(row[:41], row[41:])], mask_token_id=0, mc_num=8)
        ```
    """
    check_arguments(log_likelihood_bound, {name: value for name, value in locals().items() if name != "texts"})
    check_names("likelihood", [likelihood], LIKELIHOODS)
    check_copies(mc_num, mc_batch_size)
    if any(not text.target for text in texts):
        raise ValueError("A text has no token to score: leave it out.")
    totals = torch.zeros(len(texts), dtype=torch.float64)
    lengths = [len(text.prefix) + len(text.target) for text in texts]
    for length in sorted({*lengths}, reverse=True):
        index = [i for i, each in enumerate(lengths) if each == length]
        copies = [masked_copies(texts[i], LIKELIHOODS[likelihood], mc_num, mc_batch_size) for i in index]
        masked, weights = (torch.cat(each) for each in zip(*copies, strict=True))
        clean = torch.tensor([[*texts[i].prefix, *texts[i].target] for i in index])
        given = torch.tensor([len(texts[i].prefix) for i in index])
        row_of_copy = torch.arange(len(index)).repeat_interleave(mc_num)
        for part in masked.any(-1).nonzero()[:, 0].split(batch_size):
            rows = row_of_copy[part]
            nlls = masked_nlls(model, clean[rows], masked[part], given[rows], mask_token_id, cfg_scale)
            totals.index_add_(0, torch.tensor(index)[rows], weights[part] * nlls / mc_num)
    return (-totals).tolist()


def check_copies(mc_num: int, mc_batch_size: int) -> None:
    """Raise ValueError where the copies of a text cannot be drawn in batches of that size."""
    if mc_num % mc_batch_size:
        raise ValueError(f"mc_batch_size={mc_batch_size} must divide mc_num={mc_num}: take another.")


def masked_copies(text: Continuation, draw: Draw, mc_num: int, mc_batch_size: int) -> tuple[Tensor, Tensor]:
    """Where a text is masked in each of its copies, (mc_num, L) bool, and the weight of each (mc_num,)."""
    generator = torch.Generator().manual_seed(text.seed)
    drawn = [draw(len(text.target), mc_batch_size, generator) for _ in range(mc_num // mc_batch_size)]
    masked, weights = (torch.cat(each) for each in zip(*drawn, strict=True))
    return torch.cat([masked.new_zeros(mc_num, len(text.prefix)), masked], dim=1), weights


def masked_nlls(
    model: Any, clean: Tensor, masked: Tensor, given: Tensor, mask_token_id: int, cfg_scale: float
) -> Tensor:
    """The negative log-likelihood of the masked tokens of each row, summed, by one forward: (B,) float64."""
    device = next(model.parameters(), torch.empty(0)).device
    clean, masked, given = (each.to(device) for each in (clean, masked, given))
    logits = masked_logits(model, clean.masked_fill(masked, mask_token_id), masked, given, mask_token_id, cfg_scale)
    nlls = cross_entropy(logits.float(), clean[masked], reduction="none").double()
    return nlls.new_zeros(len(clean)).index_add(0, masked.nonzero()[:, 0], nlls).cpu()


@torch.no_grad()
def masked_logits(
    model: Any, tokens: Tensor, masked: Tensor, given: Tensor, mask_token_id: int, cfg_scale: float = 0.0
) -> Tensor:
    """The logits (N, V) at the masked positions of rows without padding, with guidance.

    tokens (B, L); masked (B, L) bool; given (B,): how many tokens of each row are those of its prefix, which the
    unconditional side of guidance does not see.
    """
    if cfg_scale:
        is_given = torch.arange(tokens.shape[1], device=tokens.device) < given[:, None]
        tokens = torch.cat([tokens, tokens.masked_fill(is_given, mask_token_id)])
        masked = masked.repeat(2, 1)
    kwargs: dict[str, Any] = {"return_quality": False} if "return_quality" in forward_parameters(model) else {}
    shifted = family_of(model).shifted_logits
    if takes_positions(model) and not shifted:
        logits = model(input_ids=tokens, attention_mask=None, logits_to_keep=masked, **kwargs).logits
    else:
        output = model(input_ids=tokens, attention_mask=None, **kwargs)
        logits = logits_of(logits_in(output, model), masked, shifted)
    if not cfg_scale:
        return logits
    conditional, unconditional = logits.float().chunk(2)
    return unconditional + (cfg_scale + 1) * (conditional - unconditional)


def is_greedy(model: Any, text: Continuation, mask_token_id: int, cfg_scale: float = 0.0) -> bool:
    """Whether the model itself writes the target after the prefix, the most confident token of each step first.

    It takes a forward a token, and ends with the first token that differs.
    """
    device = next(model.parameters(), torch.empty(0)).device
    given, target = torch.tensor([len(text.prefix)], device=device), torch.tensor(text.target, device=device)
    tokens = torch.tensor([[*text.prefix, *[mask_token_id] * len(text.target)]], device=device)
    for _ in text.target:
        masked = tokens == mask_token_id
        masked[:, : len(text.prefix)] = False
        probs, likeliest = (
            masked_logits(model, tokens, masked, given, mask_token_id, cfg_scale).float().softmax(-1).max(-1)
        )
        best = probs.argmax()
        position = masked[0].nonzero()[best, 0]
        if likeliest[best] != target[position - len(text.prefix)]:
            return False
        tokens[0, position] = likeliest[best]
    return True
