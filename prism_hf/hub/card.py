"""Model cards: what a model is, how it is used and how it was trained."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData
from transformers.utils import logging

from prism_hf._compat import AnyModel, is_adapter, unwrapped

from . import papers
from .base_model import base_model_name, hub_id
from .portable import portable
from .record import TRAINING_ARGUMENTS, head_settings, record_of
from .usage import usage

if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.get_logger(__name__)

CARD = "README.md"
TEMPLATE = Path(__file__).with_name("model_card.md")
# Of the training arguments, those that a reader of the card asks for first.
SHOWN_ARGUMENTS = (
    "learning_rate",
    "head_learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_steps",
    "num_train_epochs",
    "num_draft_tokens",
    "num_drafts",
    "draft_selection",
    "unmasking_weight",
    "ema_decay",
    "seed",
)
SPEED_METRICS = ("_runtime", "_per_second", "_time")


def write_card(
    model: AnyModel, folder: str | os.PathLike, repo_id: str | os.PathLike | None = None, **details: Any
) -> None:
    """Write the model card into `folder`; its snippet loads `repo_id`, else `folder` from where that lies.

    `details`: see `model_card`.
    """
    base = base_model_name(model)
    if hub_id(repo_id) and base and not hub_id(base) and is_adapter(model):
        logger.warning(
            f"The adapter's base model is {base!r}, a folder of this machine, so nobody else can load it; the adapter "
            "names the last part only. Push the base model, then set "
            "model.active_peft_config.base_model_name_or_path to its id and push again."
        )
    model_card(model, portable(str(repo_id or folder)), **details).save(Path(folder) / CARD)


def model_card(
    model: AnyModel,
    repo_id: str,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | None = None,
    dataset_tags: str | list[str] | None = None,
    tags: str | list[str] | None = None,
    license: str | None = None,
    language: str | None = None,
) -> ModelCard:
    """The model card of a model, of which `model.training_record` tells the training and the last evaluation.

    Args:
        model (`PreTrainedModel` or `PeftModel`): The model that the card is of.
        repo_id (`str`): The repository or folder that the card's snippet loads.
        model_name (`str`, *optional*, defaults to the last part of `repo_id`): The card's title.
        finetuned_from (`str`, *optional*, defaults to what the model names): The model that this one was trained from.
        dataset (`str`, *optional*): Name of the dataset for the reader.
        dataset_tags (`str` or `list[str]`, *optional*): Ids of datasets on the Hub.
        tags (`str` or `list[str]`, *optional*): Tags beside those of the model's kind.
        license, language (`str`, *optional*): As in the metadata of a card.

    Example:
        ```python
        model_card(model, "user/my-prism", license="mit").save("README.md")
        ```
    """
    record, head = record_of(model), head_settings(model)
    base = finetuned_from or base_model_name(model)
    base = None if base == repo_id else base
    denoiser = portable(record.denoiser) if record else None
    tags, datasets = _as_list(tags), _as_list(dataset_tags)
    data = ModelCardData(
        base_model=hub_id(base),
        base_model_relation=hub_id(base) and ("adapter" if is_adapter(model) else "finetune"),
        library_name="peft" if is_adapter(model) else "transformers",
        tags=list(dict.fromkeys([*_tags_of(model, denoiser), *tags])),
        datasets=datasets or None,
        license=license,
        language=language,
    )
    dataset = dataset or ", ".join(datasets) or (portable(record.dataset) if record else None)
    metrics = record.metrics if record else {}
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=model_name or Path(repo_id).name,
        repo_id=repo_id,
        denoiser=denoiser,
        head_type=head.get("head_type"),
        usage=usage(model, repo_id),
        method=record.method if record else None,
        paper=(record and record.paper) or (papers.PRISM if head else papers.MDLM),
        facts=_training_facts(model, base, dataset, denoiser),
        arguments_file=TRAINING_ARGUMENTS if record and record.arguments else None,
        metrics={name: value for name, value in metrics.items() if not name.endswith(SPEED_METRICS)},
    )


def _as_list(given: str | list[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else given or []


def _tags_of(model: AnyModel, denoiser: str | None) -> list[str]:
    """The tags of a model: those of its kind, and those that it carries."""
    tags = ["masked-diffusion"]
    if denoiser is None:
        tags += ["prism", "custom_generate"] if head_settings(model) else ["custom_generate"]
    tags.append("prism_hf")
    if is_adapter(model):
        tags.append(model.active_peft_config.peft_type.value.lower())
    return [*tags, *(unwrapped(model).model_tags or [])]


def _training_facts(model: AnyModel, base: str | None, dataset: str | None, denoiser: str | None) -> dict[str, Any]:
    """What is known of a model's training: names, as a reader calls them, with values."""
    record, base_id = record_of(model), hub_id(base)
    facts = {
        "Judges drafts of": denoiser and (hub_id(denoiser) or Path(denoiser).name),
        "Base model": f"[{base_id}](https://huggingface.co/{base_id})" if base_id else base and Path(base).name,
        "Dataset": dataset,
        "Adapter": _describe_adapter(model.active_peft_config) if is_adapter(model) else None,
        "Quality head": (head := head_settings(model)) and f"`{head['head_type']}`",
    }
    arguments = record.arguments if record else {}
    unused = "num_train_epochs" if arguments.get("max_steps", -1) > 0 else "max_steps"
    chosen = {f"`{name}`": arguments.get(name) for name in SHOWN_ARGUMENTS if name != unused}
    return {name: fact for name, fact in facts.items() if fact} | {
        name: value for name, value in chosen.items() if value is not None
    }


def _describe_adapter(config: "PeftConfig") -> str:
    """One line on an adapter, with its rank and the modules that it adapts, where its kind has them."""
    told = config.to_dict()
    targets = told.get("target_modules") or []
    targets = f"`{targets}`" if isinstance(targets, str) else ", ".join(f"`{name}`" for name in sorted(targets))
    rank = f", r = {told['r']}" if "r" in told else ""
    return f"{told['peft_type'].value}{rank}" + (f", on {targets}" if targets else "")
