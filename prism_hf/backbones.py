"""How each family of masked language models is read: a table by `model_type`, which a user may add to.

Families are known, not guessed. The table says where a family's body is, what its decoder reads, and whether its logits
are shifted by one. What is not in it is refused, by `PrismForMaskedDiffusion`, the trainers and `remask_generate`:
nothing in a causal or a shifted model tells that it is one, and read as a masked model it gives numbers, not errors.

The decoder is what transformers calls `get_output_embeddings()`, but for a few families whose map to the vocabulary is
in pieces (`SplitDecoder`). With body and decoder apart, a training loss works on the decoder's input, so that the
logits of all masked positions never exist at once.

In some families padding reaches real tokens, by convolutions, segment means or Fourier transforms (`reads_padding`).
Generation reads these a row length at a time, so that there too a row gets what it gets alone; training reads them as
transformers does.

The table stands below `prism_hf.generation`, not in `prism_hf.models.prism`, which gives its names to users: generation
takes models of classes that are not ours, which carry no adapter of their own.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput
from transformers.utils import logging

from prism_hf._compat import setting, unwrapped
from prism_hf._deprecation import warn_renamed

logger = logging.get_logger(__name__)

LOGIT_POSITIONS = "_supports_logit_positions"
# What flash attention takes in place of a mask that keeps packed documents apart, as transformers calls it.
DOCUMENT_ENDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


@dataclass(frozen=True)
class Steps:
    """What a hidden state passes before the linear map to the vocabulary, one step after the other.

    Args:
        steps (`tuple`): Each the path of a module within the model, or a function of tensors.
    """

    steps: tuple[str | Callable[[torch.Tensor], torch.Tensor], ...]

    def __call__(self, model: nn.Module, hidden_states: torch.Tensor, body_output: ModelOutput) -> torch.Tensor:
        for step in self.steps:
            hidden_states = (model.get_submodule(step) if isinstance(step, str) else step)(hidden_states)
        return hidden_states


def through(*steps: str | Callable[[torch.Tensor], torch.Tensor]) -> Steps:
    """`prediction_states` of a `BackboneAdapter` as data.

    Args:
        *steps (`str` or `Callable`): Each the path of a module within the model, or a function of tensors.

    Example:
        ```python
        BackboneAdapter(through("lm_head.dense", torch.nn.functional.gelu, "lm_head.layer_norm"))
        ```
    """
    return Steps(steps)


def base_model(model: PreTrainedModel) -> nn.Module:
    """The body, as transformers names it."""
    return model.base_model


def output_embeddings(model: PreTrainedModel) -> nn.Module | None:
    """The map to the vocabulary, as transformers names it."""
    return model.get_output_embeddings()


@dataclass(frozen=True)
class BackboneAdapter:
    """How to read one family of models. `BackboneAdapter()` is a model of both directions with a bare linear LM head.

    An LM head is taken as two parts: what comes before the vocabulary, and the linear map to it. A model holds its
    adapter, so functions must be importable by name if the model is to be pickled.

    Args:
        prediction_states (`Callable`, *optional*, defaults to `through()`): `(model, hidden_states (N, D),
            body_output) -> (N, E)`, the input of the linear map; often `through(...)`.
        body (`Callable`, *optional*, defaults to `base_model`): `model -> module` that gives `last_hidden_state`
            (B, L, D).
        shifted_logits (`bool`, *optional*, defaults to `False`): The logits of position i come from the hidden state of
            i - 1, as in models that began autoregressive (Dream).
        decoder (`Callable`, *optional*, defaults to `output_embeddings`): `model -> module` with `weight` (V, E) and
            `bias` (V) or None, the linear map.
        reads_padding (`bool`, *optional*, defaults to `False`): Padding changes what the model says of real tokens
            (convolutions, segment means), so that generation reads rows of different lengths apart.
        row_fields (`tuple[str, ...]`, *optional*, defaults to `("vocab_size",)`): Fields of the config that count the
            rows of the embedding.
        first_position (`int` or `Callable`, *optional*): By which `position_ids` begin, or a function that tells it of
            the config. With it, several documents may be packed into a row: `forward` takes `position_ids` (B, L) and
            a mask (B, 1, L, L) of what each token sees, or hands `cu_seq_lens_q` and its like on to flash attention,
            and nothing else lets documents see each other.

    Example:
        ```python
        from prism_hf.models.prism import BACKBONE_ADAPTERS, BackboneAdapter, through

        BACKBONE_ADAPTERS["my_shifted_type"] = BackboneAdapter(shifted_logits=True)
        BACKBONE_ADAPTERS["my_bert"] = BackboneAdapter(through("cls.predictions.transform"))
        ```
    """

    prediction_states: Callable[[PreTrainedModel, torch.Tensor, ModelOutput], torch.Tensor] = through()
    body: Callable[[PreTrainedModel], nn.Module] = base_model
    shifted_logits: bool = False
    decoder: Callable[[PreTrainedModel], nn.Module] = output_embeddings
    reads_padding: bool = False
    row_fields: tuple[str, ...] = ("vocab_size",)
    first_position: int | Callable[[PreTrainedConfig], int] | None = None


def after_padding(config: PreTrainedConfig) -> int:
    """RoBERTa's first position, as those of padding come before."""
    return config.pad_token_id + 1


