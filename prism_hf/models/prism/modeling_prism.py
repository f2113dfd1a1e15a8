"""Any masked diffusion backbone with a quality head (PRISM, arXiv 2510.01384)."""

import os
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput, logging

from prism_hf._compat import attention_of, keep_weights, mask_token_of, take_over_loading, use_attention
from prism_hf._deprecation import renamed_arguments
from prism_hf.backbones import DOCUMENT_ENDS, adapter_of, find_adapter, takes_cache
from prism_hf.data.tokenizers import has_vocabulary
from prism_hf.generation import RemaskGenerationMixin
from prism_hf.generation.denoising.caching import CanvasCache
from prism_hf.hub import HEAD_SETTINGS, HubMixin
from prism_hf.hub.portable import portable
from prism_hf.hub.usage import generation_snippet
from prism_hf.models.checkpoint.loading import (
    HUB_ARGUMENTS,
    WholeCheckpointMixin,
    naming_damage,
    place_of,
    refuse_two_models,
    refuse_weights,
)
from prism_hf.models.lm_head import columns_alone, keep_positions
from prism_hf.models.mdlm import init_mdlm_module
from prism_hf.models.vocabulary import resize_vocabulary

from .configuration_prism import PrismConfig
from .quality_heads import QUALITY_HEADS

logger = logging.get_logger(__name__)


@dataclass
class PrismOutput(ModelOutput):
    """Posteriors and qualities of one forward pass.

    Args:
        logits (`torch.Tensor`, *optional*): (B, L, V), or (N, V) or (B, W, V) at the positions of
            `logits_to_keep`; None with `return_logits=False`.
        quality_logits (`torch.Tensor`, *optional*): (B, L); their sigmoid is the probability that the token is
            right given all others. Meaningless at masked positions. None with `return_quality=False`.
        prediction_states (`torch.Tensor`, *optional*): (N, E) or (B, W, E) at the positions of `logits_to_keep`,
            where it was given: what the model's `decoder` maps to logits. With `return_logits=False` a trainer gets the
            states alone and never holds the whole vocabulary.
        hidden_states (`tuple[torch.Tensor]`, *optional*): With `output_hidden_states=True`, each (B, L, D).
        attentions (`tuple[torch.Tensor]`, *optional*): With `output_attentions=True`, each (B, heads, L, L), where
            the backbone gives them.

    Example:
        ```python
        output = model(canvas, logits_to_keep=canvas == model.config.mask_token_id)
        output.logits  # (N, V), of the N masks
        output.quality_logits.sigmoid()  # (B, L), to be read where the canvas is filled
        ```
    """

    logits: torch.Tensor | None = None
    quality_logits: torch.Tensor | None = None
    prediction_states: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def check_mask_token(config: PrismConfig) -> None:
    """Raise ValueError unless a config has a backbone and names a mask token of its vocabulary."""
    if config.backbone_config is None:
        raise ValueError("The config has no backbone_config: give PrismConfig that of the backbone.")
    family = config.backbone_config.model_type
    if config.mask_token_id is None:
        raise ValueError(f"The {family!r} config names no mask token; pass mask_token_id=tokenizer.mask_token_id.")
    if not 0 <= config.mask_token_id < config.vocab_size:
        raise ValueError(
            f"mask_token_id={config.mask_token_id} is outside the {config.vocab_size} tokens of the {family!r} config; "
            "pass mask_token_id=tokenizer.mask_token_id, and resize the backbone's embeddings first where that is a "
            "new token."
        )


def mask_of_tokenizer(name_or_path: str | os.PathLike, hub_kwargs: dict[str, Any]) -> int | None:
    """The mask token by a checkpoint's tokenizer, None where it has neither."""
    with suppress(OSError, ValueError):
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **hub_kwargs)
        if has_vocabulary(tokenizer):
            return tokenizer.mask_token_id
    logger.info(f"{name_or_path} has no tokenizer to tell the mask token.")
    return None


def take_config_fields(config: PreTrainedConfig, kwargs: dict[str, Any]) -> None:
    """Take from a loader's `kwargs` those that the config's class has as fields of its own, and set them."""
    own = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)}
    for name in own & kwargs.keys():
        setattr(config, name, kwargs.pop(name))


