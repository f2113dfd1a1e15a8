"""What a model makes of the same examples for each of a list of sampler settings, kept in a file as it comes."""

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm.auto import tqdm

from prism_hf.generation import (
    RemaskGenerationConfig,
    RemaskGenerationOutput,
    generate_with_retries,
    prepare_generation_config,
    remask_generate,
)
from prism_hf.generation.denoising.reading import check_quality
from prism_hf.generation.strategies import needs, resolve_strategy
from prism_hf.hub.portable import portable
from prism_hf.jobs.digests import digest, json_digest, weights_digest
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.store import (
    append_line,
    append_part,
    drop_shards,
    read_parts,
    shard_path,
    to_json,
    whole_lines,
    write_whole,
)

# What `measure` returns under this name goes into a file of its own.
COMPLETIONS = "completions"
# Stands in examples where they are shorter than others. It is attended by nothing, and 0 in what `measure` gets.
PADDING = -1
# Of a setting, what `generate_with_retries` takes beside the arguments of `remask_generate`.
RETRYING = ("retries", "retry_below", "hide")


def evaluate_settings(
    model,
    examples: Tensor,
    settings: list[dict[str, Any]],
    path: str | Path,
    measure: Callable[[Tensor], dict[str, Any]],
    made_with: dict[str, Any],
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
    critic=None,
    never_drawn: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Complete examples (N, L), which may hold `PADDING`, once for each of `settings`.

    A setting is the keyword arguments of `remask_generate`, or, if `retries` is among them, of `generate_with_retries`.
    What it leaves open takes its default, whatever the model's own generation config says.

    A finished setting is appended to the JSONL file `path`; one that is there already, made with the same, is not
    computed again. Of one that was interrupted, the finished batches are kept beside `path` until it is finished.
    Under `accelerate launch` the batches are shared among the processes; the results do not depend on how many there
    are.

    Args:
        measure: what to keep of the completed examples (N, L'), such as scores. Called in the main process only. A list
            of rows under the name "completions" becomes a JSONL file in a folder of that name beside `path`, which the
            row names.
        made_with: what else the result depends on, kept in each row with digests of the examples and the weights,
            `batch_size`, `seed` and `bf16`.
        seed: of the first batch's random numbers.
        critic: the network for the settings that have an entry `critic`, which is its name.
        never_drawn: tokens suppressed in every setting, beside its own `suppress_tokens`.

    Returns one dict a setting: the setting, what is in `made_with`, `forward_passes` (of the slowest batch),
    `mean_forward_passes` (those that the examples took, fewer where a threshold lets some end early), `seconds`, and
    what `measure` returns.

    Raises:
        ValueError: if a setting is wrong, or if the output cannot be written to or another run writes it, before
            anything is computed.
    """
    check_settings(model, settings, critic)
    settings = [{"remask_strategy": "none"} | setting for setting in settings]
    if never_drawn:  # other tokens than those that results of the same name were made with
        made_with = made_with | {"never_drawn": json_digest(list(never_drawn))}
    made_with = portable(made_with) | {
        "examples": digest(examples), "weights": weights_digest(model), "batch_size": batch_size, "seed": seed,
        "bf16": bf16,
    }  # fmt: skip
    with output_lock(path):
        return complete_missing(model, examples, settings, Path(path), measure, made_with, critic, never_drawn)


def complete_missing(
    model,
    examples: Tensor,
    settings: list[dict[str, Any]],
    path: Path,
    measure: Callable[[Tensor], dict[str, Any]],
    made_with: dict[str, Any],
    critic,
    never_drawn: Sequence[int],
) -> list[dict[str, Any]]:
    """The rows of `settings`, of which those that are not in the file `path` yet are made and added."""
    state, batch_size, seed, bf16 = PartialState(), made_with["batch_size"], made_with["seed"], made_with["bf16"]
    (done,) = broadcast_object_list([whole_lines(path) if state.is_main_process else None])
    starts = range(0, len(examples), batch_size)
    missing = [setting for setting in settings if find_row(done, setting, made_with) is None]
    total = sum(len(starts) * (setting.get("steps") or 51) for setting in missing) // state.num_processes  # no retries
    precision = torch.autocast(state.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()

    def complete(setting: dict[str, Any], start: int) -> dict[str, Any]:
        began = time.perf_counter()
        batch = examples[start : start + batch_size].to(state.device)
        generator = torch.Generator().manual_seed(seed + start)
        with precision:
            output = generate(model, batch, setting, generator, critic, never_drawn)
        progress.update(output.num_forwards)
        return {
            "sequences": output.sequences.tolist(),
            "num_forwards": output.num_forwards,
            "passes": passes_of(output, batch, model),
            "seconds": time.perf_counter() - began,
        }

    rows = []
    with tqdm(total=total, unit="forward", disable=not state.is_main_process) as progress:
        for setting in settings:
            own_name = json_digest({"setting": setting} | made_with)
            unfinished = path.with_name(f"{path.stem}.{own_name}.jsonl")
            row = find_row(done, setting, made_with)
            if row is None:
                began = time.perf_counter()
                progress.set_description(describe(setting))
                parts, earlier = complete_parts(starts, unfinished, partial(complete, setting))
                measured = measure_once(measure, parts, path.parent, f"{COMPLETIONS}/{own_name}.jsonl")
                row = {
                    "setting": setting,
                    **made_with,
                    "forward_passes": max(part["num_forwards"] for part in parts),
                    "mean_forward_passes": round(sum(sum(part["passes"]) for part in parts) / len(examples), 2),
                    "seconds": round(time.perf_counter() - began + earlier, 2),
                    **measured,
                }
                if state.is_main_process:
                    append_line(path, row)
                done.append(row)
            if state.is_main_process:
                drop_shards(unfinished)
            rows.append(row)
    return rows


def measure_once(
    measure: Callable[[Tensor], dict[str, Any]], parts: list[dict[str, Any]], folder: Path, name: str
) -> dict[str, Any]:
    """What the main process measures of the completed examples, in all processes; completions go to a file.

    What is measured need not be the same twice, such as whether a program ends in time.
    """
    measured = [None]
    if PartialState().is_main_process:
        sequences = torch.tensor([tokens for part in parts for tokens in part["sequences"]])
        measured = [keep_completions(measure(sequences), folder, name)]
    return broadcast_object_list(measured)[0]


def keep_completions(measured: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """What was measured, with the name of a file in the place of completions, which the file then holds."""
    if COMPLETIONS not in measured:
        return measured
    (folder / name).parent.mkdir(exist_ok=True)
    write_whole(folder / name, (to_json(row, ensure_ascii=False) for row in measured[COMPLETIONS]))
    return measured | {COMPLETIONS: name}


def complete_parts(
    starts: range, unfinished: Path, complete: Callable[[int], dict[str, Any]]
) -> tuple[list[dict[str, Any]], float]:
    """What `complete` returns for each of `starts`, shared among the processes and kept in shards of `unfinished`.

    What the shards hold from an earlier run is not computed again; the seconds that it took are returned too.
    """
    state = PartialState()
    shard = shard_path(unfinished, state.process_index)
    kept = [read_parts(unfinished) if state.is_main_process else None]
    (kept,) = broadcast_object_list(kept)
    missing = [start for start in starts if start not in kept]
    completed = []
    for start in missing[state.process_index :: state.num_processes]:
        part = [complete(start)]
        append_part(shard, start, part)
        completed.append((start, part))
    parts = kept | dict(gather_object(completed))
    earlier = sum(part["seconds"] for (part,) in kept.values()) / state.num_processes
    return [part for start in starts for part in parts[start]], earlier


def check_settings(model, settings: list[dict[str, Any]], critic=None) -> None:
    """Raise ValueError for the first setting that cannot be run, or if there are none."""
    if not settings:
        raise ValueError("There are no settings to evaluate; expected a list of generation settings.")
    for setting in settings:
        for attempt in attempts_of(setting):
            config = prepare_generation_config(model, None, **keyword_arguments(attempt, critic))
            if needs(resolve_strategy(config.remask_strategy), "quality"):
                check_quality(model)


def generate(
    model,
    examples: Tensor,
    setting: dict[str, Any],
    generator: torch.Generator,
    critic=None,
    never_drawn: Sequence[int] = (),
) -> RemaskGenerationOutput:
    """Examples (B, L) completed as a setting says."""
    call = generate_with_retries if "retries" in setting else remask_generate
    arguments = keyword_arguments(setting, critic) | {"return_dict_in_generate": True}
    if never_drawn:
        arguments["suppress_tokens"] = sorted({*(arguments["suppress_tokens"] or []), *never_drawn})
    padding = examples == PADDING
    if padding.any():
        arguments["attention_mask"] = (~padding).long()
    return call(model, examples.masked_fill(padding, 0), generator=generator, **arguments)


def passes_of(output: RemaskGenerationOutput, examples: Tensor, model) -> list[float]:
    """The forward passes that each of the examples (B, L) took."""
    if output.tokens_per_forward is None:
        return [output.num_forwards] * len(examples)
    num_masks = (examples == model.config.mask_token_id).sum(-1)
    return (num_masks / output.tokens_per_forward).tolist()


def keyword_arguments(setting: dict[str, Any], critic=None) -> dict[str, Any]:
    """What `remask_generate` takes: None for what the setting leaves open, and the critic where it names one."""
    arguments = dict.fromkeys(RemaskGenerationConfig.fields) | {"remask_strategy": "none"} | setting
    if "critic" not in arguments:
        return arguments
    del arguments["critic"]
    strategy = strategy_fields(setting["remask_strategy"]) | {"critic": critic}
    return arguments | {"remask_strategy": resolve_strategy(strategy)}


def strategy_fields(strategy: str | dict[str, Any]) -> dict[str, Any]:
    """A strategy, be it a name or a dict with the name and its fields, as such a dict."""
    return strategy if isinstance(strategy, dict) else {"name": strategy}


def attempts_of(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of the one or more generations that a setting stands for."""
    first = {name: value for name, value in setting.items() if name not in RETRYING}
    return [first, *(first | retry for retry in setting.get("retries", []))]


def find_row(rows: list[dict[str, Any]], setting: dict[str, Any], made_with: dict[str, Any]) -> dict[str, Any] | None:
    """The finished row of a setting, if there is one."""
    wanted = {"setting": setting} | made_with
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def describe(setting: dict[str, Any]) -> str:
    """A setting in a few words, for tables and plots: what remasks, and how much."""
    setting, *retries = attempts_of(setting)
    again = f", {len(retries)} retries" if retries else ""
    fields = strategy_fields(setting.get("remask_strategy") or "none")
    if fields["name"] == "none":
        return f"none{again}"
    said_elsewhere = ("name", "order", "do_sample", "steps", "confidence_threshold", "remask_strategy")
    details = describe_arguments(
        {name: value for name, value in (fields | setting).items() if name not in said_elsewhere}
    )
    return (f"{fields['name']} ({details})" if details else fields["name"]) + again


def describe_arguments(arguments: dict[str, Any]) -> str:
    """Arguments in a few words; of retries how many they are."""
    shown = arguments | ({"retries": len(arguments["retries"])} if "retries" in arguments else {})
    return ", ".join(f"{name}={value}" for name, value in shown.items())