class SplitDecoder(nn.Module):
    """A linear map to the vocabulary whose parameters belong to several modules of a model.

    Args:
        rows (`nn.Linear` or `nn.Embedding`): Its `weight` (V, E) maps to the vocabulary.
        bias (`nn.Module`): Its `bias` (V,) is added.
        columns (`nn.Linear`, *optional*): Its `weight` (F, V), transposed, continues that of `rows` to (V, E + F).
    """

    def __init__(self, rows: nn.Linear | nn.Embedding, bias: nn.Module, columns: nn.Linear | None = None):
        super().__init__()
        self.rows, self.bias_owner, self.columns = rows, bias, columns

    @property
    def weight(self) -> torch.Tensor:
        return self.rows.weight if self.columns is None else torch.cat([self.rows.weight, self.columns.weight.T], dim=1)

    @property
    def bias(self) -> torch.Tensor:
        return cast(torch.Tensor, self.bias_owner.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., E) -> (..., V)."""
        return nn.functional.linear(states, self.weight, self.bias)


def esm_decoder(model: Any) -> nn.Module:
    """ESM's, whose bias is the head's own."""
    return SplitDecoder(model.lm_head.decoder, bias=model.lm_head)


def mobilebert_decoder(model: Any) -> nn.Module:
    """MobileBERT's, whose columns are parted, as its embedding is narrower than its states."""
    predictions = model.cls.predictions
    return SplitDecoder(predictions.decoder, bias=predictions.decoder, columns=predictions.dense)


def deberta_decoder(model: Any) -> nn.Module:
    """DeBERTa's, which is the embedding unless the head is a legacy one."""
    if model.config.legacy:
        return output_embeddings(model)
    return SplitDecoder(model.get_input_embeddings(), bias=model.lm_predictions.lm_head)


def deberta_states(model: Any, hidden_states: torch.Tensor, body_output: ModelOutput) -> torch.Tensor:
    """What DeBERTa's decoder reads."""
    if model.config.legacy:
        return model.cls.predictions.transform(hidden_states)
    head = model.lm_predictions.lm_head
    return head.LayerNorm(head.transform_act_fn(head.dense(hidden_states)))


def mdlm_states(model: Any, hidden_states: torch.Tensor, body_output: Any) -> torch.Tensor:
    """What MDLM's decoder reads: normalised states (adaLN)."""
    # Without time conditioning every row has the same conditioning, so the first one serves all N positions.
    if model.config.time_conditioning:
        raise ValueError("time_conditioning=True is not supported under a quality head; PRISM's models have it False.")
    return model.backbone.output_layer.normalise(hidden_states[None], body_output.conditioning[:1])[0]


