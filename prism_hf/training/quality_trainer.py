"""What the trainers of a quality head have in common."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from transformers import TrainingArguments
from transformers.utils import ModelOutput

from prism_hf.diffusion.drafting import exclude_token

from .arguments import QualityTrainingArguments
from .data_preparation.rows import IGNORED
from .masked_diffusion_trainer import MaskedDiffusionTrainer
from .masking import Noised

QUALITY_HEAD = "quality_head"  # as a `PrismForMaskedDiffusion` calls it


def has_quality_head(model: Any) -> bool:
    """Whether a part of the model is called as a quality head is."""
    return any(QUALITY_HEAD in name for name, _ in model.named_parameters())


def freeze_backbone(model: nn.Module) -> None:
    """Of what is trained, leave the quality head alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and QUALITY_HEAD in name)


def split_head(optimizer: Optimizer, model: nn.Module, learning_rate: float) -> None:
    """Move the quality head's parameters of an optimizer to groups of their own, at their own learning rate."""
    head = {id(parameter) for name, parameter in model.named_parameters() if QUALITY_HEAD in name}
    for group in list(optimizer.param_groups):
        heads = [parameter for parameter in group["params"] if id(parameter) in head]
        if heads and group["lr"] != learning_rate:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in head]
            optimizer.add_param_group({**group, "params": heads, "lr": learning_rate})


def touching_all(loss: torch.Tensor, model: nn.Module) -> torch.Tensor:
    """The loss, with a gradient of 0 for the parameters that it does not depend on.

    DDP reduces gradients in the last backward of a step and waits for every parameter there, also for those of the LM
    head, which no forward that judges a draft runs.
    """
    if isinstance(model, DistributedDataParallel) and torch.is_grad_enabled():
        return loss + 0.0 * sum(parameter.sum() for parameter in model.parameters() if parameter.requires_grad)
    return loss


