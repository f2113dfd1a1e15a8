"""What our trainers have beside their losses: whole checkpoints, moving averages, and a card that tells of them.

No trainer writes `training_args.bin`, a pickle with `hub_token` in it which nothing reads. `training_args.json` has
folders by their last part, and a saved state of training has the best checkpoint's step instead of its path.
"""

import os
from typing import Any, ClassVar

from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, TrainOutput

from .checkpoints import (
    best_checkpoint,
    checkpoint_to_resume,
    hide_best_path,
    naming_damage,
    remove_leftovers,
    rotate_checkpoints,
    staged,
    taking_saved_names,
    whole_or_gone,
    without_rotation,
)
from .ema import EMACallback, averaged, averages_among
from .sharding import take_units


class BaseTrainer(Trainer):
    """A `Trainer` whose checkpoints are whole, name what is damaged, and tell nothing of this machine.

    One run at a time works in an output folder. An evaluation is of the moving average of the weights where an
    `EMACallback` keeps one. The model card tells of `_paper`.
    """

    model: Any  # of a family that is described, be it ours or wrapped by PEFT
    _tag_names: ClassVar[tuple[str, ...]] = ()
    _name: ClassVar[str] = ""
    _paper: ClassVar[dict[str, str]] = {}

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled:
            take_units(self.accelerator, self.model)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the parent's, of the moving average of the weights where there is one."""
        with averaged(self.callback_handler.callbacks, self.model):
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As the parent's, of the moving average of the weights where there is one."""
        with averaged(self.callback_handler.callbacks, self.model):
            return super().predict(*args, **kwargs)

    # Checkpoints

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As the parent's, by one run at a time in an output folder.

        Of a run that is finished, nothing is trained further: its weights, or their moving average, are loaded.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A folder, or `True` for the last checkpoint that was
                written whole.

        Raises:
            ValueError: if another run works on the folder or it cannot be written to; if there is no whole checkpoint,
                or it lacks what training goes on with.
        """
        from prism_hf.jobs.output_lock import output_lock

        run_dir = self._get_output_dir(trial)
        with output_lock(run_dir, is_folder=True):
            if self.args.should_save:
                remove_leftovers(run_dir)
            scales = self.accelerator.scaler is not None
            checkpoint = checkpoint_to_resume(resume_from_checkpoint, run_dir, self.args, scales)
            return super().train(checkpoint, trial, ignore_keys_for_eval)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As the parent's, which would take one more step of a training that has them all."""
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*args, **kwargs)
        else:
            self.control.should_training_stop = True

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As the parent's, with all else that `prism_hf.hub` puts into a repository.

        On an error, a full disk say, what `output_dir` held stays as it was.
        """
        from .publishing import describe

        output_dir = self.args.output_dir if output_dir is None else output_dir
        if not self.args.should_save:
            super()._save(output_dir, state_dict)
            return
        with staged(output_dir) as folder:
            super()._save(folder, state_dict)
            os.remove(os.path.join(folder, TRAINING_ARGS_NAME))  # a pickle that holds hub_token; nothing reads it
            describe(self, folder, output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the parent's; on an error nothing is left of the checkpoint, and only whole ones count as kept."""
        run_dir, args = self._get_output_dir(trial), self.args
        folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        with whole_or_gone(folder, args.should_save), without_rotation(args) as limit:
            super()._save_checkpoint(model, trial)
        if args.should_save and limit is not None and limit > 0:
            rotate_checkpoints(run_dir, limit, folder, self.state.best_model_checkpoint, args.save_only_model)

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As the parent's, which would delete the last checkpoint where only the best is to stay.

        A run that is killed before its model is saved has all its steps in the last one.
        """
        with without_rotation(self.args):
            return super()._finalize_training(*args, **kwargs)

    def save_state(self) -> None:
        super().save_state()
        if self.args.should_save:
            hide_best_path(os.path.join(self.args.output_dir, TRAINER_STATE_NAME))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None:  # the first part of a checkpoint
            for callback in self.ema_callbacks():
                callback.save(output_dir, self.args.should_save)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As the parent's, which would write and push its arguments with `hub_token` in them."""
        from .publishing import push_checkpoint

        push_checkpoint(self, checkpoint_folder)

    def create_model_card(  # type: ignore[override]  # takes by name what the parent does
        self, language: str | None = None, license: str | None = None, **details: Any
    ) -> None:
        """Write README.md into `output_dir`; `details` are those of `prism_hf.hub.model_card`."""
        from prism_hf.hub import write_card

        if self.is_world_process_zero():
            details |= {"language": language, "license": license}
            write_card(self.model, self.args.output_dir, self.hub_model_id, **details)

    def _load_callback_state(self) -> None:
        """As the parent's, which has just read the state; where the best checkpoint is follows from its step."""
        super()._load_callback_state()
        self.state.best_model_checkpoint = best_checkpoint(self._get_output_dir(self._trial), self.state)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        model_to_load = self.model if model is None else model
        with naming_damage(resume_from_checkpoint), taking_saved_names(model_to_load):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with naming_damage(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with naming_damage(checkpoint):
                super()._load_optimizer_and_scheduler(checkpoint)
            for callback in self.ema_callbacks():
                callback.load(checkpoint)

    def _load_best_model(self) -> None:
        """As the parent's; the best moving average of the weights takes the place of the last one."""
        with taking_saved_names(self.model):
            super()._load_best_model()
        for callback in self.ema_callbacks():
            callback.load(self.state.best_model_checkpoint)

    def ema_callbacks(self) -> list[EMACallback]:
        return averages_among(self.callback_handler.callbacks)
