"""Pre-training of a masked diffusion model."""

import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from huggingface_hub import upload_folder
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, IterableDataset, Sampler, SequentialSampler
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy, has_length
from transformers.utils import logging
from transformers.utils.hub import PushInProgress

from prism_hf.backbones import takes_positions
from prism_hf.diffusion.drafting import exclude_token
from prism_hf.diffusion.losses import unmasking_loss
from prism_hf.diffusion.noising import mask_tokens
from prism_hf.diffusion.schedules import SCHEDULES, antithetic_timesteps
from prism_hf.generation.denoising.canvas import longest_canvas, vocabulary_size
from prism_hf.generation.denoising.reading import family_of, logits_of
from prism_hf.hub import TrainingRecord, papers, unwrapped, write_card, write_files
from prism_hf.jobs.output_lock import output_lock
from prism_hf.models.checkpoint.loading import naming_damage

from .arguments import MaskedDiffusionTrainingArguments, arguments_of
from .checkpoints import (
    STATES,
    WEIGHTS,
    hide_best_path,
    last_checkpoint,
    missing_parts,
    remove_leftovers,
    rng_state_file,
    rotate_checkpoints,
    staged,
)
from .data_preparation.collator import MaskedDiffusionCollator, ReadCollator, check_dataset, first_row
from .data_preparation.loader_rows import num_new_rows, tell_fillers
from .data_preparation.rows import COLUMNS, IGNORED, RowReader, unlearned_ids
from .ema import EMA_FILE, EMACallback
from .muon import MuonWithAdamW, hidden_matrices
from .randomness import EVALUATION, TRAIN, row_uniforms, step_uniform

logger = logging.get_logger(__name__)

T = TypeVar("T")  # of a loss: a tensor in a step, a number in what is logged

# Names that tell a reader nothing: of what `datasets` read from local files or made in memory, and of Python's types.
UNNAMED_DATASETS = (None, "csv", "json", "parquet", "text", "arrow", "generator", "list", "Dataset", "TensorDataset")

# What a checkpoint holds beside the model: of training, and of sharded engines.
STATE_FILES = (
    "trainer_state.json", "optimizer*", "scheduler.pt", "scaler.pt", "rng_state*", EMA_FILE, "*_fsdp*", "global_step*",
    "latest", "zero_to_fp32.py",
)  # fmt: skip

# The key under which a batch holds its `Noised`, once the whole accumulation window is known.
NOISED = "noised"


@dataclass(frozen=True)
class Noised:
    """A batch after the forward process.

    z (B, L): masked sequences. masked (B, L) bool, nowhere in a row that the loader doubled. targets (N,): clean tokens
    at masked positions. weights (N,) or None: of the unmasking loss. uniform (B, draws, L) float64: draws left for the
    drafts. counts: by the name of a loss, how many terms of this batch it is a mean of. denominators: what divides
    their sum. begins_step: whether the batch is the first of an optimiser step.
    """

    z: torch.Tensor
    masked: torch.Tensor
    attention_mask: torch.Tensor | None
    targets: torch.Tensor
    weights: torch.Tensor | None
    uniform: torch.Tensor
    counts: dict[str, torch.Tensor]
    denominators: dict[str, torch.Tensor]
    begins_step: bool = True


def dataset_name(dataset) -> str | None:
    """What a reader calls the dataset, as far as it tells: `datasets`' name for it, or its class."""
    info = getattr(dataset, "info", None)
    name = type(dataset).__name__ if info is None else info.dataset_name
    return None if dataset is None or name in UNNAMED_DATASETS else name


def row_length(dataset) -> int | None:
    """Tokens in the first row, where looking at it does not consume it and it has been tokenized."""
    row = first_row(dataset)
    return len(row["input_ids"]) if isinstance(row, Mapping) and "input_ids" in row else None


