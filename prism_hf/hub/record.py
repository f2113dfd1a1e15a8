"""What a trainer leaves with the model that it has trained."""

from dataclasses import dataclass, field
from typing import Any

from prism_hf._compat import unwrapped

TRAINING_ARGUMENTS = "training_args.json"


@dataclass
class TrainingRecord:
    """What a trainer leaves with its model (`model.training_record`), for whoever saves or pushes the model.

    arguments: the training arguments as plain JSON data, made `portable`. tokenizer: saved along with the
    model. dataset: its name for the reader. length: tokens in a row of it. metrics: those of the last evaluation.
    denoiser: of a token critic, name or path of the model whose drafts it judges.
    """

    arguments: dict[str, Any]
    mask_token_id: int
    tokenizer: Any = None
    dataset: str | None = None
    length: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    denoiser: str | None = None


def record_of(model) -> TrainingRecord | None:
    """What a trainer has left with a model."""
    return getattr(unwrapped(model), "training_record", None)
