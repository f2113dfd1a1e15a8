"""Completions of many prompts, by many processes, to one JSONL file that survives a kill.

Prompts are completed in batches that never change, each with a seed of its own and a line of a shard. What a kill
leaves is whole batches, so the output is that of an unbroken run.
"""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from prism_hf.data.prompts import decode_completions, encode_prompts
from prism_hf.fields import Positive, Seed, check_arguments
from prism_hf.generation.configuration_remask import (
    RemaskGenerationConfig,
    fitted_to_tokenizer,
    prepare_generation_config,
)
from prism_hf.generation.denoising.canvas import check_lengths
from prism_hf.generation.generation_remask import prepare_generation, remask_generate
from prism_hf.generation.strategies.base import RemaskStrategy

from .output_lock import output_lock
from .share import by_main_process, share_parts
from .store import ResumableJsonl

logger = logging.get_logger(__name__)

CHECKED = ("rows", "path", "batch_size", "seed", "apply_chat_template", "settings")


def generate_to_jsonl(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    path: str | Path,
    batch_size: Positive = 8,
    seed: Seed = 0,
    apply_chat_template: bool = False,
    settings: dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Write each row with a `completion` of its `prompt`, in order, to a JSONL file.

    The completion is the text of the appended tokens, up to the row's end; with no `max_new_tokens`, where only masks
    within the prompt are filled, the whole text. With `num_return_sequences` a row is written as many times, next to
    one another.

    Under `accelerate launch` the processes, which must see the same file system, share the batches. Each appends to a
    shard beside the output; in the end the shards become the output, at once. A run that was killed goes on when it is
    called again, with any number of processes, and a finished one is left alone.

    Which rows make a batch depends on `batch_size` alone, and random numbers on `seed` and the batch. So the output is
    the same for any number of processes and wherever a run was interrupted. With another `batch_size`, sampled tokens
    differ, and greedy ones as far as the rounding of a padded batch decides between close candidates. With
    `batch_size=1` a row depends on nothing but seed and index.

    Args:
        model (`PreTrainedModel`): See `remask_generate`.
        tokenizer (`PreTrainedTokenizerBase`): The model's.
        rows (`Sequence[dict]`): Dicts with a `prompt`; other fields are carried through. The same in all processes.
        path (`str | Path`): The output. `<path>.settings.json` tells what it was made with.
        batch_size (`int`, *optional*, defaults to 8): Prompts in a batch.
        seed (`int`, *optional*, defaults to 0): Of the random numbers.
        apply_chat_template (`bool`, *optional*, defaults to `False`): The prompt becomes a user's turn in the
            tokenizer's template, or is a list of messages.
        settings (`dict[str, Any]`, *optional*): What else the output depends on, such as the name of the model: a run
            with others does not go on.
        kwargs: Fields of `RemaskGenerationConfig`, completed by what the tokenizer tells, see `fitted_to_tokenizer`.

    Raises:
        ValueError: on wrong rows or settings, or an output that was begun with others, that another run writes, or that
            cannot be written to; before the first forward.

    Example:
        ```python
        rows = [{"prompt": "Write a haiku."}, {"prompt": "Write a limerick."}]
        generate_to_jsonl(model, tokenizer, rows, "poems.jsonl", max_new_tokens=64, apply_chat_template=True)
        ```
    """
    check_arguments(generate_to_jsonl, {name: value for name, value in locals().items() if name in CHECKED})
    generation = fitted_to_tokenizer(model, tokenizer, kwargs) | {"return_dict_in_generate": True}
    config, strategy = prepare_generation_config(model, None, **generation)
    if config.max_new_tokens is None:
        raise ValueError(f"max_length={config.max_length} counts a prompt of any length: set max_new_tokens instead.")
    prompts = prepare_prompts(model, rows, tokenizer, config, strategy, apply_chat_template)
    depends_on = {
        "num_prompts": len(rows),
        "prompts": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "batch_size": batch_size,
        "seed": seed,
        "apply_chat_template": apply_chat_template,
        "generation": _settings_of(config),
    } | (settings or {})
    starts = range(0, len(rows), batch_size)

    def complete_batch(part: int) -> list[dict[str, Any]]:
        batch = slice(starts[part], starts[part] + batch_size)
        generator = torch.Generator().manual_seed(batch_seed(seed, starts[part]))
        texts = complete(model, tokenizer, prompts[batch], generation, config.eos_token_id, generator)
        repeats = len(texts) // len(prompts[batch])
        repeated = [row for row in rows[batch] for _ in range(repeats)]
        return [row | {"completion": text} for row, text in zip(repeated, texts, strict=True)]

    output = ResumableJsonl(Path(path))
    with output_lock(path):
        if by_main_process(lambda: output.begin(depends_on, _as_written_now)):
            logger.warning(f"{path} is finished: nothing to do.")
        else:
            share_parts(output, range(len(starts)), complete_batch)
        by_main_process(lambda: output.finish(range(len(starts))))


def _settings_of(config: RemaskGenerationConfig) -> dict[str, Any]:
    return {name: value for name, value in config.to_dict().items() if name in config.fields}


def _as_written_now(earlier: dict[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote that an output depends on, with the names and the new fields of this one."""
    with warnings.catch_warnings(), contextlib.suppress(ValueError, KeyError):  # such as a strategy without a name
        warnings.simplefilter("ignore", FutureWarning)
        return earlier | {"generation": _settings_of(RemaskGenerationConfig.from_dict(earlier["generation"]))}
    return earlier


def prepare_prompts(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    config: RemaskGenerationConfig,
    strategy: RemaskStrategy,
    apply_chat_template: bool,
) -> list[list[int]]:
    """Token ids of each prompt. Raises ValueError, with the number of the row, for one that cannot be completed."""
    if not rows:
        raise ValueError("There are no prompts; give at least one.")
    for number, row in enumerate(rows, start=1):
        if "prompt" not in row:
            raise ValueError(f"Prompt {number} has no field 'prompt', only {sorted(row)}: name it so.")
        if "completion" in row:
            raise ValueError(f"Prompt {number} has a field 'completion', where the result goes: rename it.")
    prompts = [row["prompt"] for row in rows]
    appends = bool(config.max_new_tokens)
    encoded = encode_prompts(prompts, tokenizer, apply_chat_template, appends, config.mask_token_id)
    check_lengths(model, map(len, encoded), config.max_new_tokens, name="Prompt", first=1)
    most_masks = max(encoded, key=lambda ids: ids.count(config.mask_token_id))
    longest = torch.tensor([most_masks], dtype=torch.long, device=PartialState().device)
    prepare_generation(model, config, strategy, longest)
    return encoded


def batch_seed(seed: int, start: int) -> int:
    """A seed for the batch that begins at prompt `start`, unrelated to those of other batches and other seeds."""
    return int(np.random.SeedSequence((seed, start)).generate_state(1, np.uint64)[0])


def complete(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    generation: dict[str, Any],
    eos_token_id: int | list[int] | None,
    generator: torch.Generator,
) -> list[str]:
    """The texts of a batch of prompts, one or several for each: what was appended, or else the whole."""
    device = PartialState().device
    ids = [torch.tensor(prompt, dtype=torch.long, device=device) for prompt in prompts]
    # The padding is attended by nothing, so that its token does not matter.
    input_ids = pad_sequence(ids, batch_first=True, padding_value=0, padding_side="left")
    real = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True, padding_side="left")
    output: Any = remask_generate(model, input_ids, attention_mask=real, generator=generator, **generation)
    sequences = output.sequences
    new = sequences[:, input_ids.shape[1] :].tolist()
    if new[0]:
        return decode_completions(new, tokenizer, eos_token_id)
    real = real.bool().repeat_interleave(len(sequences) // len(prompts), dim=0)
    whole = [row[kept].tolist() for row, kept in zip(sequences, real, strict=True)]
    return tokenizer.batch_decode(whole, skip_special_tokens=True)
