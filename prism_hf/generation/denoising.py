"""One step of the loop: a forward, then remasking and unmasking, in the three ways that strategies have."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import nn
from transformers.utils import logging

from prism_hf.diffusion.drafting import lowest_first, select_lowest, take_positions

from .caching import CanvasCache
from .canvas import Canvas
from .checks import excluded_tokens
from .configuration_remask import RemaskGenerationConfig
from .families import as_described
from .orders import BLIND_ORDERS, POSTERIOR_ORDERS
from .plans import PlannedStep, adapts, fill_threshold, sets_own_budget, verifies, verify_threshold
from .posterior import posterior_of
from .remdm import AncestralSampling
from .sampling import ban_words, draw_tokens, left_contexts, probability_of, uniform, warp
from .shadows import add_shadows
from .strategies import RemaskStrategy, StepState, ask, needs, selection_of

logger = logging.get_logger(__name__)

ANCESTRAL = AncestralSampling()
NAN_QUALITY = (
    "The model's quality_logits are NaN, so that no token can be judged: its weights are broken, or its dtype is too "
    "narrow."
)


def forward_parameters(model) -> dict[str, inspect.Parameter]:
    """The parameters of `forward`: those of the model itself, where `torch.compile` or PEFT has wrapped it."""
    model = getattr(model, "_orig_mod", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return dict(inspect.signature(model.forward).parameters)


def no_quality(model) -> str:
    return (
        f"The remask strategy reads quality, but {type(model).__name__} has no quality head: use a "
        "PrismForMaskedDiffusion, or a strategy without quality such as remask_strategy='random'."
    )


def check_quality(model) -> None:
    parameters = forward_parameters(model)
    opaque = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    if "return_quality" not in parameters and not opaque:
        raise ValueError(no_quality(model))


@lru_cache
def class_names_positions(cls: type) -> bool:
    return "logits_at" in inspect.signature(cls.forward).parameters


def names_positions(model, parameters: dict[str, inspect.Parameter]) -> bool:
    """Whether `forward` takes `logits_at`. Says so where it has been wrapped in one that does not, but could have."""
    if "logits_at" in parameters:
        return True
    parts = model.modules() if isinstance(model, nn.Module) else ()
    inner = next((type(part) for part in parts if class_names_positions(type(part))), None)
    if inner is not None:
        logger.warning_once(
            f"The forward of {type(model).__name__} hides logits_at, which that of {inner.__name__} takes: each step "
            "maps all positions to the vocabulary, not only those that it can fill. Name logits_at among its "
            "arguments, or wrap it with functools.wraps."
        )
    return False


def numbers_in(columns: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Where each position of `tokens` (B, L) stands in `columns` (B, W): (B, L) int64, 0 if it does not."""
    number = torch.arange(columns.shape[1], device=tokens.device).expand_as(columns)
    return torch.zeros_like(tokens).scatter(1, columns, number)


def logits_in(output, model) -> torch.Tensor:
    """The logits (B, L, V) of a forward. Raises ValueError where the model has another head, or none."""
    logits = getattr(output, "logits", None)
    if logits is None or logits.ndim != 3:
        raise ValueError(
            f"{type(model).__name__} gives no logits (batch, length, vocabulary): load the model with "
            "AutoModelForMaskedLM."
        )
    return logits


