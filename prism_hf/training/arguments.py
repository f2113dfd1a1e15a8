"""Arguments of the trainers, beside those of `transformers.TrainingArguments`."""

import contextlib
import json
import math
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Annotated, Any, Literal, TypeVar

from transformers import SchedulerType, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy
from transformers.training_args import OptimizerNames

from prism_hf.diffusion.drafting import DRAFT_SELECTIONS
from prism_hf.diffusion.losses import NORMALIZERS, QUALITY_NORMALIZERS
from prism_hf.diffusion.schedules import SCHEDULES
from prism_hf.fields import (
    Allowed,
    Count,
    NotNegative,
    Positive,
    PositiveFraction,
    Seed,
    Share,
    check_fields,
    check_names,
)
from prism_hf.hub.portable import portable

Interval = Annotated[float, Allowed(above=0, remedy="To do without, set the strategy beside it to 'no'.")]


Reporter = Annotated[str, Allowed(choices=[*INTEGRATION_TO_CALLBACK, "all", "none"])]


def _one_of(values: type[Enum]) -> Any:
    return Annotated[str, Allowed(choices=[each.value for each in values])]


# Of transformers' own arguments, what their types do not say.
INHERITED = {
    "learning_rate": NotNegative,
    "weight_decay": NotNegative,
    "adam_beta1": Share,
    "adam_beta2": Share,
    "adam_epsilon": NotNegative,
    "max_grad_norm": Annotated[float, Allowed(min=0, max=math.inf)] | None,
    "label_smoothing_factor": Annotated[
        float, Allowed(choices=(0,), remedy="The losses are those of the method, which smooth no label: leave it out.")
    ],
    "warmup_steps": NotNegative,
    "num_train_epochs": NotNegative,
    "max_steps": Positive | Literal[-1],
    "per_device_train_batch_size": Positive,
    "per_device_eval_batch_size": Positive,
    "gradient_accumulation_steps": Positive,
    "eval_accumulation_steps": Positive | None,
    "logging_steps": Interval,
    "eval_steps": Interval | None,
    "save_steps": Interval,
    "eval_delay": NotNegative,
    "save_total_limit": Positive | None,
    "seed": Seed,
    "data_seed": Seed | None,
    "dataloader_num_workers": Count,
    "dataloader_prefetch_factor": Positive | None,
    "neftune_noise_alpha": NotNegative | None,
    "lr_scheduler_type": _one_of(SchedulerType),
    "optim": _one_of(OptimizerNames),
    "eval_strategy": _one_of(IntervalStrategy),
    "logging_strategy": _one_of(IntervalStrategy),
    "save_strategy": _one_of(SaveStrategy),
    "hub_strategy": _one_of(HubStrategy),
    "report_to": Reporter | list[Reporter] | None,
    "lr_scheduler_kwargs": dict | None,
    # What transformers replaces once it has read it.
    "accelerator_config": Any,
    "debug": Any,
    "fsdp": Any,
    "fsdp_config": Any,
}

# What metrics are called that are better the lower they are.
LOWER_IS_BETTER = ("perplexity", "quality_ece")

NOT_TAKEN = "Named by `trl.SFTConfig`; any other value is refused."


def _only(value: Any, remedy: str) -> Allowed:
    """Of a field that `trl.SFTConfig` has: the one value that is taken, and what to do instead of another."""
    return Allowed(choices=(value,), remedy=remedy)


