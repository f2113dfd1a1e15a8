"""The denoising loop: each step one forward, then remask by strategy, then unmask by order (arXiv 2510.01384).

What can be known to be wrong is said before the first forward, by `prepare_generation`: ids, masks and settings against
the model's vocabulary, each row against its positions. What only a forward shows leaves a mask where it was, and the
host looks once, after the last step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import (
    BaseStreamer,
    EosTokenCriteria,
    MaxLengthCriteria,
    NoBadWordsLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import ModelOutput, logging

from prism_hf._compat import is_prepared, setting, unprepared

from .configuration_remask import MADE_CALLABLE, RemaskGenerationConfig, prepare_generation_config
from .denoising.caching import check_cache, with_cache
from .denoising.canvas import Changes, Generation, prepare_canvas, vocabulary_size
from .denoising.reading import Reader, check_quality, check_shadows, check_tokens, family_of
from .denoising.schedule import Step, masks_in_blocks, plan_steps
from .denoising.stopping import Endings, as_ids, check_endings
from .denoising.threshold import AdaptiveSteps
from .denoising.unmasking import check_unmasked
from .strategies.base import RemaskStrategy
from .streaming import Stream
from .trajectory import Recorder, Trajectory

logger = logging.get_logger(__name__)

# What a tokenizer tells of a text beside the inputs of a model.
DESCRIPTIONS = (
    *("special_tokens_mask", "offset_mapping", "length", "overflow_to_sample_mapping", "num_truncated_tokens"),
    *("overflowing_tokens", "assistant_masks"),
)
# What transformers' generate hands to a `custom_generate` for a decoder; none of it concerns a canvas.
OF_DECODERS = ("use_cache", "cache", "past_key_values", "position_ids", "logits_to_keep")
# What says where a repository's files are.
DOWNLOADED = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
# Made by transformers' generate from settings that reach us as settings.
DERIVED = (
    EosTokenCriteria,
    MaxLengthCriteria,
    NoBadWordsLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass
class RemaskGenerationOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate`.

    Args:
        sequences (`torch.LongTensor`): (B, L).
        tokens_per_forward (`torch.FloatTensor`): (B,) tokens generated, without those that an end of sequence cut off,
            for each forward until the row was finished.
        forwards_per_row (`torch.LongTensor`): (B,) forwards until the row was finished, those of a strategy's own
            network included.
        num_forwards (`int`): Model calls made for the batch, those of a strategy's own network included.
        quality (`torch.FloatTensor`, *optional*): (B, L), of a strategy that reads it: that of each generated token in
            the last forward that read its row. NaN for what that forward's step filled, for what was given, and where a
            cache spared it.
        trajectory (`Trajectory`, *optional*): If it was asked for.

    Example:
        ```python
        output = remask_generate(model, input_ids, max_new_tokens=64, return_dict_in_generate=True)
        print(output.num_forwards, output.tokens_per_forward)
        ```
    """

    sequences: torch.Tensor | None = None
    tokens_per_forward: torch.Tensor | None = None
    forwards_per_row: torch.Tensor | None = None
    num_forwards: int | None = None
    quality: torch.Tensor | None = None
    trajectory: Trajectory | None = None


