"""Settings of the remasking sampler, saved with the model as `generation_config.json`."""

import copy
import math
from difflib import get_close_matches
from typing import Any

from transformers import GenerationConfig

from .orders import ORDERS
from .strategies import resolve_strategy, strategy_to_saved


class RemaskGenerationConfig(GenerationConfig):
    """Generation parameters of `remask_generate` and `RemaskGenerationMixin.generate`.

    A field left at None takes the model's own generation config, then the default named here. Names that mean nothing
    here (`num_beams`, a misspelling) raise ValueError.

    Args:
        max_new_tokens (`int`, defaults to 0): masks appended to `input_ids`; masks already in it are filled in place.
        mask_token_id (`int`, defaults to `model.config.mask_token_id`): the mask; never drawn as a token.
        steps (`int`, defaults to the largest number of masks in a row of the batch): T. After step i a row of M masks
            holds ceil(M (i + 1) / T) generated tokens. With T > M and `num_remask`, corrections go on to the very end:
            up to `num_remask` positions stay open, and the last step fills them.
        order (`str`, defaults to `"confidence"`): which masks are filled first: `"random"`, `"confidence"`, `"margin"`,
            `"entropy"` or `"left_to_right"`.
        do_sample (`bool`, defaults to False): draw tokens from the posterior; otherwise the argmax.
        temperature (`float`, defaults to 1.0): of the draw, only with `do_sample`; 0 is the argmax.
        top_p (`float`, defaults to 1.0): nucleus of the draw, only with `do_sample`. Positions are scored before it.
        remask_strategy (`str` or callable, defaults to None): `"random"`, `"prism"`, `"none"`, or an instance or
            callable, see `prism_hf.generation.strategies`. None takes the model's default; `"none"` is always off.
        num_remask (`int`): tokens remasked a step, while num_remask < generated < M - num_remask. Not with `eta`.
        eta (`float` in [0, 1]): the number remasked is Binomial(generated, min(eta, (1 - alpha_s) / alpha_t)).
        remask_start, remask_end (`float`, default to 0.0 and 1.0): remask only at steps i with
            remask_start <= i / T < remask_end (fractions of the steps).
        quality_threshold (`float` in [0, 1], defaults to None = off): remask only tokens with a quality below it;
            the strategy must be one that reads quality.
        loop_start (`int`): the extra loop steps come before this step, `0 <= loop_start <= steps`.
        loop_steps (`int`, defaults to 0): number of extra steps in which the count of generated tokens is held.
        num_remask_loop (`int`, defaults to 0): random generated tokens remasked before the forward of each loop step.
        return_dict_in_generate (`bool`, defaults to False): return a `RemaskGenerationOutput`, not only the sequences.
        output_trajectory (`bool`, defaults to False): record every step in the output; needs return_dict_in_generate.
        bos_token_id, eos_token_id, pad_token_id: special tokens, kept in step with the tokenizer by `Trainer`.
    """

    fields = (
        "max_new_tokens",
        "mask_token_id",
        "steps",
        "order",
        "do_sample",
        "temperature",
        "top_p",
        "remask_strategy",
        "num_remask",
        "eta",
        "remask_start",
        "remask_end",
        "quality_threshold",
        "loop_start",
        "loop_steps",
        "num_remask_loop",
        "return_dict_in_generate",
        "output_trajectory",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    )

    def __init__(self, **kwargs):
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
    def reject_unknown(cls, names) -> None:
        """Raise ValueError for any of `names`, with the nearest field name."""
        for name in names:
            near = get_close_matches(name, cls.fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else f" The fields are {', '.join(cls.fields)}."
            raise ValueError(f"{name!r} is not a generation parameter of {cls.__name__}.{hint}")

    @staticmethod
    def _get_default_generation_params() -> dict[str, Any]:
        return {
            "max_new_tokens": 0,
            "order": "confidence",
            "do_sample": False,
            "temperature": 1.0,
            "top_p": 1.0,
            "remask_start": 0.0,
            "remask_end": 1.0,
            "loop_steps": 0,
            "num_remask_loop": 0,
            "return_dict_in_generate": False,
            "output_trajectory": False,
        }

    @classmethod
    def from_model_config(cls, model_config) -> "RemaskGenerationConfig":
        """A model's config holds no generation settings: all fields unset."""
        return cls()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs) -> "RemaskGenerationConfig":
        """As the parent's; the left-to-right settings that a base checkpoint's file may hold are left out."""
        foreign = set(GenerationConfig().__dict__) - set(cls.fields) - {"_from_model_config", "transformers_version"}
        return super().from_dict({key: value for key, value in config_dict.items() if key not in foreign}, **kwargs)

    def validate(self, strict: bool = False, user_set_attributes=None) -> None:
        """Raise ValueError on the first field with an impossible value."""
        for name, least in (
            ("max_new_tokens", 0),
            ("mask_token_id", 0),
            ("steps", 1),
            ("num_remask", 0),
            ("loop_start", 0),
            ("loop_steps", 0),
            ("num_remask_loop", 0),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}.")
        for name, most in (
            ("temperature", math.inf),
            ("top_p", 1),
            ("eta", 1),
            ("remask_start", 1),
            ("remask_end", 1),
            ("quality_threshold", 1),
        ):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= most and math.isfinite(value)):
                raise ValueError(f"{name} must be a number from 0 to {most}, got {value!r}.")
        if self.top_p == 0:
            raise ValueError("top_p must be above 0, got 0: for the likeliest token use do_sample=False.")
        if self.order is not None and self.order not in ORDERS:
            near = get_close_matches(str(self.order), ORDERS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown order {self.order!r}: choose one of {sorted(ORDERS)}.{hint}")
        resolve_strategy(self.remask_strategy)
        if self.num_remask is not None and self.eta is not None:
            raise ValueError(
                f"num_remask={self.num_remask} and eta={self.eta} both say how many to remask: set one to None."
            )

    def validate_complete(self) -> None:
        """Raise ValueError where fields contradict one another, once defaults and call arguments are all in."""
        self.validate()
        strategy = resolve_strategy(self.remask_strategy)
        if strategy is not None and self.num_remask is None and self.eta is None:
            raise ValueError(f"remask_strategy={self.remask_strategy!r} needs num_remask or eta: how many to remask.")
        if (
            strategy is not None
            and self.quality_threshold is not None
            and not getattr(strategy, "needs_quality", False)
        ):
            raise ValueError(
                f"quality_threshold={self.quality_threshold} needs a strategy that reads quality, such as 'prism'; "
                f"got remask_strategy={self.remask_strategy!r}."
            )
        if self.remask_start > self.remask_end:
            raise ValueError(f"remask_start={self.remask_start} is after remask_end={self.remask_end}: exchange them.")
        if self.loop_steps and self.loop_start is None:
            raise ValueError(f"loop_steps={self.loop_steps} needs loop_start: the step before which the loop runs.")
        if self.steps is not None and self.loop_steps and self.loop_start > self.steps:
            raise ValueError(f"loop_start={self.loop_start} is after the last of steps={self.steps}: lower it.")
        if self.output_trajectory and not self.return_dict_in_generate:
            raise ValueError("output_trajectory=True has nowhere to go: set return_dict_in_generate=True too.")

    def to_dict(self) -> dict[str, Any]:
        """As the parent's; a registered strategy becomes its name, or a dict with the name and its fields."""
        return super().to_dict() | {"remask_strategy": strategy_to_saved(self.remask_strategy)}

    def to_json_string(self, *args, **kwargs) -> str:
        # Also behind repr, == and hash, which must work with a user's own callable; only saving refuses it.
        if callable(strategy_to_saved(self.remask_strategy)):
            shown = copy.copy(self)
            shown.remask_strategy = None
            shown.__dict__["remask_strategy_callable"] = repr(self.remask_strategy)
            return super(RemaskGenerationConfig, shown).to_json_string(*args, **kwargs)
        return super().to_json_string(*args, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As the parent's. Raises ValueError for a strategy that is not registered and so could not be loaded."""
        if callable(strategy_to_saved(self.remask_strategy)):
            raise ValueError(
                f"remask_strategy={self.remask_strategy!r} cannot be saved: make it a dataclass and register it with "
                "prism_hf.generation.register_strategy, or set it to None."
            )
        return super().save_pretrained(save_directory, *args, **kwargs)

    def get_generation_mode(self, *args, **kwargs):
        raise NotImplementedError("RemaskGenerationConfig has one mode: denoising with remasking.")
