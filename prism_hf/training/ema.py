"""Moving average of the weights.

It is swapped in for an evaluation by copying, so that optimiser, DDP and FSDP2 keep their tensors. The weights wait in
the memory that gradients take in a step. Only what is trained is averaged.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import TrainerCallback

from prism_hf._compat import is_partitioned

from .checkpoints import naming_damage

EMA_FILE = "ema.safetensors"
# Names in the file are those of torch's AveragedModel.
PREFIX, COUNT = "module.", "n_averaged"


class EMACallback(TrainerCallback):
    """Averages the weights after every step; evaluations during training see the average, and the end leaves it.

    The decay warms up as `min(decay, (1 + n) / (10 + n))` after n updates, as in the published MDLM runs. What is
    averaged is what is trained, in float32 where the weights are less. The average is part of every checkpoint, as
    `ema.safetensors`, and training resumes with it. `MaskedDiffusionTrainer` calls `applied`, `save` and `load`.

    Args:
        decay (`float`): The share of the average that an update keeps, once it has warmed up.

    Raises:
        ValueError: at the start of a training whose weights cannot be averaged: under FSDP1 and DeepSpeed's ZeRO-3.

    Example:
        ```python
        trainer.add_callback(EMACallback(decay=0.999))  # which `ema_decay=0.999` of the arguments does as well
        ```
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.num_averaged = 0
        self.averages: dict[str, torch.Tensor] | None = None
        self.restored: dict[str, torch.Tensor] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        check_averageable(model)
        self.num_averaged = 0
        self.averages = {
            name: weight.detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in trained(model)
        }
        self.restore()

    def restore(self) -> None:
        """Take what `load` has read."""
        if self.restored is not None:
            self.num_averaged = int(self.restored[COUNT])
            for name, average in self.averages.items():
                value = self.restored[PREFIX + name].to(average.device)
                if isinstance(average, DTensor):
                    value = distribute_tensor(value, average.device_mesh, average.placements)
                average.copy_(value)
            self.restored = None

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        n = torch.tensor(self.num_averaged)
        decay = ((1 + n) / (10 + n)).clamp(max=self.decay)
        # The first update is the weights themselves.
        weight = float(1 - decay) if n else 1.0
        for name, current in trained(model):
            self.averages[name].lerp_(current.detach().to(self.averages[name].dtype), weight)
        self.num_averaged += 1

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.restore()
        self.put(self.averages, model)
        self.averages = None

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within, the average is in the place of the weights, if training goes on.

        The weights are copied meanwhile, into the memory that gradients take in a step.
        """
        if self.averages is None:
            yield
            return
        weights = {name: weight.detach().clone() for name, weight in trained(model)}
        averages, self.averages = self.averages, None
        self.put(averages, model)
        try:
            yield
        finally:
            self.put(weights, model)
            self.averages = averages

    @torch.no_grad()
    def put(self, values: dict[str, torch.Tensor], model: nn.Module) -> None:
        for name, weight in trained(model):
            weight.copy_(values[name])

    def save(self, checkpoint: str, is_writer: bool) -> None:
        """Write the average into a checkpoint. All processes call it, as each may hold a part; one writes."""
        whole = {
            name: value.full_tensor() if isinstance(value, DTensor) else value for name, value in self.averages.items()
        }
        if is_writer:
            tensors = {PREFIX + name: value.contiguous() for name, value in whole.items()}
            save_file(tensors | {COUNT: torch.tensor(self.num_averaged)}, Path(checkpoint) / EMA_FILE)

    def load(self, checkpoint: str) -> None:
        path = Path(checkpoint) / EMA_FILE
        if not path.exists():
            raise ValueError(f"{path} is missing: the checkpoint was written without ema_decay. Resume without it too.")
        with naming_damage(checkpoint):
            self.restored = load_file(path)


@contextmanager
def averaged(callbacks: list[TrainerCallback], model: nn.Module) -> Iterator[None]:
    """Within, the model has the moving average of its weights, during a training that keeps one."""
    with ExitStack() as stack:
        for callback in averages_among(callbacks):
            stack.enter_context(callback.applied(model))
        yield


def averages_among(callbacks: list[TrainerCallback]) -> list[EMACallback]:
    """Those of the callbacks that keep a moving average."""
    return [callback for callback in callbacks if isinstance(callback, EMACallback)]


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name; under FSDP2 the shards, also after a forward that gathered them."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]


def check_averageable(model: nn.Module) -> None:
    """Raise ValueError where a process does not see the weights in tensors of their own."""
    sharding = None
    if is_partitioned(model.parameters()):
        sharding = "DeepSpeed's ZeRO-3"
    elif any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        sharding = "FSDP1"
    if sharding is not None:
        raise ValueError(f"ema_decay cannot average weights under {sharding}: use FSDP2 or ZeRO-2, or leave it out.")
