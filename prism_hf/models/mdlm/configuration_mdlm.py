"""Configuration of the MDLM diffusion transformer."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from prism_hf.fields import Fraction, NotNegative, Positive, check_attributes

SIZES = ("vocab_size", "model_length", "hidden_dim", "cond_dim", "n_blocks", "n_heads")
BOUNDS = dict.fromkeys(SIZES, Positive) | {"dropout": Fraction, "initializer_range": NotNegative}


@strict
class MdlmConfig(PreTrainedConfig):
    """Shape of an MDLM diffusion transformer, under the field names of `kuleshov-group/mdlm-owt`.

    Args:
        vocab_size (`int`, *optional*, defaults to 50258): Number of tokens, the mask token included (GPT-2's 50257
            and 1).
        model_length (`int`, *optional*, defaults to 1024): Length that the model was trained at, in tokens. Not a
            limit: positions are rotary, so any length runs.
        hidden_dim (`int`, *optional*, defaults to 768): Width of the residual stream.
        cond_dim (`int`, *optional*, defaults to 128): Width of the conditioning vector that drives every adaLN.
        n_blocks (`int`, *optional*, defaults to 12): Number of transformer blocks.
        n_heads (`int`, *optional*, defaults to 12): Number of attention heads; `hidden_dim / n_heads` must be an even
            integer.
        dropout (`float`, *optional*, defaults to 0.1): Dropout on both residual branches.
        time_conditioning (`bool`, *optional*, defaults to `False`): Whether the network sees the noise level sigma. If
            not, sigma is 0 whatever the caller passes.
        mask_token_id (`int`, *optional*): Id of the mask token; the last id of the vocabulary if not given.
        initializer_range (`float`, *optional*, defaults to 0.02): Standard deviation of freshly initialised weights.

    Raises:
        ValueError: if the head dimension is not an even integer, or the mask token lies outside the vocabulary.

    Example:
        ```python
        config = MdlmConfig(vocab_size=1000, model_length=256, hidden_dim=256, n_blocks=4, n_heads=4)
        model = MdlmForMaskedDiffusion(config)
        ```
    """

    model_type = "mdlm"
    attribute_map = {
        "hidden_size": "hidden_dim",
        "num_hidden_layers": "n_blocks",
        "num_attention_heads": "n_heads",
    }

    vocab_size: int = 50258
    model_length: int = 1024
    hidden_dim: int = 768
    cond_dim: int = 128
    n_blocks: int = 12
    n_heads: int = 12
    dropout: float | int = 0.1
    time_conditioning: bool = False
    mask_token_id: int | None = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        for alias in self.attribute_map.keys() & kwargs.keys():  # before what follows from them
            setattr(self, alias, kwargs[alias])
        check_attributes(self, BOUNDS)
        if self.hidden_dim % self.n_heads or (self.hidden_dim // self.n_heads) % 2:
            raise ValueError(
                f"hidden_dim={self.hidden_dim} over n_heads={self.n_heads} does not give an even head dimension, which "
                "rotary positions need; choose hidden_dim as an even multiple of n_heads."
            )
        if self.mask_token_id is None:
            self.mask_token_id = self.vocab_size - 1
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id={self.mask_token_id} is outside the vocabulary of {self.vocab_size} tokens; vocab_size "
                "counts the mask token, so the id lies between 0 and vocab_size - 1."
            )
        # The published config.json says false, which would turn every output of this class into a bare tuple.
        self.return_dict = True
        super().__post_init__(**kwargs)
