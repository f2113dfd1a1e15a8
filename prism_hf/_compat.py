"""Names that the libraries below us keep to themselves, and objects of theirs that tell no type, each with why.

Where a library moves one of them, this module and tests/test_compat.py break, and what to do about it is seen here. The
methods of `Trainer` that ours override have an underscore as well; why stands in each.
"""

import argparse
import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from peft import PeftModel
    from transformers import GenerationConfig, PreTrainedModel

AnyModel: TypeAlias = "PreTrainedModel | PeftModel"


def is_adapter(model: Any) -> "TypeGuard[PeftModel]":
    """Whether PEFT has wrapped the model. Asked by the method, as importing PEFT takes most of a second."""
    return hasattr(model, "get_base_model")


def unwrapped(model: Any) -> Any:
    """The model itself, where `torch.compile` or PEFT has wrapped it."""
    model = getattr(model, "_orig_mod", model)  # of OptimizedModule, which hands all else on to the model
    return model.get_base_model() if is_adapter(model) else model


def tokenizer_of(processing_class: Any) -> Any:
    """The tokenizer that a `processing_class` is, or that a processor holds."""
    return getattr(processing_class, "tokenizer", processing_class)


def config_of(model: Any) -> Any:
    """The config of a model, or None: a model that is no `PreTrainedModel` may do without."""
    return getattr(model, "config", None)


def setting(config: Any, name: str, default: Any = None) -> Any:
    """What a config tells under a name that not every family has: only attributes know `attribute_map`."""
    return getattr(config, name, default)


def output_of(output: Any, name: str) -> Any:
    """A part of what a forward returned, or None: a foreign model returns what it likes."""
    return getattr(output, name, None)


def attention_of(config: Any) -> str | None:
    """The attention implementation of a model, by its config. transformers gives it no public name."""
    return setting(config, "_attn_implementation")


def use_attention(config: Any, implementation: str | None) -> None:
    """Note in a config the attention implementation of a model, without handing it to nested configs."""
    config._attn_implementation_internal = implementation


def is_prepared(generation_config: "GenerationConfig | None") -> bool:
    """Whether transformers' own `generate` has prepared the config for decoding: it sets tensors of special tokens."""
    return hasattr(generation_config, "_eos_token_tensor")


def unprepared(generation_config: "GenerationConfig") -> "GenerationConfig":
    """A copy of a config, which nothing tells to be prepared."""
    generation_config = copy.copy(generation_config)
    vars(generation_config).pop("_eos_token_tensor", None)
    return generation_config


def mask_token_of(config: Any) -> int | None:
    """The mask token by a config, a field that only some families have."""
    return setting(config, "mask_token_id")


# What transformers sets on a model that it has loaded quantised, or shared between processes. Trainer, PEFT and
# `save_pretrained` look for it on the outermost model.
_LOADED = (
    *("hf_quantizer", "quantization_method", "is_quantized", "is_loaded_in_4bit", "is_loaded_in_8bit"),
    *("_device_mesh", "_mesh_manager", "_tp_size", "_fsdp_size", "_is_distributed_loading_by_transformers"),
)


def take_over_loading(model: Any, loaded: Any) -> None:
    """Let `model`, which was built around a model that transformers has `loaded`, say how that was loaded."""
    for name in _LOADED:
        if hasattr(loaded, name):
            setattr(model, name, getattr(loaded, name))
    if hasattr(loaded.config, "distributed_config"):
        model.config.distributed_config = loaded.config.distributed_config


def keep_weights(model: Any) -> None:
    """Let no `post_init` of a model around this one draw its weights afresh."""
    for module in model.modules():
        module._is_hf_initialized = True


def is_partitioned(parameters: "Iterable[torch.Tensor]") -> bool:
    """Whether DeepSpeed's ZeRO-3 has shared the parameters out. It marks them so, and gives them no type."""
    return any(hasattr(parameter, "ds_id") for parameter in parameters)


def version_of(tensor: "torch.Tensor") -> int:
    """How often a tensor has been written into, as autograd counts it."""
    return tensor._version


@contextmanager
def without_gradient_sync(accelerator: "Accelerator") -> Iterator[None]:
    """Within, DeepSpeed takes a backward for one of a window that goes on, which no public name tells it."""
    state, synchronises = accelerator.gradient_state, accelerator.sync_gradients
    state._set_sync_gradients(False)
    yield
    state._set_sync_gradients(synchronises)


# Steps of a stream of `datasets` that give as many rows as they take. A step that is mapped in batches may not.
_KEEP_LENGTH = (
    *("SelectColumnsIterable", "MappedExamplesIterable", "FormattedExamplesIterable"),
    *("RebatchedArrowExamplesIterable", "BufferShuffledExamplesIterable"),
)


def gives_all_rows(stream: Any) -> bool:
    """Whether a stream of `datasets` has as many rows as its split: nothing filters, takes, skips or repeats some."""
    step = stream._ex_iterable
    while type(step).__name__ in _KEEP_LENGTH and not getattr(step, "batched", False):
        step = step.ex_iterable
    return type(step).__name__ in ("ExamplesIterable", "ArrowExamplesIterable")


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments that a parser knows, which argparse lets nobody list."""
    return parser._actions


def harness_cli(usage: str) -> Any:
    """The command line of lm-evaluation-harness, whose help on a run begins with `usage`; it has no public parser."""
    from lm_eval._cli import HarnessCLI

    cli = HarnessCLI()
    cli._subparsers.choices["run"].usage = usage
    return cli
