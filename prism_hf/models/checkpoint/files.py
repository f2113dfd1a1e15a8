"""Opening what others saved as a checkpoint: one file or several, of `torch.save` or of safetensors.

Each opened checkpoint has `path`, `size` in bytes, `data` with a `StoredTensor` for every weight, and `read`, which
loads those that are asked for. Nothing in a file is run.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from .plain_pickle import DAMAGED, Storage, StoredTensor
from .torch_file import TorchFile

WEIGHT_FILES = (WEIGHTS_NAME, WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
}
PART = re.compile(r"-\d{5}-of-\d{5}\.")
# What torch.compile, data parallelism, FSDP and DeepSpeed put between the names of modules.
WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|module|_fsdp_wrapped_module|_forward_module)\.")


class SafetensorsFile:
    """A file of safetensors. Raises ValueError, naming it, if it is damaged or has tensors of an unknown kind."""

    def __init__(self, path: Path):
        self.path, self.size = path, path.stat().st_size
        try:
            with safe_open(path, "pt") as file:
                self.data = {name: stored_as(name, file.get_slice(name)) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is cut off or damaged ({error}). Remedy: {DAMAGED}.") from error

    def read(self, tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(tensor.storage.key) for name, tensor in tensors.items()}


def stored_as(name: str, piece: Any) -> StoredTensor:
    """A tensor of safetensors, by a slice of it that has not been read."""
    shape, dtype = tuple(piece.get_shape()), DTYPES[piece.get_dtype()]
    stride = tuple(math.prod(shape[dim + 1 :]) for dim in range(len(shape)))
    return StoredTensor(Storage(name, dtype, math.prod(shape)), dtype, 0, shape, stride)


class ShardedFile:
    """The files that an index names, as one. Raises ValueError, naming the file, where one is missing or damaged."""

    def __init__(self, index: Path):
        self.path = index
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} is no index of weights ({type(error).__name__}: {error}).") from error
        missing = [name for name in names if os.path.basename(name) != name or not (index.parent / name).is_file()]
        if missing or not names:
            raise ValueError(f"{index} names {missing[:5] or 'no files'}, which {index.parent} lacks.")
        self.files = [open_file(index.parent / name) for name in names]
        if not all(isinstance(file.data, dict) for file in self.files):
            raise ValueError(f"{index} names files that hold no weights by name.")
        self.size = sum(file.size for file in self.files)
        self.data = {name: value for file in self.files for name, value in file.data.items()}

    def read(self, tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for file in self.files:
            own = {id(value) for value in file.data.values()}
            found |= file.read({name: value for name, value in tensors.items() if id(value) in own})
        return found


def open_file(path: Path) -> TorchFile | SafetensorsFile:
    """Open one file, by its name's ending."""
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def open_checkpoint(path: str | os.PathLike) -> TorchFile | SafetensorsFile | ShardedFile:
    """Open a file, the index of several, or the folder of one or the other.

    Raises:
        ValueError: naming the file, if it is damaged or of another kind, or is one part of several; or if a folder has
            no weights.
    """
    path = Path(path)
    if path.is_dir():
        present = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not present:
            raise ValueError(f"{path} is a folder without {', '.join(WEIGHT_FILES)}: give the file itself.")
        path = present[0]
    if path.name.endswith(".index.json"):
        return ShardedFile(path)
    if PART.search(path.name):
        raise ValueError(f"{path} is one part of several: give their folder, or the index (*.index.json) in it.")
    return open_file(path)


def by_name(data: Mapping[Any, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    """The weights under one of the names `parts` ("backbone.", ...), without what wrapped their module.

    The names of wrappers are dropped wherever they stand. If every part is within another module, its name is, too.

    Raises:
        ValueError: if the parts are in several modules, or two weights get one name.
    """
    plain = {key: WRAPPERS.sub("", str(key)) for key in data}
    part = re.compile(rf"(.*?\.)??(?:{'|'.join(map(re.escape, parts))})")
    owners = {match[1] or "" for name in plain.values() if (match := part.match(name))}
    if len(owners) > 1 and "" not in owners:
        raise ValueError(f"its weights are within several modules, {sorted(owners)}: save those of one alone.")
    owner = "" if "" in owners or not owners else owners.pop()
    named = {name.removeprefix(owner): data[key] for key, name in plain.items()}
    if len(named) < len(plain):
        raise ValueError("two of its weights have one name but for what wrapped their module: save one of them.")
    return named
