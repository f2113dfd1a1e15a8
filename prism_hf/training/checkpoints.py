"""Checkpoints that are written whole or not at all, and the one that training goes on from."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The checkpoint of the highest step that was written whole, or None. `Trainer` writes its state file last."""
    states = Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{TRAINER_STATE_NAME}")
    whole = [path.parent for path in states if is_json(path)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


@contextmanager
def staged(output_dir: str | Path) -> Iterator[str]:
    """A folder to write into; its files move to `output_dir` once the block has ended without an error."""
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".saving-", dir=output_dir) as folder:
        yield folder
        for path in sorted(Path(folder).rglob("*")):
            target = output_dir / path.relative_to(folder)
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                os.replace(path, target)
