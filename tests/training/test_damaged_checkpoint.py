"""A checkpoint with a file that is cut off is not resumed from, and the error names the file."""

import shutil
from pathlib import Path

import pytest

from prism_hf.training import PrismTrainer, PrismTrainingArguments


def test_a_file_that_is_cut_off_is_named(prism, sequences, arguments, tmp_path):
    def train(resume=None, steps=2):
        args = arguments(
            PrismTrainingArguments,
            max_steps=steps,
            save_strategy="steps",
            save_steps=1,
            ema_decay=0.9,
            num_draft_tokens=2,
        )
        PrismTrainer(prism, args, train_dataset=sequences(32)).train(resume_from_checkpoint=resume)

    train(steps=1)
    for name in (
        "model.safetensors",
        "ema.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "config.json",
    ):
        checkpoint = tmp_path / name / "checkpoint-1"
        shutil.copytree(Path(tmp_path, "out", "checkpoint-1"), checkpoint)
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: len(content) // 2])
        with pytest.raises((ValueError, OSError), match=rf"checkpoint-1/{name} is cut off.*Remedy"):
            train(str(checkpoint))