@dataclass
class MaskedDiffusionTrainingArguments(TrainingArguments):
    """Arguments of `MaskedDiffusionTrainer`: those of `transformers.TrainingArguments`, and the fields below.

    Example:
        ```python
        args = MaskedDiffusionTrainingArguments("runs/mdm", max_steps=1000, ema_decay=0.999, loss_normalizer="masked")
        ```
    """

    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps, or a share of all below 1."})
    remove_unused_columns: bool | None = field(
        default=False, metadata={"help": "Drop columns that neither `forward` names nor a row says what to learn with."}
    )
    noise_schedule: str = field(
        default="linear", metadata={"help": f"alpha(t), one of {', '.join(SCHEDULES)}.", "choices": list(SCHEDULES)}
    )
    min_timestep: PositiveFraction = field(default=1e-3, metadata={"help": "Times are drawn uniformly from this up."})
    max_timestep: PositiveFraction = field(default=1.0, metadata={"help": "Times are drawn uniformly up to this one."})
    loss_normalizer: str = field(
        default="sequence",
        metadata={
            "help": "`sequence`: cross-entropy weighted by -alpha'/(1 - alpha) over the number of maskable tokens, the "
            "bound of MDLM and LLaDA. `masked`: its plain mean over masked tokens.",
            "choices": list(NORMALIZERS),
        },
    )
    ema_decay: Share | None = field(
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
    # What `trl.SFTConfig` names too, and means by it.
    model_init_kwargs: dict | None = field(
        default=None, metadata={"help": "What `from_pretrained` gets where the trainer is given a model's name."}
    )
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Run code that comes with a model or tokenizer that is given by name."}
    )
    chat_template_path: str | None = field(
        default=None, metadata={"help": "Jinja file that becomes the tokenizer's chat template."}
    )
    eos_token: str | None = field(
        default=None, metadata={"help": "Token of the vocabulary that becomes the tokenizer's eos, and the model's."}
    )
    dataset_text_field: str = field(default="text", metadata={"help": "Column that holds the text of raw rows."})
    dataset_kwargs: dict | None = field(
        default=None, metadata={"help": "`{skip_prepare_dataset: true}` takes datasets as they are."}
    )
    dataset_num_proc: Positive | None = field(default=None, metadata={"help": "Processes that prepare datasets."})
    shuffle_dataset: bool = field(default=False, metadata={"help": "Shuffle the training dataset, once."})
    max_length: Positive | None = field(default=1024, metadata={"help": "Tokens after which rows are cut."})
    truncation_mode: Annotated[str, _only("keep_start", "Cut rows at their start before, with dataset.map.")] = field(
        default="keep_start", metadata={"help": "Where rows are cut: behind `max_length`."}
    )
    pad_to_multiple_of: Positive | None = field(
        default=None, metadata={"help": "Pad batches to a multiple of so many tokens."}
    )
    predict_with_generate: bool = field(
        default=False,
        metadata={
            "help": "Give compute_metrics and predict what the model generates where a row has tokens to learn, as "
            "its generation config says, instead of what the loss reads."
        },
    )
    num_eval_masks: Positive = field(
        default=1,
        metadata={"help": "Masks that an evaluation draws of each row; losses and perplexity are means over them."},
    )
    log_completions: bool = field(
        default=False,
        metadata={
            "help": "Log completions of some rows of eval_dataset at each evaluation, see LogCompletionsCallback."
        },
    )
    num_eval_generations: Positive | None = field(
        default=None,
        metadata={
            "help": "With predict_with_generate, of the first so many rows, be they packed; of all if not given. The "
            "loss is of all."
        },
    )
    completion_only_loss: bool | None = field(
        default=None,
        metadata={"help": "Learn of raw rows with prompt and completion the latter alone, unless this is False."},
    )
    assistant_only_loss: bool = field(
        default=False, metadata={"help": "Learn of raw rows with messages what the assistant says alone."}
    )
    packing: bool = field(
        default=False,
        metadata={"help": "Put several rows into one of up to `max_length` tokens; they do not see each other."},
    )
    packing_strategy: str = field(
        default="bfd",
        metadata={
            "help": "`bfd` cuts rows that are longer, `bfd_split` goes on with them in other rows, `wrapped` cuts all "
            "rows in a row into pieces, within which documents see each other.",
            "choices": ["bfd", "bfd_split", "wrapped"],
        },
    )
    eval_packing: bool | None = field(
        default=None, metadata={"help": "Pack evaluation datasets; as `packing` if not given."}
    )
    # What `trl.SFTConfig` names, and has no meaning here.
    padding_free: Annotated[
        bool, _only(False, "packing=True leaves the padding out, with any attention implementation.")
    ] = field(default=False, metadata={"help": NOT_TAKEN})
    loss_type: Annotated[str, _only("nll", "The losses are those of the method: leave it out.")] = field(
        default="nll", metadata={"help": NOT_TAKEN}
    )
    router_aux_loss_coef: Annotated[
        float, _only(None, "No family of masked models that is known here has experts to balance: leave it out.")
    ] = field(default=None, metadata={"help": NOT_TAKEN})
    activation_offloading: Annotated[bool, _only(False, "activation_checkpointing=True saves that memory.")] = field(
        default=False, metadata={"help": NOT_TAKEN}
    )
    pad_token: Annotated[str, _only(None, "Set tokenizer.pad_token, and pass the tokenizer as processing_class.")] = (
        field(default=None, metadata={"help": NOT_TAKEN})
    )
    tokenize_prompt_alone: bool = field(
        default=False,
        metadata={
            "help": "Tokenize a prompt that is text by itself, as a generation does, and its completion after it; by "
            "default they are one text, as for SFTTrainer, in which their last and first tokens may be one."
        },
    )
    learn_padding: bool = field(
        default=False,
        metadata={
            "help": "Fill shorter rows of a batch up with the eos, which is attended and learned, as LLaDA was "
            "fine-tuned: a model then ends its answer anywhere in a longer canvas."
        },
    )
    max_target_length: Positive | None = field(
        default=None,
        metadata={"help": "Learn the first so many tokens of those that a row has to learn; the rest is only seen."},
    )

    def to_json_string(self) -> str:
        """As the parent's, which is saved with models and logs, without tokens and without places on this machine."""
        return json.dumps(portable(json.loads(super().to_json_string())), indent=2)

    def __post_init__(self) -> None:
        if isinstance(self.lr_scheduler_kwargs, str):
            with contextlib.suppress(ValueError):  # what is no JSON is told with the rest
                self.lr_scheduler_kwargs = json.loads(self.lr_scheduler_kwargs)
        check_fields(self, INHERITED)
        check_names("key of dataset_kwargs", self.dataset_kwargs or (), ("skip_prepare_dataset",))
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith(LOWER_IS_BETTER):
            self.greater_is_better = False  # Trainer knows it of losses only
        super().__post_init__()
        if self.max_grad_norm is None:
            self.max_grad_norm = 0.0  # what Trainer takes for no clipping
        if self.min_timestep >= self.max_timestep:
            raise ValueError(f"min_timestep={self.min_timestep} must be below max_timestep={self.max_timestep}.")
        if self.packs(True) or self.packs(False):
            self.check_packing()

    def packs(self, is_training: bool) -> bool:
        """Whether rows are packed, of training or of evaluation."""
        return self.packing if is_training or self.eval_packing is None else self.eval_packing

    def check_packing(self) -> None:
        """Raise ValueError for arguments that contradict packing; let each process read its own part of a stream."""
        if self.max_length is None:
            raise ValueError("packing=True needs max_length, the tokens of a packed row.")
        if self.learn_padding:
            raise ValueError("learn_padding=True fills rows up, which packing=True leaves none of: choose one.")
        loading: Any = self.accelerator_config
        if loading.dispatch_batches:
            raise ValueError("dispatch_batches=True parts batches between processes, which packed ones do not allow.")
        loading.dispatch_batches = False


