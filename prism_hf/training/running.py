"""What the training recipes have in common: from the command line to a saved and evaluated model, once.

A run's last file is `trainer_state.json` in its output folder, written when the model has been saved and then
evaluated. Where it tells of as many steps as are asked for, a recipe that is started again does nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import TrainerState, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from prism_hf._compat import unwrapped
from prism_hf._deprecation import warn_renamed
from prism_hf.data import DataArguments, load_training_data
from prism_hf.jobs.launching import end_with_launcher
from prism_hf.jobs.output_lock import output_lock

from .arguments import MaskedDiffusionTrainingArguments
from .checkpoints import is_json, last_checkpoint
from .config_file import parse_arguments
from .masked_diffusion_trainer import MaskedDiffusionTrainer

logger = logging.get_logger(__name__)


def run_training(build: Callable[..., MaskedDiffusionTrainer], argument_types: tuple[type, ...]) -> None:
    """Train what `build` makes of the command line, from the last checkpoint on if there is one; save it, evaluate it.

    Started again, a finished run changes nothing. One run at a time works in an output folder.

    Args:
        build (`Callable`): Given an instance of each of `argument_types`, returns the trainer.
        argument_types (`tuple[type, ...]`): Dataclasses of the arguments; the trainer's are the last.
    """
    end_with_launcher()
    train_and_save(build, parse_arguments(argument_types))
    PartialState().destroy_process_group()  # not within: DDP must be gone before


def train_and_save(build: Callable[..., MaskedDiffusionTrainer], arguments: tuple) -> None:
    """Train what `build` makes of the arguments, save it and evaluate it."""
    args = arguments[-1]
    take_old_puzzles(arguments)
    set_seed(args.seed)
    logger.info(f"Process {args.process_index} of {args.world_size} trains on {args.device}.")
    with output_lock(args.output_dir, is_folder=True):
        trainer = build(*arguments)
        (finished,) = broadcast_object_list([is_finished(trainer)])
        if finished:
            logger.warning(f"{args.output_dir} is finished: nothing to do. Name another output_dir to train anew.")
            return
        trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))
        trainer.save_model()
        if trainer.eval_dataset is not None:
            metrics = last_evaluation(trainer) or trainer.evaluate()
            trainer.log_metrics("eval", metrics)
            trainer.save_metrics("eval", metrics)
            trainer.create_model_card()  # which tells of the evaluation
        if args.push_to_hub:
            trainer.push_to_hub()
        trainer.save_state()  # last: it tells that all this is done
        trainer.accelerator.wait_for_everyone()


def last_evaluation(trainer: MaskedDiffusionTrainer) -> dict[str, float]:
    """What the training has found in evaluating the weights that it ended with, or nothing if it did not."""
    state = trainer.state
    if trainer.args.load_best_model_at_end and state.best_global_step != state.global_step:
        return {}
    metrics: dict[str, float] = {}
    for row in state.log_history:
        if row["step"] == state.global_step and any(name.startswith("eval_") for name in row):
            metrics |= row
    metrics.pop("step", None)
    # The card tells of them, and a run that went on from its last checkpoint has none of its own.
    record = unwrapped(trainer.model).training_record
    record.metrics |= {name: value for name, value in metrics.items() if name.startswith("eval_")}
    return metrics


def recipe_data(
    data_args: DataArguments, training_args: MaskedDiffusionTrainingArguments, name_or_path: str | None
) -> dict[str, Any]:
    """What a trainer of a recipe gets of its data, by name; `name_or_path` is the model whose tokenizer reads text."""
    with training_args.main_process_first(desc="loading the data"):
        train_dataset, eval_dataset, tokenizer = load_training_data(
            data_args,
            training_args.seed,
            name_or_path,
            training_args.eval_strategy != "no",
            training_args.dataset_text_field,
            training_args.dataset_num_proc,
            training_args.trust_remote_code,
        )
    return {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "processing_class": tokenizer}


def is_finished(trainer: MaskedDiffusionTrainer) -> bool:
    """Whether the output folder holds what the trainer would make: a model saved after as many steps."""
    folder = Path(trainer.args.output_dir)
    if not is_json(folder / TRAINER_STATE_NAME) or not any(folder.glob("*model*")):
        return False
    *_, max_steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME)).max_steps >= max_steps


def take_old_puzzles(arguments: tuple) -> None:
    """Let the trainer's arguments say what `num_eval_puzzles` of a recipe's data says."""
    for each in arguments:
        if isinstance(each, DataArguments) and each.num_eval_puzzles:
            warn_renamed("num_eval_puzzles of a recipe", "num_eval_generations, beside predict_with_generate: true")
            arguments[-1].predict_with_generate, arguments[-1].num_eval_generations = True, each.num_eval_puzzles