class PrismForMaskedDiffusion(RemaskGenerationMixin, HubMixin, WholeCheckpointMixin, PreTrainedModel):  # type: ignore[misc]
    """A masked diffusion model that says, beside the token posteriors, how likely each clean token is to be right.

    The quality is learned at filled positions only. Its value at a masked position means nothing, and nothing reads it.

    Args:
        config (`PrismConfig`): The backbone's config and the settings of the quality head.
        backbone (`PreTrainedModel`, *optional*): A model that has its weights already; built from the config if None.

    Raises:
        ValueError: where the config knows no mask token of the vocabulary, or the backbone is of an unknown family or
            causal.

    Example:
        ```python
        import torch
        from prism_hf import PrismForMaskedDiffusion
        from prism_hf.data import SudokuTokenizer
        from prism_hf.resources import resource_path

        model = PrismForMaskedDiffusion.from_pretrained(resource_path("sudoku_prism"))
        tokenizer = SudokuTokenizer()
        canvas = torch.zeros(1, 81, dtype=torch.long)  # all masks: a grid of its own
        print(tokenizer.decode(model.generate(canvas)[0]))
        quality = model(canvas).quality_logits.sigmoid()
        ```
    """

    config_class = PrismConfig
    config: PrismConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _supports_logit_positions = True

    def __init__(self, config: PrismConfig, backbone: PreTrainedModel | None = None):
        check_mask_token(config)
        adapter_of(config.backbone_config, type(self).__name__)
        super().__init__(config)
        if backbone is None:
            backbone = AutoModelForMaskedLM.from_config(config.backbone_config)
        else:
            keep_weights(backbone)
        self.backbone = backbone
        # Live, so that what is switched on the model (its attention) is what the head's own blocks see.
        config.backbone_config = backbone.config
        use_attention(config, attention_of(backbone.config))
        self.adapter = find_adapter(backbone)
        self.quality_head = QUALITY_HEADS[config.head_type](config)
        self._no_split_modules = list(backbone._no_split_modules or [])
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_mdlm_module(module, self.config.initializer_range)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the arguments of transformers', most of them by keyword
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        config: PreTrainedConfig | None = None,
        **kwargs: Any,
    ) -> "PrismForMaskedDiffusion":
        """Load a saved PRISM model, or any backbone checkpoint, which then gets a new quality head.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): A PRISM model, or what `AutoModelForMaskedLM` loads.
            config (`PreTrainedConfig`, *optional*): In place of the checkpoint's own.
            head_type, head_num_blocks, mask_token_id (*optional*): Of a new head, see `PrismConfig`. Where neither the
                call nor the backbone's config names the mask token, the checkpoint's tokenizer is asked.
            **kwargs: To the `from_pretrained` of transformers. As there, those that the backbone's config has as fields
                (`hidden_dropout_prob`) replace what it says, unless a `config` is given.

        Raises:
            ValueError: if the mask token stays unknown, a head argument is given for a model that has its head, or the
                checkpoint does not hold the whole model (a new head apart).
        """
        asked = (*HUB_ARGUMENTS, "revision", "subfolder", "trust_remote_code")
        hub_kwargs = {name: kwargs[name] for name in asked if name in kwargs}
        head = {name: kwargs.pop(name) for name in HEAD_SETTINGS if name in kwargs}
        if config is None:
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub_kwargs)
            take_config_fields(config.backbone_config if isinstance(config, PrismConfig) else config, kwargs)
        if isinstance(config, PrismConfig):
            if head:
                raise ValueError(f"{pretrained_model_name_or_path} has its quality head already; drop {head}.")
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

        if head.get("mask_token_id") is None and mask_token_of(config) is None:
            head["mask_token_id"] = mask_of_tokenizer(pretrained_model_name_or_path, hub_kwargs)
        prism_config = PrismConfig(backbone_config=config, **head)
        model = cls.from_backbone(pretrained_model_name_or_path, prism_config, *model_args, **kwargs)
        logger.warning(
            f"{pretrained_model_name_or_path} has no quality head: a new one of type {prism_config.head_type!r} was "
            "initialised. Train it with PrismTrainer before you trust its quality."
        )
        return model

    @classmethod
    def from_backbone(
        cls, pretrained_model_name_or_path: str | os.PathLike, config: PrismConfig, *model_args: Any, **kwargs: Any
    ) -> "PrismForMaskedDiffusion":
        """Load what `AutoModelForMaskedLM` loads, under a new quality head with the settings of `config`.

        Generation settings beside the weights (tokens that end a text, padding) become the model's.
        """
        refuse_two_models(pretrained_model_name_or_path, kwargs)
        with naming_damage(pretrained_model_name_or_path, kwargs):
            backbone, info = AutoModelForMaskedLM.from_pretrained(
                pretrained_model_name_or_path,
                *model_args,
                config=config.backbone_config,
                output_loading_info=True,
                **kwargs,
            )
        # What is left over of a BERT-like checkpoint may rightly be the head of another task.
        refuse_weights(pretrained_model_name_or_path, type(backbone).__name__, "missing", info["missing_keys"])
        backbone.config.name_or_path = ""  # nested, it would be saved; at the top, transformers leaves it out
        config.name_or_path = str(pretrained_model_name_or_path)
        model = cls(config, backbone)
        model.quality_head.to(backbone.device)
        take_over_loading(model, backbone)
        model.adjust_generation_fn(
            kwargs.get("generation_config"), False, None, str(pretrained_model_name_or_path), **place_of(kwargs)
        )
        return model.eval()

    def usage_snippet(self, repo_id: str, is_adapter: bool = False) -> str:
        """Python code that loads `repo_id`, the model or an adapter of it, and generates, for a model card."""
        loader = "AutoPeftModelForPrism" if is_adapter else "PrismForMaskedDiffusion"
        denoiser = portable(self.training_record.denoiser) if self.training_record else None
        if denoiser is not None:
            imports = f"from prism_hf import {loader}, load_model, remask_generate"
            load = [f'model = load_model("{denoiser}")', f'critic = {loader}.from_pretrained("{repo_id}").eval()']
            call = 'remask_generate(model, input_ids, remask_strategy="token_critic", critic=critic'
            return generation_snippet(self, repo_id, [imports], load, call)
        config: Any = self.generation_config
        strategy = "" if config.remask_strategy else ', remask_strategy="prism"'
        load = [f'model = {loader}.from_pretrained("{repo_id}")']
        call = f"model.generate(input_ids{strategy}"
        return generation_snippet(self, repo_id, [f"from prism_hf import {loader}"], load, call)

    @property
    def _supports_canvas_cache(self) -> bool:
        # A shifted logit comes from the position before, which a cached forward need not read.
        return takes_cache(self.backbone) and not self.adapter.shifted_logits

    def get_output_embeddings(self) -> nn.Module | None:
        return self.backbone.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.backbone.set_output_embeddings(new_embeddings)

    @property
    def decoder(self) -> nn.Module:
        """The map of `prediction_states` to logits: (..., E) -> (..., V), with `weight` and `bias`.

        For most families it is `get_output_embeddings()`.
        """
        return self.adapter.decoder(self.backbone)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> Any:
        """As transformers' models do, see `resize_vocabulary`; the mask token keeps its id."""
        return resize_vocabulary(self.backbone, self.adapter, self.config.mask_token_id, *args, **kwargs)

    @renamed_arguments(logits_at="logits_to_keep")
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        logits_to_keep: torch.Tensor | None = None,
        return_logits: bool = True,
        return_quality: bool = True,
        cache: CanvasCache | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> PrismOutput:
        """One pass of the backbone for posteriors and qualities.

        Args:
            input_ids (`torch.LongTensor`): (B, L), masks included.
            attention_mask (`torch.Tensor`, *optional*): (B, L), 0 at padding; or what else the backbone takes.
            logits_to_keep (`torch.Tensor`, *optional*): Where the LM head runs: a boolean mask (B, L) of N positions,
                in row-major order, or columns (B, W) int64. Unlike a mask, these tell their number without asking the
                device.
            return_logits (`bool`, *optional*, defaults to `True`): False never maps to the vocabulary; without
                `logits_to_keep` it runs no LM head at all.
            return_quality (`bool`, *optional*, defaults to `True`): False runs no quality head.
            cache (`CanvasCache`, *optional*): Of keys and values, for a backbone that takes one. Where it says at which
                W positions of the canvas the tokens (B, W) stand, quality is (B, W); `attention_mask` is always that of
                the canvas.
            position_ids (`torch.LongTensor`, *optional*): (B, L), for a backbone that takes them.

        Returns:
            `PrismOutput`

        Raises:
            ValueError: if `logits_to_keep` is neither a mask of the canvas nor columns.
        """
        kwargs["return_dict"] = True
        placed = {"cache": cache, "position_ids": position_ids}
        placed = {name: value for name, value in placed.items() if value is not None}
        body = self.adapter.body(self.backbone)
        shifted, alone = self.adapter.shifted_logits, None
        if not (return_quality or shifted):
            alone = columns_alone(body, logits_to_keep, attention_mask, kwargs)
        kept = {} if alone is None else {"states_to_keep": alone}
        outputs = body(input_ids, attention_mask=attention_mask, **placed, **kept, **kwargs)
        hidden_states = outputs.last_hidden_state

        logits = quality_logits = states = None
        if return_logits or logits_to_keep is not None:
            predictive = hidden_states
            if shifted:
                predictive = torch.cat((hidden_states[:, :1], hidden_states[:, :-1]), dim=1)
            if alone is None:
                predictive = keep_positions(predictive, logits_to_keep)
            shape = predictive.shape[:-1]
            states = self.adapter.prediction_states(self.backbone, predictive.flatten(0, -2), outputs)
            logits = self.decoder(states).unflatten(0, shape) if return_logits else None
            states = states.unflatten(0, shape)
        if return_quality:
            placed |= {name: kwargs[name] for name in DOCUMENT_ENDS if name in kwargs}
            quality_logits = self.quality_head(hidden_states, outputs.get("conditioning"), attention_mask, **placed)
        return PrismOutput(
            logits=logits,
            quality_logits=quality_logits,
            prediction_states=states if logits_to_keep is not None else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.get("attentions"),
        )
