"""A file of samples, and what its manifest tells of it.

A file that `prism-hf generate` or `compare` wrote has tokens and a manifest. One of others needs `completion` or `text`
in each line; what needs more is left out of its row.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from prism_hf.data.files import existing_file, read_bytes, read_object, text_lines
from prism_hf.jobs.digests import json_digest
from prism_hf.jobs.lines import read_written
from prism_hf.jobs.store import manifest_of

# What a manifest tells that is no choice of whoever sampled, or that follows from another entry.
TOLD_APART_BY_NOTHING = (
    *("seconds", "versions", "device", "forward_passes", "num_samples", "num_prompts", "prompts", "tokenizer"),
    *("examples", "num_examples", "split", "never_drawn", "mean_forward_passes"),
    *("return_dict_in_generate", "max_length", "mask_token_id", "pad_token_id", "suppress_tokens"),
)


@dataclass(frozen=True)
class Samples:
    """The samples of a file.

    Args:
        name (`str`): Of the file, without its ending.
        prompts, completions (`list[str]`): What was given and what was written; a prompt may be empty.
        tokens (`list[list[int]]`, *optional*): The ids of each completion.
        manifest (`dict[str, Any]`): Empty where there is none.

    Example:
        ```python
        samples = read_samples("samples.jsonl")
        print(len(samples.completions), samples.settings.get("steps"))
        ```
    """

    name: str
    prompts: list[str]
    completions: list[str]
    tokens: list[list[int]] | None = None
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Tells these samples from others."""
        return json_digest([self.prompts, self.completions, self.tokens])

    @property
    def settings(self) -> dict[str, Any]:
        """What the sampling can differ by from that of other files: each choice by its name."""
        entries = {**self.manifest, **self.manifest.get("generation", {})}
        strategy = entries.get("remask_strategy")
        if isinstance(strategy, dict):
            entries = entries | strategy | {"remask_strategy": strategy["name"]}
        left_out = ("generation", "name", *TOLD_APART_BY_NOTHING)
        return {name: value for name, value in entries.items() if name not in left_out}

    @property
    def strategy(self) -> str | None:
        """The remasking strategy, None where no manifest tells."""
        return (self.settings.get("remask_strategy") or "none") if self.manifest else None

    @property
    def forward_passes(self) -> int | None:
        """Those of the slowest sample."""
        return self.manifest.get("forward_passes")

    def with_end_of_text(self, end_of_text: str) -> "Samples":
        """The same, with another text for the EOS of the model that wrote them, and no other special token."""
        told = self.manifest.get("tokenizer", {})
        own, special = told.get("eos_token"), told.get("special_tokens", [])

        def translated(text: str) -> str:
            for token in special:
                if token != own:
                    text = text.replace(token, "")
            return text.replace(own, end_of_text) if own else text

        prompts, completions = ([translated(text) for text in each] for each in (self.prompts, self.completions))
        return replace(self, prompts=prompts, completions=completions)


def read_samples(path: str | Path) -> Samples:
    """The samples of a JSONL file, and its manifest where one is beside it.

    Args:
        path (`str | Path`): Of lines with `completion`, or `text` where nothing was given, and maybe `prompt` and
            `tokens`.

    Raises:
        ValueError: with the number of the line that is no such row; where there are none.

    Example:
        ```python
        samples = [read_samples(path) for path in ("none.jsonl", "prism.jsonl")]
        ```
    """
    file = existing_file(path)
    rows = [
        _read_row(line, f"{path}, line {number}") for number, line in text_lines(read_bytes(file), str(path)).items()
    ]
    if not rows:
        raise ValueError(f"{path} has no samples: give one a line, as JSON with a field 'completion'.")
    manifest = manifest_of(file)
    return Samples(
        name=file.name.removesuffix(".jsonl"),
        prompts=[row["prompt"] for row in rows],
        completions=[row["completion"] for row in rows],
        tokens=None if any(row["tokens"] is None for row in rows) else [row["tokens"] for row in rows],
        manifest=read_written(manifest.read_bytes(), str(manifest)) if manifest.exists() else {},
    )


def _read_row(line: str, where: str) -> dict[str, Any]:
    row = read_object(line, where)
    read = {"prompt": row.get("prompt", ""), "completion": row.get("completion", row.get("text"))}
    for name, text in read.items():
        if not isinstance(text, str):
            raise ValueError(f"{where}: {name!r} must be text, got {text!r}. Samples have 'completion', or 'text'.")
    tokens = row.get("tokens")
    if tokens is not None and not (isinstance(tokens, list) and all(isinstance(each, int) for each in tokens)):
        raise ValueError(f"{where}: 'tokens' must be a list of ids, got {tokens!r:.80}.")
    return read | {"tokens": tokens}


def in_style_of(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int | None = None, name: str = "references"
) -> Samples:
    """Texts as a model with this tokenizer could have written them: encoded, cut to `length` tokens, and decoded."""
    tokens = [ids[:length] for ids in tokenizer(list(texts), add_special_tokens=False).input_ids]
    decoded = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return Samples(name, [""] * len(decoded), decoded, tokens)
