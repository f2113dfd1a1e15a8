"""Reading files that `torch.save` wrote without trusting them: nothing in them is run (see `plain_pickle`).

Tensors are read when they are asked for, so optimizer states and what else is beside the weights cost no memory.
"""

import os
import struct
import zipfile
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .plain_pickle import DAMAGED, BrokenFile, StoredTensor, Unpickler, describe

ZIP_START = b"PK\x03\x04"
LOCAL_HEADER = 30  # bytes before the name of a zip entry
LFS_START = b"version https://git-lfs"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# An instruction makes at most about 64 bytes of Python data, so a pickle fills no more memory than this, or its file.
MIN_INSTRUCTION_LIMIT, BYTES_PER_INSTRUCTION = 1_000_000, 64


class TorchFile:
    """A file of `torch.save`, opened without trust.

    Args:
        path (`str` or `os.PathLike`): The file. What was saved is then in `data`, in plain data.

    Raises:
        ValueError: naming the file, if it is no file of `torch.save`, is damaged or cut off, has compressed entries,
            or claims more than it holds. Nothing but its index and its pickle has been read by then.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.size = self.path.stat().st_size
        self.places: dict[str, tuple[int, int]] = {}  # storage key -> offset in the file, bytes
        self.unpickler = Unpickler(max(MIN_INSTRUCTION_LIMIT, self.size // BYTES_PER_INSTRUCTION))
        try:
            with self.path.open("rb") as file:
                self.data = self.read_zip(file) if file.peek(4)[:4] == ZIP_START else self.read_legacy(file)
            self.check_storages()
        except BrokenFile as error:
            raise ValueError(f"{self.path}: {error}") from error
        except (
            *(zipfile.BadZipFile, NotImplementedError, struct.error, EOFError, RecursionError),
            *(ArithmeticError, AttributeError, LookupError, TypeError, ValueError),
        ) as error:
            raise ValueError(
                f"{self.path} is cut off, damaged or no file of torch.save ({type(error).__name__}: "
                f"{str(error)[:200]}). Remedy: {DAMAGED}."
            ) from error

    def read_zip(self, file: BufferedReader) -> Any:
        entries = zip_entries(file, self.size)
        pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise BrokenFile("a zip archive, but not of torch.save, which writes one data.pkl. Pass a checkpoint file.")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and read_at(file, *entries[f"{root}byteorder"]) != b"little":
            raise BrokenFile("its tensors are big-endian. Save it again on a little-endian machine.")
        prefix = f"{root}data/"
        self.places = {name.removeprefix(prefix): place for name, place in entries.items() if name.startswith(prefix)}
        offset, nbytes = entries[pickles[0]]
        file.seek(offset)
        return self.unpickler.load(Window(file, nbytes))

    def read_legacy(self, file: BufferedReader) -> Any:
        """The format before torch 1.6: five pickles, then the storages, each after its number of elements."""
        start = file.peek(len(LFS_START))[: len(LFS_START)]
        if start == LFS_START:
            raise BrokenFile("a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`.")
        if start[:1] != b"\x80" or self.unpickler.load(Window(file, self.size)) != LEGACY_MAGIC:
            raise BrokenFile(f"no file of torch.save, which begins as a zip archive or a pickle. Remedy: {DAMAGED}.")
        _protocol, _system, data, keys = (self.unpickler.load(Window(file, self.size)) for _ in range(4))
        storages = {storage.key: storage for storage in self.unpickler.storages}
        for key in keys:
            if type(key) is not str:
                raise BrokenFile(f"a storage has {describe(key)} for a name. Remedy: {DAMAGED}.")
            (numel,) = struct.unpack("<q", file.read(8))
            if numel != storages[key].numel:
                raise BrokenFile(f"storage {key!r} has {numel} elements, but its tensors say {storages[key].numel}.")
            self.places[key] = (file.tell(), storages[key].nbytes)
            file.seek(storages[key].nbytes, os.SEEK_CUR)
        if file.tell() > self.size:
            raise BrokenFile(f"it ends at byte {self.size} of {file.tell()}. Remedy: {DAMAGED}.")
        return data

    def check_storages(self) -> None:
        for storage in self.unpickler.storages:
            if storage.key not in self.places:
                raise BrokenFile(f"storage {storage.key!r} is missing. Remedy: {DAMAGED}.")
            found = self.places[storage.key][1]
            if found != storage.nbytes:
                raise BrokenFile(
                    f"storage {storage.key!r} has {found} bytes, its tensors say {storage.nbytes}. Remedy: {DAMAGED}."
                )

    def read(self, tensors: Mapping[str, StoredTensor]) -> dict[str, torch.Tensor]:
        """Read `tensors` into memory of their own.

        Raises:
            ValueError: if a value is no dense tensor, or if together they are larger than the file.
        """
        try:
            check_tensors(tensors, self.size)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error
        with self.path.open("rb") as file:
            return {name: self.read_tensor(file, tensor) for name, tensor in tensors.items()}

    def read_tensor(self, file: BufferedReader, tensor: StoredTensor) -> torch.Tensor:
        itemsize = tensor.dtype.itemsize
        buffer = torch.empty(tensor.span * itemsize, dtype=torch.uint8)
        file.seek(self.places[tensor.storage.key][0] + tensor.offset * itemsize)
        if file.readinto(buffer.numpy().data) != len(buffer):
            raise ValueError(f"{self.path} has changed while it was read. Remedy: {DAMAGED}.")
        strided = buffer.view(tensor.dtype).as_strided(tensor.shape, tensor.stride)
        return strided.contiguous()


def check_tensors(tensors: Mapping[str, Any], size: int) -> None:
    """Raise ValueError if a value is no dense tensor, or if together they are larger than a file of `size` bytes."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, StoredTensor):
            raise ValueError(f"{name!r} is no dense tensor but {describe(tensor)}.")
    total = sum(max(tensor.numel, tensor.span) * tensor.dtype.itemsize for tensor in tensors.values())
    if total > size:
        raise ValueError(f"the file has {size} bytes, but {len(tensors)} tensors of it claim {total}.")


