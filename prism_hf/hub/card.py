"""Model cards: what a model is, how it is used and how it was trained."""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers.utils import logging

from prism_hf._compat import is_adapter, unwrapped

from .base_model import base_model_name, hub_id
from .portable import portable
from .record import TRAINING_ARGUMENTS, record_of
from .usage import usage

logger = logging.get_logger(__name__)

CARD = "README.md"
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

PRISM_CITATION = """@article{kim2025prism,
  title   = {Fine-Tuning Masked Diffusion for Provable Self-Correction},
  author  = {Kim, Jaeyeon and Kim, Seunggeun and Lee, Taekyun and Pan, David Z. and Kim, Hyeji and Kakade, Sham and Chen, Sitan},
  journal = {arXiv preprint arXiv:2510.01384},
  year    = {2025},
  url     = {https://arxiv.org/abs/2510.01384}
}"""  # noqa: E501
MDLM_CITATION = """@inproceedings{sahoo2024mdlm,
  title     = {Simple and Effective Masked Diffusion Language Models},
  author    = {Sahoo, Subham Sekhar and Arriola, Marianne and Schiff, Yair and Gokaslan, Aaron and Marroquin, Edgar and Chiu, Justin T. and Rush, Alexander and Kuleshov, Volodymyr},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2024},
  url       = {https://arxiv.org/abs/2406.07524}
}"""  # noqa: E501
TOKEN_CRITIC_CITATION = """@inproceedings{lezama2022tokencritic,
  title     = {Improved Masked Image Generation with Token-Critic},
  author    = {Lezama, Jos{\\'e} and Chang, Huiwen and Jiang, Lu and Essa, Irfan},
  booktitle = {European Conference on Computer Vision},
  year      = {2022},
  url       = {https://arxiv.org/abs/2209.04439}
}"""

PRISM_ABSTRACT = (
    "A masked diffusion language model that finds and corrects its own mistakes, trained with "
    "[PRISM](https://arxiv.org/abs/2510.01384): the forward pass that gives the token posteriors also gives every "
    "token a *quality*, the probability that it is right given the rest. While generating, the worst tokens are masked "
    "again and rewritten."
)
TOKEN_CRITIC_ABSTRACT = (
    "A [Token-Critic](https://arxiv.org/abs/2209.04439): it reads the drafts of another masked diffusion language "
    "model and tells of each token how likely it is to be right, so that the worst are masked again and rewritten. It "
    "does not generate by itself."
)
MDM_ABSTRACT = (
    "A masked diffusion language model ([MDLM](https://arxiv.org/abs/2406.07524)): it fills masked tokens in any order."
)


