"""One forward: how a model of each family is called, and what it says of some positions.

Logits are read a few positions at a time, and never written into: a model may keep what it returns, and copies of (B,
W, V) cost more than the reading. Families in which padding reaches real tokens (convolutions, segment means, Fourier
transforms; `reads_padding`) are read a row length at a time, so that there too a row gets what it gets alone.

Shadow tokens (WINO, arXiv 2507.18578) need no model code beyond `position_ids` and a mask of queries and keys. A canvas
is read with one more mask token for each token of the block, with the position id of that token. It sees all real
tokens but the one in its place, and nobody sees it, so that the same forward gives the posteriors of the canvas as it
is and, for each token, the posterior with that token hidden. Hidden it is in the first layer; what the other tokens
have seen of it they pass on in later ones, which is what one forward for all tokens costs. A mask is its own shadow, so
the LM head runs once for each position of the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from prism_hf._compat import attention_of, config_of, output_of, setting
from prism_hf.backbones import BackboneAdapter, adapter_of, forward_parameters, takes_positions
from prism_hf.diffusion.drafting import take_positions

from .caching import CanvasCache
from .canvas import Canvas, vocabulary_size
from .stopping import as_ids

if TYPE_CHECKING:
    from ..configuration_remask import RemaskGenerationConfig
    from ..strategies.base import RemaskStrategy

ELEMENTS_AT_ONCE = 2**20

NAN_QUALITY = (
    "The model's quality_logits are NaN, so that no token can be judged: its weights are broken, or its dtype is too "
    "narrow."
)

# Positions come from `position_ids` alone, and a mask (B, 1, L, L) is that of every layer.
MODEL_TYPES = ("bert", "distilbert", "electra", "llada", "mdlm")

ATTENTIONS = ("eager", "sdpa")


@dataclass(frozen=True)
class Posterior:
    """What the model says of W positions of each row, and which tokens it cannot have said.

    logits (N, V): as the model gave them, which may keep them too, so they are never written into. index (B, W) int64:
    the row of `logits` for each position. excluded (E,) int64: tokens of probability 0, the mask token first.
    """

    logits: torch.Tensor
    index: torch.Tensor
    excluded: torch.Tensor

    def take(self, columns: torch.Tensor) -> Posterior:
        """The posterior at some of the W positions (B, K)."""
        return replace(self, index=self.index.gather(1, columns))

    def allowed(self, index: torch.Tensor | None = None) -> torch.Tensor:
        """New float32 logits (B, W, V), minus infinity at excluded tokens; or (n, V) of the rows `index` (n,)."""
        index = self.index if index is None else index
        logits = self.logits.index_select(0, index.flatten()).float()
        return logits.index_fill_(-1, self.excluded, -torch.inf).unflatten(0, index.shape)

    def map(self, function: Callable[..., torch.Tensor], *values: torch.Tensor) -> torch.Tensor:
        """`function` (n, V), (n,)... -> (n,) of the allowed logits and of `values` (B, W) at all positions: (B, W)."""
        at_once = max(1, ELEMENTS_AT_ONCE // self.logits.shape[-1])
        parts = zip(*(each.flatten().split(at_once) for each in (self.index, *values)), strict=True)
        results = [function(self.allowed(index), *others) for index, *others in parts]
        return torch.cat(results).view(self.index.shape)


def posterior_of(logits: torch.Tensor, excluded: torch.Tensor) -> Posterior:
    """The posterior of logits (B, W, V)."""
    batch, width, vocabulary = logits.shape
    index = torch.arange(batch * width, device=logits.device).view(batch, width)
    return Posterior(logits.reshape(batch * width, vocabulary), index, excluded)


def _no_quality(model: Any) -> str:
    return (
        f"The remask strategy reads quality, but {type(model).__name__} has no quality head: use a "
        "PrismForMaskedDiffusion, or a strategy without quality such as remask_strategy='random'."
    )


def check_quality(model: Any) -> None:
    """Raise ValueError where the model has no quality head."""
    parameters = forward_parameters(model)
    opaque = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    if "return_quality" not in parameters and not opaque:
        raise ValueError(_no_quality(model))


def numbers_in(columns: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Where each position of `tokens` (B, L) stands in `columns` (B, W): (B, L) int64, 0 if it does not."""
    number = torch.arange(columns.shape[1], device=tokens.device).expand_as(columns)
    return torch.zeros_like(tokens).scatter(1, columns, number)