@torch.no_grad()
def remask_generate(
    model: Any,
    input_ids: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    attention_mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
    streamer: BaseStreamer | None = None,
    token_type_ids: torch.Tensor | None = None,
    inputs: torch.Tensor | None = None,
    **kwargs: Any,
) -> torch.Tensor | RemaskGenerationOutput:
    """Fill the masks of `input_ids` (B, L), and `max_new_tokens` appended ones, correcting tokens on the way.

    Tokens given in `input_ids` never change, and positions with `attention_mask` 0 are never filled. Rows may have
    different numbers of masks and different lengths, padded on either side: the model reads each row's tokens and new
    masks first and its padding last, so that a row gets what it gets alone. Returned rows end in their new tokens, as a
    decoder's do: where masks are appended, padding comes back on the left. Without new tokens it stays where it was.

    1. Prepare: complete the settings, check all that can be known before the first forward, and plan each step.
    2. Each step: find the block of each row, remask and unmask as the strategy does, end rows, stream, record.
    3. Finish: see that no mask is left, and put the rows back as they came.

    The loop waits for the device when a block is complete, if `eos_token_id` or `stopping_criteria` may end it; after
    each step with a `confidence_threshold`, with `"wino"` or with a `streamer`; at the end; and not otherwise.

    Args:
        model (`Callable`): Any masked language model of a family in `prism_hf.backbones`, or a module without
            `config.model_type`, whose output has `logits` (B, L, V); strategies that read quality also need
            `quality_logits` (B, L). If its class says `_supports_logit_positions`, and so takes columns
            `logits_to_keep` (B, W) for logits (B, W, V), the LM head runs only where a step can decide.
        input_ids (`torch.LongTensor`): (B, L), of any integer type; `inputs`, as transformers calls them, is the same.
        generation_config (`GenerationConfig`, *optional*): A `RemaskGenerationConfig`; any other is read for what the
            two share.
        attention_mask (`torch.Tensor`, *optional*): (B, L), 0 at padding and 1 elsewhere.
        generator (`torch.Generator`, *optional*): The source of all randomness.
        logits_processor (`LogitsProcessorList`, *optional*): Called each step with the N positions that may be
            unmasked, each as a row of its own, after they were chosen: input_ids (N, L) are the tokens to the left of
            the position, as far as they are decided (masks where they are not, or where the sequence has not begun),
            and scores (N, V). A processor that takes `cur_step` gets the number of steps left.
        stopping_criteria (`StoppingCriteriaList`, *optional*): Asked when a block is complete, as if its tokens had
            come one by one; `scores` are None. A row ends with the first appended token after which one holds. One that
            holds for a reason other than the block's tokens (time) ends the row after the block.
        streamer (`BaseStreamer`, *optional*): Gets what comes before the first mask, then each block when it is
            complete, and drafts of the block after each step if it has `put_draft`.
        token_type_ids (`torch.Tensor`, *optional*): (B, L), as some tokenizers give them. They go to a model whose
            forward names them, new tokens being of the type of the last one before them; another model does without.
        **kwargs: Fields of `RemaskGenerationConfig`, which win over `generation_config`, and of the remask strategy,
            such as the `critic` of `remask_strategy="token_critic"`. What else a tokenizer returns
            (`special_tokens_mask`, `offset_mapping`, ...) is not read.

    Returns:
        The sequences (B * num_return_sequences, L + max_new_tokens), or a `RemaskGenerationOutput` with
        `return_dict_in_generate`.

    Raises:
        ValueError: on unknown or contradictory settings, a missing quality head, or an input that cannot be read or has
            no masks, before the first forward; and where a mask could not be filled, after the last: the model gave
            NaN, or every token was excluded there.

    Example:
        ```python
        model = load_model("user/sudoku-prism")
        sequences = remask_generate(model, input_ids, max_new_tokens=64, remask_strategy="prism")
        ```
    """
    _check_callables(generator, logits_processor, stopping_criteria)
    config, strategy = prepare_generation_config(model, generation_config, **without_descriptions(kwargs))
    input_ids = inputs if input_ids is None else input_ids
    given = (attention_mask, token_type_ids, generator, logits_processor, stopping_criteria)
    generation = prepare_generation(model, config, strategy, input_ids, *given)
    count, judge = ForwardCount(generation), LastQuality(generation)
    recorder, stream = Recorder(generation), Stream(generation, streamer)
    observers = (count, judge, Endings(generation, stopping_criteria), stream, recorder)
    for step in generation.schedule:
        step = generation.begin(step)
        if step is None:  # nothing to read in it
            continue
        changes = strategy.step(generation, step)
        generation.settle(step, changes)
        for observe in observers:
            observe(generation, step, changes)
        if generation.is_over:
            break
    check_unmasked(generation)
    stream.end()
    return _output(generation, count, judge, recorder)


