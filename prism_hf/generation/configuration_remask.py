"""Settings of the remasking sampler, saved with the model as `generation_config.json`."""

import copy
import os
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Annotated, Any, ClassVar

from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation.configuration_utils import ALL_CACHE_IMPLEMENTATIONS
from transformers.utils import logging

from prism_hf._compat import config_of, is_prepared, mask_token_of, setting
from prism_hf._deprecation import warn_renamed, with_new_names
from prism_hf.data.prompts import tokens_without_text
from prism_hf.fields import Allowed, Count, Fraction, NotNegative, Positive, check_value, did_you_mean

from .denoising.canvas import vocabulary_size
from .denoising.orders import ORDERS, POSTERIOR_ORDERS
from .denoising.stopping import padding_of
from .strategies.base import RemaskStrategy, class_of, field_names, resolve_strategy, strategy_to_saved

logger = logging.get_logger(__name__)

CACHES = ("prefix", "dual")
REFILLS = ("planned", "remasked")
RENAMED = {"cache": "cache_implementation"}
# Of `generate`, beside the fields of its config.
ARGUMENTS = (
    *("input_ids", "attention_mask", "token_type_ids", "generator", "logits_processor", "stopping_criteria"),
    "streamer",
)
# What a config holds beside settings.
NO_SETTINGS = ("_from_model_config", "transformers_version")
# What every file that this class has saved holds, and no other class's: a file without it is somebody else's.
SIGN = "remask_strategy"
# Settings of transformers' own `generate` that denoising has none of, by what to use instead.
REASONS = {
    "beams need left-to-right generation, in which a beginning has a probability: for several sequences set "
    "num_return_sequences": (
        "num_beams num_beam_groups length_penalty early_stopping diversity_penalty constraints force_words_ids"
    ),
    "a canvas is read in both directions, so that no token has a past: cache_implementation='prefix' or 'dual', with "
    "block_length, reuse what is outside of a block": (
        "use_cache past_key_values cache_config max_cache_len prefill_chunk_size cache_position logits_to_keep"
    ),
    "nothing guesses what comes next, as a step unmasks many positions anyway: see confidence_threshold": (
        "assistant_model assistant_tokenizer prompt_lookup_num_tokens num_assistant_tokens use_mtp"
    ),
    "classifier-free guidance is cfg_scale here, its unconditional side being the canvas without what is given": (
        "guidance_scale negative_prompt_ids negative_prompt_attention_mask"
    ),
    "what is recorded of a generation is output_trajectory, with return_dict_in_generate": (
        "output_scores output_logits output_attentions output_hidden_states"
    ),
    "a canvas is made of token ids, and numbers its positions itself": (
        "position_ids inputs_embeds encoder_outputs decoder_input_ids decoder_attention_mask labels"
    ),
}
# The same for those of which transformers' own `generate` makes a logits processor or a stopping criterion.
CALLABLES = {
    "max_new_tokens masks are appended; that none ends a row earlier is said by suppress_tokens": (
        "min_length min_new_tokens"
    ),
    "it is a stopping criterion: pass stopping_criteria=[MaxTimeCriteria(...)] or [StopStringCriteria(...)]": (
        "stop_strings max_time"
    ),
    "it is a logits processor: pass one of transformers in logits_processor=[...]": (
        "repetition_penalty encoder_repetition_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size min_p top_h "
        "typical_p epsilon_cutoff eta_cutoff exponential_decay_length_penalty sequence_bias forced_bos_token_id "
        "forced_eos_token_id remove_invalid_values renormalize_logits prefix_allowed_tokens_fn watermarking_config"
    ),
}
MADE_CALLABLE = " ".join(CALLABLES.values()).split()
REASON_OF = {name: reason for reason, names in (REASONS | CALLABLES).items() for name in names.split()}
DEFAULTS = GenerationConfig._get_default_generation_params()


