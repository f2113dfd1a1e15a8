"""PRISM for transformers: masked diffusion language models that find and correct their own mistakes.

Names are imported when first used. `import prism_hf.models` registers the models with transformers' Auto classes, as
does any of the model classes below.
"""

import importlib

__version__ = "0.1.0"

_MODULES = {
    "generation": ("RemaskGenerationConfig", "RemaskGenerationMixin", "generate_with_retries", "remask_generate"),
    "generation.generate_to_jsonl": ("generate_to_jsonl",),
    "models.auto": ("load_model",),
    "models.llada": ("LladaConfig", "LladaForMaskedDiffusion"),
    "models.mdlm": ("MdlmConfig", "MdlmForMaskedDiffusion"),
    "models.prism": ("PrismConfig", "PrismForMaskedDiffusion"),
    "models.prism.peft_model": ("AutoPeftModelForPrism",),
    "training": (
        "MaskedDiffusionTrainer",
        "MaskedDiffusionTrainingArguments",
        "PrismTrainer",
        "PrismTrainingArguments",
        "TokenCriticTrainer",
        "TokenCriticTrainingArguments",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