def prepare_generation(
    model: Any,
    config: RemaskGenerationConfig,
    strategy: RemaskStrategy,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    logits_processor: LogitsProcessorList | None = None,
    stopping_criteria: StoppingCriteriaList | None = None,
) -> Generation:
    """Check all that can be known before the first forward, and plan each step. Raises ValueError with the remedy."""
    family_of(model)
    check_tokens(model, config)
    if "quality" in strategy.needs:
        check_quality(model)
    if "shadows" in strategy.needs:
        check_shadows(model, strategy)
    canvas = prepare_canvas(model, input_ids, attention_mask, config, token_type_ids)
    num_masks = canvas.fillable.sum(-1)
    masks_of_rows = num_masks.tolist()
    most_masks = max(masks_of_rows, default=0)
    if most_masks == 0:
        raise ValueError(
            f"input_ids has no mask token (mask_token_id={config.mask_token_id}) to fill: "
            "put masks in it, or set max_new_tokens."
        )
    pad_token_id = check_endings(model, config, stopping_criteria, canvas)
    steps = config.steps or masks_in_blocks(most_masks, config)
    schedule = plan_steps(strategy, config, masks_of_rows, canvas.num_appended.tolist(), steps, canvas.tokens.device)
    if config.cache_implementation:
        check_cache(model, canvas, config)
        schedule = with_cache(schedule, canvas, config)
    thresholds = strategy.thresholds(config)
    return Generation(
        config=config,
        strategy=strategy,
        canvas=canvas,
        schedule=schedule,
        steps=steps,
        read=Reader(model, canvas, config, reads_quality="quality" in strategy.needs),
        adaptive=AdaptiveSteps(thresholds, num_masks) if thresholds.adapt else None,
        pad_token_id=pad_token_id,
        generator=generator,
        logits_processor=logits_processor and LogitsProcessorList(logits_processor),
    )


def _check_callables(generator: Any, logits_processor: Any, stopping_criteria: Any) -> None:
    """Raise ValueError where the source of randomness, or what transformers calls in lists, is something else."""
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is {generator!r}: give torch.Generator().manual_seed(...).")
    for name, value, kind in (
        ("logits_processor", logits_processor, LogitsProcessorList),
        ("stopping_criteria", stopping_criteria, StoppingCriteriaList),
    ):
        if value is not None and not (isinstance(value, list | tuple) and all(callable(each) for each in value)):
            raise ValueError(f"{name} must be a list such as {kind.__name__}([...]), got {value!r}.")


