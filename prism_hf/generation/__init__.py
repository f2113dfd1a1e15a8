"""Generation by denoising: one loop, unmasking orders, remasking strategies."""

from .configuration_remask import RemaskGenerationConfig, ended_by_tokenizer, prepare_generation_config
from .orders import ORDERS
from .remask_generate import (
    RemaskGenerationMixin,
    RemaskGenerationOutput,
    remask_generate,
)
from .retrying import generate_with_retries
from .strategies import (
    STRATEGIES,
    NoRemasking,
    PrismRemasking,
    RandomRemasking,
    StepState,
    register_strategy,
)
from .streaming import TerminalDraftStreamer
from .trajectory import Trajectory

__all__ = [
    "ORDERS",
    "STRATEGIES",
    "NoRemasking",
    "PrismRemasking",
    "RandomRemasking",
    "RemaskGenerationConfig",
    "RemaskGenerationMixin",
    "RemaskGenerationOutput",
    "StepState",
    "TerminalDraftStreamer",
    "Trajectory",
    "ended_by_tokenizer",
    "generate_with_retries",
    "prepare_generation_config",
    "register_strategy",
    "remask_generate",
]
