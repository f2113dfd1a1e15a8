"""PEFT around the model of a trainer; a quality head is trained and saved beside the adapter."""

from copy import copy
from typing import Any

from peft import PeftConfig, PeftModel

from .arguments import MaskedDiffusionTrainingArguments
from .quality_trainer import QUALITY_HEAD, has_quality_head


def adapt(model: Any, peft_config: PeftConfig, args: MaskedDiffusionTrainingArguments) -> PeftModel:
    """A `PeftModel` around `model`; a quality head is trained whole and saved with the adapter (`PeftModelForPrism`).

    Raises ValueError for a model that has adapters already or a method that cannot train the head with them, TypeError
    for what is no `PeftConfig`.
    """
    from prism_hf.models.prism.peft_model import PeftModelForPrism

    if not isinstance(peft_config, PeftConfig):
        raise TypeError(f"peft_config must be a PeftConfig such as peft.LoraConfig, got {type(peft_config).__name__}.")
    if isinstance(model, PeftModel):
        raise ValueError(
            "The model is a PeftModel already: pass it without peft_config to train its adapter on, or "
            "model.merge_and_unload() for a new one."
        )
    peft_config, has_head = copy(peft_config), has_quality_head(model)
    if has_head:
        save_head(peft_config)
    peft_config.base_model_name_or_path = model.name_or_path or None
    peft_config.task_type = None  # with one, PEFT wraps and loads the model as one for that task
    # ZeRO-3 gathers parameters of one dtype only; on a bfloat16 base PEFT would make float32 adapters.
    zero_3 = args.deepspeed_plugin is not None and args.deepspeed_plugin.zero_stage == 3
    wrapper = PeftModelForPrism if has_head else PeftModel
    model = wrapper(model, peft_config, autocast_adapter_dtype=not zero_3)
    if args.activation_checkpointing:
        model.enable_input_require_grads()
    return model


def save_head(peft_config: PeftConfig) -> None:
    """Let a PEFT config train and save the quality head. Raises ValueError for a method that trains no whole module."""
    if "modules_to_save" not in vars(peft_config):
        raise ValueError(
            f"{type(peft_config).__name__} trains no whole module, so no quality head: use LoraConfig, whose "
            "trainable_token_indices trains single tokens."
        )
    saved = vars(peft_config)["modules_to_save"] or []
    if QUALITY_HEAD not in saved:
        vars(peft_config)["modules_to_save"] = [*saved, QUALITY_HEAD]
