"""Checkpoints that are written whole or not at all, the one that training goes on from, and those that go.

A checkpoint is whole or is not there. Model files are written aside and moved; `trainer_state.json` comes last, and
`last_checkpoint` takes only what has one; on an error the folder goes. Rotation renames what it deletes, counts whole
checkpoints only, and is ours, as transformers counts folders by time. A checkpoint without the states of optimizer,
scheduler or random numbers is an error, unless `save_only_model` says that the weights alone are to do.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedModel, TrainerState, TrainingArguments
from transformers.core_model_loading import revert_weight_conversion
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from prism_hf._compat import is_adapter

logger = logging.get_logger(__name__)

NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
SAVING, DELETING = ".saving-", ".deleting-"
# What training goes on with, and the files of which one holds it. DeepSpeed has a folder for weights and optimizer.
WEIGHTS: dict[str, tuple[str, ...]] = {
    "weights": ("model*.safetensors", "*adapter_model*", "*/adapter_model*", "pytorch_model*", "global_step*")
}
STATES: dict[str, tuple[str, ...]] = {
    "optimizer.pt": ("optimizer*", "global_step*"),
    "scheduler.pt": ("scheduler.pt", "global_step*"),
    "rng_state.pth": ("rng_state*.pth",),
}


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders that `Trainer` has named, by step."""
    named = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if NAME.fullmatch(path.name)]
    return sorted((path for path in named if path.is_dir()), key=lambda path: int(NAME.fullmatch(path.name)[1]))


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The checkpoint of the highest step that was written whole, or None. `Trainer` writes its state file last.

    Args:
        output_dir (`str` or `Path`): The folder of the run.

    Example:
        ```python
        trainer.train(resume_from_checkpoint=last_checkpoint("runs/prism"))
        ```
    """
    written = [path for path in checkpoints(output_dir) if is_json(path / TRAINER_STATE_NAME)]
    return str(written[-1]) if written else None


def is_json(path: Path) -> bool:
    """Whether there is a file that can be read as JSON."""
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def missing_parts(checkpoint: str | Path, expected: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Those of the expected that are in none of their files."""
    return [name for name, files in expected.items() if not any(any(Path(checkpoint).glob(file)) for file in files)]


def checkpoint_to_resume(given: str | bool | None, run_dir: str, args: TrainingArguments, scales: bool) -> str | None:
    """The folder that a training goes on from, if it does: the last whole one if True is `given`.

    Raises ValueError if there is none, or it lacks what training goes on with, the scaler's state if it `scales`.
    """
    if given is True:
        given = last_checkpoint(run_dir)
        if given is None:
            raise ValueError(f"There is no whole checkpoint in {run_dir}: train without resuming.")
    if given is None or given is False:
        return None
    check_states(given, args, scales)
    return given


def check_states(checkpoint: str, args: TrainingArguments, scales: bool) -> None:
    """Raise ValueError if training could not go on from a checkpoint as it was, which `Trainer` would do."""
    if missing_parts(checkpoint, WEIGHTS):
        raise ValueError(f"{str(checkpoint)!r} is no checkpoint: it holds no weights. Name another, or train anew.")
    scaler = {"scaler.pt": ("scaler.pt",)} if scales else {}
    missing = ", ".join(missing_parts(checkpoint, STATES | scaler))
    if missing and not args.save_only_model:
        raise ValueError(
            f"{checkpoint} has no {missing}, so that training would not go on as it was. Restore it, delete "
            "the folder to go on from an earlier one, or set save_only_model to go on from the weights alone."
        )
    # Where `Trainer` keeps the states of a process' random number generators.
    rng_state = "rng_state.pth" if args.world_size <= 1 else f"rng_state_{args.process_index}.pth"
    if missing:
        logger.warning(f"{checkpoint} has no {missing}: training goes on from its weights alone.")
    elif missing_parts(checkpoint, {"": (rng_state,)}):
        logger.warning(f"{checkpoint} is of another number of processes: dropout will not be what it was to be.")