def logits_in(output: Any, model: Any) -> torch.Tensor:
    """The logits (B, L, V) of a forward. Raises ValueError where the model has another head, or none."""
    logits = output_of(output, "logits")
    if logits is None or logits.ndim != 3:
        raise ValueError(
            f"{type(model).__name__} gives no logits (batch, length, vocabulary): load the model with "
            "AutoModelForMaskedLM."
        )
    return logits


def family_of(model: Any) -> BackboneAdapter:
    """How the outputs of `model` are read. A module without a `model_type` is taken as it is: it has nobody to ask.

    Raises:
        ValueError: for a family that nobody has described, and a model whose attention is causal.
    """
    config, name = config_of(model), type(model).__name__
    backbone = setting(config, "backbone_config")
    if backbone is not None:  # a PrismForMaskedDiffusion, which shifts its logits itself
        return replace(adapter_of(backbone, name), shifted_logits=False)
    return BackboneAdapter() if setting(config, "model_type") is None else adapter_of(config, name)


def logits_of(logits: torch.Tensor, positions: torch.Tensor, shifted: bool) -> torch.Tensor:
    """The logits of N positions, (B, L) bool, from all (B, L, V), which may be shifted: (N, V)."""
    rows, columns = positions.nonzero(as_tuple=True)
    return logits[rows, (columns - 1).clamp(min=0) if shifted else columns]


def as_described(model: Any, canvas: Canvas, repeats: int = 1) -> Callable:
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

    def call(logits_to_keep: torch.Tensor | None = None, **inputs: Any) -> SimpleNamespace:
        if logits_to_keep is not None:
            return model(logits_to_keep=(logits_to_keep - 1).clamp(min=0), **inputs)
        logits = model(**inputs).logits
        return SimpleNamespace(logits=torch.cat((logits[:, :1], logits[:, :-1]), dim=1))

    return call


def without_padding(model: Callable, lengths: list[int]) -> Callable:
    """`model`, which reads the rows of each length by themselves; their padding, to the right, gets outputs of 0."""

    def call(
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        logits_to_keep: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **inputs: Any,
    ) -> SimpleNamespace:
        found: dict[str, Any] = {"logits": None, "quality_logits": None}
        for length in sorted({*lengths} - {0}, reverse=True):
            rows = [row for row, each in enumerate(lengths) if each == length]
            if logits_to_keep is not None:
                inputs["logits_to_keep"] = logits_to_keep[rows].clamp(max=length - 1)
            if token_type_ids is not None:
                inputs["token_type_ids"] = token_type_ids[rows, :length]
            output = model(input_ids=input_ids[rows, :length], attention_mask=None, **inputs)
            for name, value in found.items():
                of_rows = output_of(output, name)
                if of_rows is None:
                    continue
                if value is None:
                    width = of_rows.shape[1] if logits_to_keep is not None and name == "logits" else input_ids.shape[1]
                    value = found[name] = of_rows.new_zeros((len(lengths), width, *of_rows.shape[2:]))
                value[rows, : of_rows.shape[1]] = of_rows
        return SimpleNamespace(**found)

    return call


def excluded_tokens(config: RemaskGenerationConfig) -> list[int]:
    """The tokens that are never drawn, the mask first."""
    words = [word[0] for word in config.bad_words_ids or () if len(word) == 1]
    return [config.mask_token_id, *(config.suppress_tokens or ()), *words]