def make_reader(model, canvas: Canvas, config: RemaskGenerationConfig, needs_quality: bool):
    """A function for one forward: (tokens (B, L), positions (B, W), recomputed (B, R), shadowed (B, S)), all but the
    tokens or None.

    It returns a `Posterior` and quality. The posterior is at the positions, or everywhere, with guidance applied and
    the mask token and suppressed tokens excluded; quality is (B, L) in [0, 1], or None. With a cache only the
    `recomputed` positions are computed, among which the others must be, and quality is NaN elsewhere. The shadow of
    `shadowed[:, k]` is at position L + k.
    """
    parameters = forward_parameters(model)
    kwargs = {"return_quality": needs_quality} if needs_quality or "return_quality" in parameters else {}
    takes_positions = names_positions(model, parameters)
    call = as_described(model, canvas, repeats=2 if config.cfg_scale else 1)
    cache = CanvasCache() if config.cache else None
    if cache is not None:
        kwargs["cache"] = cache
    excluded = torch.tensor(excluded_tokens(config), device=canvas.tokens.device)
    types = canvas.token_type_ids if "token_type_ids" in parameters else None
    if types is not None and config.cfg_scale:
        types = types.repeat(2, 1)
    attention_mask = canvas.attention_mask
    if config.cfg_scale and attention_mask is not None:
        attention_mask = attention_mask.repeat(2, 1)

    def read(
        tokens: torch.Tensor,
        positions: torch.Tensor | None,
        recomputed: torch.Tensor | None = None,
        shadowed: torch.Tensor | None = None,
    ):
        (batch, length), at, computed = tokens.shape, positions, recomputed
        if computed is not None:
            at = numbers_in(computed, tokens).gather(1, positions)
        if config.cfg_scale:
            tokens = torch.cat([tokens, tokens.masked_fill(canvas.given, config.mask_token_id)])
            at, computed, shadowed = (None if each is None else each.repeat(2, 1) for each in (at, computed, shadowed))
        if cache is not None:
            cache.positions = computed
        if computed is not None:
            tokens = tokens.gather(1, computed)
        inputs = {"input_ids": tokens, "attention_mask": attention_mask}
        if shadowed is not None:
            inputs = add_shadows(tokens, shadowed, attention_mask, config.mask_token_id, model.dtype)
        if types is not None:
            of_tokens = types if computed is None else types.gather(1, computed)
            of_shadows = [] if shadowed is None else [types.gather(1, shadowed)]
            inputs["token_type_ids"] = torch.cat([of_tokens, *of_shadows], dim=1)
        output = call(**inputs, **({"logits_at": at} if takes_positions else {}), **kwargs)
        logits = logits_in(output, model)
        logits = logits if takes_positions or at is None else take_positions(logits, at)
        if config.cfg_scale:
            conditional, unconditional = logits.float().chunk(2)
            logits = unconditional + (config.cfg_scale + 1) * (conditional - unconditional)
        posterior = posterior_of(logits, excluded)
        if not needs_quality:
            return posterior, None
        quality_logits = getattr(output, "quality_logits", None)
        if quality_logits is None:
            raise ValueError(no_quality(model))
        quality = quality_logits[:batch, :length].float().sigmoid()
        if recomputed is not None:
            quality = quality.new_full((batch, length), torch.nan).scatter(1, recomputed, quality)
        return posterior, quality

    return read


def count_remasked(generated: torch.Tensor, planned: PlannedStep, config: RemaskGenerationConfig, generator):
    """How many tokens each row may remask (B,), given those generated in its block (B, L) bool."""
    rows, num_generated = planned.rows, generated.sum(-1)
    count = torch.where((rows.above < num_generated) & (num_generated < rows.below), rows.num_remask, 0)
    if config.eta is not None:
        hit = uniform(generated.shape, generated.device, generator) < planned.sigma
        count = (hit & generated).sum(-1).minimum(count)
    return count


def limit_remasked(planned: PlannedStep, most: torch.Tensor) -> PlannedStep:
    """The step with no more than `most` (B,) tokens remasked in each row."""
    return replace(planned, rows=planned.rows._replace(num_remask=planned.rows.num_remask.minimum(most)))


def fit_step(planned: PlannedStep, masked: torch.Tensor, window: torch.Tensor) -> PlannedStep:
    """The step no wider than the canvas needs, which the host waits to hear from the device.

    masked, window (B, L) bool: before the forward, and the block. Where no row may remask, the strategy is not asked.
    """
    unfilled, generated = (masked & window).sum(-1), (window & ~masked).sum(-1)
    judges = (generated * planned.rows.num_remask > 0).any()
    num_open, num_held = torch.stack([unfilled.amax(), generated.amax() * judges]).tolist()
    width = min(planned.width, num_open)
    return replace(planned, num_open=num_open, width=width, num_held=num_held, asks=planned.asks and num_held > 0)


def most_remasked_next(filled: torch.Tensor, unfilled: torch.Tensor, config: RemaskGenerationConfig) -> torch.Tensor:
    """How many tokens a row may remask after a step with a threshold, (B,): none when nothing is left to be judged.

    A row may be done before the others of its batch, and must not begin again. filled (B, L) bool: by the step.
    unfilled (B,) bool: the row's block has masks after it.
    """
    if sets_own_budget(config):
        return (filled.sum(-1) - 1).clamp(min=0)
    goes_on = unfilled | filled.any(-1) if verifies(config) else unfilled
    return filled.shape[1] * goes_on


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

    def begin(self, canvas: Canvas) -> "Progress":
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

    def cut_off(self, after: torch.Tensor, pad_token_id: int) -> "Progress":
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