class Window:
    """The next `size` bytes of a file, as a file to read from."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.left = file, size

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self.file.readline(self.left)
        self.left -= len(data)
        return data


def read_at(file: BinaryIO, offset: int, nbytes: int) -> bytes:
    """The bytes of a file at a place."""
    file.seek(offset)
    return file.read(nbytes)


def zip_entries(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Name -> (offset, bytes) of every entry of a zip archive of `size` bytes. None is read, and none may be packed."""
    entries = {}
    for info in zipfile.ZipFile(file).infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise BrokenFile(
                f"entry {info.filename!r} is compressed or encrypted ({info.file_size} bytes out of "
                f"{info.compress_size}), which torch.save never does. Remedy: {DAMAGED}."
            )
        if info.filename in entries:
            raise BrokenFile(f"entry {info.filename!r} is there twice. Remedy: {DAMAGED}.")
        start = info.header_offset
        header = read_at(file, start, LOCAL_HEADER) if 0 <= start <= size - LOCAL_HEADER else bytes(LOCAL_HEADER)
        name_length, extra_length = struct.unpack("<HH", header[-4:])  # of this header, not of the index
        offset = start + LOCAL_HEADER + name_length + extra_length
        if header[:4] != ZIP_START or offset + info.file_size > size:
            raise BrokenFile(f"entry {info.filename!r} lies outside the file. Remedy: {DAMAGED}.")
        entries[info.filename] = (offset, info.file_size)
    if sum(nbytes for _, nbytes in entries.values()) > size:
        raise BrokenFile(f"its entries overlap: together they are larger than the file. Remedy: {DAMAGED}.")
    return entries
