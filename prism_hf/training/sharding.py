"""Parameters that several processes share, used outside the forward of the model that owns them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule

from prism_hf._compat import is_partitioned


@contextmanager
def gathered(model: nn.Module, module: nn.Module) -> Iterator[None]:
    """Within, the parameters of `module`, which are of `model`, are whole, also under FSDP2 and DeepSpeed's ZeRO-3."""
    parameters = list(module.parameters())
    # named_modules goes from the outside in, so the last FSDP module that holds ours is the one that shards it.
    parts = set(module.modules())
    owners = [part for part in model.modules() if isinstance(part, FSDPModule) and parts & set(part.modules())]
    if owners:
        owners[-1].unshard()
        yield
        owners[-1].reshard()
    elif is_partitioned(parameters):
        import deepspeed

        with deepspeed.zero.GatheredParameters(parameters):
            yield
    else:
        yield
