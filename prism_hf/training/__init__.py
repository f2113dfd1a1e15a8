"""Trainers: pre-training of a masked diffusion model, and PRISM fine-tuning of its quality head."""

from .checkpoints import last_checkpoint
from .collator import MaskedDiffusionCollator
from .config_file import parse_arguments
from .ema import EMACallback
from .masked_diffusion_trainer import MaskedDiffusionTrainer
from .prism_trainer import PrismTrainer
from .training_arguments import MaskedDiffusionTrainingArguments, PrismTrainingArguments

__all__ = [
    "EMACallback",
    "MaskedDiffusionCollator",
    "MaskedDiffusionTrainer",
    "MaskedDiffusionTrainingArguments",
    "PrismTrainer",
    "PrismTrainingArguments",
    "last_checkpoint",
    "parse_arguments",
]
