"""What goes to the Hub, or into a saved folder, beside weights and their config."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from .base_model import base_from, base_model_name, base_seen_from
    from .card import CARD, model_card, write_card
    from .record import HEAD_SETTINGS, TrainingRecord
    from .repository import HubMixin, write_files
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "CARD",
    "HEAD_SETTINGS",
    "HubMixin",
    "TrainingRecord",
    "base_from",
    "base_model_name",
    "base_seen_from",
    "model_card",
    "write_card",
    "write_files",
]
