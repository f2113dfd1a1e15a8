"""Models are read as the table of their families says: shifted ones at the left neighbour, some without padding."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import torch

from prism_hf.backbones import BackboneAdapter, adapter_of

from .canvas import Canvas


def family_of(model) -> BackboneAdapter:
    """How the outputs of `model` are read. A module without a `model_type` is taken as it is: it has nobody to ask.

    Raises:
        ValueError: for a family that nobody has described, and a model whose attention is causal.
    """
    config, name = getattr(model, "config", None), type(model).__name__
    backbone = getattr(config, "backbone_config", None)
    if backbone is not None:  # a PrismForMaskedDiffusion, which shifts its logits itself
        return replace(adapter_of(backbone, name), shifted_logits=False)
    return BackboneAdapter() if getattr(config, "model_type", None) is None else adapter_of(config, name)


def logits_of(logits: torch.Tensor, positions: torch.Tensor, shifted: bool) -> torch.Tensor:
    """The logits of N positions, (B, L) bool, from all (B, L, V), which may be shifted: (N, V)."""
    rows, columns = positions.nonzero(as_tuple=True)
    return logits[rows, (columns - 1).clamp(min=0) if shifted else columns]


def as_described(model, canvas: Canvas, repeats: int = 1) -> Callable:
    """`model` itself, or a function that calls it so that its outputs are those of each row alone, at its positions.

    repeats: how often the rows of the canvas follow each other in a batch.
    """
    family = family_of(model)
    if family.shifted_logits:
        model = aligned(model)
    if family.reads_padding and canvas.attention_mask is not None:
        model = without_padding(model, canvas.attention_mask.sum(-1).tolist() * repeats)
    return model


def aligned(model: Callable) -> Callable:
    """`model` with the logits (B, L, V) of each position, which it gives at the position before."""

    def call(logits_at=None, **inputs) -> SimpleNamespace:
        if logits_at is not None:
            return model(logits_at=(logits_at - 1).clamp(min=0), **inputs)
        logits = model(**inputs).logits
        return SimpleNamespace(logits=torch.cat((logits[:, :1], logits[:, :-1]), dim=1))

    return call


def without_padding(model: Callable, lengths: list[int]) -> Callable:
    """`model`, which reads the rows of each length by themselves; their padding, to the right, gets outputs of 0."""

    def call(input_ids, attention_mask, logits_at=None, token_type_ids=None, **inputs) -> SimpleNamespace:
        found = {"logits": None, "quality_logits": None}
        for length in sorted({*lengths} - {0}, reverse=True):
            rows = [row for row, each in enumerate(lengths) if each == length]
            if logits_at is not None:
                inputs["logits_at"] = logits_at[rows].clamp(max=length - 1)
            if token_type_ids is not None:
                inputs["token_type_ids"] = token_type_ids[rows, :length]
            output = model(input_ids=input_ids[rows, :length], attention_mask=None, **inputs)
            for name, value in found.items():
                of_rows = getattr(output, name, None)
                if of_rows is None:
                    continue
                if value is None:
                    width = of_rows.shape[1] if logits_at is not None and name == "logits" else input_ids.shape[1]
                    value = found[name] = of_rows.new_zeros((len(lengths), width, *of_rows.shape[2:]))
                value[rows, : of_rows.shape[1]] = of_rows
        return SimpleNamespace(**found)

    return call
