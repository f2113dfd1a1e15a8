"""PRISM: any masked diffusion backbone with a quality head (arXiv 2510.01384)."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from prism_hf.backbones import BACKBONE_ADAPTERS, BackboneAdapter, through

from .configuration_prism import PrismConfig
from .modeling_prism import PrismForMaskedDiffusion, PrismOutput
from .quality_heads import QUALITY_HEADS

AutoConfig.register("prism", PrismConfig, exist_ok=True)
AutoModel.register(PrismConfig, PrismForMaskedDiffusion, exist_ok=True)
AutoModelForMaskedLM.register(PrismConfig, PrismForMaskedDiffusion, exist_ok=True)

__all__ = [
    "BACKBONE_ADAPTERS",
    "QUALITY_HEADS",
    "BackboneAdapter",
    "PrismConfig",
    "PrismForMaskedDiffusion",
    "PrismOutput",
    "through",
]
