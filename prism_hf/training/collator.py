"""Examples of one or of several lengths to a batch."""

from dataclasses import dataclass
from typing import Any

import torch


@dataclass
class MaskedDiffusionCollator:
    """Stacks `input_ids`, and `maskable` and `attention_mask` where examples have them, padded on the right.

    Padding is attended by nobody and never masked. A batch of one length without `attention_mask` gets none.

    Args:
        pad_token_id: fills shorter rows; if None, examples of different lengths raise ValueError.
    """

    pad_token_id: int | None = None

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(example["input_ids"]) for example in examples]
        uneven = min(lengths) < max(lengths)
        if uneven and self.pad_token_id is None:
            raise ValueError(
                f"Examples of {min(lengths)} to {max(lengths)} tokens need padding, and the pad token is unknown: pass "
                "a processing_class with a pad_token."
            )
        names = {name for name in ("maskable", "attention_mask") if name in examples[0]}
        if uneven:
            names.add("attention_mask")
        batch = {"input_ids": self.pad([example["input_ids"] for example in examples], max(lengths), self.pad_token_id)}
        for name in sorted(names):
            rows = [example.get(name, [1] * length) for example, length in zip(examples, lengths, strict=True)]
            batch[name] = self.pad(rows, max(lengths), 0)
        if "maskable" in batch:
            batch["maskable"] = batch["maskable"].bool()
        return batch

    @staticmethod
    def pad(rows: list, length: int, value: int | None) -> torch.Tensor:
        rows = [torch.as_tensor(row) for row in rows]
        padding = 0 if value is None else value
        return torch.stack([torch.nn.functional.pad(row, (0, length - len(row)), value=padding) for row in rows])
