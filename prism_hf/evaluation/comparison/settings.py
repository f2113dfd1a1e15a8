"""What a model makes of the same examples for each of a list of sampler settings, kept in a file as it comes."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor, nn

from prism_hf._compat import config_of
from prism_hf._deprecation import with_new_names
from prism_hf.evaluation.tasks.task import PADDING, Writing
from prism_hf.generation import (
    RemaskGenerationConfig,
    RemaskGenerationOutput,
    generate_with_retries,
    prepare_generation_config,
    remask_generate,
)
from prism_hf.generation.configuration_remask import RENAMED
from prism_hf.generation.denoising.reading import check_quality
from prism_hf.generation.strategies.base import RemaskStrategy, resolve_strategy
from prism_hf.hub.portable import portable
from prism_hf.jobs.completions import settings_of
from prism_hf.jobs.digests import digest, json_digest, weights_digest
from prism_hf.jobs.lines import whole_lines
from prism_hf.jobs.manifest import describe_model, versions
from prism_hf.jobs.output_lock import output_lock
from prism_hf.jobs.results import find_row, share_row
from prism_hf.jobs.share import by_main_process

from .sampling import SAMPLES, Kept, manifest_beside, sequences_of, share_samples

# Of a setting, what `generate_with_retries` takes beside the arguments of `remask_generate`.
RETRYING = ("retries", "retry_below", "hide")
COSTS = ("forward_passes", "mean_forward_passes", "seconds")


def evaluate_settings(
    model: nn.Module,
    examples: Tensor,
    settings: list[dict[str, Any]],
    path: str | Path,
    measure: Callable[[Tensor], dict[str, Any]],
    made_with: dict[str, Any],
    batch_size: int = 250,
    seed: int = 0,
    bf16: bool = False,
    critic: nn.Module | None = None,
    never_drawn: Sequence[int] = (),
    judged_with: dict[str, Any] | None = None,
    writing: Writing | None = None,
) -> list[dict[str, Any]]:
    """Complete examples once for each of the settings, and keep what is measured of them.

    A finished setting is appended to the JSONL file `path`; one that is there already, made with the same, is not
    computed again. Of one that was interrupted, the finished batches are kept beside `path` until it is finished.
    Under `accelerate launch` the processes, which must see one file system, share the batches; the results do
    not depend on how many there are.

    Args:
        model (`PreTrainedModel`): What is evaluated.
        examples (`torch.Tensor` of shape `(N, L)`): Token ids with masks, to the left of which there may be `PADDING`.
        settings (`list[dict[str, Any]]`): Each is the keyword arguments of `remask_generate`, or, if `retries` is among
            them, of `generate_with_retries`. What it leaves open takes its default, whatever the model's own generation
            config says.
        path (`str` or `Path`): The JSONL file.
        measure (`Callable`): What to keep of the completed examples (N, L'), such as scores; only the main process
            calls it. A list of rows under the name "completions" becomes a JSONL file in a folder of that name beside
            `path`, which the row names.
        made_with (`dict[str, Any]`): What else the result depends on, kept in each row with digests of the examples and
            the weights, `batch_size`, `seed` and `bf16`.
        batch_size (`int`, *optional*, defaults to 250): Examples in a batch.
        seed (`int`, *optional*, defaults to 0): Of the first batch's random numbers.
        bf16 (`bool`, *optional*, defaults to `False`): Run the model under bfloat16 autocast.
        critic (`torch.nn.Module`, *optional*): The network for the settings with an entry `critic`, which is its name.
        never_drawn (`Sequence[int]`, *optional*): Tokens suppressed in every setting, beside its own `suppress_tokens`.
        judged_with (`dict[str, Any]`, *optional*): What `measure` depends on besides, kept in each row too.
        writing (`Writing`, *optional*): With it, completed examples go to a file of samples in a folder `samples`
            beside `path`, which the row names, with its manifest, before they are measured. They are not computed again
            for another `judged_with`.

    Returns:
        `list[dict[str, Any]]`: For each setting what it is, what is in `made_with`, `forward_passes` (of the slowest
        batch), `mean_forward_passes` (those that the examples took, fewer where a threshold lets some end early),
        `seconds` (that the batches took, shared among the processes), and what `measure` returns.

    Raises:
        ValueError: if a setting is wrong, or if the output cannot be written to or another run writes it, before
            anything is computed.

    Example:
        ```python
        def measure(sequences):
            return {"right": (sequences == expected).all(-1).sum().item()}

        settings = [{"steps": 16}, {"steps": 16, "remask_strategy": "prism"}]
        rows = evaluate_settings(model, examples, settings, "results.jsonl", measure, made_with={"task": "mine"})
        ```
    """
    check_settings(model, settings, critic, examples)
    settings = [{"remask_strategy": "none"} | setting for setting in settings]
    if never_drawn:  # other tokens than those that results of the same name were made with
        made_with = made_with | {"never_drawn": json_digest(list(never_drawn))}
    own = {"examples": digest(examples), "weights": weights_digest(model), "batch_size": batch_size}
    made_with = portable(made_with) | own | {"seed": seed, "bf16": bf16}
    path, parts, judged_with = Path(path), range(0, len(examples), batch_size), portable(judged_with or {})

    def complete(setting: dict[str, Any], start: int) -> list[dict[str, Any]]:
        batch = examples[start : start + batch_size].to(PartialState().device)
        return [_complete_batch(model, batch, setting, seed + start, bf16, critic, never_drawn)]

    def finish(batches: list[dict[str, Any]]) -> dict[str, Any]:
        return _shared_out(_costs_of(batches)) | measure(sequences_of(batches))

    def row_of(setting: dict[str, Any]) -> dict[str, Any]:
        made, make, title = {"setting": setting} | made_with, partial(complete, setting), describe(setting)
        row = made | judged_with
        if writing is None or by_main_process(lambda: find_row(whole_lines(path), row)) is not None:
            return share_row(path, row, parts, make, finish, title)
        manifest = partial(_manifest, model, made, critic, writing)
        kept = Kept(examples, config_of(model).mask_token_id, writing)
        file = share_samples(path, made, judged_with, parts, make, kept, manifest, title)
        return share_row(path, row, (), make, lambda _: _judged(file, kept, measure))

    with output_lock(path):
        return list(map(row_of, settings))


def _judged(file: Path, kept: Kept, measure: Callable[[Tensor], dict[str, Any]]) -> dict[str, Any]:
    """What is measured of a file of samples, with its name and what it cost."""
    manifest = manifest_beside(file)
    costs = _shared_out({name: manifest[name] for name in COSTS})
    return costs | {SAMPLES: f"{SAMPLES}/{file.name}"} | measure(kept.sequences_in(file))


def _costs_of(batches: list[dict[str, Any]]) -> dict[str, Any]:
    """The forward passes of the slowest batch, their mean over examples, and the seconds of all batches."""
    passes = [each for batch in batches for each in batch["passes"]]
    most, seconds = max(batch["num_forwards"] for batch in batches), sum(batch["seconds"] for batch in batches)
    return dict(zip(COSTS, (most, round(sum(passes) / len(passes), 2), round(seconds, 2)), strict=True))


def _shared_out(costs: dict[str, Any]) -> dict[str, Any]:
    """The same with the seconds that all processes at once took."""
    return costs | {"seconds": round(costs["seconds"] / PartialState().num_processes, 2)}


def _manifest(
    model: nn.Module,
    made_with: dict[str, Any],
    critic: nn.Module | None,
    writing: Writing,
    batches: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a file of samples was made with."""
    setting = made_with["setting"]
    config, _ = prepared_config(model, attempts_of(setting)[0], critic)
    others = {name: value for name, value in made_with.items() if name != "setting"}
    model_name = {"model": made_with["model"]} if made_with.get("model") else {}
    return others | {
        **describe_model(model),
        **model_name,
        "generation": settings_of(config) | setting,
        "tokenizer": writing.tokenizer,
        "num_samples": len(sequences_of(batches)),
        **_costs_of(batches),
        "device": PartialState().device.type,
        "versions": versions(),
    }


def _complete_batch(
    model: nn.Module,
    batch: Tensor,
    setting: dict[str, Any],
    seed: int,
    bf16: bool,
    critic: nn.Module | None,
    never_drawn: Sequence[int],
) -> dict[str, Any]:
    """A batch (B, L) completed as a setting says, as it is kept until all batches are done."""
    call: Callable[..., Any] = generate_with_retries if "retries" in setting else remask_generate
    arguments = _keyword_arguments(setting, critic) | {"return_dict_in_generate": True}
    if never_drawn:
        arguments["suppress_tokens"] = sorted({*(arguments["suppress_tokens"] or []), *never_drawn})
    padding = batch == PADDING
    if padding.any():
        arguments["attention_mask"] = (~padding).long()
    arguments["generator"] = torch.Generator().manual_seed(seed)
    began = time.perf_counter()
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
        output = call(model, batch.masked_fill(padding, 0), **arguments)
    return {
        "sequences": output.sequences.tolist(),
        "num_forwards": output.num_forwards,
        "passes": _passes_of(output, len(batch)),
        "seconds": time.perf_counter() - began,
    }


def check_settings(
    model: nn.Module, settings: list[dict[str, Any]], critic: nn.Module | None = None, examples: Tensor | None = None
) -> None:
    """Raise ValueError for the first setting that cannot be run, or not to any purpose; or if there are none."""
    if not settings:
        raise ValueError("There are no settings to evaluate; expected a list of generation settings.")
    for setting in settings:
        prepared = [prepared_config(model, attempt, critic) for attempt in attempts_of(setting)]
        for _, strategy in prepared:
            if "quality" in strategy.needs:
                check_quality(model)
        if examples is not None and not any(config.draws(strategy) for config, strategy in prepared):
            config, strategy = prepared[0]
            config.check_repeats(strategy, map(tuple, examples.tolist()))


def prepared_config(
    model: nn.Module, setting: dict[str, Any], critic: nn.Module | None = None
) -> tuple[RemaskGenerationConfig, RemaskStrategy]:
    """The complete config of a setting without retries, and its strategy. Raises ValueError if it cannot be run."""
    return prepare_generation_config(model, None, **_keyword_arguments(setting, critic))


def _passes_of(output: RemaskGenerationOutput, number: int) -> list[float]:
    """The forward passes that each of a batch's examples took."""
    per_row = output.forwards_per_row
    return [output.num_forwards] * number if per_row is None else per_row.double().tolist()


def _keyword_arguments(setting: dict[str, Any], critic: nn.Module | None = None) -> dict[str, Any]:
    """What `remask_generate` takes: None for what the setting leaves open, and the critic where it names one."""
    setting = _with_new_names(setting)
    arguments = dict.fromkeys(RemaskGenerationConfig.fields) | {"remask_strategy": "none"} | setting
    if "critic" not in arguments:
        return arguments
    del arguments["critic"]
    strategy = _strategy_fields(setting["remask_strategy"]) | {"critic": critic}
    return arguments | {"remask_strategy": resolve_strategy(strategy)}


def _with_new_names(setting: dict[str, Any]) -> dict[str, Any]:
    """A setting, and its retries, without the names of an earlier version."""
    setting = with_new_names(setting, RENAMED, "a setting")
    if "retries" not in setting:
        return setting
    return setting | {"retries": [with_new_names(retry, RENAMED, "a retry") for retry in setting["retries"]]}


def _strategy_fields(strategy: str | dict[str, Any]) -> dict[str, Any]:
    """A strategy, be it a name or a dict with the name and its fields, as such a dict."""
    return strategy if isinstance(strategy, dict) else {"name": strategy}


def attempts_of(setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The settings of the one or more generations that a setting stands for."""
    setting = _with_new_names(setting)
    first = {name: value for name, value in setting.items() if name not in RETRYING}
    return [first, *(first | retry for retry in setting.get("retries", []))]


def describe(setting: dict[str, Any]) -> str:
    """A setting in a few words, for tables and plots: what remasks, and how much."""
    setting, *retries = attempts_of(setting)
    again = f", {len(retries)} retries" if retries else ""
    fields = _strategy_fields(setting.get("remask_strategy") or "none")
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
