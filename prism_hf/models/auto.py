"""Loading a saved model by its name alone, be it whole or an adapter, and the config of a new one."""

from dataclasses import fields
from typing import Annotated, Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftModel
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForMaskedLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from prism_hf._compat import mask_token_of
from prism_hf.fields import DTYPES, Allowed, check_arguments, check_names, check_value
from prism_hf.hub import base_seen_from

from .checkpoint.loading import naming_damage, place_of, refuse_two_models
from .prism import PrismConfig
from .prism.adapter_checks import read_config, saves_head
from .prism.modeling_prism import mask_of_tokenizer
from .prism.peft_model import AutoPeftModelForPrism

Dtype = Annotated[str, Allowed(choices=("auto", *DTYPES))] | torch.dtype | None


def load_model(name_or_path: str, **kwargs: Any) -> PreTrainedModel | PeftModel:
    """A masked diffusion model, or the adapter of one on its base model, from a folder or the Hub, ready to generate.

    A masked language model whose config names no mask token, as most, gets that of the tokenizer beside it.

    Args:
        name_or_path (`str`): Its name on the Hub, or its folder.
        **kwargs: To `AutoModelForMaskedLM.from_pretrained` or `AutoPeftModelForPrism.from_pretrained`.

    Raises:
        ValueError: if there are an adapter and a whole model under the name, if a file is damaged, if an adapter names
            no base model or does not fit it, or if no quality head fits it.

    Example:
        ```python
        import torch
        from prism_hf import load_model
        from prism_hf.resources import resource_path

        model = load_model(resource_path("sudoku_prism"))
        output = model.generate(torch.zeros(1, 81, dtype=torch.long))
        ```
    """
    check_arguments(load_model, locals())
    check_value("dtype", kwargs.get("dtype"), Dtype)
    refuse_two_models(name_or_path, kwargs)
    if find_adapter_config_file(str(name_or_path), **place_of(kwargs)) is not None:
        base = base_without_head(name_or_path, kwargs)
        if base is None:
            return AutoPeftModelForPrism.from_pretrained(name_or_path, **kwargs).eval()
        with naming_damage(name_or_path, kwargs):
            of_base = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
            model = _with_mask(base, of_base)
            return PeftModel.from_pretrained(model, str(name_or_path), **place_of(kwargs)).eval()
    with naming_damage(name_or_path, kwargs):
        return _with_mask(name_or_path, kwargs).eval()


def _with_mask(name_or_path: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    """What `AutoModelForMaskedLM` loads, whose config then names the mask token if the model or its tokenizer does."""
    model = AutoModelForMaskedLM.from_pretrained(name_or_path, **kwargs)
    if mask_token_of(model.config) is None:
        model.config.mask_token_id = mask_of_tokenizer(name_or_path, place_of(kwargs))
    return model


def base_without_head(adapter: str, kwargs: dict[str, Any]) -> str | None:
    """The base model that an adapter names, if neither of the two has a quality head; else None."""
    peft_config = read_config(adapter, **place_of(kwargs))
    base = base_seen_from(peft_config.base_model_name_or_path, adapter)
    if saves_head(peft_config) or not base or "base_model_name_or_path" in kwargs:
        return None
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=kwargs.get("trust_remote_code", False))
    except (OSError, ValueError):  # of which the loading will tell
        return None
    return None if isinstance(config, PrismConfig) else base


def new_config(model_type: str, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]) -> PreTrainedConfig:
    """The config of a new model for the tokens of a tokenizer, with `settings` over what follows from it.

    Args:
        model_type (`str`): A family of transformers' or of ours, such as `"llada"`.
        tokenizer (`PreTrainedTokenizerBase`): Tells the number of tokens and the special ones.
        settings (`dict[str, Any]`): Fields of the config.

    Raises:
        ValueError: for a type that transformers does not know, and for a setting that the type lacks, which
            transformers would keep without a word.

    Example:
        ```python
        config = new_config("llada", tokenizer, {"d_model": 256, "n_layers": 4, "n_heads": 4, "mlp_hidden_size": 768})
        ```
    """
    check_names("model_type", [model_type], CONFIG_MAPPING.keys())
    config_class = CONFIG_MAPPING[model_type]
    known = [*(field.name for field in fields(config_class)), *config_class.attribute_map, "mask_token_id"]
    check_names("field of model_config", settings, known)
    told = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        return config_class(**told | settings)
    except StrictDataclassError as error:
        raise ValueError(f"model_config={settings}: {error}") from error
