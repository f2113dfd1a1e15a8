"""Generation by denoising: one loop, unmasking orders, remasking strategies."""

from typing import TYPE_CHECKING

from prism_hf._lazy import lazy_names

if TYPE_CHECKING:
    from ..jobs.completions import generate_to_jsonl
    from .configuration_remask import Order, RemaskGenerationConfig, fitted_to_tokenizer, prepare_generation_config
    from .denoising.orders import ORDERS
    from .generation_remask import RemaskGenerationMixin, RemaskGenerationOutput, as_custom_generate, remask_generate
    from .retrying import generate_with_retries
    from .strategies.base import STRATEGIES, RemaskStrategy, StepState, register_strategy
    from .strategies.ranking import PathPlanning, RankingStrategy, TokenCritic
    from .strategies.score import (
        ConfidenceRemasking,
        NoRemasking,
        PrismLoopRemasking,
        PrismRemasking,
        RandomRemasking,
        ScoreStrategy,
    )
    from .strategies.transition import (
        AncestralSampling,
        FlowMatchingCorrector,
        ForwardBackward,
        RemdmCap,
        RemdmConf,
        RemdmLoop,
        RemdmRescale,
        TransitionStrategy,
    )
    from .strategies.wino import WinoRemasking
    from .streaming import TerminalDraftStreamer
    from .trajectory import Trajectory
else:
    __getattr__, __dir__ = lazy_names(__name__)

__all__ = [
    "ORDERS",
    "STRATEGIES",
    "AncestralSampling",
    "ConfidenceRemasking",
    "FlowMatchingCorrector",
    "ForwardBackward",
    "NoRemasking",
    "Order",
    "PathPlanning",
    "PrismLoopRemasking",
    "PrismRemasking",
    "RandomRemasking",
    "RankingStrategy",
    "RemaskGenerationConfig",
    "RemaskGenerationMixin",
    "RemaskGenerationOutput",
    "RemaskStrategy",
    "RemdmCap",
    "RemdmConf",
    "RemdmLoop",
    "RemdmRescale",
    "ScoreStrategy",
    "StepState",
    "TerminalDraftStreamer",
    "TokenCritic",
    "Trajectory",
    "TransitionStrategy",
    "WinoRemasking",
    "as_custom_generate",
    "fitted_to_tokenizer",
    "generate_to_jsonl",
    "generate_with_retries",
    "prepare_generation_config",
    "register_strategy",
    "remask_generate",
]
