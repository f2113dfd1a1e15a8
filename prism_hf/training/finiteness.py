"""A step whose losses or gradients are not finite ends the training before the optimiser moves.

Gradients are tested by their norm, which clipping computes anyway, together with the step's losses: one look of the
host at a number of the device.
"""

import math
import os

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments

Window = list[tuple[torch.Tensor, dict]]


def check_finite_step(
    window: Window, grad_norm: torch.Tensor | float | None, watches_norm: bool, args: TrainingArguments, step: int
) -> None:
    """Raise FloatingPointError if a loss of a step, or the norm of its gradients, is not finite.

    What the step read is written beside the checkpoints. `watches_norm` is False where a gradient scaler skips a step
    whose gradients are not finite.
    """
    losses = torch.stack([loss for loss, _ in window]).float()
    watched = losses.sum()
    if grad_norm is not None and watches_norm:
        norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm
        watched = watched + torch.as_tensor(norm, device=losses.device)
    if torch.isfinite(watched):
        return
    bad = [number for number, loss in enumerate(losses.tolist()) if not math.isfinite(loss)][:1]
    what = f"loss is {losses[bad[0]].item()}" if bad else f"gradient norm is {float(grad_norm)}"
    where = f"step {step}, {f'batch {bad[0]}, ' if bad else ''}process {args.process_index}"
    for number in bad or range(len(window)):
        write_batch(window[number][1], batch_file(args, step, number))
    raise FloatingPointError(
        f"The {what} at {where}; nothing of this step is in a checkpoint. What it read is in "
        f"{batch_file(args, step, bad[0] if bad else '*')}. Lower max_grad_norm, or train in bf16 rather than fp16, "
        "and start again: training goes on from the last checkpoint. That keeps its learning_rate, which only a new "
        "run can lower."
    )


def batch_file(args: TrainingArguments, step: int, number: int | str) -> str:
    """Where a batch of a step is written, beside the checkpoints."""
    name = f"nonfinite-step-{step}-batch-{number}-process-{args.process_index}.safetensors"
    return os.path.join(args.output_dir, name)


def write_batch(batch: dict, path: str) -> None:
    """Write the tensors of a batch."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
    save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, path)
