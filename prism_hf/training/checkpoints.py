"""Checkpoints that are written whole or not at all, the one that training goes on from, and those that go."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from prism_hf.jobs.lines import write_whole

NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
SAVING, DELETING = ".saving-", ".deleting-"
# What training goes on with, and the files of which one holds it. DeepSpeed has a folder for weights and optimizer.
WEIGHTS = {"weights": ("model*.safetensors", "*adapter_model*", "*/adapter_model*", "pytorch_model*", "global_step*")}
STATES = {
    "optimizer.pt": ("optimizer*", "global_step*"),
    "scheduler.pt": ("scheduler.pt", "global_step*"),
    "rng_state.pth": ("rng_state*.pth",),
}


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The folders that `Trainer` has named, by step."""
    named = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if NAME.fullmatch(path.name)]
    return sorted((path for path in named if path.is_dir()), key=lambda path: int(NAME.fullmatch(path.name)[1]))


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The checkpoint of the highest step that was written whole, or None. `Trainer` writes its state file last."""
    written = [path for path in checkpoints(output_dir) if is_json(path / TRAINER_STATE_NAME)]
    return str(written[-1]) if written else None


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def missing_parts(checkpoint: str | Path, expected: dict[str, tuple[str, ...]]) -> list[str]:
    """Those of the expected that are in none of their files."""
    return [name for name, files in expected.items() if not any(any(Path(checkpoint).glob(file)) for file in files)]


def rng_state_file(args: TrainingArguments) -> str:
    """Where `Trainer` keeps the states of a process' random number generators."""
    return "rng_state.pth" if args.world_size <= 1 else f"rng_state_{args.process_index}.pth"


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
