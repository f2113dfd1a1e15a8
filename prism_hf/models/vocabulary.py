"""Another number of tokens for a model that has its weights.

A vocabulary is resized in place: each parameter keeps its identity, so that what is tied stays tied and what is not
stays apart. transformers' own way does not achieve that for every family.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from prism_hf._compat import setting
from prism_hf.backbones import BackboneAdapter, SplitDecoder
from prism_hf.fields import Positive, check_value

# Variance of the rows that are added, in covariances of those that were there: transformers' choice.
ADDED_VARIANCE = 1e-9


def resize_vocabulary(
    model: PreTrainedModel,
    adapter: BackboneAdapter,
    mask_token_id: int | None,
    new_num_tokens: int | None = None,
    pad_to_multiple_of: int | None = None,
    mean_resizing: bool = True,
) -> nn.Module:
    """Give the embedding and the LM head of a masked language model another number of rows, and its config.

    Tokens keep their rows. `new_num_tokens`, those there are if None, is rounded up to a multiple of
    `pad_to_multiple_of`. New rows are next to the mean of the old ones with `mean_resizing`, else normal draws of
    `config.initializer_range` and biases of 0. Where it raises, the model is as it was. Returns the input embedding.

    Raises:
        ValueError: for a number that is no row count or would drop the mask token.
        TypeError: if the embedding is not a plain one, as where an adapter or a quantisation has wrapped it.
    """
    embedding = model.get_input_embeddings()
    if new_num_tokens is None and pad_to_multiple_of is None:
        return embedding
    tensors = vocabulary_tensors(model, adapter)
    rows = wanted_rows(tensors[0][0].shape[0], new_num_tokens, pad_to_multiple_of)
    if mask_token_id is not None and mask_token_id >= rows:
        raise ValueError(f"{rows} tokens would drop the mask token, {mask_token_id}: keep {mask_token_id + 1} or more.")
    std = None if mean_resizing else setting(model.config, "initializer_range", 0.02)
    resized = [(parameter, resized_tensor(parameter.data, rows, dim, std)) for parameter, dim in tensors]
    for parameter, tensor in resized:  # in place, so that whoever shares it, or holds it, goes on doing so
        parameter.data, parameter.grad = tensor, None
    for module in model.modules():
        follow_weight(module, {id(parameter) for parameter, _ in resized})
    for name in adapter.row_fields:
        setattr(model.config, name, rows)
    return embedding


def vocabulary_tensors(model: PreTrainedModel, adapter: BackboneAdapter) -> list[tuple[nn.Parameter, int]]:
    """The parameters with a row for each token, that of the embedding first, and the dimension of the rows.

    Raises:
        TypeError: as `resize_vocabulary`.
    """
    embedding, decoder = model.get_input_embeddings(), adapter.decoder(model)
    parts = [decoder]
    tensors: list[tuple[Any, int]] = [(parameter, 0) for parameter in embedding.parameters()]
    if isinstance(decoder, SplitDecoder):
        parts = [part for part in (decoder.rows, decoder.columns) if part is not None]
        tensors += [(decoder.rows.weight, 0), (decoder.bias, 0)]
        tensors += [] if decoder.columns is None else [(decoder.columns.weight, 1)]
    else:
        tensors += [(parameter, 0) for parameter in decoder.parameters()]
    for module in model.modules():  # many heads have the bias twice, the decoder's and their own
        if any(child is parts[0] for child in module.children()):
            own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
            tensors += [(own["bias"], 0)] if "bias" in own else []
    for part in (embedding, *parts):
        extra = [*part.children(), *part.buffers()]
        if extra or not all(parameter.is_floating_point() for parameter in part.parameters()):
            raise TypeError(
                f"{type(part).__name__} is no plain embedding or linear map, so the vocabulary cannot be resized: "
                "resize that of the whole model before PEFT or a quantisation wraps it."
            )
    return list({id(parameter): (parameter, dim) for parameter, dim in tensors}.values())


def wanted_rows(present: int, new_num_tokens: int | None, pad_to_multiple_of: int | None) -> int:
    """The number of rows asked for. Raises ValueError for what is no positive integer."""
    check_value("new_num_tokens", new_num_tokens, Positive | None)
    check_value("pad_to_multiple_of", pad_to_multiple_of, Positive | None)
    rows, multiple = new_num_tokens or present, pad_to_multiple_of or 1
    return -(-rows // multiple) * multiple


def resized_tensor(tensor: torch.Tensor, rows: int, dim: int, std: float | None) -> torch.Tensor:
    """A copy of `tensor` with `rows` of what lies along `dim`: the first of the old ones, and drawn ones after them.

    Drawn near the mean of the old ones if `std` is None; else normal of that width, or 0 for a vector.
    """
    old = tensor.movedim(dim, 0)
    added = old.new_zeros((max(rows - len(old), 0), *old.shape[1:]))
    if std is None and len(added):
        mean = old.float().mean(0)
        noise = torch.randn(len(added), len(old), device=old.device) * (ADDED_VARIANCE / len(old)) ** 0.5
        added = (mean + torch.tensordot(noise, old.float() - mean, 1)).to(old.dtype)
    elif std is not None and old.ndim > 1:
        added.normal_(0.0, std)
    return torch.cat([old[:rows], added]).movedim(0, dim).contiguous()


def follow_weight(module: nn.Module, resized: set[int]) -> None:
    """Set what an embedding or a linear map says of its size, if its weight is one of the `resized` parameters."""
    if isinstance(module, nn.Embedding) and id(module.weight) in resized:
        module.num_embeddings = len(module.weight)
        if module.padding_idx is not None and module.padding_idx >= len(module.weight):
            module.padding_idx = None
    elif isinstance(module, nn.Linear) and id(module.weight) in resized:
        module.out_features, module.in_features = module.weight.shape
