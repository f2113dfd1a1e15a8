"""Loading a saved model by its name alone, be it whole or an adapter."""

import os
from typing import Any

from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.utils.hub import has_file
from transformers.utils.peft_utils import find_adapter_config_file

from .loading import MODEL_WEIGHTS, naming_damage
from .prism.peft_model import HUB_ARGUMENTS, AutoPeftModelForPrism, PeftModelForPrism


def load_model(name_or_path: str | os.PathLike, **kwargs) -> PreTrainedModel | PeftModelForPrism:
    """A masked diffusion model, or the adapter of one on its base model, from a folder or the Hub, ready to generate.

    Args:
        kwargs: to `AutoModelForMaskedLM.from_pretrained` or `AutoPeftModelForPrism.from_pretrained`.

    Raises:
        ValueError: if there are an adapter and a whole model under the name, if a file is damaged, if an adapter names
            no base model or does not fit it, or if no quality head fits it.
    """
    hub = {name: kwargs[name] for name in (*HUB_ARGUMENTS, "revision", "subfolder") if kwargs.get(name) is not None}
    if find_adapter_config_file(str(name_or_path), **hub) is None:
        with naming_damage(name_or_path, kwargs):
            return AutoModelForMaskedLM.from_pretrained(name_or_path, **kwargs).eval()
    refuse_two_models(str(name_or_path), hub)
    return AutoPeftModelForPrism.from_pretrained(name_or_path, **kwargs).eval()


def refuse_two_models(name: str, hub: dict[str, Any]) -> None:
    """Raise ValueError if a whole model is where an adapter is. A `config.json` alone makes none."""
    where = {key: value for key, value in hub.items() if key not in ("force_download", "subfolder")}
    for weights in MODEL_WEIGHTS:
        if has_file(name, os.path.join(hub.get("subfolder", ""), weights), **where):
            raise ValueError(
                f"{name} has both an adapter and a whole model ({weights}), and neither is preferred. "
                "Remedy: move one of them to a folder or repository of its own."
            )
