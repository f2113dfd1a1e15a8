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

from prism_hf.data.prompts import decode_with_ends, encode_prompts, up_to_end
from prism_hf.fields import Positive, Seed, check_arguments
from prism_hf.generation.configuration_remask import (
    RemaskGenerationConfig,
    fitted_to_tokenizer,
    prepare_generation_config,
)
from prism_hf.generation.denoising.canvas import count_new
from prism_hf.generation.denoising.stopping import as_ids
from prism_hf.generation.generation_remask import prepare_generation, remask_generate
from prism_hf.generation.strategies.base import RemaskStrategy

from .manifest import describe_model, describe_tokenizer, versions
from .output_lock import output_lock
from .share import by_main_process, share_parts
from .store import ResumableJsonl

logger = logging.get_logger(__name__)

CHECKED = ("rows", "path", "batch_size", "seed", "apply_chat_template", "add_special_tokens", "bf16", "settings")
# What a row is given, beside its own fields.
GIVEN = ("completion", "tokens", "forward_passes")
# What an output depends on that the version before had no choice of.
ONLY_CHOICE = {"add_special_tokens": True, "bf16": False}


def generate_to_jsonl(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[dict[str, Any]],
    path: str | Path,
    batch_size: Positive = 8,
    seed: Seed = 0,
    apply_chat_template: bool = False,
    settings: dict[str, Any] | None = None,
    add_special_tokens: bool = True,
    bf16: bool = False,
    source: dict[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Write each row with a `completion` of its `prompt`, in order, to a JSONL file.

    The completion is the text of the appended tokens, up to the row's end; with no `max_new_tokens`, where only masks
    within the prompt are filled, the whole text. Where no token ends a row, the text of the EOS stands where the model
    put it. Beside it are `tokens`, the ids that it is the text of, and `forward_passes`, those that the row took. With
    `num_return_sequences` a row is written as many times, next to one another.

    Samples from nothing are completions of empty prompts: `rows=[{"prompt": ""}] * 100`, `add_special_tokens=False`,
    and `eos_token_id=None` for a model of text that goes on after an end of text.

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
        path (`str | Path`): The output. `<path>.settings.json` tells what it depends on, and, once it is finished,
            `<path>.manifest.json` what it was made with.
        batch_size (`int`, *optional*, defaults to 8): Prompts in a batch.
        seed (`int`, *optional*, defaults to 0): Of the random numbers.
        apply_chat_template (`bool`, *optional*, defaults to `False`): The prompt becomes a user's turn in the
            tokenizer's template, or is a list of messages.
        settings (`dict[str, Any]`, *optional*): What else the output depends on, such as the name of the model: a run
            with others does not go on.
        add_special_tokens (`bool`, *optional*, defaults to `True`): Whether the tokenizer puts its own before a prompt.
        bf16 (`bool`, *optional*, defaults to `False`): Run the model under bfloat16 autocast.
        source (`dict[str, Any]`, *optional*): What the manifest tells of the model in place of what the model knows,
            see `describe_source` of `prism_hf.jobs.manifest`.
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
    config.check_repeats(strategy, (json.dumps(row, sort_keys=True) for row in rows))
    prompts = prepare_prompts(model, rows, tokenizer, config, strategy, apply_chat_template, add_special_tokens)
    depends_on = {
        "num_prompts": len(rows),
        "prompts": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
        "batch_size": batch_size,
        "seed": seed,
        "apply_chat_template": apply_chat_template,
        "add_special_tokens": add_special_tokens,
        "bf16": bf16,
        "generation": settings_of(config),
    } | (settings or {})
    starts = range(0, len(rows), batch_size)

    def complete_batch(part: int) -> list[dict[str, Any]]:
        batch = slice(starts[part], starts[part] + batch_size)
        generator = torch.Generator().manual_seed(batch_seed(seed, starts[part]))
        with torch.autocast(PartialState().device.type, torch.bfloat16, enabled=bf16):
            completed = complete(model, tokenizer, prompts[batch], generation, config, generator)
        repeated = [row for row in rows[batch] for _ in range(config.num_return_sequences)]
        return [row | given for row, given in zip(repeated, completed, strict=True)]

    def describe(rows: list[dict[str, Any]]) -> dict[str, Any]:
        passes = [row.get("forward_passes") for row in rows]
        made_with = depends_on | describe_model(model) | (source or {})
        return made_with | {
            "tokenizer": describe_tokenizer(tokenizer),
            "num_samples": len(rows),
            "forward_passes": None if None in passes else max(passes),
            "device": PartialState().device.type,
            "versions": versions(),
        }

    output = ResumableJsonl(Path(path))
    with output_lock(path):
        if by_main_process(lambda: output.begin(depends_on, _as_written_now)):
            logger.warning(f"{path} is finished: nothing to do.")
        else:
            share_parts(output, range(len(starts)), complete_batch)
        by_main_process(lambda: output.finish(range(len(starts)), describe))


def settings_of(config: RemaskGenerationConfig) -> dict[str, Any]:
    """The settings that a config holds, without what transformers adds."""
    return {name: value for name, value in config.to_dict().items() if name in config.fields}


def _as_written_now(earlier: dict[str, Any]) -> dict[str, Any]:
    """What an earlier version wrote that an output depends on, with the names and the new fields of this one."""
    with warnings.catch_warnings(), contextlib.suppress(ValueError, KeyError):  # such as a strategy without a name
        warnings.simplefilter("ignore", FutureWarning)
        earlier = earlier | {"generation": settings_of(RemaskGenerationConfig.from_dict(earlier["generation"]))}
    return ONLY_CHOICE | earlier


def prepare_prompts(
    model: nn.Module,
    rows: Sequence[dict[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    config: RemaskGenerationConfig,
    strategy: RemaskStrategy,
    apply_chat_template: bool,
    add_special_tokens: bool,
) -> list[list[int]]:
    """Token ids of each prompt. Raises ValueError, with the number of the row, for one that cannot be completed."""
    if not rows:
        raise ValueError("There are no prompts; give at least one.")
    for number, row in enumerate(rows, start=1):
        if "prompt" not in row:
            raise ValueError(f"Prompt {number} has no field 'prompt', only {sorted(row)}: name it so.")
        if taken := [name for name in GIVEN if name in row]:
            raise ValueError(f"Prompt {number} has a field {taken[0]!r}, where the result goes: rename it.")
    prompts = [row["prompt"] for row in rows]
    appends = config.max_new_tokens != 0
    encoded = encode_prompts(
        prompts,
        tokenizer,
        apply_chat_template,
        appends,
        config.mask_token_id,
        add_special_tokens=add_special_tokens,
    )
    num_new = count_new(model, map(len, encoded), config, name="Prompt", first=1)
    num_masks = [ids.count(config.mask_token_id) + new for ids, new in zip(encoded, num_new, strict=True)]
    most_masks = encoded[num_masks.index(max(num_masks))]
    widest = torch.tensor([most_masks], dtype=torch.long, device=PartialState().device)
    prepare_generation(model, config, strategy, widest)
    return encoded


def batch_seed(seed: int, start: int) -> int:
    """A seed for the batch that begins at prompt `start`, unrelated to those of other batches and other seeds."""
    return int(np.random.SeedSequence((seed, start)).generate_state(1, np.uint64)[0])


def complete(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    generation: dict[str, Any],
    config: RemaskGenerationConfig,
    generator: torch.Generator,
) -> list[dict[str, Any]]:
    """What each of a batch of prompts is given, once or several times: what was appended, or else the whole.

    generation: the keyword arguments of a call, of which `config` is the complete settings.
    """
    device = PartialState().device
    ids = [torch.tensor(prompt, dtype=torch.long, device=device) for prompt in prompts]
    # The padding is attended by nothing, so that its token does not matter.
    input_ids = pad_sequence(ids, batch_first=True, padding_value=0, padding_side="left")
    real = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True, padding_side="left").bool()
    output: Any = remask_generate(model, input_ids, attention_mask=real.long(), generator=generator, **generation)
    real = real.repeat_interleave(config.num_return_sequences, dim=0)
    new = output.sequences[:, input_ids.shape[1] :].tolist()
    if new[0]:
        counts = count_new(model, real.sum(-1).tolist(), config)  # with `max_length` rows differ
        tokens = [up_to_end(row[:count], config.eos_token_id) for row, count in zip(new, counts, strict=True)]
    else:
        tokens = [row[kept].tolist() for row, kept in zip(output.sequences, real, strict=True)]
    if new[0] and not as_ids(config.eos_token_id):  # no token ends a row: EOS stands between its texts
        texts = [decode_with_ends(row, tokenizer, tokenizer.eos_token or "") for row in tokens]
    else:
        texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    passes = output.forwards_per_row.tolist()
    return [dict(zip(GIVEN, row, strict=True)) for row in zip(texts, tokens, passes, strict=True)]
