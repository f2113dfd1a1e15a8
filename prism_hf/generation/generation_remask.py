"""The denoising loop: each step one forward, then remask by strategy, then unmask by order (arXiv 2510.01384)."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    BaseStreamer,
    EosTokenCriteria,
    MaxLengthCriteria,
    NoBadWordsLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import ModelOutput, logging

from .configuration_remask import MADE_CALLABLE, RemaskGenerationConfig, prepare_generation_config
from .denoising.caching import check_cache, plan_cache
from .denoising.canvas import Canvas, check_inputs, check_lengths, count_new, prepare_canvas, vocabulary_size
from .denoising.reading import check_quality, check_shadows, check_tokens, family_of, make_reader
from .denoising.schedule import PlannedStep, loop_of, plan_steps
from .denoising.stopping import as_ids, check_endings, end_rows
from .denoising.threshold import adapt_step, adapts, most_remasked_next
from .denoising.unmasking import Progress, Sampler, check_filled, denoise
from .strategies import STRATEGIES, RemaskStrategy, field_names, name_of, needs, resolve_strategy
from .streaming import Stream
from .trajectory import Trajectory

logger = logging.get_logger(__name__)

# What transformers' generate hands to a `custom_generate` beside our own arguments; none of it concerns a canvas. Its
# `cache` is an object for decoders, ours a name.
HANDED_OVER = ("use_cache", "cache", "past_key_values", "position_ids", "logits_to_keep")
# What a tokenizer tells of a text beside the inputs of a model.
DESCRIPTIONS = (
    *("special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "num_truncated_tokens"),
    *("overflowing_tokens", "assistant_masks"),
)
# Made by it from settings that reach us as settings.
DERIVED = (
    EosTokenCriteria,
    MaxLengthCriteria,
    NoBadWordsLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass
class RemaskGenerationOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate`.

    Args:
        sequences: (B, L) int64.
        tokens_per_forward: (B,) tokens generated, without those that an end of sequence cut off, for each forward until
            the row was finished.
        num_forwards: model calls made for the batch, those of a strategy's own network included.
        trajectory: a `Trajectory` if it was asked for.
    """

    sequences: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    num_forwards: int | None = None
    trajectory: Trajectory | None = None


def as_list(value, cls: type, name: str) -> list:
    """An argument of `generate` that must be a list of callables, as a `cls`."""
    if value is not None and not (isinstance(value, list | tuple) and all(callable(each) for each in value)):
        raise ValueError(f"{name} must be a list such as {cls.__name__}([...]), got {value!r}.")
    return cls(value or [])


def check_helpers(generator: Any, streamer: Any) -> None:
    """Raise ValueError where the source of randomness or the streamer of a call is something else."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is {generator!r}: give torch.Generator().manual_seed(...).")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise ValueError(f"streamer is {streamer!r}: give one of transformers, such as TextStreamer(tokenizer).")


def without_derived(callables: list) -> list:
    """The logits processors or stopping criteria that do not just repeat a setting."""
    return type(callables)(each for each in callables if not isinstance(each, DERIVED))


def as_chosen(model, generation_config: GenerationConfig) -> GenerationConfig:
    """A config that transformers has prepared, without what nobody chose, and what it has made callables of.

    Nobody chose the default `max_length`, 20 more than the prompt, and the special tokens of a model's config that are
    none of its tokens, as where a class has those of its published checkpoint for defaults.
    """
    generation_config, size = copy.copy(generation_config), vocabulary_size(model)
    for name in ("max_length", *MADE_CALLABLE):
        setattr(generation_config, name, None)
    for name in ("eos_token_id", "pad_token_id"):
        tokens = as_ids(getattr(generation_config, name))
        if tokens == as_ids(getattr(model.config, name, None)) and size is not None and max(tokens, default=0) >= size:
            setattr(generation_config, name, None)
    return generation_config


def without_descriptions(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call without what a tokenizer only tells of a text, in tensors or lists."""
    return {name: value for name, value in kwargs.items() if name not in DESCRIPTIONS or isinstance(value, int | float)}


def collect(records: list[tuple], canvas: Canvas) -> Trajectory | None:
    """The trajectory of what was recorded after each step: canvas, filled, remasked, and quality or None."""
    if not records:
        return None
    series = [torch.stack(values) for values in zip(*records, strict=True) if values[0] is not None]
    return Trajectory(*map(canvas.restore, series))


