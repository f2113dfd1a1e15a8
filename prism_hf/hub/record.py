"""What a trainer leaves with the model that it has trained, and what a model tells of its quality head.

A trainer leaves a `training_record` with its model, as transformers leaves `model_tags`, so that `model.push_to_hub`
can write the card that `trainer.push_to_hub` writes.
"""

from dataclasses import dataclass, field
from typing import Any

from prism_hf._compat import AnyModel, unwrapped

TRAINING_ARGUMENTS = "training_args.json"
HEAD_SETTINGS = ("head_type", "head_num_blocks", "mask_token_id")


@dataclass
class TrainingRecord:
    """What a trainer leaves with its model (`model.training_record`), for whoever saves or pushes the model.

    Args:
        arguments (`dict[str, Any]`): The training arguments as plain JSON data, made `portable`.
        mask_token_id (`int`): The mask token that the model was trained with.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Saved along with the model.
        dataset (`str`, *optional*): Its name for the reader.
        length (`int`, *optional*): Tokens in a row of it.
        metrics (`dict[str, float]`, *optional*): Those of the last evaluation.
        denoiser (`str`, *optional*): Of a token critic, name or path of the model whose drafts it judges.
        method (`str`, *optional*): What the trainer's method is called.
        paper (`dict[str, str]`, *optional*): Its `title`, `id` on arXiv and `citation`, see `prism_hf.hub.papers`.

    Example:
        ```python
        model.training_record = TrainingRecord({}, mask_token_id=0, tokenizer=tokenizer, dataset="Solved grids")
        model.push_to_hub("user/my-prism")
        ```
    """

    arguments: dict[str, Any]
    mask_token_id: int
    tokenizer: Any = None
    dataset: str | None = None
    length: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    denoiser: str | None = None
    method: str | None = None
    paper: dict[str, str] | None = None


def record_of(model: AnyModel) -> TrainingRecord | None:
    """What a trainer has left with a model, be its class ours or another."""
    return vars(unwrapped(model)).get("training_record")


def head_settings(model: AnyModel) -> dict[str, Any]:
    """The settings of a model's quality head, or nothing where it has none."""
    settings = unwrapped(model).config.to_dict()
    return {name: settings[name] for name in HEAD_SETTINGS} if "head_type" in settings else {}
