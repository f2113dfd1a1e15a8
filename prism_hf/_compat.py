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