def check_tokens(model: Any, config: RemaskGenerationConfig) -> None:
    """Raise ValueError where a setting names a token that the model lacks, or leaves no token to draw."""
    size = vocabulary_size(model)
    if size is None:
        return
    named = {
        "mask_token_id": [config.mask_token_id],
        "eos_token_id": as_ids(config.eos_token_id),
        "pad_token_id": as_ids(config.pad_token_id),
        "suppress_tokens": config.suppress_tokens or [],
        "begin_suppress_tokens": config.begin_suppress_tokens or [],
        "bad_words_ids": [token for word in config.bad_words_ids or [] for token in word],
    }
    for name, tokens in named.items():
        if wrong := [token for token in tokens if token >= size]:
            raise ValueError(f"{name} has {wrong[0]}, but the tokens of the model go from 0 to {size - 1}.")
    if config.mask_token_id in as_ids(config.eos_token_id):
        raise ValueError(
            f"eos_token_id={config.eos_token_id} has the mask, {config.mask_token_id}, which is never drawn and so "
            "ends no row: name the token that ends a text."
        )
    if len(set(excluded_tokens(config))) == size:
        raise ValueError(
            f"suppress_tokens and bad_words_ids leave none of the {size} tokens to draw, as the mask never is: allow "
            "one."
        )


def check_shadows(model: Any, strategy: RemaskStrategy) -> None:
    """Raise ValueError where the model cannot read shadow tokens, as the strategy needs it to."""
    own = setting(model.config, "backbone_config", model.config)
    model_type, attention = setting(own, "model_type"), attention_of(own)
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"remask_strategy {strategy} needs a model that takes position_ids and a mask of queries and keys, of a "
            f"model_type in {MODEL_TYPES}, alone or under a quality head; {type(model).__name__} is of {model_type!r}: "
            "use a strategy without shadow tokens, such as 'p2'."
        )
    if attention not in (None, *ATTENTIONS):
        raise ValueError(
            f"remask_strategy {strategy} needs a mask of queries and keys, which attn_implementation={attention!r} "
            f"does not take: use one of {ATTENTIONS}."
        )


