"""Unmasking: tokens are drawn from the posterior, without a host synchronisation.

`bad_words_ids` hold from both sides, unlike the logits processor of that name, which sees only what is to the left.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from prism_hf.diffusion.drafting import nucleus

from .orders import uniform
from .reading import NAN_QUALITY, Posterior, posterior_of

if TYPE_CHECKING:
    from .canvas import Generation
    from .schedule import Step


def warp(logits: torch.Tensor, temperature: float = 0.0, top_p: float = 1.0, top_k: int = 0) -> torch.Tensor:
    """The logits (..., V) that tokens are drawn from: `temperature`, then `top_k` (0 = off), then `top_p`.

    In the order of transformers, and in float64. With `temperature` 0 (argmax) they are as they were.
    """
    if temperature == 0:
        return logits
    logits = logits.double() / temperature
    if top_k:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return nucleus(logits, top_p) if top_p < 1 else logits


def draw_tokens(
    logits: torch.Tensor, temperature: float = 0.0, generator: torch.Generator | None = None
) -> torch.Tensor:
    """One token a row from warped `logits` (..., V) -> (...) int64, -1 where they are NaN or all minus infinity.

    `temperature` 0 takes the argmax. Otherwise it is a Gumbel argmax in float64: float32 noise truncates the tails and
    quietly lowers the temperature (arXiv 2503.00307).
    """
    if temperature == 0:
        return finite_argmax(logits)
    noise = uniform(logits.shape, logits.device, generator, torch.float64)
    # A uniform of exactly 0 would give infinite noise, and an excluded token (minus infinity) plus that is NaN.
    exponential = (-torch.log1p(-noise)).clamp(min=torch.finfo(torch.float64).tiny)
    return finite_argmax(logits - exponential.log())


def finite_argmax(scores: torch.Tensor) -> torch.Tensor:
    """The index of the largest of `scores` (..., V), -1 where that is no number. NaN counts as the largest."""
    largest, index = scores.max(-1)
    return torch.where(largest.isfinite(), index, -1)


def probability_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The probability of `tokens` (...) under `logits` (..., V), in [0, 1]."""
    return logits.softmax(-1).gather(-1, tokens[..., None])[..., 0]


def margin_of(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """By how much the probability of `tokens` (...) exceeds that of the likeliest other, in [-1, 1]."""
    probs, own = logits.softmax(-1), tokens[..., None]
    return (probs.gather(-1, own) - probs.scatter(-1, own, -1.0).amax(-1, keepdim=True))[..., 0]


def left_contexts(canvas: torch.Tensor, positions: torch.Tensor, filler: int) -> torch.Tensor:
    """The tokens left of each position, ending in the nearest: (B, L) and (B, W) -> (B, W, L), `filler` in front."""
    index = torch.arange(canvas.shape[1], device=canvas.device) - canvas.shape[1] + positions[..., None]
    tokens = canvas[:, None].expand(index.shape).gather(-1, index.clamp(min=0))
    return tokens.masked_fill(index < 0, filler)


def ban_words(
    logits: torch.Tensor, positions: torch.Tensor, canvas: torch.Tensor, due: torch.Tensor, words: list[list[int]]
) -> torch.Tensor:
    """Exclude the tokens that would complete one of `words` (token sequences) in the canvas, from either side.

    Where several positions of a word are unmasked at once, it is the rightmost of them that may not have its token,
    whatever the others turn out to be.

    Args:
        logits: (B, W, V) at `positions` (B, W).
        canvas: (B, L) before the step.
        due: (B, L) bool, positions that the step unmasks.
    """
    logits = logits.clone()
    for word in words:
        span = canvas.shape[1] - len(word) + 1
        if span < 1:
            continue
        starts = [slice(offset, offset + span) for offset in range(len(word))]
        fits = torch.ones_like(due[:, :span])  # (B, span): the word may come to stand here
        for token, here in zip(word, starts, strict=True):
            fits = fits & ((canvas[:, here] == token) | due[:, here])
        for token, here in reversed(list(zip(word, starts, strict=True))):
            banned = torch.zeros_like(due)
            banned[:, here] = fits & due[:, here]
            fits = fits & ~due[:, here]
            logits[..., token] = logits[..., token].masked_fill(banned.gather(1, positions), -torch.inf)
    return logits


def first_columns(chosen: torch.Tensor, width: int) -> torch.Tensor:
    """The columns of each row where `chosen` (B, L) is true, left to right and then the others: the first `width`."""
    return (~chosen).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]


