"""One step of the loop: a forward, then remask by strategy, then unmask by order."""

import inspect

import torch

from prism_hf.diffusion.drafting import exclude_token, lowest_first, select_lowest, take_positions

from .caching import CanvasCache
from .canvas import Canvas
from .configuration_remask import RemaskGenerationConfig
from .orders import BLIND_ORDERS, POSTERIOR_ORDERS
from .plans import PlannedStep, adapts
from .sampling import ban_words, draw_tokens, left_contexts, uniform
from .strategies import StepState


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


def make_reader(model, canvas: Canvas, config: RemaskGenerationConfig, needs_quality: bool):
    """A function for one forward: (tokens (B, L), positions (B, W) or None, recomputed (B, R) or None).

    It returns logits and quality. Logits are float32, (B, W, V) at the positions or (B, L, V) everywhere, with guidance
    applied and the mask token and suppressed tokens excluded; quality is (B, L) in [0, 1], or None. With a cache only
    the `recomputed` positions are computed, among which the others must be, and quality is NaN elsewhere.
    """
    parameters = forward_parameters(model)
    kwargs = {"return_quality": needs_quality} if needs_quality or "return_quality" in parameters else {}
    takes_positions = "logits_at" in parameters
    cache = CanvasCache() if config.cache else None
    if cache is not None:
        kwargs["cache"] = cache
    suppressed = list(config.suppress_tokens or ()) + [word[0] for word in config.bad_words_ids or () if len(word) == 1]
    suppressed = torch.tensor(suppressed, dtype=torch.long, device=canvas.tokens.device)
    attention_mask = canvas.attention_mask
    if config.cfg_scale and attention_mask is not None:
        attention_mask = attention_mask.repeat(2, 1)

    def read(tokens: torch.Tensor, positions: torch.Tensor | None, recomputed: torch.Tensor | None = None):
        (batch, length), at, computed = tokens.shape, positions, recomputed
        if computed is not None:
            order = torch.arange(computed.shape[1], device=tokens.device).expand_as(computed)
            at = torch.zeros_like(tokens).scatter(1, computed, order).gather(1, positions)
        if config.cfg_scale:
            tokens = torch.cat([tokens, tokens.masked_fill(canvas.given, config.mask_token_id)])
            at, computed = (None if each is None else each.repeat(2, 1) for each in (at, computed))
        if cache is not None:
            cache.positions = computed
        if computed is not None:
            tokens = tokens.gather(1, computed)
        if takes_positions:
            output = model(input_ids=tokens, attention_mask=attention_mask, logits_at=at, **kwargs)
        else:
            output = model(input_ids=tokens, attention_mask=attention_mask, **kwargs)
        logits = output.logits if takes_positions or at is None else take_positions(output.logits, at)
        logits = logits.float()
        if config.cfg_scale:
            conditional, unconditional = logits.chunk(2)
            logits = unconditional + (config.cfg_scale + 1) * (conditional - unconditional)
        logits = exclude_token(logits, config.mask_token_id)
        if suppressed.numel():
            logits = logits.index_fill(-1, suppressed, -torch.inf)
        if not needs_quality:
            return logits, None
        quality_logits = getattr(output, "quality_logits", None)
        if quality_logits is None:
            raise ValueError(no_quality(model))
        quality = quality_logits[:batch].float().sigmoid()
        if recomputed is not None:
            quality = quality.new_full((batch, length), torch.nan).scatter(1, recomputed, quality)
        return logits, quality

    return read


def count_remasked(generated: torch.Tensor, planned: PlannedStep, config: RemaskGenerationConfig, generator):
    """How many tokens each row may remask (B,), given those generated in its block (B, L) bool."""
    rows, num_generated = planned.rows, generated.sum(-1)
    count = torch.where((rows.above < num_generated) & (num_generated < rows.below), rows.num_remask, 0)
    if config.eta is not None:
        hit = uniform(generated.shape, generated.device, generator) < planned.sigma
        count = (hit & generated).sum(-1).minimum(count)
    return count


