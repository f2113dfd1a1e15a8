"""How the rows of a batch lie in what a model reads: each in a row of its own, or several documents packed into one.

A packed batch is unpacked before it is masked: losses, draws and drafts are those of documents, each with its own time
and its own K draft tokens. Only the model reads packed rows, so that a packed batch trains as the same documents do
that are padded. Its attention stays within a document, and positions begin anew in each.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
    packed_sequence_mask_function,
)

from prism_hf._compat import attention_of, config_of, setting, unwrapped
from prism_hf.backbones import DOCUMENT_ENDS, adapter_of

PACKED = "packed"  # the key of a batch under which it says how its rows are packed


@dataclass(frozen=True)
class Rows:
    """The R rows of a batch as they are.

    Args:
        attention_mask (`torch.Tensor`, *optional*): (R, W), 0 at padding.
    """

    attention_mask: Tensor | None

    def inputs(self, ids: Tensor, model: Any) -> dict[str, Any]:
        """What `model` is given to read `ids` (D * R, W), D canvases of each row; canvas d of row r is `d * R + r`."""
        mask = self.attention_mask
        return {"input_ids": ids, "attention_mask": None if mask is None else mask.repeat(len(ids) // len(mask), 1)}

    def places(self, where: Tensor) -> Tensor:
        """Positions (D * R, W) bool of D canvases of the rows, in what the model reads; their order stays."""
        return where

    def by_row(self, values: Tensor) -> Tensor:
        """Values of what the model read, by row (D * R, W)."""
        return values


@dataclass(frozen=True)
class PackedRows:
    """The R documents of a batch, packed into P rows. Its methods are those of `Rows`.

    Args:
        index (`torch.Tensor`): (P, L) int64, the number of each token among those of the documents (R, W), row-major
            and in this order; -1 at padding.
        size (`tuple[int, int]`): (R, W).
    """

    index: Tensor
    size: tuple[int, int]

    def inputs(self, ids: Tensor, model: Any) -> dict[str, Any]:
        """As that of `Rows`, with a mask of what each token sees and with positions, in the form that `model` takes.

        Raises ValueError where its family cannot be told to keep documents apart.
        """
        config, first = described_packing(model)
        number = len(ids) // self.size[0]
        tokens = ids.view(number, -1)[:, self.index.clamp(min=0)].flatten(0, 1)
        positions = first + torch.where(self.index < 0, 0, self.index % self.size[1])
        placed = {"input_ids": tokens, "position_ids": positions.repeat(number, 1)}
        documents = self.documents(number)
        if "flash" in (attention_of(config) or ""):
            return placed | {"attention_mask": None} | document_ends(documents)
        return placed | {"attention_mask": document_mask(config, documents, unwrapped(model).dtype)}

    def documents(self, number: int) -> Tensor:
        """The document of each token, counted from 1 over `number` canvases; 0 at padding. (number * P, L)."""
        of_first = self.index.div(self.size[1], rounding_mode="floor") + 1
        canvases = torch.arange(number, device=self.index.device)[:, None, None] * self.size[0]
        return torch.where(self.index < 0, 0, of_first + canvases).flatten(0, 1)

    def places(self, where: Tensor) -> Tensor:
        number = len(where) // self.size[0]
        spread = where.view(number, -1)[:, self.index.clamp(min=0)] & (self.index >= 0)
        return spread.flatten(0, 1)

    def by_row(self, values: Tensor) -> Tensor:
        number, size = len(values) // len(self.index), self.size[0] * self.size[1]
        places = torch.where(self.index < 0, size, self.index).flatten()  # behind all others, what is of padding
        spread = values.new_zeros(number, size + 1).index_copy(1, places, values.reshape(number, -1))
        return spread[:, :-1].reshape(-1, self.size[1])

    @staticmethod
    def num_documents(index: Tensor, width: int, num_rows: int) -> int:
        """How many documents the first `num_rows` rows hold, of an `index` of documents `width` long."""
        return int(index[:num_rows].max()) // width + 1 if num_rows else 0


def rows_of(batch: Any) -> Rows | PackedRows:
    """How the rows of a batch lie in what a model reads."""
    if PACKED in batch:
        return PackedRows(batch[PACKED], tuple(batch["input_ids"].shape))
    return Rows(batch.get("attention_mask"))


def packed_index(lengths: list[list[int]], width: int, multiple: int = 1) -> Tensor:
    """The `index` of `PackedRows`, (P, L), from the lengths of the documents in each row.

    Args:
        lengths (`list[list[int]]`): Of each of P rows, the lengths of its documents.
        width (`int`): W, that of the longest.
        multiple (`int`, *optional*, defaults to 1): L is a multiple of it.
    """
    longest = -(-max(map(sum, lengths)) // multiple) * multiple
    index, document = torch.full((len(lengths), longest), -1), 0
    for row, sizes in zip(index, lengths, strict=True):
        tokens = [torch.arange(size) + (document + number) * width for number, size in enumerate(sizes)]
        row[: sum(sizes)] = torch.cat(tokens)
        document += len(sizes)
    return index


def described_packing(model: Any) -> tuple[PreTrainedConfig, int]:
    """The config of a model's backbone, and where positions begin in a document.

    Raises:
        ValueError: where the family cannot be told to keep packed documents apart.
    """
    config = config_of(unwrapped(model))
    config = setting(config, "backbone_config", config)
    adapter = adapter_of(config, type(unwrapped(model)).__name__)
    if adapter.first_position is None or adapter.shifted_logits:
        raise ValueError(
            f"Documents of a packed row would see each other in a model of the family {config.model_type!r}: leave out "
            "packing. If its forward takes position_ids and a mask (B, 1, L, L) and nothing else mixes tokens, say so: "
            f"BACKBONE_ADAPTERS[{config.model_type!r}] = BackboneAdapter(first_position=0)."
        )
    first = adapter.first_position
    return config, first if isinstance(first, int) else first(config)


def document_ends(documents: Tensor) -> dict[str, Any]:
    """Where documents (B, L) end among all tokens, as flash attention takes it."""
    sizes = documents.flatten().unique_consecutive(return_counts=True)[1]
    ends = torch.nn.functional.pad(sizes.cumsum(0), (1, 0)).to(torch.int32)
    longest = int(sizes.max())
    return dict(zip(DOCUMENT_ENDS, (ends, ends, longest, longest), strict=True))


def document_mask(config: PreTrainedConfig, documents: Tensor, dtype: torch.dtype) -> Any:
    """A mask within documents in the form that the attention of `config` takes; by kind of layer, if some see a window.

    Args:
        config (`PreTrainedConfig`): Of the backbone.
        documents (`torch.Tensor`): (B, L) int64, the document of each token.
        dtype (`torch.dtype`): Of a mask that is added to scores.
    """
    settings: dict[str, Any] = {
        "config": config,
        "inputs_embeds": documents.new_empty((*documents.shape, 0), dtype=dtype),
        "attention_mask": None,
        "and_mask_function": packed_sequence_mask_function(documents),
    }
    mask = create_bidirectional_mask(**settings)
    if "sliding_attention" not in (setting(config, "layer_types") or ()):
        return mask
    return {"full_attention": mask, "sliding_attention": create_bidirectional_sliding_window_mask(**settings)}
