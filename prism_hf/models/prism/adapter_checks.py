"""Whether an adapter fits the model that it is put on. PEFT drops a head that does not without a word."""

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from transformers.utils import ADAPTER_CONFIG_NAME

from prism_hf.fields import Allowed, Fraction, NotNegative, Positive, check_value
from prism_hf.hub import HEAD_SETTINGS
from prism_hf.hub.record import head_settings
from prism_hf.models.checkpoint.loading import naming_damage, refuse_weights

from .modeling_prism import PrismForMaskedDiffusion

QUALITY_HEAD = "quality_head"
# Where PEFT keeps a module that is trained whole. With `bias="all"` it saves the biases there a second time.
WRAPPED = (".modules_to_save.", ".original_module.")
# What is read of a config of LoRA before PEFT does, which asserts or divides.
LORA_FIELDS = {
    "r": Positive,
    "lora_alpha": NotNegative,
    "lora_dropout": Fraction,
    "bias": Annotated[str, Allowed(choices=("none", "all", "lora_only"))],
}

Weights = Mapping[str, torch.Tensor]


def read_config(adapter: str | os.PathLike, **hub: Any) -> PeftConfig:
    """The config of an adapter. ValueError if it is damaged, or none that this version of PEFT knows."""
    try:
        with naming_damage(adapter, hub):
            config = PeftConfig.from_pretrained(str(adapter), **hub)
        settings = config.to_dict()
        for name, kind in LORA_FIELDS.items() if config.peft_type is PeftType.LORA else ():
            check_value(name, settings[name], kind, owner=f"{adapter}/{ADAPTER_CONFIG_NAME}")
        return config
    except (KeyError, TypeError) as error:
        known = ", ".join(sorted(kind.value for kind in PeftType))
        raise ValueError(
            f"{adapter}: its adapter_config.json is none that PEFT knows ({type(error).__name__}: {error}); peft_type "
            f"is one of {known}. Remedy: save the adapter again, or use the version of PEFT that it was saved with."
        ) from error


def recorded_head(peft_config: PeftConfig) -> dict[str, Any]:
    """The settings of the quality head that an adapter was trained with, where its config tells them."""
    return {name: value for name, value in (peft_config.auto_mapping or {}).items() if name in HEAD_SETTINGS}


def saves_head(peft_config: PeftConfig) -> bool:
    """Whether the quality head is among what an adapter saves."""
    return QUALITY_HEAD in (peft_config.to_dict().get("modules_to_save") or ())


def check_head(model: Any, peft_config: PeftConfig) -> None:
    """Raise ValueError unless the quality head of an adapter fits `model`, and its method a canvas."""
    if not isinstance(model, PrismForMaskedDiffusion):
        raise ValueError(
            f"{type(model).__name__} has no quality head for the adapter: load the base model with "
            "PrismForMaskedDiffusion.from_pretrained, or base and adapter with AutoPeftModelForPrism.from_pretrained."
        )
    if peft_config.is_prompt_learning:
        raise ValueError(
            f"{PeftType(peft_config.peft_type).value} writes into the prompt, which a canvas lacks: use LoraConfig."
        )
    init = peft_config.to_dict().get("init_lora_weights")
    if str(init).startswith("pissa_niter"):
        raise ValueError(
            f"init_lora_weights={init!r} changes the base model by a random decomposition, which is another one when "
            "the adapter is loaded: use 'pissa', or save the adapter as one of LoRA "
            "(path_initial_model_for_weight_conversion)."
        )
    own = head_settings(model)
    wrong = {name: value for name, value in recorded_head(peft_config).items() if own[name] != value}
    if wrong:
        found = {name: own[name] for name in wrong}
        raise ValueError(
            f"The adapter was trained with {wrong}, the model has {found}: load the base model with the "
            "adapter's settings, or base and adapter with AutoPeftModelForPrism.from_pretrained."
        )


def check_head_weights(model: PrismForMaskedDiffusion, weights: Weights, adapter: str | os.PathLike) -> None:
    """Raise ValueError unless the head among the `weights` of an adapter has the parameters of that of `model`."""
    saved = {name.rpartition(f".{QUALITY_HEAD}.")[2] for name in weights if f".{QUALITY_HEAD}." in name}
    saved = {name for name in saved if not f".{name}".startswith(WRAPPED)}
    head = model.quality_head
    own = set((head.original_module if isinstance(head, ModulesToSaveWrapper) else head).state_dict())
    if saved != own:
        missing, left_over = (", ".join(sorted(names)) or "none" for names in (own - saved, saved - own))
        raise ValueError(
            f"{adapter} holds no whole quality head of head_type={model.config.head_type!r}; weights missing: "
            f"{missing}; left over: {left_over}. Remedy: "
            "pass the head_type that the adapter was trained with, or save the adapter again if the file is damaged."
        )


def mismatched_weights(model: PeftModel, adapter_name: str, weights: Weights) -> list[str]:
    """Those `weights` of an adapter that have another shape in `model`, with both shapes."""
    own = get_peft_model_state_dict(model, adapter_name=adapter_name)
    return [
        f"{name} ({tuple(value.shape)}, the model and the adapter's config say {tuple(own[name].shape)})"
        for name, value in weights.items()
        if name in own and own[name].shape != value.shape
    ]


def check_whole(
    model: PeftModel, peft_config: PeftConfig, adapter: str | os.PathLike, mismatched: list[str], loaded: Any
) -> None:
    """Raise ValueError where weights of an adapter are `mismatched`, or PEFT has `loaded` too few or too many."""
    kind, remedy = f"{PeftType(peft_config.peft_type).value} adapter of this model", adapter_remedy(peft_config)
    refuse_weights(adapter, kind, "of another size", mismatched, remedy)
    refuse_weights(adapter, kind, "missing", not_shared(model, loaded.missing_keys), remedy)
    left_over = [name for name in loaded.unexpected_keys if not any(each in name for each in WRAPPED)]
    refuse_weights(adapter, kind, "left over", left_over, remedy)


def not_shared(model: PeftModel, names: Iterable[str]) -> list[str]:
    """Those of the parameters' `names` whose tensor has no other name, as VB-LoRA's vectors have one in each layer."""
    missing = set(names)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {id(parameter) for name, parameter in parameters.items() if name not in missing}
    return [name for name in missing if id(parameters.get(name)) not in held]


def adapter_remedy(peft_config: PeftConfig) -> str:
    """What to compare where an adapter's weights are not those that its config gives on its base model."""
    settings = peft_config.to_dict()
    fields = {name: settings.get(name) for name in ("r", "target_modules", "base_model_name_or_path")}
    told = ", ".join(
        f"{name}={sorted(value) if isinstance(value, set) else value!r}" for name, value in fields.items() if value
    )
    return f"in its adapter_config.json give what it was trained with, rank, modules and base model (there: {told})"


def fit_vocabulary(base: PrismForMaskedDiffusion, weights: Weights) -> None:
    """Resize the vocabulary of `base` to that of an adapter's `weights`, which hold the embedding if it was resized."""
    embedding = next(base.get_input_embeddings().parameters())
    for name, parameter in base.named_parameters(remove_duplicate=False):
        module, _, leaf = name.rpartition(".")
        for key in (f"base_model.model.{name}", f"base_model.model.{module}.base_layer.{leaf}"):
            if parameter is embedding and key in weights:
                base.resize_token_embeddings(len(weights[key]))
