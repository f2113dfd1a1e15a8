"""PEFT adapters of a `PrismForMaskedDiffusion`: what they save, and loading base and adapter in one line.

An adapter tells its head in `adapter_config.json` (`auto_mapping`), not in a `config.json` beside it: transformers
takes a local folder with both files for a whole model, and PEFT would drop a head that does not fit without a word.
"""

import os
from pathlib import Path
from typing import Any, cast

from peft import PeftConfig, PeftModel, load_peft_weights
from peft.utils.error import NoMatchingPeftModuleError
from transformers import AutoConfig

from prism_hf._compat import unwrapped
from prism_hf.hub import CARD, HEAD_SETTINGS, HubMixin, base_model_name, base_seen_from, write_card, write_files
from prism_hf.models.checkpoint.loading import HUB_ARGUMENTS, naming_damage

from .adapter_checks import (
    check_head,
    check_head_weights,
    check_whole,
    fit_vocabulary,
    mismatched_weights,
    read_config,
    recorded_head,
    saves_head,
)
from .configuration_prism import PrismConfig
from .modeling_prism import PrismForMaskedDiffusion


class PeftModelForPrism(HubMixin, PeftModel):
    """A `PeftModel` around a model with a quality head, whose folder or repository is complete and says how to use it.

    Beside the adapter, `save_pretrained` and `push_to_hub` write `generation_config.json`, the settings of the head
    (in `adapter_config.json`), `custom_generate/generate.py` and the model card.

    Args:
        model (`PrismForMaskedDiffusion`): The base model.
        peft_config (`PeftConfig`): Plain PEFT; `modules_to_save=["quality_head"]` trains the head with the adapter.
        adapter_name (`str`, *optional*, defaults to `"default"`): Its name among the model's adapters.
        **kwargs: To `PeftModel`.

    Raises:
        ValueError: if the model has no quality head, or another one than the adapter's.

    Example:
        ```python
        from peft import LoraConfig
        from prism_hf import PrismForMaskedDiffusion
        from prism_hf.models.prism.peft_model import PeftModelForPrism
        from prism_hf.resources import resource_path

        model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
        config = LoraConfig(target_modules=["query", "value"], modules_to_save=["quality_head"])
        model = PeftModelForPrism(model, config)
        ```
    """

    def __init__(
        self, model: PrismForMaskedDiffusion, peft_config: PeftConfig, adapter_name: str = "default", **kwargs: Any
    ) -> None:
        check_head(model, peft_config)
        if peft_config.base_model_name_or_path is None:  # PEFT looks there whether the vocabulary was resized
            peft_config.base_model_name_or_path = base_model_name(model)
        super().__init__(model, peft_config, adapter_name, **kwargs)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # PEFT's arguments, most of them by keyword
        cls, model: PrismForMaskedDiffusion, model_id: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> "PeftModelForPrism":
        """As the parent's. Raises ValueError for an adapter of another base model, or a damaged file, naming it."""
        try:
            with naming_damage(model_id, kwargs):
                return cast(PeftModelForPrism, super().from_pretrained(model, str(model_id), *args, **kwargs))
        except NoMatchingPeftModuleError as error:
            raise ValueError(
                f"{model_id} is an adapter of another model than {type(unwrapped(model)).__name__} "
                f"{base_model_name(model) or ''}, which has none of the modules that it adapts. Remedy: load it onto "
                "the base model that it was trained on (base_model_name_or_path in its adapter_config.json)."
            ) from error

    def add_adapter(self, adapter_name: str, peft_config: PeftConfig, *args: Any, **kwargs: Any) -> None:
        """As the parent's. Raises ValueError for an adapter of another quality head."""
        check_head(self.get_base_model(), peft_config)
        super().add_adapter(adapter_name, peft_config, *args, **kwargs)

    def load_adapter(self, model_id: str | os.PathLike, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        """As the parent's. Raises ValueError for an adapter of another quality head, or one that is not whole."""
        model_id = str(model_id)  # a path without weights, PEFT takes for a name on the Hub
        where = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "revision", "subfolder") if name in kwargs}
        peft_config = self.peft_config.get(adapter_name) or read_config(model_id, **where)
        if saves_head(peft_config):  # of the head's weights, PEFT tells only those left over
            with naming_damage(model_id, where):
                weights = load_peft_weights(model_id, device="cpu", **where)
            check_head_weights(unwrapped(self), weights, model_id)
        is_new, result, mismatched = adapter_name not in self.peft_config, None, []
        try:
            with naming_damage(model_id, where):
                result = super().load_adapter(model_id, adapter_name, *args, **kwargs)
        except RuntimeError:
            mismatched = mismatched_weights(self, adapter_name, load_peft_weights(model_id, device="cpu", **where))
            if not mismatched:
                raise
        try:
            check_whole(self, peft_config, model_id, mismatched, result)
        except ValueError:
            if is_new:
                self.delete_adapter(adapter_name)
            raise
        loaded = self.peft_config[adapter_name]
        loaded.base_model_name_or_path = base_seen_from(loaded.base_model_name_or_path, model_id)
        return result

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, is_main_process: bool = True, **kwargs: Any
    ) -> None:
        """As the parent's; a model card that the folder has already is kept."""
        card = Path(save_directory) / CARD
        before = card.read_bytes() if card.exists() else None
        super().save_pretrained(str(save_directory), *args, is_main_process=is_main_process, **kwargs)  # type: ignore[misc]
        if is_main_process:
            write_files(self, save_directory)
            if before is None:
                write_card(self, save_directory)
            else:  # PEFT has written its own into it
                card.write_bytes(before)


class AutoPeftModelForPrism:
    """Loads an adapter's base model, the adapter and its generation config in one line.

    Example:
        ```python
        from prism_hf import AutoPeftModelForPrism

        model = AutoPeftModelForPrism.from_pretrained("user/repo", dtype="bfloat16", device_map="auto")
        output = model.generate(input_ids=input_ids, max_new_tokens=64)
        ```
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        adapter_name: str = "default",
        is_trainable: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        base_model_name_or_path: str | os.PathLike | None = None,
        **kwargs: Any,
    ) -> PeftModelForPrism:
        """Load an adapter from the Hub or a folder, onto the base model that it names.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): The adapter.
            adapter_name (`str`, *optional*, defaults to `"default"`): Its name among the model's adapters.
            is_trainable (`bool`, *optional*, defaults to `False`): Whether its weights get gradients.
            revision, subfolder (`str`, *optional*): Of the adapter. The base's revision is the one that the adapter
                names.
            base_model_name_or_path (`str` or `os.PathLike`, *optional*): The base, if it is not what the adapter names.
            head_type, head_num_blocks, mask_token_id (*optional*): Of the adapter's head, for an adapter that was saved
                by other means and does not tell them.
            **kwargs: To the base's `from_pretrained` (`dtype`, `device_map`, `quantization_config`, ...); `token`,
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
            fit_vocabulary(base, load_peft_weights(str(pretrained_model_name_or_path), device="cpu", **adapter_hub))
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
        with naming_damage(pretrained_model_name_or_path, adapter_hub):
            base.adjust_generation_fn(None, False, None, str(pretrained_model_name_or_path), revision=revision, **hub)
        return model


def load_base(
    adapter: str | os.PathLike, peft_config: PeftConfig, head: dict[str, Any], kwargs: dict[str, Any]
) -> PrismForMaskedDiffusion:
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
