"""One step of the loop: a forward, then remasking and unmasking, in the three ways that strategies have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from prism_hf.diffusion.drafting import lowest_first, nucleus, select_lowest

from ..strategies import RemaskStrategy, StepState, ask, needs, selection_of
from ..strategies.transition import AncestralSampling
from .canvas import Canvas
from .orders import BLIND_ORDERS, POSTERIOR_ORDERS, uniform
from .reading import NAN_QUALITY, numbers_in, posterior_of
from .schedule import PlannedStep
from .threshold import adapts, fill_threshold, verify_threshold

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig

ANCESTRAL = AncestralSampling()


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


def left_contexts(canvas: torch.Tensor, positions: torch.Tensor, filler: int) -> torch.Tensor:
    """The tokens left of each position, ending in the nearest: (B, L) and (B, W) -> (B, W, L), `filler` in front."""
    index = torch.arange(canvas.shape[1], device=canvas.device) - canvas.shape[1] + positions[..., None]
    tokens = canvas[:, None].expand(index.shape).gather(-1, index.clamp(min=0))
    return tokens.masked_fill(index < 0, filler)


def ban_words(
    logits: torch.Tensor, positions: torch.Tensor, canvas: torch.Tensor, filled: torch.Tensor, words: list[list[int]]
) -> torch.Tensor:
    """Exclude the tokens that would complete one of `words` (token sequences) in the canvas, from either side.

    Where several positions of a word are filled at once, it is the rightmost of them that may not have its token,
    whatever the others turn out to be.

    Args:
        logits: (B, W, V) at `positions` (B, W).
        canvas: (B, L) before the step.
        filled: (B, L) bool, positions that the step fills.
    """
    logits = logits.clone()
    for word in words:
        span = canvas.shape[1] - len(word) + 1
        if span < 1:
            continue
        starts = [slice(offset, offset + span) for offset in range(len(word))]
        fits = torch.ones_like(filled[:, :span])  # (B, span): the word may come to stand here
        for token, here in zip(word, starts, strict=True):
            fits = fits & ((canvas[:, here] == token) | filled[:, here])
        for token, here in reversed(list(zip(word, starts, strict=True))):
            banned = torch.zeros_like(filled)
            banned[:, here] = fits & filled[:, here]
            fits = fits & ~filled[:, here]
            logits[..., token] = logits[..., token].masked_fill(banned.gather(1, positions), -torch.inf)
    return logits


def count_remasked(generated: torch.Tensor, planned: PlannedStep, config: RemaskGenerationConfig, generator):
    """How many tokens each row may remask (B,), given those generated in its block (B, L) bool."""
    rows, num_generated = planned.rows, generated.sum(-1)
    count = torch.where((rows.above < num_generated) & (num_generated < rows.below), rows.num_remask, 0)
    if config.eta is not None:
        hit = uniform(generated.shape, generated.device, generator) < planned.sigma
        count = (hit & generated).sum(-1).minimum(count)
    return count


@dataclass(frozen=True)
class Sampler:
    """What all steps of a generation share: the model's reader, the strategy, and where randomness comes from."""

    read: Callable
    strategy: RemaskStrategy | None
    config: RemaskGenerationConfig
    steps: int
    attention_mask: torch.Tensor | None
    generator: torch.Generator | None
    logits_processor: Callable | None

    def needs(self, what: str) -> bool:
        return needs(self.strategy, what)

    def begin(self, canvas: Canvas) -> Progress:
        """The canvas before the first step."""
        confidence = torch.zeros_like(canvas.tokens, dtype=torch.float32) if self.needs("confidence") else None
        return Progress(canvas.tokens, canvas.fillable, confidence)


class Progress(NamedTuple):
    """The canvas of a generation: tokens (B, L) int64, masked (B, L) bool, and confidence (B, L).

    confidence is the probability with which each token was drawn, None where no strategy reads it.
    """

    tokens: torch.Tensor
    masked: torch.Tensor
    confidence: torch.Tensor | None

    def cut_off(self, after: torch.Tensor, pad_token_id: int) -> Progress:
        """The canvas with padding where rows have ended: `after` (B, L) bool."""
        return self._replace(tokens=self.tokens.masked_fill(after, pad_token_id), masked=self.masked & ~after)


