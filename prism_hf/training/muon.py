"""Muon for the matrices of the hidden layers, AdamW for everything else, as one optimizer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from transformers import PreTrainedModel, TrainingArguments


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` and `torch.optim.AdamW` over one list of groups, so that schedulers and checkpoints see one.

    Muon's updates are scaled to the size of AdamW's, so both take the same learning rate (arXiv 2502.16982).

    Args:
        param_groups: as for any optimizer; groups with `muon=True` hold matrices only.
    """

    def __init__(
        self,
        param_groups: Iterable[dict],
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(param_groups, {"lr": lr, "weight_decay": weight_decay, "muon": False})
        muon = [group for group in self.param_groups if group["muon"]]
        rest = [group for group in self.param_groups if not group["muon"]]
        self.parts = [Muon(muon, lr=lr, adjust_lr_fn="match_rms_adamw"), AdamW(rest, lr=lr, betas=betas, eps=eps)]
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.share()

    def share(self) -> None:
        """Let both parts work on this optimizer's state and groups."""
        for part, muon in zip(self.parts, (True, False), strict=True):
            part.state = self.state
            part.param_groups = [group for group in self.param_groups if group["muon"] is muon]

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for part in self.parts:
            part.step()


def hidden_matrices(model: PreTrainedModel) -> list[torch.Tensor]:
    """Trainable weights of linear maps inside the layers: no embedding, no decoder, no quality head."""
    decoder = model.get_output_embeddings()
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module is not decoder
        and module.weight.requires_grad
        and "quality_head" not in name
        and min(module.weight.shape) > 1
    ]


def muon_with_adamw(model: PreTrainedModel, decayed: Iterable[str], args: TrainingArguments) -> MuonWithAdamW:
    """The optimizer of `use_muon`; of what AdamW takes, weight decay is for the parameters named by `decayed`."""
    matrices, decayed = hidden_matrices(model), set(decayed)
    own = {id(parameter) for parameter in matrices}
    rest = [(name, p) for name, p in model.named_parameters() if p.requires_grad and id(p) not in own]
    groups = [
        {"params": matrices, "muon": True, "weight_decay": args.weight_decay},
        {"params": [p for name, p in rest if name in decayed], "weight_decay": args.weight_decay},
        {"params": [p for name, p in rest if name not in decayed], "weight_decay": 0.0},
    ]
    return MuonWithAdamW(groups, args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon)
