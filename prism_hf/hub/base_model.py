"""How a model names the one that it was trained from: by its id on the Hub, or by the way to a folder.

An adapter names a base model that is a folder by the way to it, `../base`, so that it loads from anywhere while the two
keep their places to each other; one that is pushed names the last part only. `base_model_name_or_path` of
`AutoPeftModelForPrism.from_pretrained` tells another place.
"""

import os
from pathlib import Path

from huggingface_hub.utils import HFValidationError, validate_repo_id

from prism_hf._compat import AnyModel, is_adapter

from .portable import portable


def hub_id(name: str | os.PathLike | None) -> str | None:
    """`name` if it can be a model id on the Hub, which refuses a card with any other `base_model`; else None."""
    if not name or os.path.exists(name):
        return None
    try:
        validate_repo_id(str(name))
    except HFValidationError:
        return None
    return str(name)


def base_model_name(model: AnyModel) -> str | None:
    """Name or path of the model that `model` was trained from."""
    if is_adapter(model):
        return model.active_peft_config.base_model_name_or_path
    return model.name_or_path or None


def base_from(base: str | None, folder: Path, public: bool) -> str | None:
    """How an adapter in `folder` names its base model: by its id on the Hub, or by the way to it from `folder`.

    Nothing but the last part of a path is told to others.
    """
    if base is None or not os.path.isdir(base):
        return portable(base)
    if public:
        return os.path.basename(os.path.realpath(base))
    way = os.path.relpath(os.path.realpath(base), os.path.realpath(folder))
    return way if way.startswith(os.pardir) else os.path.join(os.curdir, way)


def base_seen_from(base: str | None, folder: str | os.PathLike) -> str | None:
    """Where the base model is that an adapter in `folder` names: the inverse of `base_from`."""
    if base is not None and base.split(os.sep)[0] in (os.curdir, os.pardir) and os.path.isdir(folder):
        return os.path.normpath(os.path.join(os.path.realpath(folder), base))
    return base