def write_card(model, folder: str | os.PathLike, repo_id: str | os.PathLike | None = None, **details) -> None:
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
    model,
    repo_id: str,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    dataset: str | None = None,
    dataset_tags: str | list[str] | None = None,
    tags: str | list[str] | None = None,
    license: str | None = None,
    language: str | None = None,
) -> ModelCard:
    """The model card of `model` in the repository or folder `repo_id`.

    The last evaluation, the dataset and the training arguments come from `model.training_record`. `dataset` is a name
    for the reader, `dataset_tags` are ids of datasets on the Hub.
    """
    record = record_of(model)
    base = finetuned_from or base_model_name(model)
    base = None if base == repo_id else base
    denoiser = portable(record.denoiser) if record else None
    dataset_tags = [dataset_tags] if isinstance(dataset_tags, str) else dataset_tags
    data = ModelCardData(
        base_model=hub_id(base),
        base_model_relation=hub_id(base) and ("adapter" if is_adapter(model) else "finetune"),
        library_name="peft" if is_adapter(model) else "transformers",
        tags=card_tags(model, denoiser, [tags] if isinstance(tags, str) else tags or []),
        datasets=dataset_tags,
        license=license,
        language=language,
    )
    abstract, citation = about(model, denoiser)
    sections = [
        f"# {model_name or Path(repo_id).name}",
        abstract,
        "## Use",
        f"With [transformers](https://huggingface.co/docs/transformers) and the Python package prism_hf:\n\n"
        f"```python\n{usage(model, repo_id)}\n```",
    ]
    if denoiser is None:
        sections.append(
            "The sampler also serves a model of your own, with prism_hf installed: "
            f"`model.generate(input_ids, custom_generate={repo_id!r}, trust_remote_code=True)`."
        )
    dataset = dataset or ", ".join(dataset_tags or []) or (record and portable(record.dataset))
    if facts := training_facts(model, base, dataset, denoiser):
        sections += ["## Training", table(("", ""), facts)]
    if record and record.arguments:
        sections.append(f"All arguments are in [{TRAINING_ARGUMENTS}]({TRAINING_ARGUMENTS}).")
    metrics = record.metrics if record else {}
    if rows := [(f"`{name}`", f"{metrics[name]:.6g}") for name in metrics if not name.endswith(SPEED_METRICS)]:
        sections += ["## Last evaluation", table(("Metric", "Value"), rows)]
    sections += ["## Citation", f"```bibtex\n{citation}\n```"]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def card_tags(model, denoiser: str | None, given: list[str]) -> list[str]:
    """The tags of a model: those of its kind, those that it carries, and the `given` ones."""
    inner, tags = unwrapped(model), ["masked-diffusion"]
    if denoiser is None:
        tags += [*(["prism"] if hasattr(inner, "quality_head") else []), "custom_generate"]
    tags.append("prism_hf")
    if is_adapter(model):
        tags.append(model.active_peft_config.peft_type.value.lower())
    return list(dict.fromkeys([*tags, *(getattr(inner, "model_tags", None) or []), *given]))


def about(model, denoiser: str | None) -> tuple[str, str]:
    """What a model of this kind is, and what to cite."""
    if denoiser is not None:
        return TOKEN_CRITIC_ABSTRACT, TOKEN_CRITIC_CITATION
    if hasattr(unwrapped(model), "quality_head"):
        return PRISM_ABSTRACT, PRISM_CITATION
    return MDM_ABSTRACT, MDLM_CITATION


def training_facts(model, base: str | None, dataset: str | None, denoiser: str | None) -> list[tuple[str, Any]]:
    """What is known of a model's training, as pairs of a name and a value."""
    facts, inner, record = [], unwrapped(model), record_of(model)
    if denoiser is not None:
        facts.append(("Judges drafts of", denoiser if hub_id(denoiser) else Path(denoiser).name))
    if base is not None:
        name = hub_id(base)
        facts.append(("Base model", f"[{name}](https://huggingface.co/{name})" if name else Path(base).name))
    if dataset:
        facts.append(("Dataset", dataset))
    if is_adapter(model):
        facts.append(("Adapter", describe_adapter(model.active_peft_config)))
    if hasattr(inner, "quality_head"):
        facts.append(("Quality head", f"`{inner.config.head_type}`"))
    arguments = record.arguments if record else {}
    unused = "num_train_epochs" if arguments.get("max_steps", -1) > 0 else "max_steps"
    shown = [name for name in SHOWN_ARGUMENTS if arguments.get(name) is not None and name != unused]
    return [*facts, *((f"`{name}`", arguments[name]) for name in shown)]


def table(header: tuple[str, str], rows: list[tuple[str, Any]]) -> str:
    lines = [header, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def describe_adapter(config) -> str:
    """One line on a `PeftConfig`."""
    targets = getattr(config, "target_modules", None) or []
    targets = f"`{targets}`" if isinstance(targets, str) else ", ".join(f"`{name}`" for name in sorted(targets))
    rank = f", r = {config.r}" if hasattr(config, "r") else ""
    return f"{config.peft_type.value}{rank}" + (f", on {targets}" if targets else "")