@dataclass
class JudgedDrafts(ModelOutput):
    """Drafts of a batch, D of each row; draft d of row b is row `d * B + b`.

    Args:
        quality_logits (`torch.Tensor`): (D * B, L).
        filled (`torch.Tensor`): (D * B, L) bool, positions that the draft filled, where its quality is learned.
        correct (`torch.Tensor`): (D * B, L) bool, whether the draft holds the clean token.
    """

    quality_logits: torch.Tensor | None = None
    filled: torch.Tensor | None = None
    correct: torch.Tensor | None = None

    def judgements(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the N filled positions, their logits (N,), and whether they are right (N,)."""
        return self.quality_logits[self.filled], self.correct[self.filled]


RIVALS = ("probability", "margin")


def surenesses(logits: torch.Tensor, tokens: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """What the logits (N, V) at N visible tokens (N,) say of them without a head, (N, 2).

    That is the probability of each, and by how much it exceeds that of the likeliest other token.
    """
    from prism_hf.generation.denoising.unmasking import margin_of, probability_of

    logits = exclude_token(logits.float(), mask_token_id)
    return torch.stack([probability_of(logits, tokens), margin_of(logits, tokens)], dim=-1)


class QualityTrainer(MaskedDiffusionTrainer):
    """Trains the quality head of a `PrismForMaskedDiffusion` on drafts; a subclass says which, and its loss.

    Metrics: `draft_accuracy` (share of drafted tokens that are right), `quality_auroc` and `quality_ece` (expected
    calibration error in 15 bins), each over all that was drafted since the last log, on all processes. An evaluation of
    a head that reads the same forward as the posterior adds what is had without a head, `probability_auroc` and
    `margin_auroc`, of the drafted token in that forward.

    `compute_metrics` and `predict` get the quality of the drafts' tokens (rows, L), in [0, 1], and as labels (rows, L)
    whether they are right; both are -100 where a draft filled nothing. With D > 1 drafts of each row, (rows, L, D).

    Args:
        model (`PrismForMaskedDiffusion` or `str`, *optional*): A model with a quality head, or what
            `PrismForMaskedDiffusion.from_pretrained` loads.
        args (`QualityTrainingArguments`, *optional*): The arguments.
        *trainer_args, **kwargs: As for [`MaskedDiffusionTrainer`]. With a `peft_config`, the quality head joins its
            `modules_to_save`.

    Raises:
        ValueError: if the model has no quality head, or is a `PeftModel` and a `peft_config` is given.
    """

    args: QualityTrainingArguments
    arguments_class = QualityTrainingArguments

    def __init__(
        self, model: Any = None, args: TrainingArguments | None = None, *trainer_args: Any, **kwargs: Any
    ) -> None:
        super().__init__(model, args, *trainer_args, **kwargs)
        self.judged: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def loaded(self, name: str | os.PathLike, **kwargs: Any) -> Any:
        """The model that was given by name, with its quality head or a new one."""
        from prism_hf.models.prism import PrismForMaskedDiffusion

        return PrismForMaskedDiffusion.from_pretrained(name, **kwargs)

    def prepared(self, model: Any) -> Any:
        """As the parent's. Raises ValueError for a model without a quality head."""
        if not isinstance(model, str | os.PathLike) and not has_quality_head(model):
            raise ValueError(
                f"{type(model).__name__} has no quality head: load the model with "
                "PrismForMaskedDiffusion.from_pretrained."
            )
        return super().prepared(model)

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """As the parent's, with the head's parameters in groups of their own at `head_learning_rate`."""
        optimizer = super().create_optimizer(model)
        if self.args.head_learning_rate is not None:
            split_head(optimizer, self.model if model is None else model, self.args.head_learning_rate)
        return optimizer

    def add_judgements(
        self,
        training: bool,
        quality_logits: torch.Tensor,
        correct: torch.Tensor,
        rivals: torch.Tensor | None = None,
    ) -> None:
        """Add (N,) judged tokens, whether they are right and, (N, 2), what `RIVALS` say, to what is logged."""
        self.means[training].add("draft_accuracy", correct.sum(), torch.ones_like(correct).sum())
        judged = torch.stack([correct.float(), quality_logits.detach().float().sigmoid()], dim=1)
        self.judged[training].append(judged if rivals is None else torch.cat([judged, rivals], dim=1))

    def predictions(self, noised: Noised, outputs: JudgedDrafts) -> tuple[torch.Tensor, torch.Tensor]:
        """What `compute_metrics` and `predict` get of a batch.

        Returns:
            the quality (B, L), in [0, 1], and labels (B, L), 1 where the draft holds the clean token and 0 where it
            does not; both are -100 at positions that the draft did not fill. With D > 1 drafts, (B, L, D).
        """
        quality = outputs.quality_logits.float().sigmoid().masked_fill(~outputs.filled, IGNORED)
        labels = outputs.correct.long().masked_fill(~outputs.filled, IGNORED)
        return tuple(value.unflatten(0, (-1, len(noised.z))).movedim(0, -1).squeeze(-1) for value in (quality, labels))

    def pop_metrics(self, training: bool) -> dict[str, float]:
        """As the parent's, with how well the head knows right tokens from wrong ones."""
        metrics = super().pop_metrics(training)
        if self.judged[training]:
            from prism_hf.evaluation.metrics.calibration import auroc, expected_calibration_error

            judged = self.accelerator.pad_across_processes(torch.cat(self.judged[training]), dim=0, pad_index=-1)
            judged = self.accelerator.gather(judged).cpu()
            correct, quality, *rivals = judged[judged[:, 0] >= 0].unbind(dim=1)
            self.judged[training].clear()
            if len(quality):
                metrics["quality_auroc"] = auroc(quality, correct)
                metrics["quality_ece"] = expected_calibration_error(quality, correct)
                metrics |= {f"{name}_auroc": auroc(said, correct) for name, said in zip(RIVALS, rivals, strict=False)}
        return metrics

    def forget_metrics(self, training: bool) -> None:
        super().forget_metrics(training)
        self.judged[training].clear()
