"""Native LLaDA (arXiv 2502.09992): reads and writes the published checkpoints without remote code."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM
from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from .configuration_llada import LladaConfig
from .modeling_llada import CHECKPOINT_NAMES, LladaForMaskedDiffusion, LladaLayer, LladaModel, LladaPreTrainedModel

AutoConfig.register("llada", LladaConfig, exist_ok=True)
AutoModel.register(LladaConfig, LladaModel, exist_ok=True)
AutoModelForMaskedLM.register(LladaConfig, LladaForMaskedDiffusion, exist_ok=True)
register_checkpoint_conversion_mapping("llada", CHECKPOINT_NAMES, overwrite=True)

__all__ = ["LladaConfig", "LladaForMaskedDiffusion", "LladaLayer", "LladaModel", "LladaPreTrainedModel"]
