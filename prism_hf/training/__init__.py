"""Trainers: pre-training of a masked diffusion model, PRISM fine-tuning of its quality head, critics of its drafts."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from .arguments import MaskedDiffusionTrainingArguments, PrismTrainingArguments, TokenCriticTrainingArguments
    from .checkpoints import last_checkpoint
    from .config_file import parse_arguments
    from .data_preparation.collator import MaskedDiffusionCollator
    from .ema import EMACallback
    from .log_completions import LogCompletionsCallback
    from .masked_diffusion_trainer import MaskedDiffusionTrainer
    from .prism_trainer import PrismTrainer
    from .token_critic_trainer import TokenCriticTrainer
else:
    __getattr__, __dir__ = lazy_names(__name__, GenerateCallback="LogCompletionsCallback")

__all__ = [
    "EMACallback",
    "LogCompletionsCallback",
    "MaskedDiffusionCollator",
    "MaskedDiffusionTrainer",
    "MaskedDiffusionTrainingArguments",
    "PrismTrainer",
    "PrismTrainingArguments",
    "TokenCriticTrainer",
    "TokenCriticTrainingArguments",
    "last_checkpoint",
    "parse_arguments",
]
