"""Loading that refuses a checkpoint which does not hold the whole model, and names a file that is damaged.

- transformers would warn of weights that are missing or left over, and go on.
- What a loader says of a damaged file is said again with the file's name (`naming_damage`). The files of the folder, or
  of the Hub's cache, are looked at only after an error.
- An adapter and a whole model under one name are refused: transformers would load both, PEFT the adapter alone.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    CONFIG_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)
from transformers.utils.hub import cached_file, has_file
from transformers.utils.peft_utils import find_adapter_config_file

# Files of which one makes a folder a whole model, or an adapter.
MODEL_WEIGHTS = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME)
ADAPTER_WEIGHTS = (ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)
TORCH_FILES = ("*_model*.bin", "*.pt", "*.pth")
# Arguments of a loader that say how the Hub is asked, whichever the repository.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")
# Those that say where a name leads.
PLACE = ("cache_dir", "revision", "subfolder", "token", "local_files_only")


class WholeCheckpointMixin:
    """Makes `from_pretrained` fail where transformers only warns. List it before `PreTrainedModel`.

    A weight that is missing would silently be drawn at random, and one that is left over means another architecture.
    """

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *model_args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As transformers'.

        Raises:
            ValueError: naming the weights that are missing, left over or of another size, or the file that is damaged,
                or if there is an adapter beside the model, which transformers would add to it.
        """
        refuse_two_models(pretrained_model_name_or_path, kwargs)
        with naming_damage(pretrained_model_name_or_path, kwargs):
            model, info = super().from_pretrained(  # type: ignore[misc]  # of the class that this is mixed into
                pretrained_model_name_or_path,
                *model_args,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **kwargs,
            )
        mismatched = [
            f"{name} ({tuple(found)}, the config says {tuple(expected)})"
            for name, found, expected in info["mismatched_keys"]
        ]
        if not ignore_mismatched_sizes:
            refuse_weights(pretrained_model_name_or_path, cls.__name__, "of another size", mismatched)
        refuse_weights(pretrained_model_name_or_path, cls.__name__, "missing", info["missing_keys"])
        refuse_weights(pretrained_model_name_or_path, cls.__name__, "left over", info["unexpected_keys"])
        return (model, info) if output_loading_info else model


REMEDIES = {
    "of another size": "check vocabulary and widths in config.json",
    "missing": "the checkpoint is incomplete or of another architecture",
    "left over": "check model_type and the number of layers in config.json",
}


def refuse_weights(
    checkpoint: str | os.PathLike, kind: str, problem: str, names: Iterable[str], remedy: str | None = None
) -> None:
    """Raise ValueError if a checkpoint of a `kind` of model has weights with a `problem`, one of `REMEDIES`."""
    if names := sorted(names):
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        raise ValueError(
            f"{checkpoint} is no whole {kind}; weights {problem}: {shown}. Remedy: {remedy or REMEDIES[problem]}."
        )


def place_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a loader's arguments that say where a name leads."""
    return {name: arguments[name] for name in PLACE if arguments.get(name) is not None}


def refuse_two_models(checkpoint: str | os.PathLike | None, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if a folder, or a name on the Hub, holds an adapter and a whole model.

    A `config.json` alone makes no model: that of the base may well be beside an adapter.
    """
    name, place = str(checkpoint), place_of(arguments)
    if checkpoint is None or find_adapter_config_file(name, **place) is None:  # None: the weights are an argument
        return
    subfolder = place.pop("subfolder", "")
    for weights in MODEL_WEIGHTS:
        if has_file(name, os.path.join(subfolder, weights), **place):
            raise ValueError(
                f"{name} has both an adapter and a whole model ({weights}), and neither is preferred. Remedy: move one "
                "of them to a folder or repository of its own."
            )


@contextmanager
def naming_damage(checkpoint: str | os.PathLike, arguments: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Within, a loader's error over a damaged file of `checkpoint` becomes one that names the file and the remedy.

    It is an OSError where the loader's is, else a ValueError. `checkpoint` is a folder or a name on the Hub; those of
    the loader's `arguments` that are in `PLACE` say where the name leads.
    """
    try:
        yield
    except Exception as error:
        folder = folder_of(checkpoint, arguments or {})
        damage = find_damage(folder) if folder else None
        if folder and damage is None and isinstance(error, UnpicklingError):
            files = sorted(path.name for pattern in TORCH_FILES for path in folder.glob(pattern))
            damage = f"{folder} has objects that are no weights in {', '.join(files)}; none of them was built."
        if damage is None:
            raise
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(f"{damage} Remedy: download or copy the file again, or save the checkpoint again.") from error


def folder_of(checkpoint: str | os.PathLike, arguments: Mapping[str, Any]) -> Path | None:
    """The folder of a checkpoint: itself, or where the cache of the Hub keeps it."""
    place = place_of(arguments) | {"local_files_only": True}
    if os.path.isdir(checkpoint):
        return Path(checkpoint, place.get("subfolder", ""))
    for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME):
        try:
            return Path(cached_file(str(checkpoint), name, **place)).parent
        except (OSError, ValueError):
            continue
    return None


def find_damage(folder: Path) -> str | None:
    """What is wrong with the first damaged file of a checkpoint's folder, with its name; None if none is."""
    patterns = {"*.json": damage_of_json, "*.safetensors": damage_of_safetensors}
    for pattern, damage_of in (patterns | dict.fromkeys(TORCH_FILES, damage_of_torch_file)).items():
        for path in sorted(folder.glob(pattern)):
            if damage := damage_of(path):
                return damage
    if (folder / ADAPTER_CONFIG_NAME).exists() and not any((folder / name).exists() for name in ADAPTER_WEIGHTS):
        return f"{folder} has no weights of its adapter ({ADAPTER_SAFE_WEIGHTS_NAME})."
    return None


def damage_of_json(path: Path) -> str | None:
    """What is wrong with a file of JSON, or with the files that it names as an index."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"{path} is cut off or damaged: it is no JSON ({error})."
    if not path.name.endswith(".index.json"):
        return None
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        return f"{path} is damaged: it has no 'weight_map' from weights to files."
    missing = sorted({name for name in shards.values() if not (path.parent / name).is_file()})
    return f"{path} names {', '.join(missing[:5])}, which {path.parent} lacks." if missing else None


def damage_of_safetensors(path: Path) -> str | None:
    """What is wrong with the header of a file of safetensors."""
    try:
        with safe_open(path, "pt"):
            return None
    except (SafetensorError, OSError) as error:
        return f"{path} is cut off or damaged ({error})."


def damage_of_torch_file(path: Path) -> str | None:
    """What is wrong with a file of `torch.save`, of which nothing is run."""
    from .torch_file import TorchFile  # which only a damaged checkpoint needs here

    try:
        TorchFile(path)
        return None
    except (OSError, ValueError) as error:
        return str(error).partition(" Remedy")[0]
