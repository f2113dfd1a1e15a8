"""Parameters that several processes share: what FSDP shards as one, and use outside the forward of their model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from prism_hf._compat import is_partitioned


def take_units(accelerator: Accelerator, model: PreTrainedModel) -> None:
    """Make what FSDP shards as one fit the model, where Accelerate (1.15) would shard a parameter twice.

    It shards the embedding and the LM head by themselves, beside the model's `_no_split_modules`. Of some architectures
    these hold the embedding: they are taken out of what is wrapped, unless the user named them. Of BERT and its kin the
    bias of the LM head is that of a module around it too: embedding and head then are sharded with what is left.
    """
    plugin = accelerator.state.fsdp_plugin
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if plugin.transformer_cls_names_to_wrap is None:
        holders = {type(each).__name__ for each in model.modules() if any(part is embedding for part in each.modules())}
        names = model._no_split_modules or []
        plugin.transformer_cls_names_to_wrap = [name for name in names if name not in holders]
    others = [each for each in model.modules() if each is not embedding and each is not head]
    elsewhere = {parameter for each in others for parameter in each.parameters(recurse=False)}
    if head is not None and not elsewhere.isdisjoint(head.parameters()):
        accelerator.prepare = preparing_in_one(accelerator.prepare, model)  # type: ignore[method-assign]


def preparing_in_one(prepare: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    """`Accelerator.prepare` that finds neither the embedding nor the LM head of `model`."""

    @wraps(prepare)
    def prepare_in_one(*args: Any, **kwargs: Any) -> Any:
        hidden = ("get_input_embeddings", "get_output_embeddings")
        for name in hidden:
            setattr(model, name, lambda: None)
        try:
            return prepare(*args, **kwargs)
        finally:
            for name in hidden:
                delattr(model, name)

    return prepare_in_one


@contextmanager
def gathered(model: nn.Module, module: nn.Module) -> Iterator[Callable[[], Any]]:
    """Within, the parameters of `module`, which are of `model`, are whole, also under FSDP2 and DeepSpeed's ZeRO-3.

    Under FSDP2 a backward may end that: call what this yields, and they are whole again.
    """
    parameters = list(module.parameters())
    # named_modules goes from the outside in, so the last FSDP module that holds ours is the one that shards it.
    parts = set(module.modules())
    owners = [part for part in model.modules() if isinstance(part, FSDPModule) and parts & set(part.modules())]
    if owners:
        owners[-1].unshard()
        yield owners[-1].unshard
        owners[-1].reshard()
    elif is_partitioned(parameters):
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameters):
            yield lambda: None
    else:
        yield lambda: None
