"""Native MDLM diffusion transformer (arXiv 2406.07524): reads and writes the published Hub layout."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from prism_hf._deprecation import warn_renamed

from .configuration_mdlm import MdlmConfig
from .modeling_mdlm import (
    MdlmBlock,
    MdlmForMaskedDiffusion,
    MdlmModel,
    MdlmModelOutput,
    MdlmOutputLayer,
    MdlmPreTrainedModel,
    init_mdlm_module,
)

AutoConfig.register("mdlm", MdlmConfig, exist_ok=True)
AutoModel.register(MdlmConfig, MdlmModel, exist_ok=True)
AutoModelForMaskedLM.register(MdlmConfig, MdlmForMaskedDiffusion, exist_ok=True)

__all__ = [
    "MdlmBlock",
    "MdlmConfig",
    "MdlmForMaskedDiffusion",
    "MdlmModel",
    "MdlmModelOutput",
    "MdlmOutputLayer",
    "MdlmPreTrainedModel",
    "init_mdlm_module",
]


def __getattr__(name: str) -> type:
    if name != "MdlmQualityHead":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prism_hf.models.prism.quality_heads import MdlmQualityHead  # which is built on this module

    warn_renamed(f"{__name__}.{name}", f"{MdlmQualityHead.__module__}.{name}")
    return MdlmQualityHead