BERT = BackboneAdapter(through("cls.predictions.transform"), first_position=0)
ROBERTA = BackboneAdapter(
    through("lm_head.dense", nn.functional.gelu, "lm_head.layer_norm"), first_position=after_padding
)
ROTARY_ROBERTA = replace(ROBERTA, first_position=0)
DEBERTA = BackboneAdapter(deberta_states, decoder=deberta_decoder)
MIXING_BERT = BackboneAdapter(through("cls.predictions.transform"), reads_padding=True)
REMBERT_STEPS = through("cls.predictions.dense", "cls.predictions.activation", "cls.predictions.LayerNorm")

BACKBONE_ADAPTERS = {
    "albert": BackboneAdapter(
        through("predictions.dense", "predictions.activation", "predictions.LayerNorm"), first_position=0
    ),
    "bert": BERT,
    "big_bird": MIXING_BERT,
    "camembert": ROBERTA,
    "convbert": BackboneAdapter(through("generator_predictions"), reads_padding=True),
    "data2vec-text": ROBERTA,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA,
    "Dream": BackboneAdapter(shifted_logits=True, first_position=0),
    "distilbert": BackboneAdapter(through("vocab_transform", "activation", "vocab_layer_norm"), first_position=0),
    "electra": BackboneAdapter(through("generator_predictions"), first_position=0),
    "ernie": BERT,
    "esm": BackboneAdapter(ROBERTA.prediction_states, decoder=esm_decoder),
    "esmc": ROTARY_ROBERTA,
    "eurobert": BackboneAdapter(first_position=0),
    "fnet": MIXING_BERT,
    "funnel": BackboneAdapter(reads_padding=True),
    "gte": ROTARY_ROBERTA,
    "ibert": ROBERTA,
    "jina_embeddings_v3": ROTARY_ROBERTA,
    "llada": BackboneAdapter(row_fields=("vocab_size", "embedding_size"), first_position=0),
    "longformer": replace(ROBERTA, first_position=None),
    "luke": ROBERTA,
    "mdlm": BackboneAdapter(mdlm_states, first_position=0),
    "megatron-bert": BERT,
    "mobilebert": BackboneAdapter(BERT.prediction_states, decoder=mobilebert_decoder, reads_padding=True),
    "modernbert": BackboneAdapter(through("head"), first_position=0),
    "mpnet": replace(ROBERTA, first_position=2),
    "nomic_bert": BERT,
    "nystromformer": MIXING_BERT,
    "rembert": BackboneAdapter(REMBERT_STEPS, first_position=0),
    "roberta": ROBERTA,
    "roberta-prelayernorm": ROBERTA,
    "roc_bert": BERT,
    "roformer": replace(BERT, first_position=None),
    "squeezebert": BERT,
    "ultrabert": BackboneAdapter(through("head.linear1", "head.act_fn", "head.linear2", "head.act_fn")),
    "xlm-roberta": ROBERTA,
    "xlm-roberta-xl": ROBERTA,
    "xmod": ROBERTA,
    "yoso": MIXING_BERT,
}

ENCODER_DECODER = "its decoder is causal"
IMAGES = "it reads images beside its tokens"
LANGUAGES = "its config names another mask token than its tokenizer, and it may read language ids"
# Of the other families that transformers has as masked language models: why they are not in the table.
REFUSED = {
    "bart": ENCODER_DECODER,
    "flaubert": LANGUAGES,
    "layoutlm": "it reads where each token stands on a page",
    "mbart": ENCODER_DECODER,
    "modernvbert": IMAGES,
    "mra": "without a CUDA kernel its attention gives zeros",
    "mvp": ENCODER_DECODER,
    "neomme": IMAGES,
    "perceiver": "it has no hidden state for each token",
    "reformer": "its attention is drawn at random, and its hidden state is wider than its config says",
    "tapas": "it reads where each token stands in a table",
    "ultravbert": IMAGES,
    "xlm": LANGUAGES,
}


