"""Names that the libraries below us keep to themselves, and wrappers that tell no type: in one place, each with why.

Where a library moves one of them, this module breaks, and what to do about it is seen here.
"""

from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

AnyModel: TypeAlias = "PreTrainedModel | PeftModel"


def is_adapter(model: Any) -> "TypeGuard[PeftModel]":
    """Whether PEFT has wrapped the model. Asked by the method, as importing PEFT takes most of a second."""
    return hasattr(model, "get_base_model")


def unwrapped(model: Any) -> Any:
    """The model itself, where `torch.compile` or PEFT has wrapped it."""
    model = getattr(model, "_orig_mod", model)  # of OptimizedModule, which hands all else on to the model
    return model.get_base_model() if is_adapter(model) else model


def attention_of(config: Any) -> str | None:
    """The attention implementation of a model, by its config. transformers gives it no public name."""
    return getattr(config, "_attn_implementation", None)


def use_attention(config: Any, implementation: str | None) -> None:
    """Note in a config the attention implementation of a model, without handing it to nested configs."""
    config._attn_implementation_internal = implementation


def mask_token_of(config: Any) -> int | None:
    """The mask token by a config, a field that only some families have."""
    return getattr(config, "mask_token_id", None)


# What transformers sets on a model that it has loaded quantised, or shared between processes. Trainer, PEFT and
# `save_pretrained` look for it on the outermost model.
_LOADED = (
    *("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"),
    *("_device_mesh", "_mesh_manager", "_tp_size", "_fsdp_size", "_is_distributed_loading_by_transformers"),
)


def take_over_loading(model: Any, loaded: Any) -> None:
    """Let `model`, which was built around a model that transformers has `loaded`, say how that was loaded."""
    for name in _LOADED:
        if hasattr(loaded, name):
            setattr(model, name, getattr(loaded, name))
    if hasattr(loaded.config, "distributed_config"):
        model.config.distributed_config = loaded.config.distributed_config


def keep_weights(model: Any) -> None:
    """Let no `post_init` of a model around this one draw its weights afresh."""
    for module in model.modules():
        module._is_hf_initialized = True
