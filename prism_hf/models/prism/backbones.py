"""Where a backbone keeps its hidden state and what its decoder reads: the few lines that each `model_type` needs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput


@dataclass(frozen=True)
class BackboneAdapter:
    """How to read one family of models.

    An LM head is taken as two parts: what comes before the vocabulary, here, and the linear map to it, which every
    model names itself as `get_output_embeddings()`.

    Args:
        prediction_states: `(model, hidden_states (N, D), body_output) -> (N, E)`, the input of the linear map.
        body: `model -> module` that gives `last_hidden_state` (B, L, D).
        shifted_logits: the logits of position i come from the hidden state of i - 1, as in models that began
            autoregressive (Dream).
    """

    prediction_states: Callable[[PreTrainedModel, torch.Tensor, ModelOutput], torch.Tensor]
    body: Callable[[PreTrainedModel], nn.Module] = lambda model: model.base_model
    shifted_logits: bool = False


def mdlm_states(model, hidden_states, body_output):
    # Without time conditioning every row has the same conditioning, so the first one serves all N positions.
    if model.config.time_conditioning:
        raise ValueError("time_conditioning=True is not supported under a quality head; PRISM's models have it False.")
    return model.backbone.output_layer.normalise(hidden_states[None], body_output.conditioning[:1])[0]


def roberta_states(model, hidden_states, _):
    head = model.lm_head
    return head.layer_norm(nn.functional.gelu(head.dense(hidden_states)))


BACKBONE_ADAPTERS = {
    "mdlm": BackboneAdapter(prediction_states=mdlm_states),
    "bert": BackboneAdapter(prediction_states=lambda model, states, _: model.cls.predictions.transform(states)),
    "modernbert": BackboneAdapter(prediction_states=lambda model, states, _: model.head(states)),
    "roberta": BackboneAdapter(prediction_states=roberta_states),
    "roberta-prelayernorm": BackboneAdapter(prediction_states=roberta_states),
}
BARE_LM_HEAD = BackboneAdapter(prediction_states=lambda model, states, _: states)


def find_adapter(model: PreTrainedModel) -> BackboneAdapter:
    """The adapter registered for `model_type`; else that of any model whose LM head is one linear map, `lm_head`."""
    model_type = model.config.model_type
    if model_type in BACKBONE_ADAPTERS:
        return BACKBONE_ADAPTERS[model_type]
    if isinstance(getattr(model, "lm_head", None), nn.Linear) and model.base_model is not model:
        return BARE_LM_HEAD
    raise ValueError(
        f"No adapter for a {model_type!r} backbone ({type(model).__name__}): set "
        f"prism_hf.models.prism.BACKBONE_ADAPTERS[{model_type!r}] = BackboneAdapter(prediction_states=...)."
    )