class Changes(NamedTuple):
    """What a step did: filled and remasked (B, L) bool, and the quality (B, L) that it read, or None."""

    filled: torch.Tensor
    remasked: torch.Tensor
    quality: torch.Tensor | None


def first_columns(chosen: torch.Tensor, width: int) -> torch.Tensor:
    """The columns of each row where `chosen` (B, L) is true, left to right and then the others: the first `width`."""
    return (~chosen).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]


def read_for(sampler: Sampler, tokens, positions, window, generated, planned: PlannedStep):
    """The `Posterior` at `positions` (B, W), quality, and two things that the strategy may ask for, else None.

    They are the posterior at all positions (B, L, V), and a function from tokens (B, L) to their probabilities (B, L),
    NaN outside the block.
    """
    asked = planned.asks
    if asked and sampler.needs("probs"):
        everywhere, quality = sampler.read(tokens, None, planned.recomputed)
        return everywhere.take(positions), quality, everywhere.allowed().softmax(-1), None
    if not (asked and sampler.needs("token_probs")):
        return *sampler.read(tokens, positions, planned.recomputed), None, None
    block = first_columns(window, planned.size)
    at, shadowed = block, None
    if sampler.needs("shadows"):
        shadowed = first_columns(generated, planned.num_held)
        # A mask is its own shadow, so that one row of logits is enough for each position of the block.
        place = tokens.shape[1] + numbers_in(shadowed, tokens)
        at = torch.where(generated.gather(1, block), place.gather(1, block), block)
    of_block, quality = sampler.read(tokens, at, planned.recomputed, shadowed)

    def token_probs(canvas: torch.Tensor) -> torch.Tensor:
        probs = of_block.map(probability_of, canvas.gather(1, block))
        probs = torch.full(tokens.shape, torch.nan, device=tokens.device).scatter(1, block, probs)
        return probs.masked_fill(~window, torch.nan)

    return of_block.take(numbers_in(block, tokens).gather(1, positions)), quality, None, token_probs


def observe(sampler: Sampler, planned: PlannedStep, progress: Progress, generated, **seen) -> StepState:
    """What the strategy sees: the canvas, the time of each row, and what the forward gave."""
    rows = planned.rows
    return StepState(
        canvas=progress.tokens,
        generated=generated,
        probs=seen.pop("probs", None),
        quality=seen.pop("quality", None),
        step=planned.index,
        steps=sampler.steps,
        generator=sampler.generator,
        t=(1 - rows.step / rows.steps)[:, None],
        s=(1 - (rows.step + 1) / rows.steps)[:, None],
        attention_mask=sampler.attention_mask,
        confidence=progress.confidence,
        **seen,
    )


def fill(sampler: Sampler, planned: PlannedStep, progress: Progress, positions, posterior, takes) -> Progress:
    """Draw tokens from the posterior at those of `positions` (B, W) that the step `takes` (B, W) bool.

    Where the posterior is NaN, or every token is excluded, there is nothing to draw, and the mask stays.
    """
    tokens, masked, confidence = progress
    config = sampler.config
    filled = torch.zeros_like(masked).scatter(1, positions, takes)
    if sampler.logits_processor and positions.shape[1]:
        contexts = left_contexts(tokens, positions, config.mask_token_id)
        left = sampler.steps - planned.index
        scores = sampler.logits_processor(contexts.flatten(0, 1), posterior.allowed().flatten(0, 1), cur_step=left)
        posterior = posterior_of(scores.unflatten(0, positions.shape), posterior.excluded[:1])
    words = [word for word in config.bad_words_ids or () if len(word) > 1]
    if words:
        logits = ban_words(posterior.allowed(), positions, tokens, filled, words)
        posterior = posterior_of(logits, posterior.excluded[:1])

    temperature = config.temperature if config.do_sample else 0.0
    warped = partial(warp, temperature=temperature, top_p=config.top_p, top_k=config.top_k)
    drawn = posterior.map(lambda logits: draw_tokens(warped(logits), temperature, sampler.generator))
    takes, drawn = takes & (drawn >= 0), drawn.clamp(min=0)
    tokens = tokens.scatter(1, positions, torch.where(takes, drawn, tokens.gather(1, positions)))
    if confidence is not None:
        sure = posterior.map(lambda logits, token: probability_of(warped(logits), token), drawn).to(confidence.dtype)
        confidence = confidence.scatter(1, positions, torch.where(takes, sure, confidence.gather(1, positions)))
    return Progress(tokens, masked & ~filled.scatter(1, positions, takes), confidence)


