"""Loading a saved model by its name alone, be it whole or an adapter."""

import os

from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from .loading import naming_damage, place_of, refuse_two_models
from .prism.peft_model import AutoPeftModelForPrism, PeftModelForPrism


def load_model(name_or_path: str | os.PathLike, **kwargs) -> PreTrainedModel | PeftModelForPrism:
    """A masked diffusion model, or the adapter of one on its base model, from a folder or the Hub, ready to generate.

    Args:
        kwargs: to `AutoModelForMaskedLM.from_pretrained` or `AutoPeftModelForPrism.from_pretrained`.

    Raises:
        ValueError: if there are an adapter and a whole model under the name, if a file is damaged, if an adapter names
            no base model or does not fit it, or if no quality head fits it.
    """
    refuse_two_models(name_or_path, kwargs)
    if find_adapter_config_file(str(name_or_path), **place_of(kwargs)) is not None:
        return AutoPeftModelForPrism.from_pretrained(name_or_path, **kwargs).eval()
    with naming_damage(name_or_path, kwargs):
        return AutoModelForMaskedLM.from_pretrained(name_or_path, **kwargs).eval()
