"""Moving average of the weights."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback

EMA_FILE = "ema.safetensors"


class EMACallback(TrainerCallback):
    """Averages the weights after every step and puts the average in their place at the end of training.

    The decay warms up as `min(decay, (1 + n) / (10 + n))` after n updates, as in the published MDLM runs. The average
    is part of every checkpoint, as `ema.safetensors`, and training resumes with it.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self.averaged: AveragedModel | None = None
        self.restored: dict[str, torch.Tensor] | None = None

    def update(self, averaged: torch.Tensor, current: torch.Tensor, num_averaged: torch.Tensor) -> torch.Tensor:
        decay = ((1 + num_averaged) / (10 + num_averaged)).clamp(max=self.decay)
        return averaged.lerp(current, (1 - decay).to(averaged.dtype))

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.averaged = AveragedModel(model, avg_fn=self.update)
        if self.restored is not None:
            self.averaged.load_state_dict(self.restored)
            self.restored = None

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.averaged.update_parameters(model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        model.load_state_dict(self.averaged.module.state_dict())

    def save(self, checkpoint: str) -> None:
        tensors = {name: value.detach().clone() for name, value in self.averaged.state_dict().items()}
        save_file(tensors, Path(checkpoint) / EMA_FILE)

    def load(self, checkpoint: str) -> None:
        path = Path(checkpoint) / EMA_FILE
        if not path.exists():
            raise ValueError(f"{path} is missing: the checkpoint was written without ema_decay. Resume without it too.")
        self.restored = load_file(path)