@dataclass(frozen=True)
class Generation:
    """A generation that has been checked and planned, and has not begun."""

    config: RemaskGenerationConfig
    strategy: RemaskStrategy | None
    canvas: Canvas
    steps: int
    plan: list[PlannedStep]
    pad_token_id: int | None


def prepare_generation(
    model,
    config: RemaskGenerationConfig,
    input_ids: torch.LongTensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
) -> Generation:
    """Check all that can be known before the first forward, and plan each step. Raises ValueError with the remedy."""
    family_of(model)
    strategy = resolve_strategy(config.remask_strategy)
    check_inputs(model, input_ids, attention_mask, token_type_ids)
    check_tokens(model, config)
    if needs(strategy, "quality"):
        check_quality(model)
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask.bool()
    check_lengths(model, real.sum(-1).tolist(), count_new(config, input_ids.shape[1]), input_ids.shape[1])
    canvas = prepare_canvas(input_ids, attention_mask, config, token_type_ids)
    if config.cache:
        check_cache(model, canvas, config)
    if needs(strategy, "shadows"):
        check_shadows(model, name_of(strategy))
    num_masks = canvas.fillable.sum(-1).tolist()
    most_masks = max(num_masks, default=0)
    if most_masks == 0:
        raise ValueError(
            f"input_ids has no mask token (mask_token_id={config.mask_token_id}) to fill: "
            "put masks in it, or set max_new_tokens."
        )
    steps = config.steps or most_masks
    if loop_of(config, steps)[0] > steps:
        raise ValueError(f"loop_start={config.loop_start} is after the last of {steps} steps: lower it.")
    pad_token_id = check_endings(model, config, stopping_criteria, canvas.num_new)
    plan = plan_steps(num_masks, canvas.num_new, config, steps, canvas.tokens.device)
    if config.cache:
        plan = plan_cache(plan, canvas, config)
    return Generation(config, strategy, canvas, steps, plan, pad_token_id)


