"""PRISM for transformers: masked diffusion language models that find and correct their own mistakes.

Names are imported when first used. `import prism_hf.models` registers the models with transformers' Auto classes, as
does any of the model classes below.
"""

from typing import TYPE_CHECKING

from ._lazy import lazy_names

if TYPE_CHECKING:
    from .generation import RemaskGenerationConfig, RemaskGenerationMixin, generate_with_retries, remask_generate
    from .jobs.completions import generate_to_jsonl
    from .models.auto import load_model
    from .models.llada import LladaConfig, LladaForMaskedDiffusion
    from .models.mdlm import MdlmConfig, MdlmForMaskedDiffusion
    from .models.prism import PrismConfig, PrismForMaskedDiffusion
    from .models.prism.peft_model import AutoPeftModelForPrism
    from .training import (
        MaskedDiffusionTrainer,
        MaskedDiffusionTrainingArguments,
        PrismTrainer,
        PrismTrainingArguments,
        TokenCriticTrainer,
        TokenCriticTrainingArguments,
    )
else:
    __getattr__, __dir__ = lazy_names(__name__)

__version__ = "0.1.0"

__all__ = [
    "AutoPeftModelForPrism",
    "LladaConfig",
    "LladaForMaskedDiffusion",
    "MaskedDiffusionTrainer",
    "MaskedDiffusionTrainingArguments",
    "MdlmConfig",
    "MdlmForMaskedDiffusion",
    "PrismConfig",
    "PrismForMaskedDiffusion",
    "PrismTrainer",
    "PrismTrainingArguments",
    "RemaskGenerationConfig",
    "RemaskGenerationMixin",
    "TokenCriticTrainer",
    "TokenCriticTrainingArguments",
    "generate_to_jsonl",
    "generate_with_retries",
    "load_model",
    "remask_generate",
]
