"""Loading a saved model by its name alone, be it whole or an adapter."""

import os

from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from .prism.peft_model import AutoPeftModelForPrism, PeftModelForPrism


def load_model(name_or_path: str | os.PathLike, **kwargs) -> PreTrainedModel | PeftModelForPrism:
    """A masked diffusion model, or the adapter of one on its base model, from a folder or the Hub, ready to generate.

    Args:
        kwargs: to `AutoModelForMaskedLM.from_pretrained` or `AutoPeftModelForPrism.from_pretrained`.

    Raises:
        ValueError: if an adapter names no base model, or no quality head fits it.
    """
    is_adapter = find_adapter_config_file(str(name_or_path)) is not None
    loader = AutoPeftModelForPrism if is_adapter else AutoModelForMaskedLM
    return loader.from_pretrained(name_or_path, **kwargs).eval()
