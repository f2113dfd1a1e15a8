"""Pre-training of a masked diffusion model."""

import inspect
import json
import math
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from prism_hf.data.output_lock import output_lock
from prism_hf.diffusion.drafting import exclude_token
from prism_hf.diffusion.losses import unmasking_loss
from prism_hf.diffusion.noising import mask_tokens
from prism_hf.diffusion.schedules import SCHEDULES, antithetic_timesteps
from prism_hf.hub import TrainingRecord, unwrapped, write_card, write_files

from .checkpoints import STATES, last_checkpoint, missing_parts, remove_leftovers, rotate_checkpoints, staged
from .collator import MaskedDiffusionCollator, ReadCollator, first_row
from .ema import EMACallback
from .muon import MuonWithAdamW, hidden_matrices
from .randomness import EVALUATION, TRAIN, row_uniforms, step_uniform
from .rows import COLUMNS, RowReader, unlearned_ids
from .training_arguments import MaskedDiffusionTrainingArguments, arguments_of

logger = logging.get_logger(__name__)

# Names that tell a reader nothing: of what `datasets` read from local files or made in memory, and of Python's types.
UNNAMED_DATASETS = (None, "csv", "json", "parquet", "text", "arrow", "generator", "list", "Dataset", "TensorDataset")


@dataclass
class Noised:
    """A batch after the forward process.

    z (B, L): masked sequences. masked (B, L) bool. targets (N,): clean tokens at masked positions. weights (N,) or
    None, and denominator: of the unmasking loss. uniform (B, draws, L) float64: draws left for the drafts.
    """

    z: torch.Tensor
    masked: torch.Tensor
    attention_mask: torch.Tensor | None
    targets: torch.Tensor
    weights: torch.Tensor | None
    denominator: torch.Tensor
    uniform: torch.Tensor


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