def named_datasets(train_dataset, eval_dataset) -> dict[str, Any]:
    """The datasets of a trainer, of which evaluation may have several, by what they are called to the user."""
    several = eval_dataset if isinstance(eval_dataset, Mapping) else {}
    named = {f"eval_dataset[{name!r}]": dataset for name, dataset in several.items()} or {"eval_dataset": eval_dataset}
    return {"train_dataset": train_dataset} | named


def mask_token_id_of(model, processing_class) -> int:
    """The mask token of a model, or else of its tokenizer.

    Raises ValueError if neither names one; where the two differ, a warning tells it.
    """
    own = getattr(model.config, "mask_token_id", None)
    named = getattr(processing_class, "mask_token_id", None)
    if own is None and named is None:
        raise ValueError(
            "The mask token is unknown: set model.config.mask_token_id, or pass a processing_class with a mask token "
            "(tokenizer.add_special_tokens({'mask_token': ...}))."
        )
    if None not in (own, named) and own != named:
        logger.warning(
            f"The mask token is {own} for the model (config.mask_token_id), and {named} for the tokenizer: {own} is "
            f"taken. If the tokenizer is right, set model.config.mask_token_id = {named}."
        )
    return named if own is None else own


class MaskedDiffusionTrainer(Trainer):
    """Trains any masked language model as a masked diffusion model (MDLM, arXiv 2406.07524; LLaDA, arXiv 2502.09992).

    A row holds `input_ids` and, where it has padding, `attention_mask`. `maskable` says which of its tokens are to be
    learned, as opposed to prompts and separators; so do `completion_mask`, `assistant_masks` and `labels`, as TRL makes
    them. Where none of these is given, all tokens are learned but padding and special ones; see `rows.RowReader`. A
    `data_collator` of your own gives the same columns, of a batch.

    A step is that of one large batch, however its rows are cut: its losses are divided by counts over the whole
    accumulation window and all processes, and all randomness comes from seed, step and the row's number, so a resumed
    run continues bit for bit. Rows that a loader doubles to fill a batch count nowhere. An evaluation is the same
    whatever the batch size and the number of processes; row b of n gets the time (u + b/n) mod 1.

    A loop of your own takes the batches of each step from `get_batch_samples` and gives them to `training_step`. A
    subclass whose `compute_loss` returns the mean of its batch sets `loss_is_scaled_for_ga = False`, as for `Trainer`.

    Metrics: `unmasking_loss`. What is logged of `loss` and its parts is the mean over the steps since the last log, so
    that the parts add up. An evaluation's are means over all of its terms.

    `compute_metrics` and `predict` get logits (rows, L, V), without the mask token, and as labels (rows, L) the clean
    tokens; both are -100 where no token is masked. `preprocess_logits_for_metrics` can make them smaller.

    Args:
        model: with `config.mask_token_id`, or a `processing_class` that names the mask token; or what
            `AutoModelForMaskedLM.from_pretrained` loads. If `forward` takes a boolean `logits_to_keep` (B, L), logits
            are built at masked positions only. What `model_init` makes is treated alike, in each of its calls.
        args: plain `transformers.TrainingArguments` are completed with our defaults.

    Other arguments, and their order, are those of `Trainer`.

    Raises:
        ValueError: if the mask token is unknown, the model of a family that nobody has described (`prism_hf.backbones`)
            or causal, or a dataset has rows that cannot be learned.
        TypeError: for arguments of another trainer.
    """

    arguments_class = MaskedDiffusionTrainingArguments
    loss_is_scaled_for_ga = True
    _tag_names = ("masked-diffusion",)
    _name = "MDLM"
    _paper = papers.MDLM

    def __init__(
        self,
        model=None,
        args: MaskedDiffusionTrainingArguments | None = None,
        data_collator=None,
        train_dataset=None,
        eval_dataset=None,
        processing_class=None,
        *trainer_args,
        **kwargs,
    ):
        args = arguments_of(self.arguments_class, args)
        self.args = args  # which `call_model_init` needs within the parent's __init__
        if model is not None:
            model = self.prepared(model)
        super().__init__(
            model, args, data_collator, train_dataset, eval_dataset, processing_class, *trainer_args, **kwargs
        )
        if self.compute_loss_func is not None:
            raise ValueError(
                "compute_loss_func would not be called, as the losses are those of the method: leave it out, or "
                f"override compute_loss in a subclass of {type(self).__name__}."
            )
        self.mask_token_id = mask_token_id_of(self.model, processing_class)
        self.row_reader = RowReader(
            self.mask_token_id,
            vocabulary_size(self.model),
            unlearned_ids(processing_class),
            longest_canvas(unwrapped(self.model)),
        )
        datasets = named_datasets(train_dataset, eval_dataset)
        for name, dataset in datasets.items():
            check_dataset(dataset, name)
        if data_collator is None:
            pad_token_id = getattr(processing_class, "pad_token_id", None)
            self.data_collator = MaskedDiffusionCollator(pad_token_id, self.row_reader)
            for name, dataset in datasets.items():
                self.data_collator.check(dataset, name)
        else:
            self.data_collator = ReadCollator(data_collator, self.row_reader)
        if args.ema_decay is not None:
            self.add_callback(EMACallback(args.ema_decay))
        self.take_model()
        # The losses and inputs of the step's batches so far.
        self.window: list[tuple[torch.Tensor, dict[str, Any]]] = []
        self.num_alone = 0  # batches of which the window was unknown, so far
        # Rows of the evaluation so far, and in all, as far as that is known.
        self.num_evaluated, self.num_to_evaluate = 0, None
        self.totals = {True: defaultdict(lambda: 0), False: defaultdict(lambda: 0)}

    # Models

    def prepared(self, model):
        """What is trained of a model that was given, or that `model_init` made, before it is placed on a device."""
        return AutoModelForMaskedLM.from_pretrained(model) if isinstance(model, str | os.PathLike) else model

    def call_model_init(self, trial=None):
        """As the parent's, with the model prepared as one that was given."""
        return self.prepared(super().call_model_init(trial))

    def take_model(self) -> None:
        """Set `self.model` up as the arguments say, and leave the record of the training with it."""
        inner = unwrapped(self.model)
        self.shifted_logits = family_of(inner).shifted_logits
        self.keeps_logits = takes_positions(inner) and not self.shifted_logits
        if hasattr(self.model, "add_model_tags"):
            self.model.add_model_tags(list(self._tag_names))
        inner.training_record = TrainingRecord(
            json.loads(self.args.to_json_string()),
            self.mask_token_id,
            self.processing_class,
            dataset_name(self.train_dataset),
            row_length(self.train_dataset),
            method=self._name,
            paper=self._paper,
        )

    def _hp_search_setup(self, trial) -> None:
        """As the parent's, which sets a trial's arguments; `model_init` has made a new model before."""
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            self.take_model()

    def _set_signature_columns_if_needed(self) -> None:
        """As the parent's: `remove_unused_columns` leaves what `RowReader` reads."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += [name for name in COLUMNS if name not in self._signature_columns]

    # Rows and noise

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

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device):
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
        missing = num_batches - len(batches)
        noised = self.noise(batches + missing * batches[-1:], num_new + missing * [0], training=True)
        batches += missing * batches[-1:]
        return [{**batch, NOISED: noise} for batch, noise in zip(batches, noised, strict=True)], None

    def num_new_rows(self, batch: dict[str, torch.Tensor]) -> int:
        """How many rows of the batch that was read last are no doubles; the doubles come behind them."""
        return num_new_rows(self.accelerator.gradient_state.active_dataloader, batch, self.args.process_index)

    def number_rows(self, num_new: list[int]) -> tuple[list[int], int]:
        """For each batch of this process, the number of its first row in the global batch; and how many rows that has.

        The global batch has all batches of all processes, in the order in which Accelerate deals rows: by batch, then
        by process.
        """
        counts = torch.tensor([num_new])
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts.to(self.args.device)).cpu()
        counts = counts.T
        first = (counts.flatten().cumsum(0) - counts.flatten()).view_as(counts)
        return first[:, self.args.process_index].tolist(), int(counts.sum())

    def noise(self, batches: list[dict[str, torch.Tensor]], num_new: list[int], training: bool) -> list[Noised]:
        """Mask the batches of one accumulation window, or of one step of an evaluation.

        Args:
            num_new: how many rows of each batch count; they come first.
        """
        first_rows, num_rows = self.number_rows(num_new)
        if training:
            stream, step, total = TRAIN, self.state.global_step, num_rows
        else:
            first_rows = [self.num_evaluated + first for first in first_rows]
            self.num_evaluated += num_rows
            stream, step, total = EVALUATION, 0, self.num_to_evaluate
        noised = [
            self.noise_batch(batch, first, new, stream, step, total)
            for batch, first, new in zip(batches, first_rows, num_new, strict=True)
        ]
        if not training:
            return noised
        # The mean over processes of their losses is then the loss of the global batch.
        sums = sum(torch.stack(list(noise.counts.values())) for noise in noised)
        sums = self.accelerator.reduce(sums, "sum").clamp(min=1) / self.args.world_size
        denominators = dict(zip(noised[0].counts, sums, strict=True))
        return [replace(noise, denominators=denominators, begins_step=noise is noised[0]) for noise in noised]

    def noise_batch(
        self, inputs: dict[str, torch.Tensor], first_row: int, num_new: int, stream: int, step: int, total: int | None
    ) -> Noised:
        """Mask a batch, from draws that depend on seed, stream, step and row only."""
        if "maskable" not in inputs:  # of a caller's own; a collator gives it
            inputs = self.row_reader(inputs)
        args, input_ids, attention_mask = self.args, inputs["input_ids"], inputs.get("attention_mask")
        maskable = inputs["maskable"].bool()
        if attention_mask is not None:
            maskable = maskable & attention_mask.bool()
        if num_new < len(input_ids):
            maskable = maskable & (torch.arange(len(input_ids), device=maskable.device) < num_new)[:, None]
        rows = range(first_row, first_row + len(input_ids))
        seed = args.seed if args.data_seed is None else args.data_seed
        t = antithetic_timesteps(
            step_uniform(seed, stream, step), torch.tensor(rows), total, args.min_timestep, args.max_timestep
        ).to(input_ids.device)
        uniform = row_uniforms(seed, stream, step, rows, 1 + self.drafting_draws, input_ids.shape[1])
        uniform = uniform.to(input_ids.device)
        alpha, alpha_derivative = SCHEDULES[args.noise_schedule]
        z, masked = mask_tokens(input_ids, 1 - alpha(t), self.mask_token_id, uniform[:, 0], maskable)
        weights = None
        if args.loss_normalizer == "sequence":
            weights = (-alpha_derivative(t) / (1 - alpha(t))).float()[:, None].expand_as(masked)[masked]
        counts = self.loss_counts(masked, maskable, num_new)
        denominators = {name: count.clamp(min=1).float() for name, count in counts.items()}
        return Noised(z, masked, attention_mask, input_ids[masked], weights, uniform[:, 1:], counts, denominators)

    def noised(self, inputs: dict[str, torch.Tensor], training: bool) -> Noised:
        """The noise that a batch came with; that of a window of its own if it came from elsewhere."""
        return inputs[NOISED] if NOISED in inputs else self.noise([inputs], [len(inputs["input_ids"])], training)[0]

    def _get_dataloader(self, *args, is_training: bool = False, **kwargs) -> DataLoader:
        """As the parent's; `dataloader_drop_last` holds for training, as an evaluation is of all its rows."""
        drop_last = self.args.dataloader_drop_last
        self.args.dataloader_drop_last = drop_last and is_training
        try:
            loader = super()._get_dataloader(*args, is_training=is_training, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        tell_fillers(loader)
        return loader

    def _get_eval_sampler(self, eval_dataset) -> Sampler | None:
        """In order: the number of a row, on which its draws depend, must not depend on the batch size."""
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    # Loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The unmasking loss of a batch: its share of the accumulation window's, or its own in an evaluation.

        Draws depend on the state of training only.
        """
        noised = self.noised(inputs, model.training)
        kwargs = {"logits_to_keep": noised.masked} if self.keeps_logits else {}
        outputs = model(input_ids=noised.z, attention_mask=noised.attention_mask, **kwargs)
        logits = exclude_token(self.masked_logits(outputs, noised).float(), self.mask_token_id)
        loss = unmasking_loss(logits, noised.targets, noised.weights, noised.denominators["unmasking_loss"])
        self.add_losses(model.training, noised, {"unmasking_loss": loss})
        return (loss, outputs) if return_outputs else loss

    def masked_logits(self, outputs, noised: Noised) -> torch.Tensor:
        """The logits (N, V) of the masked positions."""
        if self.keeps_logits:
            return outputs.logits
        return logits_of(outputs.logits, noised.masked, self.shifted_logits)

    def total_loss(self, losses: Mapping[str, T]) -> T:
        """The loss, from its parts by name."""
        return losses["unmasking_loss"]

    def create_optimizer(self, model=None):
        """As the parent's; with `use_muon`, the hidden layers' matrices go to Muon."""
        if self.optimizer is None and self.args.use_muon:
            trained = self.model if model is None else model
            matrices, decays = hidden_matrices(trained), self.get_decay_parameter_names(trained)
            own = {id(parameter) for parameter in matrices}
            rest = [(n, p) for n, p in trained.named_parameters() if p.requires_grad and id(p) not in own]
            groups = [
                {"params": matrices, "muon": True, "weight_decay": self.args.weight_decay},
                {"params": [p for n, p in rest if n in decays], "weight_decay": self.args.weight_decay},
                {"params": [p for n, p in rest if n not in decays], "weight_decay": 0.0},
            ]
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            self.optimizer = MuonWithAdamW(groups, self.args.learning_rate, betas=betas, eps=self.args.adam_epsilon)
        return super().create_optimizer(model)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As the parent's; a batch not from `get_batch_samples` is taken for one of a step of batches like it."""
        if NOISED not in inputs:
            return super().training_step(model, {**inputs, NOISED: self.noised_alone(inputs)}, num_items_in_batch)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.window.append((loss, inputs))
        return loss

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

    def _get_grad_norm(self, model, grad_norm=None):
        """As the parent's, which asks for it before each optimiser step.

        Raises:
            FloatingPointError: if the norm or a loss is not finite. In float16 a gradient scaler, which there is on a
                GPU only, skips a step whose gradients are not.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        window, self.window = self.window, []
        losses = torch.stack([loss for loss, _ in window]).float()
        watched = losses.sum()
        in_float16 = self.accelerator.mixed_precision == "fp16"
        is_scaled = self.accelerator.scaler is not None or (in_float16 and self.is_deepspeed_enabled)
        if grad_norm is not None and not is_scaled:
            norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm
            watched = watched + torch.as_tensor(norm, device=losses.device)
        if not torch.isfinite(watched):
            self.stop_at(losses.tolist(), grad_norm, [inputs for _, inputs in window])
        return grad_norm

    def stop_at(self, losses: list[float], grad_norm, batches: list[dict[str, torch.Tensor]]) -> None:
        """Write the batch whose loss is not finite, or else all of the step, beside the checkpoints, and raise."""
        bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)][:1]
        what = f"loss is {losses[bad[0]]}" if bad else f"gradient norm is {float(grad_norm)}"
        step, process = self.state.global_step, self.args.process_index
        at = f"step {step}, {f'batch {bad[0]}, ' if bad else ''}process {process}"
        os.makedirs(self.args.output_dir, exist_ok=True)

        def path_of(number: int | str) -> str:
            name = f"nonfinite-step-{step}-batch-{number}-process-{process}.safetensors"
            return os.path.join(self.args.output_dir, name)

        for number in bad or range(len(batches)):
            tensors = {key: value for key, value in batches[number].items() if isinstance(value, torch.Tensor)}
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, path_of(number))
        raise FloatingPointError(
            f"The {what} at {at}; nothing of this step is in a checkpoint. What it read is in "
            f"{path_of(bad[0] if bad else '*')}. Lower "
            "max_grad_norm, or train in bf16 rather than fp16, and start again: training goes on from the last "
            "checkpoint. That keeps its learning_rate, which only a new run can lower."
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        num_new, before = self.num_new_rows(inputs), self.num_evaluated
        inputs = self._prepare_inputs(inputs)
        (noised,) = self.noise([inputs], [num_new], training=False)
        loader = self.accelerator.gradient_state.active_dataloader
        if loader is not None and loader.end_of_dataloader:
            # What Accelerate's gather_for_metrics keeps; it does not know it of a stream that each process reads.
            loader.remainder = self.num_evaluated - before
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, {**inputs, NOISED: noised}, return_outputs=True)
            predictions = (None, None) if prediction_loss_only else self.predictions(noised, outputs)
        return loss.detach(), *predictions

    def predictions(self, noised: Noised, outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """What `compute_metrics` and `predict` get of a batch.

        Returns:
            logits (B, L, V), those that the loss reads, and labels (B, L), the clean tokens; both are -100 where no
            token is masked.
        """
        logits = exclude_token(self.masked_logits(outputs, noised), self.mask_token_id)
        everywhere = logits.new_full((*noised.masked.shape, logits.shape[-1]), IGNORED)
        everywhere[noised.masked] = logits
        return everywhere, torch.full_like(noised.z, IGNORED).masked_scatter(noised.masked, noised.targets)

    # Metrics

    def add_mean(self, training: bool, name: str, total: torch.Tensor, count: torch.Tensor) -> None:
        """Add to a mean that is logged; nothing leaves the device before that."""
        self.totals[training][name] += torch.stack([total.detach().double(), count.double()])

    def add_losses(self, training: bool, noised: Noised, losses: dict[str, torch.Tensor]) -> None:
        """Add a batch's losses to their means: of training over optimiser steps, of an evaluation over all terms."""
        for name, loss in losses.items():
            if training:
                self.add_mean(True, name, loss, torch.full_like(loss, noised.begins_step))
            else:
                self.add_mean(False, name, loss * noised.denominators[name], noised.counts[name])

    def pop_metrics(self, training: bool) -> dict[str, float]:
        """The metrics since the last call, over all processes."""
        totals = self.totals[training]
        means = {name: self.accelerator.reduce(value, "sum").tolist() for name, value in sorted(totals.items())}
        totals.clear()
        return {name: total / count for name, (total, count) in means.items() if count}

    def forget_metrics(self, training: bool) -> None:
        """Drop what was added to the metrics since they were logged, by a run that has ended say."""
        self.totals[training].clear()

    def _init_training_state(self, *args, **kwargs):
        self.forget_metrics(training=True)
        return super()._init_training_state(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.pop_metrics(training=True)
        evaluated = {name: value for name, value in logs.items() if name.startswith("eval_")}
        if evaluated:
            unwrapped(self.model).training_record.metrics |= evaluated
        super().log(logs, start_time)

    def evaluation_loop(self, dataloader, *args, metric_key_prefix: str = "eval", **kwargs):
        dataset = dataloader.dataset
        self.num_evaluated, self.num_to_evaluate = 0, None if isinstance(dataset, IterableDataset) else len(dataset)
        self.forget_metrics(training=False)
        output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        has_parts = bool(self.totals[False])  # which a subclass with a loss of its own has not
        metrics = self.pop_metrics(training=False)
        if has_parts:
            # A part of which there was no term has no mean.
            metrics["loss"] = self.total_loss(defaultdict(lambda: math.nan, metrics))
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within, the model has the moving average of its weights, during a training that keeps one."""
        with ExitStack() as stack:
            for callback in self.ema_callbacks():
                stack.enter_context(callback.applied(self.model))
            yield

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As the parent's, of the moving average of the weights where there is one."""
        with self.averaged_weights():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args, **kwargs):
        """As the parent's, of the moving average of the weights where there is one."""
        with self.averaged_weights():
            return super().predict(*args, **kwargs)

    # Checkpoints

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """As the parent's, by one run at a time in an output folder.

        Of a run that is finished, nothing is trained further: its weights, or their moving average, are loaded.

        Args:
            resume_from_checkpoint: True for the last one that was written whole.

        Raises:
            ValueError: if another run works on the folder or it cannot be written to; if there is no whole checkpoint,
                or it lacks what training goes on with.
        """
        run_dir = self._get_output_dir(trial)
        with output_lock(run_dir, is_folder=True):
            if self.args.should_save:
                remove_leftovers(run_dir)
            if resume_from_checkpoint is True:
                resume_from_checkpoint = last_checkpoint(run_dir)
                if resume_from_checkpoint is None:
                    raise ValueError(f"There is no whole checkpoint in {run_dir}: train without resuming.")
            if resume_from_checkpoint is False:
                resume_from_checkpoint = None
            if resume_from_checkpoint is not None:
                self.check_states(resume_from_checkpoint)
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def check_states(self, checkpoint: str) -> None:
        """Raise ValueError if training could not go on from a checkpoint as it was, which the parent would do."""
        if missing_parts(checkpoint, WEIGHTS):
            raise ValueError(f"{str(checkpoint)!r} is no checkpoint: it holds no weights. Name another, or train anew.")
        scaler = {} if self.accelerator.scaler is None else {"scaler.pt": ("scaler.pt",)}
        missing = ", ".join(missing_parts(checkpoint, STATES | scaler))
        if missing and not self.args.save_only_model:
            raise ValueError(
                f"{checkpoint} has no {missing}, so that training would not go on as it was. Restore it, delete "
                "the folder to go on from an earlier one, or set save_only_model to go on from the weights alone."
            )
        if missing:
            logger.warning(f"{checkpoint} has no {missing}: training goes on from its weights alone.")
        elif missing_parts(checkpoint, {"": (rng_state_file(self.args),)}):
            logger.warning(f"{checkpoint} is of another number of processes: dropout will not be what it was to be.")

    def _run_epoch(self, *args, **kwargs) -> None:
        """As the parent's, which would take one more step of a training that has them all."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As the parent's, with all else that `prism_hf.hub` puts into a repository.

        On an error, a full disk say, what `output_dir` held stays as it was.
        """
        output_dir = self.args.output_dir if output_dir is None else output_dir
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        with staged(output_dir) as folder:
            super()._save(folder, state_dict)
            os.remove(os.path.join(folder, TRAINING_ARGS_NAME))  # a pickle that holds hub_token; nothing reads it
            self.describe(folder, output_dir)

    def describe(self, folder: str, output_dir: str) -> None:
        """Write model card and the like into `folder`, which becomes `output_dir`."""
        if isinstance(unwrapped(self.model), PreTrainedModel):
            write_files(self.model, folder, output_dir, public=self.hub_model_id is not None)
            write_card(self.model, folder, self.hub_model_id or output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        """As the parent's; on an error nothing is left of the checkpoint, and only whole ones count as kept."""
        run_dir = self._get_output_dir(trial)
        folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        try:
            with self.without_rotation() as limit:
                super()._save_checkpoint(model, trial)
            if self.args.should_save:
                hide_best_path(os.path.join(folder, TRAINER_STATE_NAME))
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        if self.args.should_save and limit is not None and limit > 0:
            rotate_checkpoints(run_dir, limit, folder, self.state.best_model_checkpoint, self.args.save_only_model)

    def _finalize_training(self, *args, **kwargs):
        """As the parent's, which would delete the last checkpoint where only the best is to stay.

        A run that is killed before its model is saved has all its steps in the last one.
        """
        with self.without_rotation():
            return super()._finalize_training(*args, **kwargs)

    @contextmanager
    def without_rotation(self) -> Iterator[int | None]:
        """Within, the parent deletes no checkpoint; it would count them by time, whole or not. Yields the limit."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield limit
        finally:
            self.args.save_total_limit = limit

    def save_state(self) -> None:
        super().save_state()
        if self.args.should_save:
            hide_best_path(os.path.join(self.args.output_dir, TRAINER_STATE_NAME))

    def _load_callback_state(self) -> None:
        """As the parent's, which has just read the state; where the best checkpoint is follows from its step."""
        super()._load_callback_state()
        best = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        folder = os.path.join(self._get_output_dir(self._trial), best)
        if os.path.isdir(folder):
            self.state.best_model_checkpoint = folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the parent's, which would write and push its arguments with `hub_token` in them."""
        args, running = self.args, self.push_in_progress
        is_busy = running is not None and not running.is_done()
        skipped = args.hub_strategy == HubStrategy.END or (is_busy and not args.hub_always_push)
        if skipped or not self.is_world_process_zero():
            return
        self.callback_handler.on_push_begin(args, self.state, self.control)
        hide_best_path(os.path.join(checkpoint_folder, TRAINER_STATE_NAME))
        # A copy, since the checkpoint may be deleted before the upload, in the background, has read it.
        shutil.copytree(
            checkpoint_folder, args.output_dir, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*STATE_FILES)
        )
        self.describe(args.output_dir, args.output_dir)
        steps, epochs = self.state.global_step, int(self.state.epoch)
        message = f"Training in progress, {f'step {steps}' if args.save_strategy == 'steps' else f'epoch {epochs}'}"
        where = {"repo_id": self.hub_model_id, "token": args.hub_token, "revision": args.hub_revision}
        ignored = ["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]
        uploads = [{"folder_path": args.output_dir, "commit_message": message, "ignore_patterns": ignored}]
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            is_last = args.hub_strategy == HubStrategy.CHECKPOINT
            place = "last-checkpoint" if is_last else os.path.basename(checkpoint_folder)
            uploads.append(
                {
                    "folder_path": checkpoint_folder,
                    "path_in_repo": place,
                    "commit_message": f"{message}, checkpoint",
                }
            )
        jobs = [upload_folder(**upload, **where, run_as_future=True) for upload in uploads]
        if is_busy:
            running.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None:  # the first part of a checkpoint
            for callback in self.ema_callbacks():
                callback.save(output_dir, self.args.should_save)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | None = None,
    ) -> None:
        """Write README.md into `output_dir`; `push_to_hub` passes these arguments on. See `prism_hf.hub.model_card`."""
        if self.is_world_process_zero():
            write_card(
                self.model,
                self.args.output_dir,
                self.hub_model_id,
                language=language,
                license=license,
                tags=tags,
                model_name=model_name,
                finetuned_from=finetuned_from,
                dataset_tags=dataset_tags,
                dataset=dataset,
            )

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with naming_damage(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint):
        with naming_damage(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint):
        if checkpoint is not None:
            with naming_damage(checkpoint):
                super()._load_optimizer_and_scheduler(checkpoint)
            for callback in self.ema_callbacks():
                callback.load(checkpoint)

    def _load_best_model(self) -> None:
        """As the parent's; the best moving average of the weights takes the place of the last one."""
        super()._load_best_model()
        for callback in self.ema_callbacks():
            callback.load(self.state.best_model_checkpoint)

    def ema_callbacks(self) -> list[EMACallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, EMACallback)]
