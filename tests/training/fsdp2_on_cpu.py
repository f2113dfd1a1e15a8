"""Runs a recipe under FSDP2 on CPU processes: fsdp2_on_cpu.py RECIPE [arguments].

Accelerate shards on accelerators only and gives CPU processes DDP. Told that they are as good as GPUs, it takes its
real FSDP2 path, on gloo.
"""

import runpy
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule

from prism_hf.training import PrismTrainer

initialise = PartialState.__init__


def as_good_as_gpus(self, *args, **kwargs):
    initialise(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


compute_loss = PrismTrainer.compute_loss


def in_shards(self, model, inputs, **kwargs):
    assert self.is_fsdp_enabled and isinstance(model, FSDPModule), "the model is not sharded"
    return compute_loss(self, model, inputs, **kwargs)


PartialState.__init__ = as_good_as_gpus
PrismTrainer.compute_loss = in_shards
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