def without_descriptions(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call without what a tokenizer only tells of a text, in tensors or lists."""
    return {name: value for name, value in kwargs.items() if name not in DESCRIPTIONS or isinstance(value, int | float)}


class ForwardCount:
    """The forwards of a generation: `total`, and `of_rows` (B,), those of each row until it was finished."""

    def __init__(self, generation: Generation) -> None:
        self.total, self.of_rows = 0, torch.zeros_like(generation.num_masks)

    def __call__(self, generation: Generation, step: Step, changes: Changes) -> None:
        self.of_rows = self.of_rows + generation.reads.long()
        self.total += 1
        if step.uses_strategy:
            own = generation.strategy.num_forwards
            self.of_rows = self.of_rows + own * (step.rows.uses_strategy.bool() & generation.reads)
            self.total += own


class LastQuality:
    """The quality (B, L) of generated tokens in the last forward that read each row, None where none is read."""

    def __init__(self, generation: Generation) -> None:
        self.quality: torch.Tensor | None = None

    def __call__(self, generation: Generation, step: Step, changes: Changes) -> None:
        if changes.quality is None or not generation.config.return_dict_in_generate:
            return
        stood = (generation.canvas.fillable & ~generation.masked & ~changes.unmasked) | changes.remasked
        quality = changes.quality.masked_fill(~stood, torch.nan)
        before = torch.full_like(quality, torch.nan) if self.quality is None else self.quality
        self.quality = torch.where(generation.reads[:, None], quality, before)


def _output(
    generation: Generation, count: ForwardCount, judge: LastQuality, recorder: Recorder
) -> torch.Tensor | RemaskGenerationOutput:
    canvas = generation.canvas
    sequences = canvas.restore(generation.tokens, generation.pad_token_id or 0)
    if not generation.config.return_dict_in_generate:
        return sequences
    return RemaskGenerationOutput(
        sequences=sequences,
        tokens_per_forward=(canvas.fillable & ~generation.cut_off).sum(-1) / count.of_rows.clamp(min=1),
        forwards_per_row=count.of_rows,
        num_forwards=count.total,
        quality=None if judge.quality is None else canvas.restore(judge.quality, torch.nan),
        trajectory=recorder.trajectory(canvas),
    )


def as_custom_generate(**settings: Any) -> Callable:
    """`remask_generate` with `settings`, as transformers' own `model.generate` calls a `custom_generate`.

    For a class that has transformers' `generate` and is none of ours. What transformers knows too (`max_new_tokens`,
    `do_sample`, `temperature`, `eos_token_id`, `logits_processor`, ...) may stand in the call of `generate`; what it
    does not know stands here, and so does what it would take for a decoder's: `streamer`, `cache_implementation`.

    Args:
        **settings: Arguments of `remask_generate`, which win over those of the call.

    Returns:
        What to pass as `custom_generate`.

    Example:
        ```python
        custom_generate = as_custom_generate(remask_strategy="remdm_cap", eta=0.02, steps=64)
        model.generate(input_ids, max_new_tokens=64, do_sample=True, custom_generate=custom_generate)
        ```
    """

    # transformers passes on by name what the signature names, and prepares the rest as for a decoder.
    def generate(
        model: Any,
        input_ids: torch.Tensor,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        max_length: int | None = None,
        num_return_sequences: int | None = None,
        token_type_ids: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | RemaskGenerationOutput:
        call = {
            "generation_config": generation_config,
            "logits_processor": logits_processor,
            "stopping_criteria": stopping_criteria,
            "max_length": max_length,
            "num_return_sequences": num_return_sequences,
            "token_type_ids": token_type_ids,
            "generator": generator,
            **kwargs,
        }
        if is_prepared(generation_config):  # as a class of ours, which may be called so too, does not
            call = {name: value for name, value in call.items() if name not in OF_DECODERS} | {
                "generation_config": _as_chosen(model, generation_config),
                "logits_processor": _without_derived(logits_processor),
                "stopping_criteria": _without_derived(stopping_criteria),
            }
        call = {name: value for name, value in call.items() if value is not None}
        return remask_generate(model, input_ids, **call | settings)

    return generate


def _as_chosen(model: Any, generation_config: GenerationConfig) -> GenerationConfig:
    """A config that transformers has prepared, without what nobody chose, and what it has made callables of.

    Nobody chose the default `max_length`, 20 more than the prompt, and the special tokens of a model's config that are
    none of its tokens, as where a class has those of its published checkpoint for defaults. The rows of
    `num_return_sequences` in a config are there already.
    """
    generation_config, size = unprepared(generation_config), vocabulary_size(model)
    for name in ("max_length", "num_return_sequences", *MADE_CALLABLE):
        setattr(generation_config, name, None)
    for name in ("eos_token_id", "pad_token_id"):
        tokens = as_ids(vars(generation_config)[name])
        if tokens == as_ids(setting(model.config, name)) and size is not None and max(tokens, default=0) >= size:
            setattr(generation_config, name, None)
    return generation_config


def _without_derived(callables: list | None) -> list:
    """The logits processors or stopping criteria that do not just repeat a setting."""
    return [each for each in callables or () if not isinstance(each, DERIVED)]


class RemaskGenerationMixin:
    """Gives a `PreTrainedModel` for masked diffusion `generate`, and a generation config saved and loaded with it.

    transformers recognises a model that generates by "GenerationMixin" in the name of a base class. List the mixin
    before `PreTrainedModel`.

    Example:
        ```python
        class MyForMaskedDiffusion(RemaskGenerationMixin, MyPreTrainedModel): ...


        MyForMaskedDiffusion.from_pretrained("user/repo").generate(input_ids, max_new_tokens=64)
        ```
    """

    generation_config_class = RemaskGenerationConfig

    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        streamer: BaseStreamer | None = None,
        custom_generate: str | Callable | None = None,
        trust_remote_code: bool | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | RemaskGenerationOutput:
        """See `remask_generate`; `custom_generate`, a repository or a callable, takes its place as in transformers."""
        if isinstance(custom_generate, str):
            custom_generate = GenerationMixin.load_custom_generate(cast(Any, self), custom_generate, trust_remote_code)
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
        generation_config: GenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: str | None,
        pretrained_model_name_or_path: str | None,
        **kwargs: Any,
    ) -> None:
        """At `from_pretrained`: take the given generation config, or the one saved beside the weights."""
        if generation_config is not None:
            self.generation_config = self.generation_config_class.from_dict(generation_config.to_dict())
        elif pretrained_model_name_or_path is not None:
            place = {name: kwargs[name] for name in DOWNLOADED if name in kwargs}
            place |= {"_from_auto": from_auto_class, "_from_pipeline": from_pipeline}
            try:
                saved: Any = self.generation_config_class.from_pretrained(pretrained_model_name_or_path, **place)
                self.generation_config = saved
            except OSError:
                logger.info("No generation config file found: using the default one.")