class RemaskGenerate:
    """Fill the masks of `input_ids` (B, L), and `max_new_tokens` appended ones, correcting tokens on the way.

    Tokens given in `input_ids` never change, and positions with `attention_mask` 0 are never filled. Rows may have
    different numbers of masks and different lengths, padded on either side: the model reads each row's tokens and new
    masks first and its padding last, so that a row gets what it gets alone. Returned rows end in their new tokens, as a
    decoder's do: where masks are appended, padding comes back on the left. Without new tokens it stays where it was.

    Args:
        model: any masked language model of a family in `prism_hf.backbones`, or a module without `config.model_type`,
            whose output has `logits` (B, L, V); strategies that read quality also need
            `quality_logits` (B, L). Where its class says `_supports_logit_positions = True`, its forward takes columns
            `logits_to_keep` (B, W), and then gives logits (B, W, V), so that the LM head runs only where a step can
            decide; else it runs everywhere.
        input_ids: (B, L), of any integer type; `inputs`, as transformers calls them, is the same.
        generation_config: a `RemaskGenerationConfig`; any other `GenerationConfig` is read for what the two share.
        attention_mask: (B, L), 0 at padding and 1 elsewhere.
        generator: the source of all randomness.
        logits_processor: called each step with the N positions that may be filled, each as a row of its own, after they
            were chosen: input_ids (N, L) are the tokens to the left of the position, as far as they are decided (masks
            where they are not, or where the sequence has not begun), and scores (N, V). A processor that takes
            `cur_step` gets the number of steps left.
        stopping_criteria: asked when a block is complete, as if its tokens had come one by one; `scores` are None. A
            row ends with the first appended token after which one holds. One that holds for a reason other than the
            block's tokens (time) ends the row after the block.
        streamer: gets what comes before the first mask, then each block when it is complete, and drafts of the block
            after each step if it has `put_draft`.
        token_type_ids: (B, L), as some tokenizers give them. They go to a model whose forward names them, new tokens
            being of the type of the last one before them; another model does without.
        use_cache: not read; a canvas is read in both directions, and what can be kept of it is said by `cache`.
        kwargs: fields of `RemaskGenerationConfig`, which win over `generation_config`, and of the remask strategy, such
            as the `critic` of `remask_strategy="token_critic"`. What else a tokenizer returns (`special_tokens_mask`,
            `offset_mapping`, ...) is not read.

    The loop waits for the device when a block is complete, if `eos_token_id` or `stopping_criteria` may end it; after
    each step with a `confidence_threshold`, with `"wino"` or with a `streamer`; at the end; and not otherwise.

    Works as `model.generate(..., custom_generate=remask_generate, ...)` too, for a model class with transformers' own
    `generate`, which passes on what a signature names. This one names all fields of `RemaskGenerationConfig` and those
    of all strategies registered at the time. Only the streamer is not passed on there.

    Returns the sequences (B * num_return_sequences, L + max_new_tokens), or a `RemaskGenerationOutput` with
    `return_dict_in_generate`. Raises ValueError on unknown or contradictory settings, a missing quality head, or an
    input that cannot be read or has no masks, before the first forward; and where a mask could not be filled, after the
    last: the model gave NaN, or every token was excluded there.
    """

    __name__ = "remask_generate"  # as of the function that it stands for

    @property
    def __signature__(self) -> inspect.Signature:
        """Arguments, and the fields of the config and of all strategies, for transformers to pass them on.

        Without `attention_mask` and `use_cache`, which it reads itself.
        """
        arguments = dict(inspect.signature(self.__call__).parameters)
        del arguments["attention_mask"], arguments["use_cache"], arguments["kwargs"]
        fields = [*RemaskGenerationConfig.fields, *(name for cls in STRATEGIES.values() for name in field_names(cls))]
        for name in fields:
            arguments[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        return inspect.Signature(list(arguments.values()))

    @torch.no_grad()
    def __call__(
        self,
        model,
        input_ids: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        streamer: BaseStreamer | None = None,
        token_type_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        inputs: torch.LongTensor | None = None,
        **kwargs,
    ) -> torch.LongTensor | RemaskGenerationOutput:
        input_ids = inputs if input_ids is None else input_ids
        logits_processor = as_list(logits_processor, LogitsProcessorList, "logits_processor")
        stopping_criteria = as_list(stopping_criteria, StoppingCriteriaList, "stopping_criteria")
        check_helpers(generator, streamer)
        kwargs = without_descriptions(kwargs)
        if hasattr(generation_config, "_eos_token_tensor"):  # transformers' generate has prepared it
            kwargs = {
                name: value for name, value in kwargs.items() if name not in HANDED_OVER or isinstance(value, str)
            }
            logits_processor, stopping_criteria = map(without_derived, (logits_processor, stopping_criteria))
            generation_config = as_chosen(model, generation_config)
        config = prepare_generation_config(model, generation_config, **kwargs)
        generation = prepare_generation(model, config, input_ids, attention_mask, token_type_ids, stopping_criteria)
        return run(model, generation, generator, logits_processor, stopping_criteria, streamer)


remask_generate = RemaskGenerate()


def run(
    model,
    generation: Generation,
    generator: torch.Generator | None,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    streamer: BaseStreamer | None,
) -> torch.LongTensor | RemaskGenerationOutput:
    """Make the steps of a generation. Raises ValueError where a mask cannot be filled."""
    config, strategy, canvas, plan = generation.config, generation.strategy, generation.canvas, generation.plan
    num_masks, rank = canvas.fillable.sum(-1), canvas.fillable.cumsum(-1) - 1
    can_end = bool(stopping_criteria) or (bool(as_ids(config.eos_token_id)) and canvas.num_new > 0)
    read = make_reader(model, canvas, config, needs(strategy, "quality"))
    eos_ids = torch.tensor(as_ids(config.eos_token_id), dtype=torch.long, device=canvas.tokens.device)
    stream = None if streamer is None else begin_stream(streamer, canvas)
    sampler = Sampler(read, strategy, config, generation.steps, canvas.attention_mask, generator, logits_processor)
    progress = sampler.begin(canvas)
    forwards = Forwards(getattr(strategy, "num_forwards", 0), torch.zeros_like(num_masks))
    finished, most_remasked = torch.zeros_like(num_masks, dtype=torch.bool), torch.zeros_like(num_masks)
    cut_off, records, settled = torch.zeros_like(canvas.fillable), [], False
    unsound = finished.new_zeros(())
    for planned in plan:
        rows = planned.rows
        unfinished = canvas.fillable & ~finished[:, None]
        later = unfinished & (rank >= rows.end[:, None])
        window = unfinished & (rank >= rows.start[:, None]) & ~later
        reads = ~finished
        if adapts(config):
            planned, reads = adapt_step(planned, progress.masked, window, reads, most_remasked)
            # What has been filled waits, without a forward, for the next step that may remask it.
            if not planned.opens and planned.num_open == planned.num_held == 0:
                continue
        forwards.add(planned, reads)
        progress, (filled, remasked, quality) = denoise(progress, window, planned, sampler)
        if quality is not None:
            unsound = unsound | (quality.isnan() & window & ~remasked).any()
        closed = rows.last.bool()
        if adapts(config):
            unfilled = (progress.masked & window).any(-1)
            most_remasked = torch.where(reads, most_remasked_next(filled, unfilled, config), most_remasked)
            unsettled = unfilled | ((most_remasked > 0) & rows.remasks_later.bool() & ~finished)
            closed, settled = closed | ~unsettled, not bool(unsettled.any())
        closing = planned.closes or settled
        if closing and can_end:
            ended, after = end_rows(canvas, progress.tokens, planned, closed & ~finished, eos_ids, stopping_criteria)
            progress = progress.cut_off(after, generation.pad_token_id)
            cut_off, finished = cut_off | after, finished | ended
        if closing:
            finished = finished | (closed & (rows.end == num_masks))
        if stream is not None and closing:
            stream.confirm(progress.tokens, (later | (window & ~closed[:, None])) & ~finished[:, None], cut_off)
        elif stream is not None:
            stream.draft(progress.tokens, later)
        if config.output_trajectory:
            records.append((progress.tokens, filled, remasked, quality))
        if closing and can_end and planned is not plan[-1] and bool(finished.all()):
            break
    check_filled(read, canvas, progress, unsound)
    if streamer is not None:
        streamer.end()
    return output_of(generation, progress, cut_off, forwards, records)


@dataclass
class Forwards:
    """The forwards of a generation so far: `total`, and (B,) those of each row until it was finished.

    own: those that the strategy makes itself each time it is asked.
    """

    own: int
    of_rows: torch.Tensor
    total: int = 0

    def add(self, planned: PlannedStep, reads: torch.Tensor) -> None:
        """Count those of a step that the rows `reads` (B,) bool take part in."""
        self.of_rows = self.of_rows + reads.long()
        self.total += 1
        if planned.asks:
            self.of_rows = self.of_rows + self.own * (planned.rows.asks.bool() & reads)
            self.total += self.own


def output_of(
    generation: Generation, progress: Progress, cut_off: torch.Tensor, forwards: Forwards, records: list[tuple]
) -> torch.LongTensor | RemaskGenerationOutput:
    """What a call returns. cut_off (B, L) bool: what follows the end of a row."""
    canvas = generation.canvas
    sequences = canvas.restore(progress.tokens)
    if not generation.config.return_dict_in_generate:
        return sequences
    return RemaskGenerationOutput(
        sequences=sequences,
        tokens_per_forward=(canvas.fillable & ~cut_off).sum(-1) / forwards.of_rows.clamp(min=1),
        num_forwards=forwards.total,
        trajectory=collect(records, canvas),
    )


def begin_stream(streamer: BaseStreamer, canvas: Canvas) -> Stream:
    """The stream of a generation, with what comes before the first mask handed over."""
    stream = Stream(streamer, canvas)
    stream.confirm(canvas.tokens, canvas.fillable, torch.zeros_like(canvas.fillable))
    return stream


class RemaskGenerationMixin:
    """Gives a `PreTrainedModel` for masked diffusion `generate`, and a generation config saved and loaded with it.

    transformers recognises a model that generates by "GenerationMixin" in the name of a base class. List the mixin
    before `PreTrainedModel`.
    """

    generation_config_class = RemaskGenerationConfig

    def generate(
        self,
        input_ids: torch.LongTensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        streamer: BaseStreamer | None = None,
        custom_generate: str | Callable | None = None,
        trust_remote_code: bool | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> torch.LongTensor | RemaskGenerationOutput:
        """See `remask_generate`; `custom_generate`, a repository or a callable, takes its place as in transformers."""
        if isinstance(custom_generate, str):
            custom_generate = GenerationMixin.load_custom_generate(self, custom_generate, trust_remote_code)
        given = {
            "generation_config": generation_config,
            "attention_mask": attention_mask,
            "generator": generator,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "streamer": streamer,
            "token_type_ids": token_type_ids,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return (custom_generate or remask_generate)(self, input_ids, **given, **kwargs)

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
