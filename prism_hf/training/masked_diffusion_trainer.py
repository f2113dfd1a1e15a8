"""Pre-training of a masked diffusion model.

Decisions that are not obvious from the code:

- A batch given to `training_step` by hand, of which the accumulation window is unknown, is taken for one of a window of
  batches like it; where that has several, a warning names `get_batch_samples`.
- The mask token has probability 0 in losses, drafts and samples alike (SUBS), so that training and sampling speak of
  the same distribution.
- A trainer leaves a `training_record` with its model, as transformers leaves `model_tags`, so that `model.push_to_hub`
  can write the card that `trainer.push_to_hub` writes.
- Families in which padding reaches real tokens (`reads_padding`) are trained as transformers reads them.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import AutoModelForMaskedLM, PreTrainedModel, TrainingArguments
from transformers.trainer_utils import EvalLoopOutput, has_length
from transformers.utils import logging

from prism_hf._compat import setting, unwrapped
from prism_hf.diffusion.drafting import exclude_token
from prism_hf.diffusion.losses import token_losses, weighted_sum
from prism_hf.hub import papers

from .arguments import MaskedDiffusionTrainingArguments, arguments_of
from .base_trainer import BaseTrainer
from .bound import Bound
from .data_preparation.collator import MaskedDiffusionCollator, checked_collator
from .data_preparation.datasets import first_rows, named_datasets, num_documents
from .data_preparation.loader_rows import num_new_rows, tell_fillers
from .data_preparation.preparation import DatasetPreparation
from .data_preparation.rows import COLUMNS, IGNORED, LENGTHS, row_reader_of, token_id
from .ema import EMACallback
from .finiteness import check_finite_step
from .masking import NOISED, Noised, Place, as_one_batch, mask_batch, number_rows
from .packing import PACKED, described_packing
from .randomness import EVALUATION, TRAIN
from .running_means import RunningMeans

logger = logging.get_logger(__name__)

GENERATIONS = "generations"  # the folder of what evaluations generate

T = TypeVar("T", torch.Tensor, float)  # of a loss: a tensor in a step, a number in what is logged


def end_with(model: Any, eos_token_id: int) -> None:
    """Let a model end its texts with this token too."""
    model.config.eos_token_id = eos_token_id
    config = setting(model, "generation_config")  # which not every masked model of transformers has
    if config is not None:
        others = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        config.eos_token_id = [eos_token_id, *(each for each in others if each not in (None, eos_token_id))]


class MaskedDiffusionTrainer(BaseTrainer):
    """Trains any masked language model as a masked diffusion model (MDLM, arXiv 2406.07524; LLaDA, arXiv 2502.09992).

    A row holds `input_ids` and, where it has padding, `attention_mask`. `maskable` says which of its tokens are to be
    learned, as opposed to prompts and separators; so do `completion_mask`, `assistant_masks` and `labels`, as TRL makes
    them. Where none of these is given, all tokens are learned but padding and special ones; see `RowReader` in
    `data_preparation`. Rows of `text`, `messages`, or `prompt` and `completion` are tokenized first, as TRL's
    `SFTTrainer` does. A `data_collator` of your own is given rows as they are, and gives the same columns, of a batch.

    A step is that of one large batch, however its rows are cut: its losses are divided by counts over the whole
    accumulation window and all processes, and all randomness comes from seed, step and the row's number, so a resumed
    run continues bit for bit. Rows that a loader doubles to fill a batch count nowhere. An evaluation is the same
    whatever the batch size and the number of processes; row b of n gets the time (u + b/n) mod 1.

    A loop of your own takes the batches of each step from `get_batch_samples` and gives them to `training_step`. A
    subclass whose `compute_loss` returns the mean of its batch sets `loss_is_scaled_for_ga = False`, as for `Trainer`.

    Metrics: `unmasking_loss`. What is logged of `loss` and its parts is the mean over the steps since the last log, so
    that the parts add up. An evaluation's are means over all of its terms, of `num_eval_masks` draws of each row. It
    has `perplexity` too, with the ends of a 95% interval `perplexity_low` and `perplexity_high`: exp of the bound on a
    token's negative log-likelihood in nats, whatever `loss_normalizer` says; not where `max_timestep` is below 1.

    `compute_metrics` and `predict` get logits (rows, L, V), without the mask token, and as labels (rows, L) the clean
    tokens; both are -100 where no token is masked. `preprocess_logits_for_metrics` can make them smaller. With
    `predict_with_generate` they get what is generated instead, see `generations`.

    Args:
        model (`PreTrainedModel` or `str`, *optional*): With `config.mask_token_id`, or a `processing_class` that names
            the mask token; or what `AutoModelForMaskedLM.from_pretrained` loads. If its class says
            `_supports_logit_positions`, logits are built at masked positions only. What `model_init` makes is treated
            alike, in each of its calls.
        args (`MaskedDiffusionTrainingArguments`, *optional*): Plain `transformers.TrainingArguments` are completed
            with our defaults.
        data_collator (`Callable`, *optional*): Makes batches of rows; [`MaskedDiffusionCollator`] if not given.
        train_dataset (`Dataset`, *optional*): The rows that are learned.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): The rows that are evaluated.
        processing_class (`PreTrainedTokenizerBase`, *optional*): Tokenizes raw rows, names special tokens, and is saved
            with the model. For raw rows it is looked for beside the model, if not given.
        *trainer_args, **kwargs: The other arguments of `Trainer`, in its order.
        quantization_config (`BitsAndBytesConfig`, *optional*): How a model that is given by name is quantized.
        peft_config (`PeftConfig`, *optional*): Wraps the model with PEFT.
        formatting_func (`Callable`, *optional*): Makes a text of a raw row.

    Raises:
        ValueError: if the mask token is unknown, the model of a family that nobody has described (`prism_hf.backbones`)
            or causal, or a dataset has rows that cannot be learned.
        TypeError: for arguments of another trainer.

    Example:
        ```python
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        from prism_hf import MaskedDiffusionTrainer, MaskedDiffusionTrainingArguments

        name = "answerdotai/ModernBERT-base"
        tokenizer = AutoTokenizer.from_pretrained(name)
        trainer = MaskedDiffusionTrainer(
            AutoModelForMaskedLM.from_pretrained(name),
            MaskedDiffusionTrainingArguments("runs/mdm", max_steps=1000, ema_decay=0.999),
            train_dataset=[tokenizer("A text."), tokenizer("Another, longer text.")],
            processing_class=tokenizer,
        )
        trainer.train()
        ```
    """

    args: MaskedDiffusionTrainingArguments
    arguments_class: ClassVar[type[MaskedDiffusionTrainingArguments]] = MaskedDiffusionTrainingArguments
    loss_is_scaled_for_ga = True
    _tag_names: ClassVar[tuple[str, ...]] = ("masked-diffusion",)
    _name = "MDLM"
    _paper = papers.MDLM

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Callable | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *trainer_args: Any,
        quantization_config: Any = None,
        peft_config: Any = None,
        formatting_func: Callable[[Mapping[str, Any]], str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.args = arguments_of(self.arguments_class, args)  # as `call_model_init` reads them in the parent's
        self.quantization_config, self.peft_config = quantization_config, peft_config
        if self.args.use_liger_kernel:
            from .liger import prepare_liger

            prepare_liger(self.args)
        if model is not None:
            model = self.prepared(model)
        # A collator of the user's own alone knows its rows.
        is_skipped = data_collator is not None or (self.args.dataset_kwargs or {}).get("skip_prepare_dataset", False)
        self.preparation = DatasetPreparation(self.args, processing_class, formatting_func, model, is_skipped)
        train_dataset = self.preparation(train_dataset, "train_dataset", is_training=True)
        eval_dataset = self.preparation.each(eval_dataset, "eval_dataset")
        processing_class = self.preparation.processing_class
        super().__init__(
            model, self.args, data_collator, train_dataset, eval_dataset, processing_class, *trainer_args, **kwargs
        )
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func would not be called, as the losses are those of the method: leave it out, or "
                f"override compute_loss in a subclass of {type(self).__name__}."
            )
        self.row_reader = row_reader_of(self.model, processing_class)
        self.mask_token_id = self.row_reader.mask_token_id
        datasets = named_datasets(train_dataset, eval_dataset)
        self.data_collator = checked_collator(data_collator, self.own_collator(), datasets)
        self.take_model()
        self.add_callbacks()
        # The losses and inputs of the step's batches so far.
        self.window: list[tuple[torch.Tensor, dict[str, Any]]] = []
        self.train_stream: Any = None  # a `ResumedStream`, of a stream that is trained on
        self.num_read = 0  # batches of the epoch so far
        self.num_alone = 0  # batches of which the window was unknown, so far
        # Rows of the evaluation so far, and in all, as far as that is known.
        self.num_evaluated = 0
        self.num_to_evaluate: int | None = None
        self.is_generating = False  # for `compute_metrics`, and not computing losses
        self.means = {True: RunningMeans(), False: RunningMeans()}  # of training, and of an evaluation
        self.bound = Bound()  # of an evaluation

    def add_callbacks(self) -> None:
        """Add those that the arguments ask for."""
        if self.args.ema_decay is not None:
            self.add_callback(EMACallback(self.args.ema_decay))
        if self.args.log_completions:
            from .log_completions import LogCompletionsCallback

            self.add_callback(LogCompletionsCallback(self))

    # Models

    def prepared(self, model: Any) -> Any:
        """What is trained of a model that was given, or that `model_init` made, before it is placed on a device."""
        settings = {"model_init_kwargs": self.args.model_init_kwargs, "quantization_config": self.quantization_config}
        if isinstance(model, str | os.PathLike):
            if self.quantization_config and "quantization_config" in (self.args.model_init_kwargs or ()):
                raise ValueError("quantization_config is in model_init_kwargs too: leave it out of one of them.")
            settings |= settings.pop("model_init_kwargs") or {}
            model = self.loaded(
                model, **{"dtype": "float32", "trust_remote_code": self.args.trust_remote_code} | settings
            )
        elif unread := " and ".join(name for name, value in settings.items() if value):
            logger.warning(f"{unread} are not read, as the model is given and not its name.")
        if self.peft_config is None:
            return model
        from .adapters import adapt

        return adapt(model, self.peft_config, self.args)

    def loaded(self, name: str | os.PathLike, **kwargs: Any) -> Any:
        """The model that was given by name."""
        import prism_hf.models  # noqa: F401  (tells transformers of them)

        return AutoModelForMaskedLM.from_pretrained(name, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        """As the parent's, with the model prepared as one that was given."""
        return self.prepared(super().call_model_init(trial))

    def take_model(self) -> None:
        """Set `self.model` up as the arguments say, and leave the record of the training with it."""
        from prism_hf.backbones import forward_parameters, takes_positions
        from prism_hf.generation.denoising.reading import family_of

        from .publishing import record_training

        inner = unwrapped(self.model)
        self.shifted_logits = family_of(inner).shifted_logits
        # A quality head is not run where nothing reads it.
        self.unread = {"return_quality": False} if "return_quality" in forward_parameters(inner) else {}
        self.keeps_logits = takes_positions(inner) and not self.shifted_logits
        if isinstance(inner, PreTrainedModel):
            inner.add_model_tags(list(self._tag_names))
        if self.args.packing or self.args.eval_packing:
            described_packing(self.model)
            if self.args.n_gpu > 1:
                raise ValueError("Packed rows are not shared by nn.DataParallel: start one process for each GPU.")
        if self.args.use_liger_kernel:
            from .liger import apply_liger

            apply_liger(self.model, self.args.liger_kernel_config)
        if self.args.eos_token is not None:
            end_with(inner, token_id(self.processing_class, "eos"))
        inner.training_record = record_training(self)

    def _hp_search_setup(self, trial: Any) -> None:
        """As the parent's, which sets a trial's arguments; `model_init` has made a new model before."""
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            self.take_model()

    # Rows and noise

    def own_collator(self) -> MaskedDiffusionCollator:
        """What makes batches where the user gives no collator."""
        learned_padding = token_id(self.processing_class, "eos") if self.args.learn_padding else None
        if self.args.learn_padding and learned_padding is None:
            raise ValueError("learn_padding=True needs a processing_class with an eos_token to fill rows up with.")
        return MaskedDiffusionCollator(
            token_id(self.processing_class, "pad"),
            self.row_reader,
            learned_padding,
            max_length=self.args.max_length,
            pad_to_multiple_of=self.args.pad_to_multiple_of or 1,
            max_target_length=self.args.max_target_length,
        )

    def _set_signature_columns_if_needed(self) -> None:
        """As the parent's: `remove_unused_columns` leaves what `RowReader` reads."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            known: Any = self._signature_columns
            known += [name for name in (*COLUMNS, LENGTHS) if name not in known]

    def _resumed(self, dataset: Any) -> Any:
        """The stream as one that goes on where a checkpoint left it, where it has a state and this process reads it."""
        from .data_preparation.resumed_stream import ResumedStream, Stateful

        if not isinstance(dataset, Stateful):
            return dataset
        if self.args.dataloader_num_workers:
            logger.warning(
                f"dataloader_num_workers={self.args.dataloader_num_workers} keep the state of a stream to themselves: "
                "resumed with ignore_data_skip=True, it is read from its start. Set dataloader_num_workers=0."
            )
            return dataset
        world = 1 if self.accelerator.split_batches else self.args.world_size
        self.train_stream = ResumedStream(dataset, self._train_batch_size * world)
        return self.train_stream

    def _get_dataloader(self, dataset: Any, *args: Any, is_training: bool = False, **kwargs: Any) -> DataLoader:
        """As the parent's; `dataloader_drop_last` holds for training, as an evaluation is of all its rows."""
        if not is_training:  # given to `evaluate` or `predict`
            dataset = self.preparation(dataset, "the dataset")
        elif self.args.ignore_data_skip and not has_length(dataset):
            dataset = self._resumed(dataset)
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            loader = super()._get_dataloader(dataset, *args, **kwargs | {"is_training": is_training})
        finally:
            self.args.dataloader_drop_last = drop_last
        tell_fillers(loader)
        return loader

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """As the parent's; a stream that keeps its state is taken to where it was."""
        self.forget_metrics(training=True)
        checkpoint = args[3]
        started = super()._init_training_state(*args, **kwargs)
        if checkpoint is not None and self.train_stream is not None:
            self.train_stream.restore(checkpoint)
        return started

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As the parent's, with its batches counted."""
        self.num_read = 0
        super()._run_epoch(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        """As the parent's, with where the stream is."""
        super()._save_rng_state(output_dir)
        if self.train_stream is not None and self.args.should_save:
            self.train_stream.save(output_dir, self.num_read)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler | None:
        """In order: the number of a row, on which its draws depend, must not depend on the batch size."""
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """As the parent's; each batch comes with its noise, and the denominators of the whole accumulation window.

        Where a stream ends within a window, batches of which no row counts fill it up: without them there would be no
        optimiser step, and the gradients would go into the next epoch's first one.
        """
        self.window, batches, num_new = [], [], []
        for batch in islice(epoch_iterator, num_batches):
            num_new.append(self.num_new_rows(batch))
            batches.append(self._prepare_inputs(batch))
        if not batches:
            return [], None
        self.num_read += len(batches)
        missing = num_batches - len(batches)
        batches += missing * batches[-1:]
        noised = self.noise(batches, num_new + missing * [0], training=True)
        return [{**batch, NOISED: noise} for batch, noise in zip(batches, noised, strict=True)], None

    def num_new_rows(self, batch: dict[str, torch.Tensor]) -> int:
        """How many rows of the batch that was read last are no doubles; the doubles come behind them."""
        return num_new_rows(self.accelerator.gradient_state.active_dataloader, batch, self.args.process_index)

    def noise(self, batches: list[dict[str, torch.Tensor]], num_new: list[int], training: bool) -> list[Noised]:
        """Mask the batches of one accumulation window; or one batch of an evaluation, as often as it is given.

        `num_new`: how many rows of each batch count; they come first.
        """
        if training:
            first_rows, num_rows = number_rows(num_new, self.accelerator)
            places = [Place(TRAIN, self.state.global_step, first, num_rows) for first in first_rows]
        else:
            (first,), num_rows = number_rows(num_new[:1], self.accelerator)
            place = Place(EVALUATION, 0, self.num_evaluated + first, self.num_to_evaluate)
            places = [replace(place, draw=draw, num_draws=len(batches)) for draw in range(len(batches))]
            self.num_evaluated += num_rows
        noised = [self.masked_at(*each) for each in zip(batches, places, num_new, strict=True)]
        return as_one_batch(noised, self.accelerator) if training else noised

    def masked_at(self, batch: dict[str, torch.Tensor], place: Place, num_new: int) -> Noised:
        """A batch masked as its place in a step, or in an evaluation, has it; the first `num_new` rows count."""
        if "maskable" not in batch:  # of a caller's own; a collator gives it
            batch = self.row_reader(batch)
        draws, counts = self.drafting_draws, self.loss_counts
        return mask_batch(batch, place, num_new, self.args, self.mask_token_id, draws, counts)

    @property
    def drafting_draws(self) -> int:
        """Uniform draws a position that drafts need."""
        return 0

    def loss_counts(self, masked: torch.Tensor, maskable: torch.Tensor, num_rows: int) -> dict[str, torch.Tensor]:
        """By the name of each loss, the number of terms that it is a mean of. `masked`, `maskable` (B, L) bool.

        `num_rows` of the B rows are new; in the others nothing is maskable.
        """
        return {"unmasking_loss": self.num_learned(masked, maskable)}

    def num_learned(self, masked: torch.Tensor, maskable: torch.Tensor) -> torch.Tensor:
        return (maskable if self.args.loss_normalizer == "sequence" else masked).sum()

    def noised(self, inputs: dict[str, Any], training: bool) -> Noised:
        """The noise that a batch came with; that of a window of its own if it came from elsewhere."""
        if NOISED in inputs:
            return inputs[NOISED]
        return self.noise([inputs], [len(inputs["input_ids"])], training)[0]

    def noised_alone(self, inputs: dict[str, torch.Tensor]) -> Noised:
        """The noise of a batch of which the window is unknown: of the next place in a window of batches like it."""
        num_batches = self.args.gradient_accumulation_steps
        if num_batches > 1:
            logger.warning_once(
                f"A batch of a step of {num_batches} is trained on without the others: if they differ in rows or "
                "tokens, the step is not that of one large batch. Take the batches from "
                f"trainer.get_batch_samples(iterator, {num_batches}, device), which knows the whole step."
            )
        place, self.num_alone = self.num_alone % num_batches, self.num_alone + 1
        inputs = self._prepare_inputs(inputs)
        return self.noise(num_batches * [inputs], num_batches * [len(inputs["input_ids"])], training=True)[place]

    # Steps

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """As the parent's; a batch not from `get_batch_samples` is taken for one of a step of batches like it."""
        if NOISED not in inputs:
            return super().training_step(model, {**inputs, NOISED: self.noised_alone(inputs)}, num_items_in_batch)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.window.append((loss, inputs))
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The unmasking loss of a batch: its share of the accumulation window's, or its own in an evaluation.

        Draws depend on the state of training only.
        """
        noised = self.noised(inputs, model.training)
        kwargs = self.unread | ({"logits_to_keep": noised.rows.places(noised.masked)} if self.keeps_logits else {})
        outputs = model(**noised.rows.inputs(noised.z, self.model), **kwargs)
        logits = exclude_token(self.masked_logits(outputs, noised).float(), self.mask_token_id)
        losses = token_losses(logits, noised.targets)
        loss = weighted_sum(losses, noised.weights) / noised.denominators["unmasking_loss"]
        self.add_losses(model.training, noised, {"unmasking_loss": loss}, losses)
        return (loss, outputs) if return_outputs else loss

    def masked_logits(self, outputs: Any, noised: Noised) -> torch.Tensor:
        """The logits (N, V) of the masked positions."""
        if self.keeps_logits:
            return outputs.logits
        from prism_hf.generation.denoising.reading import logits_of

        return logits_of(outputs.logits, noised.rows.places(noised.masked), self.shifted_logits)

    def total_loss(self, losses: Mapping[str, T]) -> T:
        """The loss, from its parts by name."""
        return losses["unmasking_loss"]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As the parent's; with `use_muon`, the hidden layers' matrices go to Muon."""
        if self.optimizer is None and self.args.use_muon:
            from .muon import muon_with_adamw

            trained = self.model if model is None else model
            self.optimizer = muon_with_adamw(trained, self.get_decay_parameter_names(trained), self.args)
        return super().create_optimizer(model)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """As the parent's, which asks for it before each optimiser step.

        Raises:
            FloatingPointError: if the norm or a loss is not finite. In float16 a gradient scaler, which there is on a
                GPU only, skips a step whose gradients are not.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        window, self.window = self.window, []
        in_float16 = self.accelerator.mixed_precision == "fp16"
        is_scaled = self.accelerator.scaler is not None or (in_float16 and self.is_deepspeed_enabled)
        check_finite_step(window, grad_norm, not is_scaled, self.args, self.state.global_step)
        return grad_norm

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, Any, Any]:
        num_new, before = self.num_new_rows(inputs), self.num_evaluated
        inputs = self._prepare_inputs(inputs)
        if self.is_generating:
            (first_row,), num_rows = number_rows([num_new], self.accelerator)
            self.num_evaluated += num_rows
        else:
            draws = self.args.num_eval_masks
            noised = self.noise(draws * [inputs], draws * [num_new], training=False)
        loader = self.accelerator.gradient_state.active_dataloader
        if loader is not None and loader.end_of_dataloader:
            # What Accelerate's gather_for_metrics keeps; it does not know it of a stream that each process reads.
            loader.remainder = self.num_evaluated - before
        if PACKED in inputs and not prediction_loss_only and self.args.world_size > 1:
            raise ValueError(
                "Predictions of packed rows cannot be gathered from several processes, which have different numbers of "
                "documents: set eval_packing=False."
            )
        with torch.no_grad(), self.compute_loss_context_manager():
            if self.is_generating:
                return None, *self.generations(inputs, before, first_row)
            loss, outputs = self.compute_loss(model, {**inputs, NOISED: noised[0]}, return_outputs=True)
            predictions = (None, None) if prediction_loss_only else self.predictions(noised[0], outputs)
            losses = [loss, *(self.compute_loss(model, {**inputs, NOISED: again}) for again in noised[1:])]
            self.bound.end_batch(noised[0].row_tokens)
        return torch.stack(losses).mean().detach(), *predictions

    @torch.no_grad()
    def bound_sums(self, rows: list[dict[str, Any]], first_row: int, num_rows: int | None) -> list[float]:
        """The six sums over rows that `bound.perplexity` makes the perplexity of, computed by this process alone.

        Args:
            rows (`list[dict]`): Some of an evaluation's, as `eval_dataset` holds them.
            first_row (`int`): The number of the first, on which the masks depend.
            num_rows (`int`, *optional*): How many rows the evaluation has; None of a stream.
        """
        self.model.eval()
        self.forget_metrics(training=False)
        batch, num_draws = self._prepare_inputs(self.data_collator(rows)), self.args.num_eval_masks
        with self.compute_loss_context_manager():
            for draw in range(num_draws):
                place = Place(EVALUATION, 0, first_row, num_rows, draw, num_draws)
                noised = self.masked_at(batch, place, len(rows))
                self.compute_loss(self.model, {**batch, NOISED: noised})
        self.bound.end_batch(noised.row_tokens)
        sums = torch.as_tensor(self.bound.sums).tolist()
        self.forget_metrics(training=False)
        return sums

    def predictions(self, noised: Noised, outputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """What `compute_metrics` and `predict` get of a batch.

        Returns:
            logits (B, L, V), those that the loss reads, and labels (B, L), the clean tokens; both are -100 where no
            token is masked.
        """
        logits = exclude_token(self.masked_logits(outputs, noised), self.mask_token_id)
        everywhere = logits.new_full((*noised.masked.shape, logits.shape[-1]), IGNORED)
        everywhere[noised.masked] = logits
        return everywhere, torch.full_like(noised.z, IGNORED).masked_scatter(noised.masked, noised.targets)

    # Generations

    @property
    def generator(self) -> tuple[Any, dict[str, Any]]:
        """The model that generates in an evaluation, and what `remask_generate` is told beside its own settings."""
        return self.model, {"mask_token_id": self.mask_token_id}

    def generations(
        self, inputs: dict[str, torch.Tensor], first_of_step: int, first_row: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `compute_metrics` and `predict` get of a batch with `predict_with_generate`.

        Args:
            inputs (`dict[str, torch.Tensor]`): The batch.
            first_of_step (`int`): The number of the first row of all processes' batches.
            first_row (`int`): That of this batch's.

        Returns:
            the rows (B, L) with their tokens to learn generated anew, -100 at padding, and labels (B, L), the tokens
            that were there and -100 where none was to be generated.
        """
        from .generating import fill_rows

        batch = inputs if "maskable" in inputs else self.row_reader(inputs)
        return fill_rows(self, batch, first_of_step, first_row)

    # Metrics

    def add_losses(
        self, training: bool, noised: Noised, losses: dict[str, torch.Tensor], of_tokens: torch.Tensor | None = None
    ) -> None:
        """Add a batch's losses to their means: of training over optimiser steps, of an evaluation over all terms.

        `of_tokens`: the cross-entropies (N,) of the masked tokens, of which an evaluation makes the bound.
        """
        if of_tokens is not None and not training and self.args.max_timestep == 1:
            self.bound.add_draw(noised, of_tokens)
        for name, loss in losses.items():
            if training:
                self.means[True].add(name, loss, torch.full_like(loss, noised.begins_step))
            else:
                self.means[False].add(name, loss * noised.denominators[name], noised.counts[name])

    def pop_metrics(self, training: bool) -> dict[str, float]:
        """The metrics since the last call, over all processes."""
        means = self.means[training].pop(self.accelerator)
        return means if training else means | self.bound.pop(self.accelerator)

    def forget_metrics(self, training: bool) -> None:
        """Drop what was added to the metrics since they were logged, by a run that has ended say."""
        self.means[training].clear()
        if not training:
            self.bound.clear()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.pop_metrics(training=True)
        evaluated = {name: value for name, value in logs.items() if name.startswith("eval_")}
        if evaluated:
            unwrapped(self.model).training_record.metrics |= evaluated
        super().log(logs, start_time)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As the parent's; with `predict_with_generate`, in two passes: for the loss, and to generate.

        What was generated is kept in `generations` of the output folder, by the metrics' prefix and the step.
        """
        dataset = dataloader.dataset
        self.num_evaluated, self.num_to_evaluate = 0, num_documents(dataset)
        self.forget_metrics(training=False)
        if prediction_loss_only is None:
            prediction_loss_only = self.args.prediction_loss_only
        generates = self.args.predict_with_generate and not prediction_loss_only
        rest = (ignore_keys, metric_key_prefix)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only or generates, *rest)
        has_parts = bool(self.means[False].totals)  # which a subclass with a loss of its own has not
        metrics = self.pop_metrics(training=False)
        if has_parts:
            # A part of which there was no term has no mean.
            metrics["loss"] = self.total_loss(defaultdict(lambda: math.nan, metrics))
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        if not generates:
            return output
        if self.args.num_eval_generations is not None:
            dataloader = self.get_test_dataloader(first_rows(dataset, self.args.num_eval_generations))
        self.num_evaluated, self.is_generating = 0, True
        try:
            generated = super().evaluation_loop(dataloader, description, False, *rest)
        finally:
            self.is_generating = False
        is_whole = self.preprocess_logits_for_metrics is None and not self.args.batch_eval_metrics
        if is_whole and self.is_world_process_zero():
            from .generating import keep_generations

            file = Path(self.args.output_dir) / GENERATIONS / f"{metric_key_prefix}-{self.state.global_step}.jsonl"
            keep_generations(self, generated.predictions, generated.label_ids, file)
        return generated._replace(metrics=output.metrics | generated.metrics, num_samples=output.num_samples)
