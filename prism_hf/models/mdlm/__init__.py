"""Native MDLM diffusion transformer (arXiv 2406.07524): reads and writes the published Hub layout."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from .configuration_mdlm import MdlmConfig
from .modeling_mdlm import (
    MdlmBlock,
    MdlmForMaskedDiffusion,
    MdlmModel,
    MdlmModelOutput,
    MdlmOutputLayer,
    MdlmPreTrainedModel,
    MdlmQualityHead,
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
    "MdlmQualityHead",
    "init_mdlm_module",
]
