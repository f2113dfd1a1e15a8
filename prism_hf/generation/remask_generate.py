"""The denoising loop: each step one forward, then remask by strategy, then unmask by order (arXiv 2510.01384)."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput, logging

from prism_hf.diffusion.drafting import exclude_token, lowest_first, select_lowest

from .configuration_remask import RemaskGenerationConfig
from .orders import ORDERS
from .sampling import draw_tokens, uniform
from .strategies import StepState, resolve_strategy
from .trajectory import Trajectory

logger = logging.get_logger(__name__)


@dataclass
class RemaskGenerationOutput(ModelOutput):
    """sequences (B, L) int64; num_forwards: model calls made; trajectory: a `Trajectory` if it was asked for."""

    sequences: torch.LongTensor | None = None
    num_forwards: int | None = None
    trajectory: Trajectory | None = None


@dataclass(frozen=True)
class PlannedStep:
    """One step of the static sampler, known before the loop begins.

    index: base step (a loop step has that of the base step it precedes). target (B,): tokens generated after the step.
    holds (B,) bool: rows in which positions may stay open although the target is reached. may_remask: inside the active
    window. sigma: probability that `eta` remasks a token. num_loop: random tokens remasked first. width: no row fills
    more positions than this.
    """

    index: int
    target: torch.Tensor
    holds: torch.Tensor
    may_remask: bool
    sigma: float
    num_loop: int
    width: int


def plan_steps(num_masks: torch.Tensor, config: RemaskGenerationConfig, steps: int, device) -> list[PlannedStep]:
    """The schedule of the static sampler for rows with `num_masks` (B,) masks each, a CPU tensor.

    After base step i a row holds ceil(M (i + 1) / T) generated tokens; loop steps hold the count of the step before.
    """
    remasks = resolve_strategy(config.remask_strategy) is not None
    num_remask = config.num_remask if remasks and config.num_remask else 0
    indices = [(i, False) for i in range(steps)]
    if config.loop_steps:
        indices[config.loop_start : config.loop_start] = [(config.loop_start, True)] * config.loop_steps
    plan, previous = [], torch.zeros_like(num_masks)
    for index, is_loop in indices:
        target = previous if is_loop else (num_masks * (index + 1) + steps - 1) // steps
        may_remask = remasks and config.remask_start * steps <= index < config.remask_end * steps
        # More steps than masks: the published window would close before the last tokens could be corrected.
        extra = (num_masks < steps) & (2 * num_remask < num_masks)
        holds = extra if may_remask and num_remask and index < steps - 1 else torch.zeros_like(extra)
        alpha_t, alpha_s = index / steps, (index if is_loop else index + 1) / steps
        sigma = min(config.eta or 0.0, (1 - alpha_s) / alpha_t if alpha_t else 1.0)
        num_loop = config.num_remask_loop if is_loop else 0
        # A holding row leaves at most num_remask open, any other row fills what is due and what it remasks.
        open_positions = num_masks - previous if config.eta else target - previous + num_remask
        width = (open_positions + num_loop).minimum(num_masks).max().item()
        plan.append(PlannedStep(index, target.to(device), holds.to(device), may_remask, sigma, num_loop, width))
        previous = target
    return plan


def count_remasked(
    generated: torch.Tensor,
    num_masks: torch.Tensor,
    planned: PlannedStep,
    config: RemaskGenerationConfig,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """How many tokens each row remasks: (B,), from `generated` (B, L) bool and `num_masks` (B,).

    Never more than M - target, so that positions masked before can make up for them, except in rows that hold.
    """
    count = generated.sum(-1)
    if config.eta is not None:
        hit = (uniform(generated.shape, generated.device, generator) < planned.sigma) & generated
        return hit.sum(-1).minimum(num_masks - planned.target)
    limit = torch.full_like(count, config.num_remask)
    in_window = (limit < count) & (count < num_masks - limit)
    published = torch.where(in_window, limit.minimum(num_masks - planned.target), 0)
    return torch.where(planned.holds & (limit < count), limit, published)


def read_model(model, canvas, attention_mask, mask_token_id: int, needs_quality: bool):
    """One forward: float32 logits (B, L, V) with the mask token excluded, and quality (B, L) in [0, 1] or None."""
    wanted = {"return_quality": True} if needs_quality else {}
    output = model(input_ids=canvas, attention_mask=attention_mask, **wanted)
    logits = exclude_token(output.logits.float(), mask_token_id)
    if not needs_quality:
        return logits, None
    quality_logits = getattr(output, "quality_logits", None)
    if quality_logits is None:
        raise ValueError(_no_quality(model))
    return logits, quality_logits.float().sigmoid()


def _no_quality(model) -> str:
    return (
        f"The remask strategy reads quality, but {type(model).__name__} has no quality head: use a "
        "PrismForMaskedDiffusion, or a strategy without quality such as remask_strategy='random'."
    )


def _check_quality(model) -> None:
    # PeftModel.forward is (*args, **kwargs): the signature that tells is the wrapped model's.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    parameters = inspect.signature(inner.forward).parameters
    opaque = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    if "return_quality" not in parameters and not opaque:
        raise ValueError(_no_quality(model))


def prepare_generation_config(model, generation_config: GenerationConfig | None, **kwargs) -> RemaskGenerationConfig:
    """The complete settings of a call: `kwargs`, then `generation_config`, then the model's own, then the defaults.

    A name in `kwargs` that is not a field raises ValueError with the nearest right one. Neither argument is changed.
    """
    RemaskGenerationConfig.reject_unknown(set(kwargs) - set(RemaskGenerationConfig.fields))
    own = getattr(model, "generation_config", None)
    config = RemaskGenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
    if not isinstance(config, RemaskGenerationConfig):
        config = RemaskGenerationConfig.from_dict(config.to_dict())
    inherited = own.to_dict() if isinstance(own, RemaskGenerationConfig) else {}
    # num_remask and eta exclude each other: a choice made in the call is not mixed with the model's other one.
    chosen = {name for name in ("num_remask", "eta") if kwargs.get(name, getattr(config, name)) is not None}
    layers = (config.__dict__, inherited, config._get_default_generation_params())
    values = {}
    for name in RemaskGenerationConfig.fields:
        found = [layer[name] for layer in layers if layer.get(name) is not None]
        values[name] = found[0] if found else None
    if chosen:
        values |= dict.fromkeys({"num_remask", "eta"} - chosen)
    values |= kwargs
    for name, default in config._get_default_generation_params().items():
        values[name] = default if values[name] is None else values[name]
    if values["mask_token_id"] is None:
        values["mask_token_id"] = getattr(getattr(model, "config", None), "mask_token_id", None)
    if values["mask_token_id"] is None:
        raise ValueError("The mask token is unknown: model.config has no mask_token_id; pass mask_token_id=...")
    config = RemaskGenerationConfig(**values)
    config.validate_complete()
    if config.temperature not in (0, 1) and not config.do_sample:
        logger.warning_once(f"temperature={config.temperature} has no effect without do_sample=True.")
    return config


def prepare_canvas(input_ids, attention_mask, config: RemaskGenerationConfig):
    """Append `max_new_tokens` masks. Returns canvas (B, L), attention_mask (B, L) or None, fillable (B, L) bool."""
    if not isinstance(input_ids, torch.Tensor) or input_ids.ndim != 2:
        raise ValueError(f"input_ids must be a tensor (batch, length), got {getattr(input_ids, 'shape', input_ids)}.")
    if attention_mask is not None and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: "
            f"give it that of input_ids, {tuple(input_ids.shape)}."
        )
    new = (input_ids.shape[0], config.max_new_tokens)
    canvas = torch.cat([input_ids, input_ids.new_full(new, config.mask_token_id)], dim=1)
    fillable = canvas == config.mask_token_id
    if attention_mask is not None:
        attention_mask = torch.cat([attention_mask, attention_mask.new_ones(new)], dim=1)
        fillable &= attention_mask.bool()
    return canvas, attention_mask, fillable


@torch.no_grad()
def remask_generate(
    model,
    input_ids: torch.LongTensor,
    generation_config: GenerationConfig | None = None,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    **kwargs,
) -> torch.LongTensor | RemaskGenerationOutput:
    """Fill the masks of `input_ids` (B, L), and `max_new_tokens` appended ones, correcting tokens on the way.

    Tokens given in `input_ids` never change, and positions with `attention_mask` 0 are never filled. Rows may have
    different numbers of masks. `model` is any masked language model whose output has `logits` (B, L, V); strategies
    that read quality also need `quality_logits` (B, L). `kwargs` are fields of `RemaskGenerationConfig` and win over
    `generation_config`. All randomness comes from `generator`.

    Returns the sequences (B, L + max_new_tokens), or a `RemaskGenerationOutput` with `return_dict_in_generate`.
    Raises ValueError on unknown or contradictory settings, a missing quality head, or an input without masks.
    """
    config = prepare_generation_config(model, generation_config, **kwargs)
    canvas, attention_mask, fillable = prepare_canvas(input_ids, attention_mask, config)
    num_masks = fillable.sum(-1)
    most_masks = num_masks.max().item() if num_masks.numel() else 0
    if most_masks == 0:
        raise ValueError(
            f"input_ids has no mask token (mask_token_id={config.mask_token_id}) to fill: "
            "put masks in it, or set max_new_tokens."
        )
    steps = config.steps or most_masks
    if config.loop_steps and config.loop_start > steps:
        raise ValueError(f"loop_start={config.loop_start} is after the last of {steps} steps: lower it.")
    strategy, order = resolve_strategy(config.remask_strategy), ORDERS[config.order]
    needs_quality = strategy is not None and getattr(strategy, "needs_quality", False)
    if needs_quality:
        _check_quality(model)
    temperature = config.temperature if config.do_sample else 0.0

    masked, records = fillable, []
    plan = plan_steps(num_masks.cpu(), config, steps, canvas.device)
    for planned in plan:
        loop_remasked = torch.zeros_like(fillable)
        if planned.num_loop:
            count = num_masks.new_full(num_masks.shape, planned.num_loop)
            score = uniform(canvas.shape, canvas.device, generator)
            loop_remasked = select_lowest(score, fillable & ~masked, count)
            canvas = canvas.masked_fill(loop_remasked, config.mask_token_id)
            masked = masked | loop_remasked
        generated = fillable & ~masked

        logits, quality = read_model(model, canvas, attention_mask, config.mask_token_id, needs_quality)
        probs = logits.softmax(-1)

        remasked = torch.zeros_like(fillable)
        if planned.may_remask:
            state = StepState(canvas, generated, probs, quality, planned.index, steps, generator)
            candidates = generated
            if config.quality_threshold is not None:
                candidates = generated & (quality < config.quality_threshold)
            count = count_remasked(generated, num_masks, planned, config, generator)
            remasked = select_lowest(strategy(state), candidates, count)

        # Only positions masked before the remasking can be filled: the posterior of the others was not asked for.
        fill_count = (planned.target - generated.sum(-1) + remasked.sum(-1)).clamp(min=0).minimum(masked.sum(-1))
        position = lowest_first(-order(probs, generator), masked)[:, : planned.width]  # (B, width)
        chosen = logits.gather(1, position[..., None].expand(-1, -1, logits.shape[-1]))
        tokens = draw_tokens(chosen, temperature, config.top_p, generator)
        takes = torch.arange(planned.width, device=canvas.device) < fill_count[:, None]
        filled = torch.zeros_like(fillable).scatter(1, position, takes)
        canvas = canvas.scatter(1, position, torch.where(takes, tokens, canvas.gather(1, position)))
        canvas = canvas.masked_fill(remasked, config.mask_token_id)
        masked = (masked & ~filled) | remasked
        if config.output_trajectory:
            seen = quality if quality is None else quality.masked_fill(loop_remasked, torch.nan)
            records.append((canvas, filled, remasked | loop_remasked, seen))

    if not config.return_dict_in_generate:
        return canvas
    trajectory = None
    if records:
        *masks, qualities = zip(*records, strict=True)
        trajectory = Trajectory(*map(torch.stack, masks), torch.stack(qualities) if needs_quality else None)
    return RemaskGenerationOutput(sequences=canvas, num_forwards=len(plan), trajectory=trajectory)


class RemaskGenerationMixin:
    """Gives a `PreTrainedModel` for masked diffusion `generate`, and a generation config saved and loaded with it.

    transformers recognises a model that generates by "GenerationMixin" in the name of a base class. List the mixin
    before `PreTrainedModel`.
    """

    generation_config_class = RemaskGenerationConfig

    def generate(
        self,
        input_ids: torch.LongTensor,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        custom_generate: str | Callable | None = None,
        trust_remote_code: bool | None = None,
        **kwargs,
    ) -> torch.LongTensor | RemaskGenerationOutput:
        """See `remask_generate`; `custom_generate`, a repository or a callable, takes its place as in transformers."""
        if custom_generate is None:
            return remask_generate(self, input_ids, generation_config, attention_mask, generator, **kwargs)
        if isinstance(custom_generate, str):
            custom_generate = GenerationMixin.load_custom_generate(self, custom_generate, trust_remote_code)
        given = {"generation_config": generation_config, "attention_mask": attention_mask, "generator": generator}
        return custom_generate(self, input_ids, **{k: v for k, v in given.items() if v is not None}, **kwargs)

    def adjust_generation_fn(
        self,
        generation_config,
        from_auto_class,
        from_pipeline,
        pretrained_model_name_or_path,
        cache_dir,
        force_download,
        proxies,
        local_files_only,
        token,
        revision,
        subfolder,
        trust_remote_code,
        **kwargs,
    ):
        """At `from_pretrained`: take the given generation config, or the one saved beside the weights."""
        if generation_config is not None:
            self.generation_config = self.generation_config_class.from_dict(generation_config.to_dict())
        elif pretrained_model_name_or_path is not None:
            try:
                self.generation_config = self.generation_config_class.from_pretrained(
                    pretrained_model_name_or_path,
                    _from_auto=from_auto_class,
                    _from_pipeline=from_pipeline,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    proxies=proxies,
                    local_files_only=local_files_only,
                    token=token,
                    revision=revision,
                    subfolder=subfolder,
                )
            except OSError:
                logger.info("No generation config file found: using the default one.")