def step_by_score(progress: Progress, window, planned: PlannedStep, sampler: Sampler) -> tuple[Progress, Changes]:
    """The planned number of tokens of lowest score is remasked; the unmasking order fills as many more."""
    tokens, masked, confidence = progress
    config, generator = sampler.config, sampler.generator
    device, nothing = tokens.device, torch.zeros_like(masked)
    unfilled, generated = masked & window, window & ~masked
    num_unfilled = unfilled.sum(-1)
    if planned.asks:
        count = count_remasked(generated, planned, config, generator)

    blind = config.order in BLIND_ORDERS
    if blind:
        score = BLIND_ORDERS[config.order](tokens.shape, device, generator)
        positions = lowest_first(-score, unfilled)[:, : planned.width]
    else:
        positions = first_columns(unfilled, planned.num_open)
    posterior, quality, probs, token_probs = read_for(sampler, tokens, positions, window, generated, planned)

    remasked = nothing
    if planned.asks:
        if token_probs is not None:
            token_probs = token_probs(tokens).masked_fill(~generated, torch.nan)
        state = observe(sampler, planned, progress, generated, probs=probs, quality=quality, token_probs=token_probs)
        score, candidates, threshold = ask(sampler.strategy, state), generated, verify_threshold(config)
        if threshold is not None:
            candidates = generated & ((score if config.quality_threshold is None else quality) < threshold)
        remasked = select_lowest(score, candidates, count)

    # Only positions masked before the remasking can be filled: the posterior of the others was not asked for.
    due = planned.rows.target - generated.sum(-1) + remasked.sum(-1)
    due = torch.maximum(due, planned.rows.num_fill)
    if not blind:
        order = POSTERIOR_ORDERS[config.order]
        score = posterior.map(lambda logits: order(logits.softmax(-1)))
        candidates = torch.arange(planned.num_open, device=device) < num_unfilled[:, None]
        if adapts(config):
            sure = candidates & (score > fill_threshold(config))
            due = torch.maximum(due, sure.sum(-1).clamp(min=1))
        best = lowest_first(-score, candidates)[:, : planned.width]
        positions, posterior = positions.gather(1, best), posterior.take(best)
    takes = torch.arange(planned.width, device=device) < due.minimum(num_unfilled)[:, None]

    progress = Progress(tokens.masked_fill(remasked, config.mask_token_id), masked | remasked, confidence)
    progress = fill(sampler, planned, progress, positions, posterior, takes)
    return progress, Changes(masked & ~progress.masked, remasked, quality)


def step_by_probability(progress: Progress, window, planned: PlannedStep, sampler: Sampler) -> tuple[Progress, Changes]:
    """Each token is remasked and each mask filled with the probability that the strategy gives it, independently."""
    tokens, masked, confidence = progress
    unfilled, generated = masked & window, window & ~masked
    last, asks = planned.rows.last.bool()[:, None], planned.rows.asks.bool()[:, None]

    def changing(**seen) -> torch.Tensor:
        state = observe(sampler, planned, progress, generated, **seen)
        chance = ANCESTRAL(state)
        if planned.asks:
            chance = torch.where(asks, ask(sampler.strategy, state), chance)
        drawn = uniform(tokens.shape, tokens.device, sampler.generator) < chance
        return torch.where(last, unfilled, drawn & window)

    reads = planned.asks and any(map(sampler.needs, ("quality", "probs", "token_probs")))
    # Drawn before the forward where that is possible: the LM head then runs only where a token is drawn.
    changes = unfilled if reads else changing()
    positions = first_columns(changes & unfilled, planned.width)
    posterior, quality, probs, token_probs = read_for(sampler, tokens, positions, window, generated, planned)
    if reads:
        if token_probs is not None:
            token_probs = token_probs(tokens).masked_fill(~generated, torch.nan)
        changes = changing(probs=probs, quality=quality, token_probs=token_probs)
    takes, remasked = (changes & unfilled).gather(1, positions), changes & generated

    progress = Progress(tokens.masked_fill(remasked, sampler.config.mask_token_id), masked | remasked, confidence)
    progress = fill(sampler, planned, progress, positions, posterior, takes)
    return progress, Changes(masked & ~progress.masked, remasked, quality)


