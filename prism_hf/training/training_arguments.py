"""Arguments of the trainers, beside those of `transformers.TrainingArguments`."""

from dataclasses import dataclass, field, fields

from transformers import TrainingArguments

from prism_hf.diffusion.drafting import DRAFT_SELECTIONS
from prism_hf.diffusion.losses import NORMALIZERS, QUALITY_NORMALIZERS
from prism_hf.diffusion.schedules import SCHEDULES


@dataclass
class MaskedDiffusionTrainingArguments(TrainingArguments):
    """Arguments of `MaskedDiffusionTrainer`."""

    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps, or a share of all below 1."})
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Drop columns that neither `forward` names nor a row says what to learn with."}
    )
    noise_schedule: str = field(
        default="linear", metadata={"help": f"alpha(t), one of {', '.join(SCHEDULES)}.", "choices": list(SCHEDULES)}
    )
    min_timestep: float = field(default=1e-3, metadata={"help": "Times are drawn uniformly from this one up."})
    max_timestep: float = field(default=1.0, metadata={"help": "Times are drawn uniformly up to this one."})
    loss_normalizer: str = field(
        default="sequence",
        metadata={
            "help": "`sequence`: cross-entropy weighted by -alpha'/(1 - alpha) over the number of maskable tokens, the "
            "bound of MDLM and LLaDA. `masked`: its plain mean over masked tokens.",
            "choices": list(NORMALIZERS),
        },
    )
    ema_decay: float | None = field(
        default=None,
        metadata={
            "help": "Decay of the moving average of the weights, which is evaluated and replaces them at the end of "
            "training."
        },
    )
    use_muon: bool = field(
        default=False,
        metadata={"help": "Muon for the hidden layers' matrices, AdamW for the rest, both at learning_rate."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_grad_norm is None:
            self.max_grad_norm = 0.0  # what Trainer takes for no clipping
        check_choice("noise_schedule", self.noise_schedule, SCHEDULES)
        check_choice("loss_normalizer", self.loss_normalizer, NORMALIZERS)
        if not 0 < self.min_timestep < self.max_timestep <= 1:
            raise ValueError(
                f"min_timestep={self.min_timestep} and max_timestep={self.max_timestep} must satisfy "
                "0 < min_timestep < max_timestep <= 1."
            )
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay} must lie in [0, 1); leave it out for no average.")


@dataclass
class QualityTrainingArguments(MaskedDiffusionTrainingArguments):
    """What the trainers of a quality head have in common."""

    draft_do_sample: bool = field(
        default=True, metadata={"help": "Draw the draft's tokens from the posterior, or take the likeliest."}
    )
    draft_top_p: float = field(default=1.0, metadata={"help": "Nucleus of the draft's draw."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the quality head; learning_rate if not given."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.ddp_find_unused_parameters is None:
            # The forward that DDP sees last has no decoder; a search would take its parameters for unused.
            self.ddp_find_unused_parameters = False
        if not 0 < self.draft_top_p <= 1:
            raise ValueError(f"draft_top_p={self.draft_top_p} must lie in (0, 1].")


@dataclass
class TokenCriticTrainingArguments(QualityTrainingArguments):
    """Arguments of `TokenCriticTrainer`; `loss_normalizer="sequence"` has the published weights 1/t."""


@dataclass
class PrismTrainingArguments(QualityTrainingArguments):
    """Arguments of `PrismTrainer`. The defaults are those published for LLaDA-8B, with a sampled, random draft."""

    num_draft_tokens: int = field(default=8, metadata={"help": "K, masked positions that a draft fills."})
    num_drafts: int = field(default=1, metadata={"help": "Drafts made from one masked sequence."})
    draft_steps: int = field(
        default=1,
        metadata={
            "help": "Forwards in which a draft is filled. More than one makes the mistakes of a generation, where one "
            "wrong token leads to others, at the price of a forward each."
        },
    )
    draft_selection: str = field(
        default="random",
        metadata={
            "help": "Which masked positions a draft fills: `random`, or `semi_autoregressive`, the most confident "
            "among the leftmost `draft_window`.",
            "choices": list(DRAFT_SELECTIONS),
        },
    )
    draft_window: int = field(default=512, metadata={"help": "Leftmost masks that semi_autoregressive looks at."})
    unmasking_weight: float = field(
        default=0.5,
        metadata={"help": "lambda, weight of the unmasking loss that keeps the backbone's posterior."},
    )
    quality_normalizer: str = field(
        default="filled",
        metadata={
            "help": "`filled`: mean of the quality loss over the positions that drafts filled (MDLM). `draft`: its sum "
            "over B * K (LLaDA); they differ where fewer than K positions are masked.",
            "choices": list(QUALITY_NORMALIZERS),
        },
    )
    freeze_backbone: bool = field(
        default=False, metadata={"help": "Train the head only; the unmasking loss then has no gradient."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_choice("draft_selection", self.draft_selection, DRAFT_SELECTIONS)
        check_choice("quality_normalizer", self.quality_normalizer, QUALITY_NORMALIZERS)
        for name in ("num_draft_tokens", "num_drafts", "draft_steps", "draft_window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.draft_steps > self.num_draft_tokens:
            raise ValueError(
                f"draft_steps={self.draft_steps} is more than num_draft_tokens={self.num_draft_tokens}: "
                "a step fills a token at least."
            )
        if self.unmasking_weight < 0:
            raise ValueError(f"unmasking_weight={self.unmasking_weight} must not be negative.")


def check_choice(name: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(choices)}.")


def arguments_of(cls: type[MaskedDiffusionTrainingArguments], args: TrainingArguments | None):
    """`args` as an instance of `cls`: what plain `TrainingArguments` lack gets our defaults.

    Raises TypeError for arguments of another trainer, and for what are no training arguments.
    """
    if args is None:
        return cls("trainer_output")
    if isinstance(args, cls):
        return args
    if not (isinstance(args, TrainingArguments) and issubclass(cls, type(args))):
        raise TypeError(f"args must be {cls.__name__} or plain TrainingArguments, got {type(args).__name__}.")
    return cls(**{field.name: getattr(args, field.name) for field in fields(args) if field.init})
