"""Generation by denoising: one loop, unmasking orders, remasking strategies."""

from .checks import fitted_to_tokenizer
from .configuration_remask import Order, RemaskGenerationConfig, prepare_generation_config
from .orders import ORDERS
from .planners import PathPlanning, TokenCritic
from .remask_generate import (
    RemaskGenerationMixin,
    RemaskGenerationOutput,
    remask_generate,
)
from .remdm import (
    AncestralSampling,
    FlowMatchingCorrector,
    ForwardBackward,
    RemdmCap,
    RemdmConf,
    RemdmLoop,
    RemdmRescale,
)
from .retrying import generate_with_retries
from .strategies import (
    STRATEGIES,
    NoRemasking,
    PrismLoopRemasking,
    PrismRemasking,
    RandomRemasking,
    StepState,
    WinoRemasking,
    register_strategy,
)
from .streaming import TerminalDraftStreamer
from .trajectory import Trajectory

__all__ = [
    "ORDERS",
    "STRATEGIES",
    "AncestralSampling",
    "FlowMatchingCorrector",
    "ForwardBackward",
    "NoRemasking",
    "Order",
    "PathPlanning",
    "PrismLoopRemasking",
    "PrismRemasking",
    "RandomRemasking",
    "RemaskGenerationConfig",
    "RemaskGenerationMixin",
    "RemaskGenerationOutput",
    "RemdmCap",
    "RemdmConf",
    "RemdmLoop",
    "RemdmRescale",
    "StepState",
    "TerminalDraftStreamer",
    "TokenCritic",
    "Trajectory",
    "WinoRemasking",
    "fitted_to_tokenizer",
    "generate_with_retries",
    "prepare_generation_config",
    "register_strategy",
    "remask_generate",
]
