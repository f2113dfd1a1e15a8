"""Native Dream (arXiv 2508.15487): reads and writes the published checkpoints without remote code."""

from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from .modeling_dream import DreamConfig, DreamForMaskedDiffusion, DreamModel

AutoConfig.register("Dream", DreamConfig, exist_ok=True)
AutoModel.register(DreamConfig, DreamModel, exist_ok=True)
AutoModelForMaskedLM.register(DreamConfig, DreamForMaskedDiffusion, exist_ok=True)

__all__ = ["DreamConfig", "DreamForMaskedDiffusion", "DreamModel"]