def asks_for_nothing(name: str, value: Any) -> bool:
    """Whether a setting of transformers' has the value at which it does nothing: `num_beams=1`, `output_scores=False`.

    `use_cache` may be True: a canvas has no cache to leave out. Of a setting that denoising has too, None leaves it
    open.
    """
    if name in FIELDS:
        return value is None and name in SHARED
    if reason_against(name) is None:
        return False
    plain = isinstance(value, int | float | str)
    return value is None or value is False or name == "use_cache" or (plain and value == DEFAULTS.get(name))


def reason_against(name: str) -> str | None:
    """Why transformers' setting of that name means nothing in denoising; None if it has no such setting."""
    generic = "it is a setting of left-to-right generation" if name in GenerationConfig().__dict__ else None
    return REASON_OF.get(name, generic)


Order = Annotated[str, Allowed(choices=ORDERS)]


class RemaskGenerationConfig(GenerationConfig):
    """Generation parameters of `remask_generate` and `RemaskGenerationMixin.generate`.

    A field left at None takes the model's own generation config, then the default named here. Names that mean nothing
    here (`num_beams`, a misspelling) raise ValueError.

    Args:
        max_new_tokens (`int`, *optional*, defaults to `0`): Masks appended to each row; masks already in it are
            unmasked in place.
        max_length (`int`, *optional*): The length of each row's canvas, its own prompt included, where no
            `max_new_tokens` is given: the longer a prompt, the fewer masks follow it. Rows of a batch come back with
            padding before shorter prompts, and after the new tokens of longer ones. With `block_length`, blocks begin
            at the end of a row's own prompt, and the canvas cuts the last.
        mask_token_id (`int`, *optional*, defaults to `model.config.mask_token_id`): The mask; never drawn as a token.
        steps (`int`, *optional*, defaults to the largest number of masks in a row of the batch): T, the number of
            forward passes. After step i a row of M masks holds ceil(M (i + 1) / T) generated tokens. With T > M and
            `num_remask`, corrections go on to the very end: up to `num_remask` positions stay open, and the last step
            unmasks them. With `max_length` and `block_length`, the steps are those of a canvas without a prompt, by
            default `max_length`, and the share of the blocks that a prompt takes is left out, as in PRISM's code for
            LLaDA.
        block_length (`int`, *optional*, defaults to `None` = one block of all masks): A row's masks are unmasked in
            blocks of this many, left to right, whatever remains being the last block. The steps are spread over the
            row's blocks, and must be as many or more. Within a block, each step unmasks its share of the block's masks
            (what cannot be divided goes to the first steps) and as many more as `refill` says. A complete block is
            final.
        refill (`str`, *optional*, defaults to `"planned"`): How many more masks a step of a block unmasks: as many as
            it was to remask (`"planned"`), as PRISM's first code has it, or as many as it did remask (`"remasked"`),
            as its later code does. They differ where fewer tokens can be remasked than planned, as under
            `quality_threshold`. Only with `block_length`, and not with `confidence_threshold`.
        cache_implementation (`str`, *optional*, defaults to `None` = exact): Reuse keys and values within a block
            (Fast-dLLM, arXiv 2505.22618), for models that can. The step that begins a block computes all positions; the
            others only the block and what comes after it (`"prefix"`) or only the block (`"dual"`), the rest being as
            it was then. An approximation: tokens may differ, and if rows differ in their number of masks, one row's new
            block refreshes all rows. Needs `block_length`.
        cache_refresh_interval (`int`, *optional*, defaults to `None` = at each block alone): Within a block, too,
            compute all positions at every so many steps; 1 is exact. Only with `cache_implementation`.
        order (`str`, *optional*, defaults to `"confidence"`): Which masks are unmasked first: `"random"`,
            `"confidence"`, `"margin"`, `"entropy"` or `"left_to_right"`. A strategy that decides on masks too leaves
            nothing to it: with one that has probabilities it is `"random"`, with one that ranks drafts unset. With
            `do_sample` too, `"confidence"` scores the probability of the likeliest token, where LLaDA's code scores
            that of the token drawn.
        confidence_threshold (`float`, *optional*, defaults to `None` = off): Each step unmasks all positions whose
            likeliest token has a probability above it, at least one, and what the steps before would have held, so that
            `steps` becomes a maximum: a block ends as soon as it has no mask. Needs `order="confidence"`.
        do_sample (`bool`, *optional*, defaults to `False`): Draw tokens from the posterior; otherwise the argmax.
        temperature (`float`, *optional*, defaults to `1.0`): Of the draw, only with `do_sample`; 0 is the argmax.
        top_k (`int`, *optional*, defaults to `0` = off): Number of likeliest tokens to draw from, only with
            `do_sample`.
        top_p (`float`, *optional*, defaults to `1.0`): Nucleus of the draw, only with `do_sample`: the smallest set of
            likeliest tokens whose probability reaches `top_p`, so the token that crosses it is in. (PRISM's code keeps
            those up to a cumulative `top_p`, without the one that crosses.) Positions are scored before temperature,
            `top_k` and `top_p`.
        cfg_scale (`float`, *optional*, defaults to `0.0` = off): Classifier-free guidance (LLaDA, arXiv 2502.09992):
            logits become un + (cfg_scale + 1) (cond - un), un being those with all given tokens masked. Doubles the
            batch of a forward; quality is read without it.
        suppress_tokens (`list[int]`, *optional*): Never drawn; positions are scored without them.
        begin_suppress_tokens (`list[int]`, *optional*): Come last: a position whose likeliest token is one of these is
            unmasked after all others of its block, and the others are scored without them. For LLaDA's EOS and EoT,
            which else are what it is surest of where the canvas is longer than an answer (its
            `confidence_eos_eot_inf`; the name is dLLM's). Needs an `order` that reads the posterior.
        bad_words_ids (`list[list[int]]`, *optional*): Token sequences that do not arise, whichever of their tokens
            comes last. A word of one token is as in `suppress_tokens`.
        remask_strategy (`str`, `dict` or callable, *optional*, defaults to `None`): A name in `STRATEGIES` (`"prism"`,
            `"random"`, `"remdm_cap"`, `"p2"`, ...), `{"name": ..., **fields}`, an instance, or a callable, see
            `prism_hf.generation.strategies`. None takes the model's default; `"none"` is always off. In a call, a
            strategy's fields may stand beside its name: `remask_strategy="remdm_loop", t_on=0.5`. Those that have
            probabilities or rank drafts, and `"wino"`, say themselves what is remasked: `num_remask`,
            `quality_threshold`, `confidence_threshold` and the loop do not go with them.
        num_remask (`int`, *optional*): Without blocks, tokens remasked a step, while num_remask < generated < M -
            num_remask (but see `quality_threshold`). With `block_length`, tokens remasked in a block, spread over its
            steps (what cannot be divided goes to the middle ones), the first and the last of a block excepted. Not with
            `eta`. Where neither is given the strategy has a default, see `PrismRemasking`.
        eta (`float`, *optional*): The number remasked is Binomial(generated, min(eta, (1 - alpha_s) / alpha_t)). Not
            with `block_length`. A strategy with a field `eta` (`"remdm_cap"`, `"remdm_rescale"`, `"remdm_loop"`,
            `"p2"`) gets it instead.
        remask_start (`float`, *optional*, defaults to `0.0`): Remask only at steps i with remask_start <= i / T <
            remask_end (fractions of the steps, or of each block's steps): the first step of the window remasks, the one
            at `remask_end` does not. With `eta`, the step before which nothing is generated and the last one, where (1
            - alpha_s) is 0, remask nothing.
        remask_end (`float`, *optional*, defaults to `1.0`): The end of that window.
        quality_threshold (`float`, *optional*, defaults to `None` = off): Remask only tokens with a quality below it;
            the strategy must be one that reads quality. With `confidence_threshold` too, what was generated is
            verified: a block ends as soon as it has no mask and a forward has read all of it and remasked nothing, or
            no step that may remask is left. Each step then remasks fewer tokens than the one before has unmasked, so
            that it ends. A `num_remask` lifts that: so many tokens may go back in any step of the static sampler but
            the last, the same ones again and again where they come back as they were; in the block sampler the steps
            have the same shares as ever.
        loop_start (`int`, *optional*): The extra loop steps come before this step, `0 <= loop_start <= steps`. The loop
            does not go with `confidence_threshold`, and with `block_length` only as `"prism_loop"`, which has defaults
            for all three and spreads the loop over the blocks.
        loop_steps (`int`, *optional*, defaults to `0`): Number of extra steps in which the count of generated tokens is
            held.
        num_remask_loop (`int`, *optional*, defaults to `0`): Random generated tokens remasked before the forward of
            each loop step.
        num_return_sequences (`int`, *optional*, defaults to `1`): Sequences for each row of `input_ids`, next to one
            another.
        return_dict_in_generate (`bool`, *optional*, defaults to `False`): Return a `RemaskGenerationOutput`, not only
            the sequences.
        output_trajectory (`bool`, *optional*, defaults to `False`): Record every step in the output; needs
            return_dict_in_generate.
        eos_token_id (`int` or `list[int]`, *optional*): The first of these among a row's appended tokens ends the row;
            what follows becomes `pad_token_id`. A row is looked at when a block of it is complete, and when all rows
            have ended, later blocks are not computed. Masks in place may become it as with any other token.
        pad_token_id (`int`, *optional*, defaults to `model.config.pad_token_id`, that of its backbone, then the first
            of `eos_token_id`): Fills a row after its end.
        bos_token_id (`int`, *optional*): Not used; kept in step with the tokenizer by `Trainer`, as the other special
            tokens are.

    Example:
        ```python
        config = RemaskGenerationConfig(max_new_tokens=64, block_length=32, remask_strategy="prism")
        model.generate(input_ids, config)
        ```
    """

    # What each accepts beside None.
    max_new_tokens: Count
    max_length: Positive
    mask_token_id: Count
    steps: Positive
    block_length: Positive
    refill: Annotated[str, Allowed(choices=REFILLS)]
    cache_implementation: Annotated[str, Allowed(choices=CACHES)]
    cache_refresh_interval: Positive
    order: Order
    confidence_threshold: Fraction
    do_sample: bool
    temperature: NotNegative
    top_k: Count
    top_p: Annotated[float, Allowed(above=0, max=1, remedy="For the likeliest token use do_sample=False.")]
    cfg_scale: NotNegative
    suppress_tokens: list[Count]
    begin_suppress_tokens: list[Count]
    bad_words_ids: list[list[Count]]
    remask_strategy: Any
    num_remask: Count
    eta: Fraction
    remask_start: Fraction
    remask_end: Fraction
    quality_threshold: Fraction
    loop_start: Count
    loop_steps: Count
    num_remask_loop: Count
    num_return_sequences: Positive
    return_dict_in_generate: bool
    output_trajectory: bool
    bos_token_id: Count
    eos_token_id: Count | list[Count]
    pad_token_id: Count
    fields: ClassVar[tuple[str, ...]]

    def __init__(self, **kwargs: Any) -> None:
        kwargs = with_new_names(kwargs, RENAMED, type(self).__name__)
        # The parent's __init__ would add dozens of left-to-right settings, all silently without effect here.
        for name in self.fields:
            setattr(self, name, kwargs.pop(name, None))
        kwargs.pop("_from_model_config", None)
        kwargs.pop("_commit_hash", None)
        # Saved as true, it makes a plain GenerationConfig drop our fields on reload.
        self._from_model_config = False
        self.transformers_version = kwargs.pop("transformers_version", None)
        self.reject_unknown(kwargs)
        self.validate()

    @classmethod
    def reject_unknown(cls, names: Iterable[str], also_known: Iterable[str] = ()) -> None:
        """Raise ValueError for any of `names`: why denoising lacks it, or the nearest right name."""
        for name in names:
            if reason := reason_against(name):
                raise ValueError(f"{name!r} has no meaning in denoising: {reason}.")
            if name in ARGUMENTS:
                raise ValueError(f"{name!r} is an argument of generate, and no setting: it cannot be given here.")
            hint = did_you_mean(name, (*cls.fields, *ARGUMENTS, *also_known))
            hint = hint or f" The fields are {', '.join(cls.fields)}."
            raise ValueError(f"{name!r} is not a generation parameter of {cls.__name__}.{hint}")

    @property
    def cache(self) -> str | None:
        """The old name of `cache_implementation`."""
        warn_renamed("RemaskGenerationConfig.cache", "cache_implementation")
        return self.cache_implementation

    @cache.setter
    def cache(self, value: str | None) -> None:
        warn_renamed("RemaskGenerationConfig.cache", "cache_implementation")
        self.cache_implementation = value

    @staticmethod
    def _get_default_generation_params() -> dict[str, Any]:
        return {
            "max_new_tokens": 0,
            "do_sample": False,
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "cfg_scale": 0.0,
            "remask_start": 0.0,
            "remask_end": 1.0,
            "loop_steps": 0,
            "num_remask_loop": 0,
            "num_return_sequences": 1,
            "return_dict_in_generate": False,
            "output_trajectory": False,
        }

    @classmethod
    def from_model_config(cls, model_config: Any) -> "RemaskGenerationConfig":
        """A model's config holds no generation settings: all fields unset."""
        return cls()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the parent's; the left-to-right settings that a base checkpoint's file may hold are left out."""
        foreign = set(GenerationConfig().__dict__) - set(cls.fields) - set(NO_SETTINGS)
        if config_dict.get("cache_implementation") in (*ALL_CACHE_IMPLEMENTATIONS, "paged"):
            foreign.add("cache_implementation")
        return super().from_dict({key: value for key, value in config_dict.items() if key not in foreign}, **kwargs)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | os.PathLike) -> dict[str, Any]:
        """What a file holds, of a file that is none of ours what this class knows.

        Raises ValueError, where the parent's OSError would pass for a file that is not there.
        """
        try:
            settings = super()._dict_from_json_file(json_file)
            if not isinstance(settings, dict):
                raise ValueError(f"it holds no mapping but {settings!r}")
            settings = with_new_names(settings, RENAMED, str(json_file))
            if SIGN not in settings:
                return cls.without_foreign(settings, json_file)
            cls.from_dict(settings)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{json_file} holds no generation settings: {error} Correct or delete the file."
            ) from error
        return settings

    @classmethod
    def without_foreign(cls, settings: dict[str, Any], json_file: str | os.PathLike) -> dict[str, Any]:
        """A foreign file's settings that this class takes; a warning names the others that ask for something."""
        kept: dict[str, Any] = {}
        left_out = []
        for name, value in settings.items():
            try:
                cls(**kept | {name: value})
                kept[name] = value
            except ValueError:
                if value is not None and not asks_for_nothing(name, value):
                    left_out.append(f"{name}={value!r}")
        if left_out:
            logger.warning_once(
                f"{json_file} was not written by {cls.__name__}; left out of it, as denoising has no such settings: "
                f"{', '.join(left_out)}."
            )
        return kept

    def validate(self, strict: bool = False, user_set_attributes: Any = None) -> None:
        """Raise ValueError on the first field with an impossible value."""
        for name, kind in FIELDS.items():
            if (value := vars(self)[name]) is not None:
                setattr(self, name, check_value(name, value, kind))
        if [] in (self.bad_words_ids or []):
            raise ValueError(f"bad_words_ids={self.bad_words_ids} has a word without tokens: leave it out.")
        if self.remask_strategy is not None:
            resolve_strategy(self.remask_strategy)
        if self.num_remask is not None and self.eta is not None:
            raise ValueError(
                f"num_remask={self.num_remask} and eta={self.eta} both say how many to remask: set one to None."
            )

    def check_complete(self, strategy: RemaskStrategy) -> None:
        """Raise ValueError where fields contradict one another, once defaults and call arguments are all in."""
        self.check_strategy(strategy)
        self.check_cache(strategy)
        self.check_steps()
        self.check_outputs(strategy)

    def check_strategy(self, strategy: RemaskStrategy) -> None:
        """Raise ValueError for settings that the strategy decides itself, or that it cannot serve."""
        for name in strategy.refuses:
            if value := vars(self)[name]:
                raise ValueError(
                    f"{name}={value!r} does not go with remask_strategy {strategy}, which decides itself "
                    f"what is remasked and unmasked: leave {name} out, or set it to "
                    f"{self._get_default_generation_params().get(name)}."
                )
        if strategy.refuses and self.order != strategy.order:
            raise ValueError(
                f"order={self.order!r} does not go with remask_strategy {strategy}, which decides itself what is "
                "unmasked: leave order out, or set it to None."
            )
        strategy.check_config(self)

    def check_cache(self, strategy: RemaskStrategy) -> None:
        """Raise ValueError for a cache without blocks, or with a strategy that reads what it leaves out."""
        if self.cache_refresh_interval is not None and self.cache_implementation is None:
            raise ValueError(
                f"cache_refresh_interval={self.cache_refresh_interval} has nothing to refresh: set "
                f"cache_implementation to one of {sorted(CACHES)}."
            )
        if self.cache_implementation is None:
            return
        cache = f"cache_implementation={self.cache_implementation!r}"
        if self.block_length is None:
            raise ValueError(f"{cache} needs block_length: what a block does not hold is reused within it.")
        if "probs" in strategy.needs:
            raise ValueError(
                f"{cache} leaves out most positions, and remask_strategy={self.remask_strategy!r} reads "
                "the posterior of all: set cache_implementation=None."
            )
        if "shadows" in strategy.needs:
            raise ValueError(
                f"{cache} does not go with remask_strategy={self.remask_strategy!r}, whose shadow tokens "
                "have no place in it: set cache_implementation=None."
            )

    def check_steps(self) -> None:
        """Raise ValueError for a window, a loop, blocks and thresholds that do not go together."""
        if self.remask_start > self.remask_end:
            raise ValueError(f"remask_start={self.remask_start} is after remask_end={self.remask_end}: exchange them.")
        if None not in (self.steps, self.loop_start) and self.loop_steps and self.loop_start > self.steps:
            raise ValueError(f"loop_start={self.loop_start} is after the last of steps={self.steps}: lower it.")
        for name, other, reason in (
            ("block_length", "eta", "num_remask says how many to remask in a block"),
            ("confidence_threshold", "loop_steps", "the loop holds a count that the threshold does not keep"),
        ):
            first, second = vars(self)[name], vars(self)[other]
            if first is not None and second:
                raise ValueError(f"{name}={first} and {other}={second} do not go together: {reason}.")
        if self.refill is not None and (self.block_length is None or self.confidence_threshold is not None):
            raise ValueError(
                f"refill={self.refill!r} is a rule of block_length={self.block_length} and "
                f"confidence_threshold={self.confidence_threshold}: it needs a block_length, whose steps unmask a set "
                "number, so no confidence_threshold. Leave refill out."
            )
        if self.begin_suppress_tokens and self.order not in POSTERIOR_ORDERS:
            raise ValueError(
                f"begin_suppress_tokens={self.begin_suppress_tokens} come last in an order that reads the posterior, "
                f"one of {sorted(POSTERIOR_ORDERS)}, not in order={self.order!r}: set one, or use suppress_tokens."
            )
        if self.confidence_threshold is not None and self.order != "confidence":
            raise ValueError(
                f"confidence_threshold={self.confidence_threshold} needs order='confidence', got {self.order!r}: give "
                "order='confidence' too."
            )

    def draws(self, strategy: RemaskStrategy) -> bool:
        """Whether two generations of one canvas may differ."""
        samples = self.do_sample and self.temperature > 0
        return bool(samples or self.order == "random" or self.loop_steps or self.eta or strategy.draws)

    def check_repeats(self, strategy: RemaskStrategy, rows: Iterable[Hashable]) -> None:
        """Raise ValueError where each of the rows to complete stands there several times, to no purpose."""
        counts = Counter(rows)
        if counts and min(counts.values()) > 1 and not self.draws(strategy):
            raise ValueError(
                f"The {min(counts.values())} samples of each prompt would be equal: do_sample={self.do_sample}, "
                f"temperature={self.temperature} and order={self.order!r} draw nothing. Take one sample "
                "(num_samples=1), or set do_sample=True with a temperature above 0, or order='random'."
            )

    def check_outputs(self, strategy: RemaskStrategy) -> None:
        """Raise ValueError for several sequences that would be one, and for a trajectory that nobody would get."""
        if self.num_return_sequences > 1 and not self.draws(strategy):
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} would be the same sequence each time: "
                "set do_sample=True or order='random'."
            )
        if self.output_trajectory and not self.return_dict_in_generate:
            raise ValueError("output_trajectory=True has nowhere to go: set return_dict_in_generate=True too.")

    def to_dict(self) -> dict[str, Any]:
        """As the parent's; a registered strategy becomes its name, or a dict with the name and its fields."""
        return super().to_dict() | {"remask_strategy": strategy_to_saved(self.remask_strategy)}

    def to_json_string(self, *args: Any, **kwargs: Any) -> str:
        # Also behind repr, == and hash, which must work with a user's own callable; only saving refuses it.
        if callable(strategy_to_saved(self.remask_strategy)):
            shown = copy.copy(self)
            shown.remask_strategy = None
            shown.__dict__["remask_strategy_callable"] = repr(self.remask_strategy)
            return super(RemaskGenerationConfig, shown).to_json_string(*args, **kwargs)
        return super().to_json_string(*args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """As the parent's. Raises ValueError for a strategy that is not registered and so could not be loaded."""
        if callable(strategy_to_saved(self.remask_strategy)):
            raise ValueError(
                f"remask_strategy={self.remask_strategy!r} cannot be saved: make it a dataclass and register it with "
                "prism_hf.generation.register_strategy, or set it to None."
            )
        return super().save_pretrained(save_directory, *args, **kwargs)

    def get_generation_mode(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("RemaskGenerationConfig has one mode: denoising with remasking.")


# Of each field what it accepts beside None.
FIELDS: dict[str, Any] = {
    name: kind for name, kind in RemaskGenerationConfig.__annotations__.items() if name != "fields"
}
RemaskGenerationConfig.fields = tuple(FIELDS)
# Those that are transformers' too, by the same meaning.
SHARED = set(FIELDS) & set(GenerationConfig().__dict__) - {"cache_implementation"}
# Either of a pair, given in one place, sets aside the other from any place with less say.
EITHER_OR = (("num_remask", "eta"), ("max_new_tokens", "max_length"))


def prepare_generation_config(
    model: Any, generation_config: GenerationConfig | None, **kwargs: Any
) -> tuple[RemaskGenerationConfig, RemaskStrategy]:
    """The complete settings of a call, and its strategy, resolved once: below it nothing takes a name.

    A setting is that of `kwargs`, of `generation_config`, of the model's own config, the strategy's default, or the
    config's default, the first of these that has one. No argument is changed.

    Args:
        model (`Callable`): The model; its `generation_config` counts where it is a `RemaskGenerationConfig`.
        generation_config (`GenerationConfig`, *optional*): Settings that win over the model's own.
        **kwargs: Settings of the call, and fields of the strategy.

    Raises:
        ValueError: for a name in `kwargs` that is neither a field nor one of the strategy's, with the nearest right
            one, unless it is a setting of transformers' at the value at which it does nothing; for settings that do not
            go together.

    Example:
        ```python
        config, strategy = prepare_generation_config(model, None, remask_strategy="remdm_loop", t_on=0.5)
        print(config.order, strategy.needs)
        ```
    """
    kwargs = with_new_names(kwargs, RENAMED, "generate")
    kwargs = {name: value for name, value in kwargs.items() if not asks_for_nothing(name, value)}
    values, chosen = _merged(model, generation_config, kwargs)
    if values["mask_token_id"] is None:
        values["mask_token_id"] = mask_token_of(config_of(model))
    if values["mask_token_id"] is None:
        raise ValueError("The mask token is unknown: model.config has no mask_token_id; pass mask_token_id=...")
    own = {name: value for name, value in kwargs.items() if name not in values}
    known = field_names(class_of(values["remask_strategy"]))
    RemaskGenerationConfig.reject_unknown([name for name in own if name not in known], known)
    if "eta" in known and values["eta"] is not None:
        own["eta"], values["eta"] = values["eta"], None
    value = values.pop("remask_strategy")
    strategy = resolve_strategy(value, **own)
    values["order"] = strategy.order if values["order"] is None else values["order"]
    config = RemaskGenerationConfig(**values)
    config.remask_strategy = strategy.in_config if own else value
    for name, default in strategy.defaults(config).items():
        if name not in chosen:
            setattr(config, name, default)
    config.check_complete(strategy)
    if config.temperature not in (0, 1) and not config.do_sample:
        logger.warning_once(f"temperature={config.temperature} has no effect without do_sample=True.")
    return config, strategy


def _merged(
    model: Any, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
) -> tuple[dict[str, Any], set[str]]:
    """The value of each field, and the fields that somebody has chosen."""
    own = setting(model, "generation_config")
    inherited: dict[str, Any] = {}
    if isinstance(own, RemaskGenerationConfig):
        inherited = own.to_dict() | {"remask_strategy": own.remask_strategy}
    defaults = RemaskGenerationConfig._get_default_generation_params()
    values: dict[str, Any] = dict.fromkeys(RemaskGenerationConfig.fields)
    chosen: set[str] = set()
    for layer in (defaults, inherited, own_settings(generation_config), kwargs):
        given = {name: layer[name] for name in values if layer.get(name) is not None}
        set_aside = set(kwargs) & set(values) if layer is kwargs else set()
        if "remask_strategy" in given and (refused := class_of(given["remask_strategy"]).refuses):
            set_aside |= {*refused, "order"}
        values |= {name: defaults.get(name) for name in set_aside}
        for pair in EITHER_OR:
            if any(name in given for name in pair):
                values |= dict.fromkeys(pair)
                set_aside |= set(pair)
        values |= given
        chosen = chosen - set_aside | (set() if layer is defaults else set(given))
    return values, chosen


def own_settings(generation_config: GenerationConfig | None) -> dict[str, Any]:
    """Our fields of a config. One of transformers' own class may hold its defaults, which nobody chose.

    Raises ValueError where that one asks for what denoising has none of.
    """
    if generation_config is None:
        return {}
    check_value("generation_config", generation_config, GenerationConfig)
    if isinstance(generation_config, RemaskGenerationConfig):
        shared = {"remask_strategy": generation_config.remask_strategy}  # it may hold a network
        return copy.deepcopy(generation_config.__dict__ | dict.fromkeys(shared)) | shared
    if is_prepared(generation_config):
        raise ValueError(
            "transformers' generate has prepared generation_config for a decoder: pass it "
            "custom_generate=as_custom_generate(...), with the settings of denoising, instead of remask_generate."
        )
    settings = generation_config.to_dict()
    foreign = set(GenerationConfig().__dict__) - set(RemaskGenerationConfig.fields) - set(NO_SETTINGS)
    chosen = [name for name in settings if name in foreign and not asks_for_nothing(name, settings[name])]
    RemaskGenerationConfig.reject_unknown(chosen)
    return {name: value for name, value in settings.items() if DEFAULTS.get(name) != value}


def fitted_to_tokenizer(model: Any, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call, completed by what a tokenizer tells.

    Its EOS ends a text unless they or the model say what does, its pad token fills what follows unless they or the
    model have one, and ids that it lacks are never drawn: a vocabulary that was padded to a round number has some.

    Args:
        model (`Any`): What is to generate.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        settings (`dict[str, Any]`): Those of the call.

    Example:
        ```python
        settings = fitted_to_tokenizer(model, tokenizer, {"max_new_tokens": 64})
        remask_generate(model, input_ids, **settings)
        ```
    """
    (config, _), size = prepare_generation_config(model, None, **settings), vocabulary_size(model)
    told: dict[str, Any] = {}
    for name, token, of_model in (
        ("eos_token_id", tokenizer.eos_token_id, None),
        ("pad_token_id", tokenizer.pad_token_id, padding_of(model, config.mask_token_id)),
    ):
        is_open = name not in settings and vars(config)[name] is None and of_model is None
        if is_open and token not in (None, config.mask_token_id) and (size is None or token < size):
            told[name] = token
    if missing := tokens_without_text(tokenizer, size, config.mask_token_id):
        told["suppress_tokens"] = sorted({*(config.suppress_tokens or []), *missing})
    return settings | told
