"""PEFT adapters of a `PrismForMaskedDiffusion`: what they save, and loading base and adapter in one line."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict, load_peft_weights
from peft.utils.error import NoMatchingPeftModuleError
from transformers import AutoConfig
from transformers.utils import ADAPTER_CONFIG_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import has_file

from prism_hf.fields import Allowed, Fraction, NotNegative, Positive, check_value
from prism_hf.generation import RemaskGenerationConfig
from prism_hf.hub import (
    CARD,
    HEAD_SETTINGS,
    HubMixin,
    base_model_name,
    base_seen_from,
    unwrapped,
    write_card,
    write_files,
)
from prism_hf.models.checkpoint.loading import HUB_ARGUMENTS, naming_damage, refuse_weights

from .configuration_prism import PrismConfig
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


class PeftModelForPrism(HubMixin, PeftModel):
    """A `PeftModel` around a model with a quality head, whose folder or repository is complete and says how to use it.

    Beside the adapter, `save_pretrained` and `push_to_hub` write `generation_config.json`, the settings of the head
    (in `adapter_config.json`), `custom_generate/generate.py` and the model card.

    Raises:
        ValueError: if the model has no quality head, or another one than the adapter's.
    """

    def __init__(self, model, peft_config: PeftConfig, adapter_name: str = "default", **kwargs):
        check_head(model, peft_config)
        if peft_config.base_model_name_or_path is None:  # PEFT looks there whether the vocabulary was resized
            peft_config.base_model_name_or_path = base_model_name(model)
        super().__init__(model, peft_config, adapter_name, **kwargs)

    @classmethod
    def from_pretrained(cls, model, model_id: str | os.PathLike, *args, **kwargs) -> "PeftModelForPrism":
        """As the parent's. Raises ValueError for an adapter of another base model, or a damaged file, naming it."""
        try:
            with naming_damage(model_id, kwargs):
                return super().from_pretrained(model, str(model_id), *args, **kwargs)
        except NoMatchingPeftModuleError as error:
            raise ValueError(
                f"{model_id} is an adapter of another model than {type(unwrapped(model)).__name__} "
                f"{base_model_name(model) or ''}, which has none of the modules that it adapts. Remedy: load it onto "
                "the base model that it was trained on (base_model_name_or_path in its adapter_config.json)."
            ) from error

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, *args, **kwargs) -> None:
        """As the parent's. Raises ValueError for an adapter of another quality head."""
        check_head(self.get_base_model(), peft_config)
        super().add_adapter(adapter_name, peft_config, *args, **kwargs)

    def load_adapter(self, model_id: str | os.PathLike, adapter_name: str, *args, **kwargs):
        """As the parent's. Raises ValueError for an adapter of another quality head, or one that is not whole."""
        model_id = str(model_id)  # a path without weights, PEFT takes for a name on the Hub
        where = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "revision", "subfolder") if name in kwargs}
        peft_config = self.peft_config.get(adapter_name) or read_config(model_id, **where)
        if saves_head(peft_config):  # of the head's weights, PEFT tells only those left over
            with naming_damage(model_id, where):
                weights = load_peft_weights(model_id, device="cpu", **where)
            check_head_weights(self.get_base_model(), weights, model_id)
        is_new, mismatched = adapter_name not in self.peft_config, []
        try:
            with naming_damage(model_id, where):
                result = super().load_adapter(model_id, adapter_name, *args, **kwargs)
        except RuntimeError:
            weights = load_peft_weights(model_id, device="cpu", **where)
            mismatched = mismatched_weights(self, adapter_name, weights)
            if not mismatched:
                raise
        kind, remedy = f"{peft_config.peft_type.value} adapter of this model", adapter_remedy(peft_config)
        try:
            refuse_weights(model_id, kind, "of another size", mismatched, remedy)
            refuse_weights(model_id, kind, "missing", not_shared(self, result.missing_keys), remedy)
            left_over = [name for name in result.unexpected_keys if not any(each in name for each in WRAPPED)]
            refuse_weights(model_id, kind, "left over", left_over, remedy)
        except ValueError:
            if is_new:
                self.delete_adapter(adapter_name)
            raise
        loaded = self.peft_config[adapter_name]
        loaded.base_model_name_or_path = base_seen_from(loaded.base_model_name_or_path, model_id)
        return result

    def save_pretrained(self, save_directory: str | os.PathLike, *args, is_main_process: bool = True, **kwargs) -> None:
        """As the parent's; a model card that the folder has already is kept."""
        card = Path(save_directory) / CARD
        before = card.read_bytes() if card.exists() else None
        super().save_pretrained(save_directory, *args, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_files(self, save_directory)
            if before is None:
                write_card(self, save_directory)
            else:  # PEFT has written its own into it
                card.write_bytes(before)


class AutoPeftModelForPrism:
    """Loads an adapter's base model, the adapter and its generation config in one line."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        adapter_name: str = "default",
        is_trainable: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        base_model_name_or_path: str | os.PathLike | None = None,
        **kwargs,
    ) -> PeftModelForPrism:
        """Load an adapter from the Hub or a folder, onto the base model that it names.

        Args:
            pretrained_model_name_or_path, adapter_name, is_trainable, revision, subfolder: of the adapter. The base's
                revision is the one that the adapter names.
            base_model_name_or_path: of the base, if it is not what the adapter names.
            head_type, head_num_blocks, mask_token_id: of the adapter's head, for an adapter that was saved by other
                means and does not tell them.
            kwargs: to the base's `from_pretrained` (`dtype`, `device_map`, `quantization_config`, ...); `token`,
                `cache_dir`, `force_download` and `local_files_only` serve both. The head stays in float32.

        Raises:
            ValueError: if the adapter names no base model, or no quality head fits it.
        """
        hub = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        adapter_hub = hub | {"revision": revision, "subfolder": subfolder}
        peft_config = read_config(pretrained_model_name_or_path, **adapter_hub)
        peft_config.task_type = None  # with one, PEFT would build the wrapper of that task
        if base_model_name_or_path is not None:
            peft_config.base_model_name_or_path = os.fspath(base_model_name_or_path)
        folder = os.path.join(pretrained_model_name_or_path, subfolder or "")
        peft_config.base_model_name_or_path = base_seen_from(peft_config.base_model_name_or_path, folder)
        head = recorded_head(peft_config) | {name: kwargs.pop(name) for name in HEAD_SETTINGS if name in kwargs}
        base = load_base(pretrained_model_name_or_path, peft_config, head, kwargs)
        base.quality_head.float()
        with naming_damage(pretrained_model_name_or_path, adapter_hub):
            fit_vocabulary(base, load_peft_weights(pretrained_model_name_or_path, device="cpu", **adapter_hub))
        if "device_map" in kwargs:
            adapter_hub["device_map"] = kwargs["device_map"]
        model = PeftModelForPrism.from_pretrained(
            base,
            pretrained_model_name_or_path,
            adapter_name=adapter_name,
            is_trainable=is_trainable,
            config=peft_config,
            **adapter_hub,
        )
        where = {name: value for name, value in hub.items() if name != "force_download"} | {"revision": revision}
        if has_file(str(pretrained_model_name_or_path), GENERATION_CONFIG_NAME, **where):
            with naming_damage(pretrained_model_name_or_path, adapter_hub):
                base.generation_config = RemaskGenerationConfig.from_pretrained(
                    pretrained_model_name_or_path, revision=revision, **hub
                )
        return model


def read_config(adapter: str | os.PathLike, **hub) -> PeftConfig:
    """The config of an adapter. ValueError if it is damaged, or none that this version of PEFT knows."""
    try:
        with naming_damage(adapter, hub):
            config = PeftConfig.from_pretrained(str(adapter), **hub)
        for name, kind in LORA_FIELDS.items() if config.peft_type is PeftType.LORA else ():
            check_value(name, getattr(config, name), kind, owner=f"{adapter}/{ADAPTER_CONFIG_NAME}")
        return config
    except (KeyError, TypeError) as error:
        known = ", ".join(sorted(kind.value for kind in PeftType))
        raise ValueError(
            f"{adapter}: its adapter_config.json is none that PEFT knows ({type(error).__name__}: {error}); peft_type "
            f"is one of {known}. Remedy: save the adapter again, or use the version of PEFT that it was saved with."
        ) from error


def mismatched_weights(model: PeftModel, adapter_name: str, weights: dict) -> list[str]:
    """Those `weights` of an adapter that have another shape in `model`, with both shapes."""
    own = get_peft_model_state_dict(model, adapter_name=adapter_name)
    return [
        f"{name} ({tuple(value.shape)}, the model and the adapter's config say {tuple(own[name].shape)})"
        for name, value in weights.items()
        if name in own and own[name].shape != value.shape
    ]


def adapter_remedy(peft_config: PeftConfig) -> str:
    """What to compare where an adapter's weights are not those that its config gives on its base model."""
    fields = {name: getattr(peft_config, name, None) for name in ("r", "target_modules", "base_model_name_or_path")}
    told = ", ".join(
        f"{name}={sorted(value) if isinstance(value, set) else value!r}" for name, value in fields.items() if value
    )
    return f"in its adapter_config.json give what it was trained with, rank, modules and base model (there: {told})"


def fit_vocabulary(base: PrismForMaskedDiffusion, weights: dict[str, torch.Tensor]) -> None:
    """Resize the vocabulary of `base` to that of an adapter's `weights`, which hold the embedding if it was resized."""
    embedding = next(base.get_input_embeddings().parameters())
    for name, parameter in base.named_parameters(remove_duplicate=False):
        module, _, leaf = name.rpartition(".")
        for key in (f"base_model.model.{name}", f"base_model.model.{module}.base_layer.{leaf}"):
            if parameter is embedding and key in weights:
                base.resize_token_embeddings(len(weights[key]))


def recorded_head(peft_config: PeftConfig) -> dict:
    """The settings of the quality head that an adapter was trained with, where its config tells them."""
    return {name: value for name, value in (peft_config.auto_mapping or {}).items() if name in HEAD_SETTINGS}


def saves_head(peft_config: PeftConfig) -> bool:
    return QUALITY_HEAD in (getattr(peft_config, "modules_to_save", None) or [])


def check_head(model, peft_config: PeftConfig) -> None:
    """Raise ValueError unless the quality head of an adapter fits `model`; PEFT would drop it without a word."""
    if not hasattr(model, QUALITY_HEAD):
        raise ValueError(
            f"{type(model).__name__} has no quality head for the adapter: load the base model with "
            "PrismForMaskedDiffusion.from_pretrained, or base and adapter with AutoPeftModelForPrism.from_pretrained."
        )
    if peft_config.is_prompt_learning:
        raise ValueError(f"{peft_config.peft_type.value} writes into the prompt, which a canvas lacks: use LoraConfig.")
    if str(init := getattr(peft_config, "init_lora_weights", None)).startswith("pissa_niter"):
        raise ValueError(
            f"init_lora_weights={init!r} changes the base model by a random decomposition, which is another one when "
            "the adapter is loaded: use 'pissa', or save the adapter as one of LoRA "
            "(path_initial_model_for_weight_conversion)."
        )
    own = {name: getattr(model.config, name) for name in HEAD_SETTINGS}
    wrong = {name: value for name, value in recorded_head(peft_config).items() if own[name] != value}
    if wrong:
        found = {name: own[name] for name in wrong}
        raise ValueError(
            f"The adapter was trained with {wrong}, the model has {found}: load the base model with the "
            "adapter's settings, or base and adapter with AutoPeftModelForPrism.from_pretrained."
        )


def not_shared(model, names: Iterable[str]) -> list[str]:
    """Those of the parameters' `names` whose tensor has no other name, as VB-LoRA's vectors have one in each layer."""
    missing = set(names)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    held = {id(parameter) for name, parameter in parameters.items() if name not in missing}
    return [name for name in missing if id(parameters.get(name)) not in held]


def check_head_weights(model, weights: dict, adapter: str | os.PathLike) -> None:
    """Raise ValueError unless the head among the `weights` of an adapter has the parameters of that of `model`."""
    saved = {name.rpartition(f".{QUALITY_HEAD}.")[2] for name in weights if f".{QUALITY_HEAD}." in name}
    saved = {name for name in saved if not f".{name}".startswith(WRAPPED)}
    head = model.quality_head
    own = set(getattr(head, "original_module", head).state_dict())
    if saved != own:
        missing, left_over = (", ".join(sorted(names)) or "none" for names in (own - saved, saved - own))
        raise ValueError(
            f"{adapter} holds no whole quality head of head_type={model.config.head_type!r}; weights missing: "
            f"{missing}; left over: {left_over}. Remedy: "
            "pass the head_type that the adapter was trained with, or save the adapter again if the file is damaged."
        )


def load_base(adapter, peft_config: PeftConfig, head: dict, kwargs: dict) -> PrismForMaskedDiffusion:
    """The base model that `adapter` names, with a quality head that its weights fit."""
    name, revision = peft_config.base_model_name_or_path, peft_config.revision
    if not name:
        raise ValueError(
            f"{adapter} names no base model: load that with PrismForMaskedDiffusion.from_pretrained, then use "
            "prism_hf.models.prism.peft_model.PeftModelForPrism.from_pretrained(base, adapter)."
        )
    known = {key: kwargs[key] for key in (*HUB_ARGUMENTS, "trust_remote_code") if key in kwargs}
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, **known)
    except OSError as error:
        raise OSError(
            f"The base model {name!r} that {adapter} names cannot be loaded: {error} Remedy: put it there, or tell "
            "where it is by base_model_name_or_path, here or in adapter_config.json."
        ) from error
    if isinstance(config, PrismConfig):  # check_head compares its head with the adapter's
        return PrismForMaskedDiffusion.from_pretrained(name, revision=revision, **kwargs)
    if not saves_head(peft_config):
        raise ValueError(
            f"Neither {adapter} nor its base model {name} has a quality head: train one with PrismTrainer, which saves "
            "it with the adapter."
        )
    prism_config = PrismConfig(backbone_config=config, **head)
    return PrismForMaskedDiffusion.from_backbone(name, prism_config, revision=revision, **kwargs)