def add_shadows(
    tokens: torch.Tensor,
    shadowed: torch.Tensor,
    attention_mask: torch.Tensor | None,
    mask_token_id: int,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """The inputs of a forward of `tokens` (B, L), with a shadow of each position of `shadowed` (B, S) appended.

    attention_mask (B, L): 0 at padding. The mask in the inputs is (B, 1, L + S, L + S) and additive, of `dtype`.
    """
    (batch, length), size, device = tokens.shape, shadowed.shape[1], tokens.device
    column = torch.arange(length, device=device).expand(batch, length)
    real = torch.ones_like(tokens, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    of_tokens = real[:, None].expand(batch, length, length)
    of_shadows = real[:, None] & (column[:, None] != shadowed[..., None])  # (B, S, L)
    itself = torch.eye(size, dtype=torch.bool, device=device).expand(batch, size, size)
    sees = torch.cat(
        [torch.cat([of_tokens, of_shadows], 1), torch.cat([itself.new_zeros(batch, length, size), itself], 1)], 2
    )
    return {
        "input_ids": torch.cat([tokens, torch.full_like(shadowed, mask_token_id)], 1),
        "position_ids": torch.cat([column, shadowed], 1),
        "attention_mask": torch.zeros_like(sees, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None],
    }


class Reader:
    """Makes the forwards of a generation: what the model says of a canvas.

    Args:
        model (`Callable`): The model.
        canvas (`Canvas`): The layout of what it reads.
        config (`RemaskGenerationConfig`): The complete settings.
        reads_quality (`bool`): Whether the strategy reads quality.
    """

    def __init__(self, model: Any, canvas: Canvas, config: RemaskGenerationConfig, reads_quality: bool) -> None:
        parameters = forward_parameters(model)
        self.model, self.config, self.reads_quality = model, config, reads_quality
        self.given, self.attention_mask = canvas.given, canvas.attention_mask
        self.token_type_ids = canvas.token_type_ids if "token_type_ids" in parameters else None
        if config.cfg_scale:
            self.attention_mask, self.token_type_ids = map(_twice, (self.attention_mask, self.token_type_ids))
        self.call = as_described(model, canvas, repeats=2 if config.cfg_scale else 1)
        self.takes_positions = takes_positions(model)
        self.excluded = torch.tensor(excluded_tokens(config), device=canvas.tokens.device)
        self.cache = CanvasCache() if config.cache_implementation else None
        self.kwargs: dict[str, Any] = {} if self.cache is None else {"cache": self.cache}
        if reads_quality or "return_quality" in parameters:
            self.kwargs["return_quality"] = reads_quality

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor | None,
        recomputed: torch.Tensor | None = None,
        shadowed: torch.Tensor | None = None,
    ) -> tuple[Posterior, torch.Tensor | None]:
        """One forward.

        Args:
            tokens (`torch.LongTensor`): (B, L).
            positions (`torch.LongTensor`, *optional*): (B, W), those of the posterior; None for all.
            recomputed (`torch.LongTensor`, *optional*): (B, R), with a cache: the positions that are computed, among
                which the others must be; None for all.
            shadowed (`torch.LongTensor`, *optional*): (B, S), tokens read with a shadow; that of `shadowed[:, k]` is at
                position L + k.

        Returns:
            The posterior, with guidance applied and the mask token and suppressed tokens excluded, and the quality
            (B, L) in [0, 1], NaN where it was not computed; None where nobody reads it.
        """
        at = positions if recomputed is None else numbers_in(recomputed, tokens).gather(1, positions)
        inputs, at = self._inputs(tokens, at, recomputed, shadowed)
        output = self.call(**inputs, **({"logits_to_keep": at} if self.takes_positions else {}), **self.kwargs)
        logits = logits_in(output, self.model)
        logits = logits if self.takes_positions or at is None else take_positions(logits, at)
        if self.config.cfg_scale:
            conditional, unconditional = logits.float().chunk(2)
            logits = unconditional + (self.config.cfg_scale + 1) * (conditional - unconditional)
        return posterior_of(logits, self.excluded), self._quality(output, tokens.shape, recomputed)

    def _inputs(
        self,
        tokens: torch.Tensor,
        at: torch.Tensor | None,
        recomputed: torch.Tensor | None,
        shadowed: torch.Tensor | None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """What the model is called with, and the columns (B, W) of its input to give logits for."""
        mask_token_id = self.config.mask_token_id
        if self.config.cfg_scale:
            tokens = torch.cat([tokens, tokens.masked_fill(self.given, mask_token_id)])
            at, recomputed, shadowed = map(_twice, (at, recomputed, shadowed))
        if self.cache is not None:
            self.cache.positions = recomputed
        if recomputed is not None:
            tokens = tokens.gather(1, recomputed)
        inputs = {"input_ids": tokens, "attention_mask": self.attention_mask}
        if shadowed is not None:
            inputs = add_shadows(tokens, shadowed, self.attention_mask, mask_token_id, self.model.dtype)
        if self.token_type_ids is not None:
            of_tokens = self.token_type_ids if recomputed is None else self.token_type_ids.gather(1, recomputed)
            of_shadows = [] if shadowed is None else [self.token_type_ids.gather(1, shadowed)]
            inputs["token_type_ids"] = torch.cat([of_tokens, *of_shadows], dim=1)
        return inputs, at

    def _quality(self, output: Any, shape: torch.Size, recomputed: torch.Tensor | None) -> torch.Tensor | None:
        if not self.reads_quality:
            return None
        quality_logits = output_of(output, "quality_logits")
        if quality_logits is None:
            raise ValueError(_no_quality(self.model))
        quality = quality_logits[: shape[0], : shape[1]].float().sigmoid()
        if recomputed is None:
            return quality
        return quality.new_full(shape, torch.nan).scatter(1, recomputed, quality)


def _twice(values: torch.Tensor | None) -> torch.Tensor | None:
    return None if values is None else values.repeat(2, 1)