def select_remasked(state: StepState, count: torch.Tensor, strategy, config: RemaskGenerationConfig) -> torch.Tensor:
    """The tokens that a step remasks, (B, L) bool: the `count` (B,) of lowest score."""
    candidates = state.generated
    if config.quality_threshold is not None:
        candidates = candidates & (state.quality < config.quality_threshold)
    return select_lowest(strategy(state), candidates, count)


def denoise(tokens, masked, window, planned: PlannedStep, read, strategy, config, steps, generator, logits_processor):
    """One step: a forward, then remask, then unmask.

    tokens (B, L) int64, masked (B, L) bool: the canvas. window (B, L) bool: the positions of each row's block.

    Returns tokens and masked after the step, filled and remasked (B, L) bool, and quality (B, L) or None, NaN at tokens
    that a loop removed before the forward or that a cache spared.
    """
    device, nothing = tokens.device, torch.zeros_like(masked)
    remasked_first = nothing
    if planned.num_loop:
        score = uniform(tokens.shape, device, generator)
        remasked_first = select_lowest(score, window & ~masked, planned.num_loop)
        tokens, masked = tokens.masked_fill(remasked_first, config.mask_token_id), masked | remasked_first
    unfilled, generated = masked & window, window & ~masked
    num_unfilled = unfilled.sum(-1)

    probs = None
    if planned.may_remask:
        # With a threshold a row may be done before the others of its batch; it must not begin again.
        candidates = generated & (num_unfilled > 0)[:, None] if adapts(config) else generated
        count = count_remasked(candidates, planned, config, generator)

    blind = config.order in BLIND_ORDERS
    if blind:
        score = BLIND_ORDERS[config.order](tokens.shape, device, generator)
        positions = lowest_first(-score, unfilled)[:, : planned.width]
    else:
        positions = (~unfilled).to(torch.uint8).argsort(dim=-1, stable=True)[:, : planned.num_open]
    needs_probs = planned.may_remask and getattr(strategy, "needs_probs", False)
    logits, quality = read(tokens, None if needs_probs else positions, planned.recomputed)
    if needs_probs:
        probs, logits = logits.softmax(-1), take_positions(logits, positions)

    remasked = nothing
    if planned.may_remask:
        state = StepState(tokens, candidates, probs, quality, planned.index, steps, generator)
        remasked = select_remasked(state, count, strategy, config)

    # Only positions masked before the remasking can be filled: the posterior of the others was not asked for.
    due = planned.rows.target - generated.sum(-1) + remasked.sum(-1)
    due = torch.maximum(due, planned.rows.num_fill)
    if not blind:
        score = POSTERIOR_ORDERS[config.order](logits.softmax(-1))
        candidates = torch.arange(planned.num_open, device=device) < num_unfilled[:, None]
        if adapts(config):
            sure = candidates & (score > config.confidence_threshold)
            due = torch.maximum(due, sure.sum(-1).clamp(min=1))
        best = lowest_first(-score, candidates)[:, : planned.width]
        positions, logits = positions.gather(1, best), take_positions(logits, best)
    takes = torch.arange(planned.width, device=device) < due.minimum(num_unfilled)[:, None]
    filled = nothing.scatter(1, positions, takes)

    tokens = tokens.masked_fill(remasked, config.mask_token_id)
    if logits_processor and planned.width:
        contexts = left_contexts(tokens, positions, config.mask_token_id)
        left = steps - planned.index
        scores = logits_processor(contexts.flatten(0, 1), logits.flatten(0, 1), cur_step=left)
        logits = exclude_token(scores.view_as(logits), config.mask_token_id)
    words = [word for word in config.bad_words_ids or () if len(word) > 1]
    if words:
        logits = ban_words(logits, positions, tokens, filled, words)
    temperature = config.temperature if config.do_sample else 0.0
    drawn = draw_tokens(logits, temperature, config.top_p, generator, config.top_k)
    tokens = tokens.scatter(1, positions, torch.where(takes, drawn, tokens.gather(1, positions)))
    if quality is not None and planned.num_loop:
        quality = quality.masked_fill(remasked_first, torch.nan)
    return tokens, (masked & ~filled) | remasked, filled, remasked | remasked_first, quality
