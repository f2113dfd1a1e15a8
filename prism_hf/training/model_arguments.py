"""Which model a recipe loads and how, by TRL's names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from trl import ModelConfig, get_quantization_config

from prism_hf._deprecation import warn_renamed
from prism_hf.fields import Fraction, Positive, check_fields, check_names
from prism_hf.models.attention import available_attention
from prism_hf.resources import model_path

from .arguments import MaskedDiffusionTrainingArguments

# Fields of `peft` and `quantization`, which were mappings, and what TRL calls them.
OLD_LORA = {
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
    "target_parameters": "lora_target_parameters",
    "modules_to_save": "lora_modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
OLD_QUANTIZATION = {
    "load_in_4bit": "load_in_4bit",
    "load_in_8bit": "load_in_8bit",
    "bnb_4bit_quant_type": "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    "bnb_4bit_quant_storage": "bnb_4bit_quant_storage",
    "bnb_4bit_compute_dtype": "dtype",
}
# What LoraConfig and BitsAndBytesConfig take where a mapping does not say it; TRL's defaults are others.
OLD_LORA_DEFAULTS = {"use_peft": True, "lora_r": 8, "lora_alpha": 8, "lora_dropout": 0.0}
OLD_QUANTIZATION_DEFAULTS = {"bnb_4bit_quant_type": "fp4"}

NAMES = str | list[str] | None  # one name of several stands alone
GIVEN = {
    "lora_r": Positive,
    "lora_alpha": Positive,
    "lora_dropout": Fraction,
    "lora_target_modules": NAMES,
    "lora_target_parameters": NAMES,
}


@dataclass
class ModelArguments(ModelConfig):
    """[`~trl.ModelConfig`], for models that are no causal ones; those that ship go by their name, such as `sudoku_mdm`.

    Example:
        ```python
        from trl import get_peft_config

        model_args = ModelArguments(use_peft=True, lora_r=64, lora_target_modules=["q_proj", "v_proj"])
        trainer = PrismTrainer(model, args, train_dataset=dataset, peft_config=get_peft_config(model_args))
        ```
    """

    lora_task_type: str | None = field(  # type: ignore[assignment]  # TRL's is for causal models
        default=None, metadata={"help": "Read by nobody: an adapter of a masked model has no task type of PEFT's."}
    )
    eval_scorer: str | None = field(
        default=None,
        metadata={
            "help": "Causal LM that judges the text that evaluations generate, with predict_with_generate: "
            "generative_perplexity and entropy."
        },
    )
    peft: dict | None = field(default=None, metadata={"help": "Old name of use_peft, lora_r and what follows them."})
    quantization: dict | None = field(default=None, metadata={"help": "Old name of load_in_4bit and the like."})

    def __post_init__(self) -> None:
        if self.peft is not None:
            self._take_old("peft", OLD_LORA, OLD_LORA_DEFAULTS)
        if self.quantization is not None:
            self._take_old("quantization", OLD_QUANTIZATION, OLD_QUANTIZATION_DEFAULTS)
        super().__post_init__()
        check_fields(self, GIVEN)
        self.lora_target_modules = cast(Any, _as_names(self.lora_target_modules))
        if self.model_name_or_path is not None:
            self.model_name_or_path = model_path(self.model_name_or_path)
        if self.use_peft and not (self.lora_target_modules or self.lora_target_parameters):
            raise ValueError(
                "use_peft=True needs lora_target_modules, names of modules such as q_proj and v_proj, or all-linear: "
                "PEFT knows none for a model with a quality head."
            )

    def _take_old(self, mapping: str, names: Mapping[str, str], defaults: Mapping[str, Any]) -> None:
        """Set what a mapping under an old name says, and what its class takes for granted."""
        given = vars(self).pop(mapping)
        setattr(self, mapping, None)
        check_names(f"field of {mapping}", given, names)
        settings = {names[key]: value for key, value in given.items()}
        warn_renamed(f"{mapping} of a recipe", ", ".join(dict.fromkeys([*defaults, *settings])))
        vars(self).update({**defaults, **settings})


def _as_names(modules: str | list[str] | None) -> str | list[str] | None:
    """One name of modules as a list of it: TRL makes it text, of which PEFT takes all but `all-linear` for a regex."""
    if isinstance(modules, str) and modules != "all-linear" and re.fullmatch(r"[\w.-]+", modules):
        return [modules]
    return modules


def building_arguments(model_args: ModelConfig, args: MaskedDiffusionTrainingArguments) -> dict[str, Any]:
    """What `from_config` gets in a recipe, for a new model."""
    attention = available_attention(model_args.attn_implementation, args.use_cpu)
    dtype = {} if model_args.dtype == "auto" else {"dtype": model_args.dtype}
    return {"attn_implementation": attention} | dtype


def loading_arguments(model_args: ModelConfig, args: MaskedDiffusionTrainingArguments) -> dict[str, Any]:
    """What `from_pretrained` gets in a recipe: as TRL's scripts have it, and the trainer's `model_init_kwargs`.

    Example:
        ```python
        model = PrismForMaskedDiffusion.from_pretrained(name, **loading_arguments(model_args, training_args))
        ```
    """
    given, args.model_init_kwargs = args.model_init_kwargs or {}, None  # which would wait for a model by its name
    told = {
        "revision": model_args.model_revision,
        "dtype": model_args.dtype,
        "attn_implementation": available_attention(model_args.attn_implementation, args.use_cpu),
        "quantization_config": get_quantization_config(model_args),
        "trust_remote_code": args.trust_remote_code,
    }
    return told | given
