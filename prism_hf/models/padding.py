"""The attention mask of a bidirectional model, made without waiting for the device."""

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask


def padding_mask(module: nn.Module, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None):
    """What the attention implementation of `module.config` takes for padding (B, L), or None.

    `hidden_states` (B, W, D) are those that attend; they may be some of the L positions.
    """
    return create_bidirectional_mask(
        config=module.config,
        inputs_embeds=hidden_states,
        attention_mask=attention_mask,
        # Whether there is padding at all is asked of the device, which a generation would wait for in each step.
        allow_is_bidirectional_skip=attention_mask is None or module.training,
    )