def step_by_ranking(progress: Progress, window, planned: PlannedStep, sampler: Sampler) -> tuple[Progress, Changes]:
    """The block is filled; the planned number of its positions, those of highest score, are kept, the others masked."""
    tokens, masked, confidence = progress
    unfilled, generated = masked & window, window & ~masked
    positions = first_columns(unfilled, planned.width)
    posterior, quality, probs, token_probs = read_for(sampler, tokens, positions, window, generated, planned)
    drafted = fill(sampler, planned, progress, positions, posterior, unfilled.gather(1, positions))
    if not planned.asks:
        score = uniform(tokens.shape, tokens.device, sampler.generator)
    else:
        if token_probs is not None:
            token_probs = token_probs(drafted.tokens)
        state = observe(
            sampler, planned, progress, generated,
            probs=probs, quality=quality, token_probs=token_probs, draft=drafted.tokens,
        )  # fmt: skip
        score = ask(sampler.strategy, state)
    # Outside of the window of remasking, tokens stay whatever their score.
    stays = generated & ~planned.rows.num_remask.bool()[:, None]
    kept = select_lowest((-score).masked_fill(stays, -torch.inf), window, planned.rows.target)
    dropped = window & ~kept
    tokens = drafted.tokens.masked_fill(dropped, sampler.config.mask_token_id)
    return (
        Progress(tokens, drafted.masked | dropped, drafted.confidence),
        Changes(unfilled & kept & ~drafted.masked, generated & dropped, quality),
    )


STEPS = {"lowest": step_by_score, "probability": step_by_probability, "ranking": step_by_ranking}


def denoise(progress: Progress, window, planned: PlannedStep, sampler: Sampler) -> tuple[Progress, Changes]:
    """One step: a forward, remasking and unmasking, as the strategy's `selection` says.

    window (B, L) bool: the positions of each row's block.

    The changes hold what a loop removed before the forward too; quality is NaN there, and where a cache spared it.
    """
    step = STEPS[selection_of(sampler.strategy)]
    if not planned.num_loop:
        return step(progress, window, planned, sampler)
    tokens, masked, confidence = progress
    score = uniform(tokens.shape, tokens.device, sampler.generator)
    removed = select_lowest(score, window & ~masked, planned.rows.num_loop)
    progress = Progress(tokens.masked_fill(removed, sampler.config.mask_token_id), masked | removed, confidence)
    progress, (filled, remasked, quality) = step(progress, window, planned, sampler)
    if quality is not None:
        quality = quality.masked_fill(removed, torch.nan)
    return progress, Changes(filled, remasked | removed, quality)


def check_filled(read: Callable, canvas: Canvas, progress: Progress, nan_quality: torch.Tensor) -> None:
    """Raise ValueError where masks are left after the last step, as nothing could be drawn, or quality was NaN."""
    left = progress.masked & canvas.fillable
    masks_left, nan_quality = torch.stack([left.any(), nan_quality]).tolist()
    if nan_quality:
        raise ValueError(NAN_QUALITY)
    if not masks_left:
        return
    row, column = left.nonzero()[0].tolist()
    posterior, _ = read(progress.tokens, left.to(torch.uint8).argmax(-1, keepdim=True))
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
