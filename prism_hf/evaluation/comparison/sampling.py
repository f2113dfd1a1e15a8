"""Samples of a setting in a file that is whole before they are judged, and stays.

So a kill amid the judging samples nothing again, and another judge reads what is there. It is what `prism-hf evaluate
text` reads.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prism_hf.evaluation.tasks.task import PADDING, Writing
from prism_hf.jobs.digests import json_digest
from prism_hf.jobs.lines import read_written, whole_lines
from prism_hf.jobs.results import unfinished_row
from prism_hf.jobs.share import by_main_process, share_parts
from prism_hf.jobs.store import ResumableJsonl, manifest_of

SAMPLES = "samples"  # the folder beside the results


class Kept(NamedTuple):
    """How completed examples become lines of a file, and those lines examples again.

    Args:
        examples (`torch.Tensor` of shape `(N, L)`): What they were before.
        mask_token_id (`int`): Of the masks in them.
        writing (`Writing`): The task's.
    """

    examples: Tensor
    mask_token_id: int
    writing: Writing

    def rows_of(self, sequences: Tensor) -> list[dict[str, Any]]:
        """Completed examples (N, L') as lines: what the task makes of them, and the tokens that were written.

        These are those in the place of masks, and those behind the example.
        """
        length, rows = self.examples.shape[1], self.writing.rows(sequences, self.examples)
        tokens = [
            [*sequence[:length][example == self.mask_token_id].tolist(), *sequence[length:].tolist()]
            for sequence, example in zip(sequences, self.examples, strict=True)
        ]
        return [row | {"tokens": written} for row, written in zip(rows, tokens, strict=True)]

    def sequences_in(self, path: Path) -> Tensor:
        """The inverse, of a file: completed examples (N, L'), with 0 for padding. Raises ValueError for other rows."""
        rows, sequences = whole_lines(path), []
        if len(rows) != len(self.examples):
            raise ValueError(f"{path} has {len(rows)} samples of {len(self.examples)}: delete it, to sample again.")
        for row, example in zip(rows, self.examples, strict=True):
            tokens, masked = torch.tensor(row["tokens"], dtype=example.dtype), example == self.mask_token_id
            filled = example.masked_fill(example == PADDING, 0).masked_scatter(masked, tokens)
            sequences.append(torch.cat([filled, tokens[int(masked.sum()) :]]))
        return torch.stack(sequences)


def sequences_of(batches: list[dict[str, Any]]) -> Tensor:
    """The completed examples of all batches."""
    return torch.tensor([tokens for batch in batches for tokens in batch["sequences"]])


def share_samples(
    results: Path,
    made_with: dict[str, Any],
    judged_with: dict[str, Any],
    parts: Sequence[int],
    make: Callable[[int], list[dict[str, Any]]],
    kept: Kept,
    describe: Callable[[list[dict[str, Any]]], dict[str, Any]],
    description: str,
) -> Path:
    """The file of the samples that were made with what is given, made by all processes unless it is there.

    Args:
        results (`Path`): The file of results that the samples stand beside.
        made_with (`dict[str, Any]`): What the samples depend on.
        judged_with (`dict[str, Any]`): What their row depends on besides. An earlier version named the parts of an
            unfinished row by both, and they go on.
        parts, make, description: See `share_parts`; a part is one row, a batch.
        kept (`Kept`): How batches become lines of the file.
        describe (`Callable`): The manifest, given all batches.
    """
    name = f"{made_with.get('split', 'listed')}-{json_digest(made_with)}.jsonl"
    output = ResumableJsonl(results.parent / SAMPLES / name)

    def is_finished() -> bool:
        output.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished_row(results, made_with | judged_with).move_shards(output)
        return output.path.exists()

    if not by_main_process(is_finished):
        share_parts(output, parts, make, description)
    by_main_process(lambda: output.finish(parts, describe, lambda batches: kept.rows_of(sequences_of(batches))))
    return output.path


def manifest_beside(path: Path) -> dict[str, Any]:
    """What a finished file of samples was made with."""
    manifest = manifest_of(path)
    return read_written(manifest.read_bytes(), str(manifest))