def adapter_of(config: PreTrainedConfig, name: str) -> BackboneAdapter:
    """How to read a model called `name` with this config.

    Raises:
        ValueError: for a family that nobody has described, and for a model whose attention is causal.
    """
    model_type = config.model_type
    if setting(config, "is_decoder", False):
        raise ValueError(
            f"{name} has is_decoder=True in its config, so its attention is causal: set is_decoder=False before the "
            "model is built, as masks must see the tokens to their right."
        )
    if model_type in BACKBONE_ADAPTERS:
        return BACKBONE_ADAPTERS[model_type]
    reason = f" ({REFUSED[model_type]})" if model_type in REFUSED else ""
    raise ValueError(
        f"{name} is of a family that nobody has described, model_type={model_type!r}{reason}. A causal model cannot be "
        "used. If its attention sees both directions, say how it is read: from prism_hf.models.prism import "
        f"BACKBONE_ADAPTERS, BackboneAdapter, then BACKBONE_ADAPTERS[{model_type!r}] = BackboneAdapter(), with "
        "shifted_logits=True if the logits at position i are of token i + 1 (Dream), and prediction_states= if its LM "
        "head is more than one linear map."
    )


def find_adapter(model: PreTrainedModel) -> BackboneAdapter:
    """How to read a backbone.

    Raises:
        ValueError: as `adapter_of`, and for a model without the LM head of its family.
    """
    name = type(model).__name__
    adapter = adapter_of(model.config, name)
    steps = adapter.prediction_states.steps if isinstance(adapter.prediction_states, Steps) else ()
    try:
        for path in (step for step in steps if isinstance(step, str)):
            model.get_submodule(path)
        decoder = adapter.decoder(model)
    except AttributeError as error:
        raise ValueError(
            f"{name} has not the masked-LM head of model_type={model.config.model_type!r} ({error}): load the model "
            "with AutoModelForMaskedLM."
        ) from error
    if decoder is None:
        raise ValueError(f"{name} maps to no vocabulary: load the model with AutoModelForMaskedLM.")
    return adapter


def forward_parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of `forward`: those of the model itself, where `torch.compile` or PEFT has wrapped it."""
    return dict(inspect.signature(unwrapped(model).forward).parameters)


def takes_positions(model: nn.Module) -> bool:
    """Whether `forward` takes the positions at which logits are wanted, as `logits_to_keep`.

    A class says so by `_supports_logit_positions = True`, as the name alone tells nothing: transformers' own
    `logits_to_keep` is a number of last positions. What it then takes, and gives:

    - a boolean mask (B, L): logits (N, V) at its N positions, in row-major order;
    - columns (B, W) int64: logits (B, W, V), whose number the device need not be asked for.

    Where a forward that could take them has been wrapped in one that does not, a warning says so.
    """
    model, parameters = unwrapped(model), forward_parameters(model)
    if _says(model, LOGIT_POSITIONS) and "logits_to_keep" in parameters:
        return True
    if "logits_at" in parameters:  # as such a class named it before
        warn_renamed(f"logits_at of {type(model).__name__}", f"logits_to_keep, under {LOGIT_POSITIONS} = True")
    parts = model.modules() if isinstance(model, nn.Module) else ()
    if inner := next((type(part).__name__ for part in parts if _says(part, LOGIT_POSITIONS)), None):
        logger.warning_once(
            f"The forward of {type(model).__name__} hides logits_to_keep, which that of {inner} takes: all positions "
            "are mapped to the vocabulary, not only those that are read. Name logits_to_keep among its arguments and "
            "set _supports_logit_positions = True on its class, or wrap it with functools.wraps."
        )
    return False


def takes_cache(model: nn.Module) -> bool:
    """Whether `forward` takes a `CanvasCache` as `cache`. A class says so by `_supports_canvas_cache = True`."""
    return _says(unwrapped(model), "_supports_canvas_cache")


def _says(module: nn.Module, support: str) -> bool:
    return setting(module, support, False)