@contextmanager
def whole_or_gone(folder: str, is_writer: bool) -> Iterator[None]:
    """Within, a checkpoint is written to `folder`; on an error nothing is left of it."""
    try:
        yield
        if is_writer:
            hide_best_path(os.path.join(folder, TRAINER_STATE_NAME))
    except BaseException:
        if is_writer:
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def without_rotation(args: TrainingArguments) -> Iterator[int | None]:
    """Within, `Trainer` deletes no checkpoint; it would count them by time, whole or not. Yields the limit."""
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        yield limit
    finally:
        args.save_total_limit = limit


def best_checkpoint(run_dir: str, state: TrainerState) -> str | None:
    """Where the best checkpoint is, which follows from its step; what the state says if it is not there."""
    folder = os.path.join(run_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}")
    return folder if os.path.isdir(folder) else state.best_model_checkpoint


@contextmanager
def naming_damage(checkpoint: str) -> Iterator[None]:
    """Within, an error over a damaged file of a checkpoint names it: see `prism_hf.models.checkpoint.loading`."""
    from prism_hf.models.checkpoint import loading  # which loads all models

    with loading.naming_damage(checkpoint):
        yield


@contextmanager
def taking_saved_names(model: Any) -> Iterator[None]:
    """Within, `load_state_dict` takes weights under the names that `save_pretrained` gives them.

    `save_pretrained` writes a family in its published layout. `Trainer` reads a checkpoint as if it had not, and goes
    on from the weights that the model happens to have.
    """
    if is_adapter(model) or not isinstance(model, PreTrainedModel):
        yield
        return
    weights = model.state_dict()
    names = {saved: name for name in weights for saved in revert_weight_conversion(model, {name: weights[name]})}

    def rename(module: Any, state_dict: dict[str, Any], *_: Any) -> None:
        renamed = {names.get(name, name): weight for name, weight in state_dict.items()}
        state_dict.clear()
        state_dict.update(renamed)

    hook = model.register_load_state_dict_pre_hook(rename)
    try:
        yield
    finally:
        hook.remove()


def rotate_checkpoints(output_dir: str | Path, limit: int, newest: str, best: str | None, only_model: bool) -> None:
    """Delete the earliest checkpoints until `limit` are left, and first those that a killed run left incomplete.

    Args:
        newest, best: stay in any case.
        only_model: a checkpoint is whole without the states of optimizer, scheduler and random numbers.
    """
    expected = WEIGHTS if only_model else WEIGHTS | STATES
    kept = {Path(path).name for path in (newest, best) if path is not None}
    others = [path for path in checkpoints(output_dir) if path.name not in kept]
    whole = [path for path in others if is_json(path / TRAINER_STATE_NAME) and not missing_parts(path, expected)]
    staying = whole[max(0, len(whole) - max(0, limit - len(kept))) :]
    for path in others:
        if path not in staying:
            delete(path)


def delete(folder: Path) -> None:
    """Delete a folder so that, if that is interrupted, what is left has another name."""
    doomed = folder.with_name(DELETING + folder.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_leftovers(output_dir: str | Path) -> None:
    """Delete what a killed run was about to write or to delete."""
    patterns = (f"{SAVING}*", f"{PREFIX_CHECKPOINT_DIR}-*/{SAVING}*", f"{DELETING}*")
    for path in [path for pattern in patterns for path in Path(output_dir).glob(pattern)]:
        shutil.rmtree(path, ignore_errors=True)


def hide_best_path(state_file: str | Path) -> None:
    """Take the best checkpoint's place on this machine out of a saved state, which goes on telling its step."""
    from prism_hf.jobs.lines import write_whole

    path = Path(state_file)
    state = json.loads(path.read_text(encoding="utf-8"))
    if state["best_model_checkpoint"] is not None:
        write_whole(path, [json.dumps(state | {"best_model_checkpoint": None}, indent=2, sort_keys=True)])


@contextmanager
def staged(output_dir: str | Path) -> Iterator[str]:
    """A folder to write into; its files move to `output_dir` once the block has ended without an error."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=SAVING, dir=output_dir) as folder:
        yield folder
        for path in sorted(Path(folder).rglob("*")):
            target = output_dir / path.relative_to(folder)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                os.replace(path, target)
