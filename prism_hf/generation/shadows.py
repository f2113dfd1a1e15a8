"""Shadow mask tokens: what the model would say of each token if that were hidden from itself (WINO, arXiv 2507.18578).

A canvas is read with one more mask token for each position of the block, with the position id of that position. It
sees all real tokens but the one in its place, and nobody sees it, so that the same forward gives the posteriors of the
canvas as it is and, for each token, the posterior with that token hidden. Hidden it is in the first layer; what the
other tokens have seen of it they pass on in later ones, which is what one forward for all tokens costs.
"""

import torch

from .configuration_remask import RemaskGenerationConfig
from .strategies import name_of, resolve_strategy

# Positions come from `position_ids` alone, and a mask (B, 1, L, L) is that of every layer.
MODEL_TYPES = ("bert", "distilbert", "electra", "llada", "mdlm")
ATTENTIONS = ("eager", "sdpa")


def check_shadows(model, config: RemaskGenerationConfig) -> None:
    """Raise ValueError where the model cannot read shadow tokens."""
    name = name_of(resolve_strategy(config.remask_strategy))
    own = getattr(model.config, "backbone_config", model.config)
    model_type, attention = getattr(own, "model_type", None), getattr(own, "_attn_implementation", None)
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"remask_strategy {name} needs a model that takes position_ids and a mask of queries and keys, of a "
            f"model_type in {MODEL_TYPES}, alone or under a quality head; {type(model).__name__} is of {model_type!r}: "
            "use a strategy without shadow tokens, such as 'p2'."
        )
    if attention not in (None, *ATTENTIONS):
        raise ValueError(
            f"remask_strategy {name} needs a mask of queries and keys, which attn_implementation={attention!r} does "
            f"not take: use one of {ATTENTIONS}."
        )


def add_shadows(
    tokens: torch.Tensor, shadowed: torch.Tensor, attention_mask: torch.Tensor | None, mask_token_id: int, dtype
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
