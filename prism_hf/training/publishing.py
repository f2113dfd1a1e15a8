"""What a trainer's folders tell of it, beside weights and states, and how they reach the Hub during training."""

import json
import os
import shutil
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import upload_folder
from transformers import PreTrainedModel, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, HubStrategy
from transformers.utils.hub import PushInProgress

from prism_hf._compat import unwrapped
from prism_hf.hub import TrainingRecord, write_card, write_files

from .checkpoints import hide_best_path
from .data_preparation.datasets import dataset_name, row_length
from .ema import EMA_FILE

if TYPE_CHECKING:
    from .base_trainer import BaseTrainer
    from .masked_diffusion_trainer import MaskedDiffusionTrainer

# What a checkpoint holds beside the model: of training, and of sharded engines.
STATE_FILES = (
    "trainer_state.json",
    "optimizer*",
    "scheduler.pt",
    "scaler.pt",
    "rng_state*",
    EMA_FILE,
    "*_fsdp*",
    "global_step*",
    "latest",
    "zero_to_fp32.py",
)


def record_training(trainer: "MaskedDiffusionTrainer") -> TrainingRecord:
    """What a trainer leaves with its model, so that `model.push_to_hub` can write what `trainer.push_to_hub` writes."""
    return TrainingRecord(
        json.loads(trainer.args.to_json_string()),
        trainer.mask_token_id,
        trainer.processing_class,
        dataset_name(trainer.train_dataset),
        row_length(trainer.train_dataset),
        method=trainer._name,
        paper=trainer._paper,
    )


def describe(trainer: "BaseTrainer", folder: str, output_dir: str) -> None:
    """Write model card and the like into `folder`, which becomes `output_dir`."""
    if isinstance(unwrapped(trainer.model), PreTrainedModel):
        write_files(trainer.model, folder, output_dir, public=trainer.hub_model_id is not None)
        write_card(trainer.model, folder, trainer.hub_model_id or output_dir)


def push_checkpoint(trainer: "BaseTrainer", checkpoint: str) -> None:
    """Upload a checkpoint in the background, as `Trainer` does; it would upload its arguments with `hub_token` too."""
    args, state = trainer.args, trainer.state
    running: Any = trainer.push_in_progress
    is_busy = running is not None and not running.is_done()
    skipped = args.hub_strategy == HubStrategy.END or (is_busy and not args.hub_always_push)
    if skipped or not trainer.is_world_process_zero():
        return
    trainer.callback_handler.on_push_begin(args, state, trainer.control)
    hide_best_path(os.path.join(checkpoint, TRAINER_STATE_NAME))
    # A copy, since the checkpoint may be deleted before the upload has read it.
    ignored = shutil.ignore_patterns(*STATE_FILES)
    shutil.copytree(checkpoint, args.output_dir, dirs_exist_ok=True, ignore=ignored)
    describe(trainer, args.output_dir, args.output_dir)
    where: dict[str, Any] = {"repo_id": trainer.hub_model_id, "token": args.hub_token, "revision": args.hub_revision}
    jobs = [upload_folder(**upload, **where, run_as_future=True) for upload in uploads_of(args, state, checkpoint)]
    if is_busy:
        running.jobs.extend(jobs)
    else:
        trainer.push_in_progress = cast(Any, PushInProgress(cast(Any, jobs)))


def uploads_of(args: TrainingArguments, state: TrainerState, checkpoint: str) -> list[dict[str, Any]]:
    """The folders that a push uploads, with their messages: the model, and as `hub_strategy` says the checkpoint."""
    at = f"step {state.global_step}" if args.save_strategy == "steps" else f"epoch {int(state.epoch)}"
    message = f"Training in progress, {at}"
    ignored = ["_*", f"{PREFIX_CHECKPOINT_DIR}-*"]
    uploads: list[dict[str, Any]] = [
        {"folder_path": args.output_dir, "commit_message": message, "ignore_patterns": ignored}
    ]
    if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        is_last = args.hub_strategy == HubStrategy.CHECKPOINT
        place = "last-checkpoint" if is_last else os.path.basename(checkpoint)
        message = f"{message}, checkpoint"
        uploads.append({"folder_path": checkpoint, "path_in_repo": place, "commit_message": message})
    return uploads