@dataclass
class QualityTrainingArguments(MaskedDiffusionTrainingArguments):
    """What the trainers of a quality head have in common."""

    draft_do_sample: bool = field(
        default=True, metadata={"help": "Draw the draft's tokens from the posterior, or take the likeliest."}
    )
    draft_top_p: PositiveFraction = field(
        default=1.0,
        metadata={"help": "Nucleus of the draft's draw: the fewest tokens that reach it."},
    )
    head_learning_rate: NotNegative | None = field(
        default=None, metadata={"help": "Peak learning rate of the quality head; learning_rate if not given."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ddp_find_unused_parameters is None:
            # The forward that DDP sees last has no decoder; a search would take its parameters for unused.
            self.ddp_find_unused_parameters = False


@dataclass
class TokenCriticTrainingArguments(QualityTrainingArguments):
    """Arguments of `TokenCriticTrainer`; `loss_normalizer="sequence"` has the published weights 1/t.

    Example:
        ```python
        args = TokenCriticTrainingArguments("runs/critic", max_steps=1000, draft_top_p=0.9)
        ```
    """


@dataclass
class PrismTrainingArguments(QualityTrainingArguments):
    """Arguments of `PrismTrainer`. The defaults are those published for LLaDA-8B, with a sampled, random draft.

    Example:
        ```python
        args = PrismTrainingArguments("runs/prism", max_steps=1000, num_draft_tokens=8, head_learning_rate=1e-3)
        ```
    """

    num_draft_tokens: Positive = field(default=8, metadata={"help": "K, masked positions that a draft fills."})
    num_drafts: Positive = field(default=1, metadata={"help": "Drafts made from one masked sequence."})
    draft_steps: Positive = field(
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
    draft_window: Positive = field(default=512, metadata={"help": "Leftmost masks that semi_autoregressive looks at."})
    unmasking_weight: NotNegative = field(
        default=0.5,
        metadata={
            "help": "lambda, weight of the unmasking loss that keeps the backbone's posterior. The loss counts tokens "
            "that may be masked: 81 of 89 in the Sudoku layout, where the authors count all: their 5 is our 4.55."
        },
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

    @property
    def trains_posterior(self) -> bool:
        """Whether the unmasking loss has a gradient."""
        return not self.freeze_backbone and self.unmasking_weight > 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draft_steps > self.num_draft_tokens:
            raise ValueError(
                f"draft_steps={self.draft_steps} is more than num_draft_tokens={self.num_draft_tokens}: "
                "a step fills a token at least."
            )


A = TypeVar("A", bound=MaskedDiffusionTrainingArguments)


def arguments_of(cls: type[A], args: TrainingArguments | None) -> A:
    """`args` as an instance of `cls`: what plain `TrainingArguments` lack gets our defaults.

    Raises TypeError for arguments of another trainer, and for what are no training arguments.
    """
    if args is None:
        return cls("trainer_output")
    if isinstance(args, cls):
        return args
    if not (isinstance(args, TrainingArguments) and issubclass(cls, type(args))):
        raise TypeError(f"args must be {cls.__name__} or plain TrainingArguments, got {type(args).__name__}.")
    return cls(**{field.name: vars(args)[field.name] for field in fields(args) if field.init})
