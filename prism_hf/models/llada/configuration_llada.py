"""Configuration of LLaDA, under the field names of its published checkpoints."""

from typing import Annotated, Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig, PreTrainedConfig

from prism_hf.fields import Allowed, Count, Fraction, NotNegative, Positive, check_attributes

# Fields of published configs that change the computation, with the values that this model computes.
SUPPORTED = {
    "block_type": ("llama",),
    "block_group_size": (1,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "activation_type": ("silu",),
    "rope": (True,),
    "alibi": (False,),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "scale_logits": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False, None),
    "bias_for_layer_norm": (False, None),
    "multi_query_attention": (None, False),
    "embedding_dropout": (0.0,),
    "residual_dropout": (0.0,),
}
# Fields of published configs that change nothing here, but that LLaDA's own tools ask for.
FOREIGN = {
    "alibi_bias_max": 8.0,
    "attention_layer_norm_with_affine": True,
    "flash_attention": False,
    "init_cutoff_factor": None,
    "init_device": "cpu",
    "init_fn": "mitchell",
    "precision": None,
    "rope_full_precision": True,
}
PUBLISHED = {name: supported[0] for name, supported in SUPPORTED.items()} | FOREIGN

SIZES = (
    *("d_model", "n_layers", "n_heads", "n_kv_heads", "mlp_hidden_size", "mlp_ratio", "vocab_size", "embedding_size"),
    "max_sequence_length",
)
BOUNDS = dict.fromkeys(SIZES, Positive) | {
    "rope_theta": Annotated[float, Allowed(above=0)],
    "rms_norm_eps": NotNegative,
    "attention_dropout": Fraction,
    "mask_token_id": Count | None,
    "init_std": NotNegative,
}


@strict
class LladaConfig(PreTrainedConfig):
    """Shape of a LLaDA transformer (arXiv 2502.09992); the defaults are LLaDA-8B's.

    Other fields of a published `config.json` are kept and saved again. Those that were not given are saved with the
    values that this model computes (`PUBLISHED`), so LLaDA's own tools build the same model from what is saved.

    Args:
        d_model (`int`, *optional*, defaults to 4096): Width of the residual stream.
        n_layers (`int`, *optional*, defaults to 32): Number of transformer blocks.
        n_heads (`int`, *optional*, defaults to 32): Number of attention heads; `d_model / n_heads` must be an even
            integer.
        n_kv_heads (`int`, *optional*): Number of key and value heads, a divisor of `n_heads`; `n_heads` if not given.
        mlp_hidden_size (`int`, *optional*, defaults to 12288): Width of the gated MLP; `mlp_ratio * d_model` if None.
        mlp_ratio (`int`, *optional*, defaults to 4): See `mlp_hidden_size`.
        vocab_size (`int`, *optional*, defaults to 126464): Number of tokens.
        embedding_size (`int`, *optional*): Rows of the embedding and of the LM head, `vocab_size` or more;
            `vocab_size` if not given.
        max_sequence_length (`int`, *optional*, defaults to 4096): Length that the model was trained at, in tokens.
        rope_theta (`float`, *optional*, defaults to 500000.0): Base of the rotary positions.
        rms_norm_eps (`float`, *optional*, defaults to 1e-5): Epsilon of the norms.
        attention_dropout (`float`, *optional*, defaults to 0.0): Dropout of the attention weights.
        weight_tying (`bool`, *optional*, defaults to `False`): Whether the LM head is the embedding.
        mask_token_id (`int`, *optional*, defaults to 126336): Id of the mask token (iLLaDA: 5).
        eos_token_id (`int` or `list[int]`, *optional*, defaults to 126081): Id of the token that ends a text.
        pad_token_id (`int`, *optional*, defaults to 126081): Id of the token that fills rows up.
        init_std (`float`, *optional*, defaults to 0.02): Standard deviation of freshly initialised weights.
        use_cache (`bool`, *optional*, defaults to `False`): Without effect here; LLaDA's own tools ask for it.

    Raises:
        ValueError: if the heads do not fit the width, or for a published field with a value outside `SUPPORTED`.

    Example:
        ```python
        config = LladaConfig(d_model=256, n_layers=4, n_heads=4, mlp_hidden_size=768, vocab_size=1000, mask_token_id=4)
        model = LladaForMaskedDiffusion(config)
        ```
    """

    model_type = "llada"
    attribute_map = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "initializer_range": "init_std",
        "tie_word_embeddings": "weight_tying",
    }
    base_model_tp_plan = LlamaConfig.base_model_tp_plan
    hidden_act, mlp_bias = "silu", False  # what `LlamaMLP` asks for

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    mlp_hidden_size: int | None = 12288
    mlp_ratio: int = 4
    vocab_size: int = 126464
    embedding_size: int | None = None
    max_sequence_length: int = 4096
    rope_theta: float | int = 500000.0
    rms_norm_eps: float = 1e-5
    attention_dropout: float | int = 0.0
    weight_tying: bool = False
    mask_token_id: int | None = 126336
    eos_token_id: int | list[int] | None = 126081
    pad_token_id: int | None = 126081
    init_std: float = 0.02
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, supported in SUPPORTED.items():
            if name in kwargs and kwargs[name] not in supported:
                raise ValueError(
                    f"{name}={kwargs[name]!r} is not supported: LladaModel computes {name}="
                    f"{' or '.join(map(repr, supported))}, as LLaDA-8B and iLLaDA do."
                )
        for alias in self.attribute_map.keys() & kwargs.keys():  # before what follows from them
            setattr(self, alias, kwargs[alias])
        if self.n_kv_heads is None:
            self.n_kv_heads = self.n_heads
        if self.mlp_hidden_size is None:
            self.mlp_hidden_size = self.mlp_ratio * self.d_model
        if self.embedding_size is None:
            self.embedding_size = self.vocab_size
        check_attributes(self, BOUNDS)
        if self.d_model % self.n_heads or (self.d_model // self.n_heads) % 2:
            raise ValueError(
                f"d_model={self.d_model} over n_heads={self.n_heads} does not give an even head dimension, which "
                "rotary positions need; choose d_model as an even multiple of n_heads."
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}.")
        if self.embedding_size < self.vocab_size:
            raise ValueError(
                f"embedding_size={self.embedding_size} has no row for some of vocab_size={self.vocab_size}."
            )
        # A published config.json that says false would turn every output of this class into a bare tuple.
        self.return_dict = True
        super().__post_init__(**PUBLISHED | kwargs)

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads
