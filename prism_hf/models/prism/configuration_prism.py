"""Configuration of a backbone with a quality head."""

import os
from typing import Annotated, Any

from transformers import AutoConfig, PreTrainedConfig

from prism_hf._compat import attention_of, mask_token_of
from prism_hf.fields import Allowed, Count, NotNegative, check_attributes
from prism_hf.models import llada, mdlm  # noqa: F401  (registers them, so that AutoConfig knows them)

from .quality_heads import QUALITY_HEADS

HEAD = {
    "head_type": Annotated[str, Allowed(choices=QUALITY_HEADS)],
    "head_num_blocks": Count,
    "mask_token_id": Count | None,
    "initializer_range": NotNegative,
}


class PrismConfig(PreTrainedConfig):
    """A backbone's config and the settings of its quality head.

    Args:
        backbone_config (`PreTrainedConfig` or `dict`): That of any model that `AutoModelForMaskedLM` builds.
        head_type (`str`, *optional*, defaults to `"mlp"`): `"linear"` (LayerNorm, Linear), `"mlp"` (LayerNorm, Linear,
            GELU, Linear; published for LLaDA), `"dit"` (DiT blocks and an adaLN output layer; published for MDLM, MDLM
            only), or another name in `QUALITY_HEADS`.
        head_num_blocks (`int`, *optional*, defaults to 0): Extra blocks of a `dit` head (OpenWebText 1, Sudoku 0).
        mask_token_id (`int`, *optional*): Taken from the backbone's config where that has one.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of the head's fresh weights.

    Raises:
        ValueError: for an unknown head type or backbone.

    Example:
        ```python
        from transformers import BertConfig

        config = PrismConfig(backbone_config=BertConfig(), head_type="linear", mask_token_id=103)
        model = PrismForMaskedDiffusion(config)
        ```
    """

    model_type = "prism"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: PreTrainedConfig | None = None
    head_type: str = "mlp"
    head_num_blocks: int = 0
    mask_token_id: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, dict):
            self.backbone_config = AutoConfig.for_model(**self.backbone_config)
        if self.backbone_config is not None:
            if self.mask_token_id is None:
                self.mask_token_id = mask_token_of(self.backbone_config)
            check_attributes(self, HEAD)
            family = self.backbone_config.model_type
            if self.head_type == "dit" and family != "mdlm":
                raise ValueError(
                    f"head_type='dit' reads MDLM's conditioning, which {family!r} lacks; use 'mlp' or 'linear'."
                )
            # Set on a config, the attention reaches the nested one: None would overwrite that of a live backbone.
            kwargs.setdefault("attn_implementation", attention_of(self.backbone_config))
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As the parent's; the config of a bare backbone becomes `backbone_config`, as PEFT expects of a base model."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            config_dict = {"model_type": cls.model_type, "backbone_config": config_dict}
        return config_dict, kwargs

    def to_dict(self) -> dict:
        """As the parent's, without the place on this machine that the backbone's config may have come from."""
        values = super().to_dict()
        (values["backbone_config"] or {}).pop("_name_or_path", None)
        return values

    @property
    def hidden_size(self) -> int:
        return self.backbone_config.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.backbone_config.vocab_size

    def get_text_config(self, *args: Any, **kwargs: Any) -> "PrismConfig":
        return self