class MaskedDiffusionTrainer(Trainer):
    """Trains any masked language model as a masked diffusion model (MDLM, arXiv 2406.07524; LLaDA, arXiv 2502.09992).

    A row holds `input_ids` and, where it has padding, `attention_mask`. `maskable` says which of its tokens are to be
    learned, as opposed to prompts and separators; so do `completion_mask`, `assistant_masks` and `labels`, as TRL makes
    them. Where none of these is given, all tokens are learned but padding and special ones; see `rows.RowReader`. A
    `data_collator` of your own gives the same columns, of a batch.

    Metrics, exact means over accumulation steps and processes: `unmasking_loss`. All randomness of a step comes from
    seed, step and row, so a resumed run continues bit for bit, an evaluation is repeatable, and the curve does not
    depend on the number of processes that share a batch.

    Args:
        model: with `config.mask_token_id`, or a `processing_class` that names the mask token; or what
            `AutoModelForMaskedLM.from_pretrained` loads. If `forward` takes a boolean `logits_to_keep` (B, L), logits
            are built at masked positions only. What `model_init` makes is treated alike, in each of its calls.
        args: plain `transformers.TrainingArguments` are completed with our defaults.

    Other arguments, and their order, are those of `Trainer`.

    Raises:
        ValueError: if the mask token is unknown, or a dataset has rows that cannot be learned.
        TypeError: for arguments of another trainer.
    """

    arguments_class = MaskedDiffusionTrainingArguments
    loss_is_scaled_for_ga = False
    _tag_names = ("masked-diffusion",)

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
        self.mask_token_id = getattr(self.model.config, "mask_token_id", None)
        if self.mask_token_id is None:
            self.mask_token_id = getattr(processing_class, "mask_token_id", None)
        if self.mask_token_id is None:
            raise ValueError(
                "The mask token is unknown: set model.config.mask_token_id, or pass a processing_class with a mask "
                "token (tokenizer.add_special_tokens({'mask_token': ...}))."
            )
        vocab_size = getattr(self.model.config, "vocab_size", None)
        self.row_reader = RowReader(self.mask_token_id, vocab_size, unlearned_ids(processing_class))
        if data_collator is None:
            pad_token_id = getattr(processing_class, "pad_token_id", None)
            self.data_collator = MaskedDiffusionCollator(pad_token_id, self.row_reader)
            for name, dataset in named_datasets(train_dataset, eval_dataset).items():
                self.data_collator.check(dataset, name)
        else:
            self.data_collator = ReadCollator(data_collator, self.row_reader)
        if args.ema_decay is not None:
            self.add_callback(EMACallback(args.ema_decay))
        self.take_model()
        # Trainer sets it in its loop only; a loss may be computed outside of it.
        self.current_gradient_accumulation_steps = args.gradient_accumulation_steps
        # The step that the micro-batch belongs to, and its number within it; in evaluation, the batch's number.
        self.current_step, self.micro_batch = -1, 0
        # The losses and inputs of the step's micro-batches.
        self.window: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = []
        self.num_evaluated = 0
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
        self.keeps_logits = "logits_to_keep" in inspect.signature(inner.forward).parameters
        if hasattr(self.model, "add_model_tags"):
            self.model.add_model_tags(list(self._tag_names))
        inner.training_record = TrainingRecord(
            json.loads(self.args.to_json_string()),
            self.mask_token_id,
            self.processing_class,
            dataset_name(self.train_dataset),
            row_length(self.train_dataset),
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

    # Randomness

    def batch_draws(self, training: bool, batch_size: int, draws: int, length: int):
        """Timesteps (B,) and uniform draws (B, draws, L) of this process' rows of the global batch."""
        world, rank = self.args.world_size, self.args.process_index
        if training:
            stream, step, micro_batch = TRAIN, self.state.global_step, self.micro_batch
            per_process, micro_batches = self.args.per_device_train_batch_size, self.args.gradient_accumulation_steps
        else:
            stream, step, micro_batch = EVALUATION, self.num_evaluated, 0
            per_process, micro_batches = self.args.per_device_eval_batch_size, 1
        first = (micro_batch * world + rank) * per_process
        rows = range(first, first + batch_size)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        total = max(per_process * world * micro_batches, rows.stop)
        t = antithetic_timesteps(
            step_uniform(seed, stream, step), total, self.args.min_timestep, self.args.max_timestep
        )
        return t[rows.start : rows.stop], row_uniforms(seed, stream, step, rows, draws, length)

    def noise(self, inputs: dict[str, torch.Tensor], training: bool, drafting_draws: int = 0) -> Noised:
        """Mask a batch."""
        if "maskable" not in inputs:  # of a caller's own; a collator gives it
            inputs = self.row_reader(inputs)
        input_ids, attention_mask = inputs["input_ids"], inputs.get("attention_mask")
        maskable = inputs["maskable"].bool()
        if attention_mask is not None:
            maskable = maskable & attention_mask.bool()
        t, uniform = self.batch_draws(training, len(input_ids), 1 + drafting_draws, input_ids.shape[1])
        t, uniform = t.to(input_ids.device), uniform.to(input_ids.device)
        alpha, alpha_derivative = SCHEDULES[self.args.noise_schedule]
        z, masked = mask_tokens(input_ids, 1 - alpha(t), self.mask_token_id, uniform[:, 0], maskable)
        if self.args.loss_normalizer == "sequence":
            weight = (-alpha_derivative(t) / (1 - alpha(t))).float()
            weights, denominator = weight[:, None].expand_as(masked)[masked], self.mean_over_processes(maskable.sum())
        else:
            weights, denominator = None, self.mean_over_processes(masked.sum())
        return Noised(z, masked, attention_mask, input_ids[masked], weights, denominator, uniform[:, 1:])

    def mean_over_processes(self, count: torch.Tensor) -> torch.Tensor:
        """A denominator such that the mean of the processes' losses is the loss of the global batch."""
        return self.accelerator.reduce(count.float(), "mean").clamp(min=1)

    # Loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The unmasking loss of a batch, with draws that depend on the state of training only."""
        noised = self.noise(inputs, model.training)
        kwargs = {"logits_to_keep": noised.masked} if self.keeps_logits else {}
        outputs = model(input_ids=noised.z, attention_mask=noised.attention_mask, **kwargs)
        logits = outputs.logits if self.keeps_logits else outputs.logits[noised.masked]
        logits = exclude_token(logits.float(), self.mask_token_id)
        loss = unmasking_loss(logits, noised.targets, noised.weights, noised.denominator)
        self.add_mean(model.training, "unmasking_loss", loss * noised.denominator, noised.denominator)
        return (loss, outputs) if return_outputs else loss

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
        if self.state.global_step != self.current_step:
            self.current_step, self.micro_batch, self.window = self.state.global_step, 0, []
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.window.append((loss, inputs))
        self.micro_batch += 1
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """As the parent's, which asks for it before each optimiser step.

        Raises:
            FloatingPointError: if the norm or a loss is not finite. In float16 the gradient scaler skips a step whose
                gradients are not.
        """
        grad_norm = super()._get_grad_norm(model, grad_norm)
        window, self.window = self.window, []
        losses = torch.stack([loss for loss, _ in window]).float()
        watched = losses.sum()
        if grad_norm is not None and self.accelerator.mixed_precision != "fp16":
            norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else grad_norm
            watched = watched + torch.as_tensor(norm, device=losses.device)
        if not torch.isfinite(watched):
            self.stop_at(losses.tolist(), grad_norm, [inputs for _, inputs in window])
        return grad_norm

    def stop_at(self, losses: list[float], grad_norm, batches: list[dict[str, torch.Tensor]]) -> None:
        """Write the batch whose loss is not finite, or else all of the step, beside the checkpoints, and raise."""
        bad = [number for number, loss in enumerate(losses) if not math.isfinite(loss)][:1]
        what = f"loss is {losses[bad[0]]}" if bad else f"gradient norm is {float(grad_norm)}"
        at = f"step {self.state.global_step}, {f'batch {bad[0]}, ' if bad else ''}process {self.args.process_index}"
        os.makedirs(self.args.output_dir, exist_ok=True)
        for number in bad or range(len(batches)):
            name = f"nonfinite-step-{self.state.global_step}-batch-{number}-process-{self.args.process_index}"
            path = os.path.join(self.args.output_dir, f"{name}.safetensors")
            tensors = {key: value for key, value in batches[number].items() if isinstance(value, torch.Tensor)}
            save_file({key: value.cpu().contiguous() for key, value in tensors.items()}, path)
        raise FloatingPointError(
            f"The {what} at {at}; nothing of this step is in a checkpoint. What it read is in {path}. Lower "
            "max_grad_norm, or train in bf16 rather than fp16, and start again: training goes on from the last "
            "checkpoint. That keeps its learning_rate, which only a new run can lower."
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, inputs)
        self.num_evaluated += 1
        return loss.detach(), None, None

    # Metrics

    def add_mean(self, training: bool, name: str, total: torch.Tensor, count: torch.Tensor) -> None:
        """Add to a mean that is logged; nothing leaves the device before that."""
        self.totals[training][name] += torch.stack([total.detach().double(), count.double()])

    def pop_metrics(self, training: bool) -> dict[str, float]:
        """The metrics since the last call, over all processes."""
        totals = self.totals[training]
        means = {name: self.accelerator.reduce(value, "sum").tolist() for name, value in sorted(totals.items())}
        totals.clear()
        return {name: total / count for name, (total, count) in means.items() if count}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.pop_metrics(training=True)
        evaluated = {name: value for name, value in logs.items() if name.startswith("eval_")}
        if evaluated:
            unwrapped(self.model).training_record.metrics |= evaluated
        super().log(logs, start_time)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self.num_evaluated = 0
        self.totals[False].clear()
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        metrics = self.pop_metrics(training=False)
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
            if resume_from_checkpoint:
                self.check_states(resume_from_checkpoint)
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)

    def check_states(self, checkpoint: str) -> None:
        """Raise ValueError if training could not go on from a checkpoint as it was, which the parent would do."""
        missing = ", ".join(missing_parts(checkpoint, STATES))
        if missing and not self.args.save_only_model:
            raise ValueError(
                f"{checkpoint} has no {missing}, so that training would not go on as it was. Restore it, delete "
                "the folder to go on from an earlier one, or set save_only_model to go on from the weights alone."
            )
        if missing:
            logger.warning(f"{checkpoint} has no {missing}: training goes on from its weights alone.")

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
            self.describe(folder, output_dir)
        if self.args.push_to_hub and output_dir != self.args.output_dir:
            # hub_strategy may push args.output_dir while training goes on, with the weights of the checkpoint.
            self.describe(self.args.output_dir, self.args.output_dir)

    def describe(self, folder: str, output_dir: str) -> None:
        """Write model card and the like into `folder`, which becomes `output_dir`."""
        if isinstance(unwrapped(self.model), PreTrainedModel):
            write_files(self.model, folder)
            write_card(self.model, folder, self.hub_model_id or output_dir)

    def _save_checkpoint(self, model, trial) -> None:
        """As the parent's; on an error nothing is left of the checkpoint, and only whole ones count as kept."""
        run_dir, limit = self._get_output_dir(trial), self.args.save_total_limit
        folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        self.args.save_total_limit = None  # the parent would count by time, whole or not
        try:
            super()._save_checkpoint(model, trial)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save and limit is not None and limit > 0:
            rotate_checkpoints(run_dir, limit, folder, self.state.best_model_checkpoint, self.args.save_only_model)

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

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            for callback in self.ema_callbacks():
                callback.load(checkpoint)

    def _load_best_model(self) -> None:
        """As the parent's; the best moving average of the weights takes the place of the last one."""
        super()._load_best_model()
        for callback in self.ema_callbacks():
            callback.load(self.state.best_model_checkpoint)

    def ema_callbacks(self) -> list[EMACallback]:
        return [callback for callback in self.callback_handler.callbacks if isinstance(callback, EMACallback)]