def unmask(
    generation: Generation, step: Step, positions: torch.Tensor, posterior: Posterior, chosen: torch.Tensor
) -> None:
    """Draw tokens from the posterior at those of `positions` (B, W) that are `chosen` (B, W) bool.

    Where the posterior is NaN, or every token is excluded, there is nothing to draw, and the mask stays.
    """
    config, tokens = generation.config, generation.tokens
    due = torch.zeros_like(generation.masked).scatter(1, positions, chosen)
    posterior = _processed(generation, step, positions, posterior, due)
    temperature = config.temperature if config.do_sample else 0.0
    warped = partial(warp, temperature=temperature, top_p=config.top_p, top_k=config.top_k)
    drawn = posterior.map(lambda logits: draw_tokens(warped(logits), temperature, generation.generator))
    chosen, drawn = chosen & (drawn >= 0), drawn.clamp(min=0)
    generation.tokens = tokens.scatter(1, positions, torch.where(chosen, drawn, tokens.gather(1, positions)))
    if (confidence := generation.confidence) is not None:
        sure = posterior.map(lambda logits, token: probability_of(warped(logits), token), drawn).to(confidence.dtype)
        sure = torch.where(chosen, sure, confidence.gather(1, positions))
        generation.confidence = confidence.scatter(1, positions, sure)
    generation.masked = generation.masked & ~due.scatter(1, positions, chosen)


def _processed(
    generation: Generation, step: Step, positions: torch.Tensor, posterior: Posterior, due: torch.Tensor
) -> Posterior:
    """The posterior after `logits_processor` and `bad_words_ids`; `due` (B, L) bool are the positions unmasked."""
    config, tokens = generation.config, generation.tokens
    if generation.logits_processor and positions.shape[1]:
        contexts = left_contexts(tokens, positions, config.mask_token_id).flatten(0, 1)
        left = generation.steps - step.index
        scores = generation.logits_processor(contexts, posterior.allowed().flatten(0, 1), cur_step=left)
        posterior = posterior_of(scores.unflatten(0, positions.shape), posterior.excluded[:1])
    words = [word for word in config.bad_words_ids or () if len(word) > 1]
    if words:
        logits = ban_words(posterior.allowed(), positions, tokens, due, words)
        posterior = posterior_of(logits, posterior.excluded[:1])
    return posterior


def check_unmasked(generation: Generation) -> None:
    """Raise ValueError where masks are left after the last step, as nothing could be drawn, or quality was NaN.

    What only a forward shows leaves a mask where it was, and the host looks once, here.
    """
    left = generation.masked & generation.canvas.fillable
    masks_left, nan_quality = torch.stack([left.any(), generation.has_nan_quality]).tolist()
    if nan_quality:
        raise ValueError(NAN_QUALITY)
    if not masks_left:
        return
    row, column = left.nonzero()[0].tolist()
    posterior, _ = generation.read(generation.tokens, left.to(torch.uint8).argmax(-1, keepdim=True))
    logits = posterior.logits[row]
    if not bool(logits.isfinite().any()) or bool((logits.isnan() | (logits == torch.inf)).any()):
        raise ValueError(
            f"The model's logits are not finite (row {row}, position {column} of the canvas): its weights are broken, "
            "or its dtype is too narrow."
        )
    raise ValueError(
        f"No token was left to draw at {left.sum().item()} masks (the first is at position {column} of row {row}): "
        "suppress_tokens, bad_words_ids and logits_processor exclude all of them. Allow one."
    )
