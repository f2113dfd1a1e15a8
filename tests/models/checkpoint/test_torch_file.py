"""Files of `torch.save`, genuine, damaged and hostile, read without running anything of them."""

import io
import os
import pickle
import random
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path, PosixPath

import pytest
import torch
from torch import nn

from prism_hf.models.checkpoint.plain_pickle import Inert
from prism_hf.models.checkpoint.torch_file import TorchFile

TENSORS = {
    "matrix": torch.arange(12.0).view(3, 4),
    "transposed": torch.arange(12.0).view(3, 4).T,
    "part": torch.arange(10)[3:7],
    "bfloat16": torch.linspace(0, 1, 5).bfloat16(),
    "uint16": torch.ones(3, dtype=torch.uint16),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.zeros(0, 3),
    "parameter": nn.Parameter(torch.ones(2)),
    "complex": torch.tensor([1 + 2j]),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("is_zip", [True, False])
def test_tensors_are_those_that_torch_saved(tmp_path, is_zip, protocol):
    path = tmp_path / "some.pt"
    torch.save({"weights": TENSORS}, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    file = TorchFile(path)
    read = file.read(file.data["weights"])
    assert read.keys() == TENSORS.keys()
    for name, expected in TENSORS.items():
        assert read[name].dtype == expected.dtype and read[name].is_contiguous(), name
        assert torch.equal(read[name], expected.detach()), name


def test_other_objects_are_inert_and_plain_data_is_itself(tmp_path):
    plain = {"text": "a", "numbers": [1, 2**70, 0.5, None, True], "pair": ("x", ("y",)), "nested": {("a", 1): {}}}
    objects = {"path": PosixPath("x"), "set": {1}, "model": nn.Linear(2, 2), "sparse": torch.eye(2).to_sparse()}
    torch.save(OrderedDict(plain=plain, objects=objects, ordered=OrderedDict(b=1, a=2)), tmp_path / "some.pt")
    data = TorchFile(tmp_path / "some.pt").data
    assert data["plain"] == plain
    assert list(data["ordered"]) == ["b", "a"]
    assert all(type(value) is Inert for value in data["objects"].values())
    assert data["objects"]["model"].made_by.path == "torch.nn.modules.linear.Linear"
    assert data["objects"]["model"].state["in_features"] == 2


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def archive(path: Path, pickled: bytes, storages: dict[str, bytes] | None = None, **entries) -> Path:
    """A file as torch writes it, around any pickle."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in {"x/data.pkl": pickled, **{f"x/data/{k}": v for k, v in (storages or {}).items()}}.items():
            file.writestr(name, data)
        for name, data in entries.items():
            file.writestr(name, data)
    return path


def instructions(marker: str) -> list[bytes]:
    """Hand-written pickles that touch `marker` in ways that no class of Python pickles itself."""
    command = f"touch {marker}".encode()
    text = b"X" + struct.pack("<I", len(command)) + command
    return [
        b"\x80\x02cos\nsystem\n(" + text + b"tR.",  # GLOBAL, REDUCE
        b"\x80\x04\x8c\x02os\x8c\x06system\x93" + text + b"\x85R.",  # STACK_GLOBAL
        b"(S'" + command + b"'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\n" + text + b"o.",  # OBJ
        b"\x80\x02csubprocess\nPopen\n(" + text + b"t\x81.",  # NEWOBJ
        b"\x80\x04csubprocess\nPopen\n)}X\x04\x00\x00\x00args" + text + b"s\x92.",  # NEWOBJ_EX
        b"\x80\x02ccollections\nOrderedDict\n)R}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb" + text + b"b.",  # BUILD
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN" + text + b"\x85NtR.",
        b"\x80\x02cbuiltins\ngetattr\n(cos\n__builtins__\nX\x04\x00\x00\x00evaltR.",
    ]


def test_nothing_is_run_or_imported(tmp_path):
    marker = tmp_path / "marker"
    source = f"open({str(marker)!r}, 'w')"
    for number, payload in enumerate(
        [Call(os.system, f"touch {marker}"), Call(eval, source), Call(exec, source), Call(open, marker, "w")]
    ):
        path = tmp_path / f"{number}.pt"
        torch.save({"state_dict": {}, "hyper_parameters": payload}, path)
        assert type(TorchFile(path).data["hyper_parameters"]) is Inert
        torch.save({"state_dict": payload}, path, _use_new_zipfile_serialization=False)
        assert type(TorchFile(path).data["state_dict"]) is Inert
    for pickled in instructions(str(marker)):
        TorchFile(archive(tmp_path / "by_hand.pt", pickled))
    sys.modules.pop("this", None)
    TorchFile(archive(tmp_path / "by_hand.pt", b"\x80\x02cthis\ns\n)R."))
    assert not marker.exists() and "this" not in sys.modules


def tensor_pickle(storage="FloatStorage", key="0", numel=4, offset=0, size=(4,), stride=(1,)) -> bytes:
    """{"w": a tensor} with the claims given."""

    class Reference:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", getattr(torch, storage), key, "cpu", numel) if type(value) is Reference else None

    stream = io.BytesIO()
    made = Call(torch._utils._rebuild_tensor_v2, Reference(), offset, size, stride, False, OrderedDict())
    Pickler(stream, protocol=2).dump({"w": made})
    return stream.getvalue()


FOUR = {"0": bytes(16)}
NESTED_KEY = b"\x80\x02}(" + b"N" + b"2\x86" * 64 + b"K\x01u."  # a tuple of 2**64 leaves, to be hashed
HOSTILE = {
    "a storage of another size": (tensor_pickle(numel=5), FOUR, "storage '0' has 16 bytes, its tensors say 20"),
    "a huge storage": (tensor_pickle(numel=2**50), FOUR, "storage '0' has 16 bytes"),
    "a missing storage": (tensor_pickle(key="9"), FOUR, "storage '9' is missing"),
    "a negative stride": (tensor_pickle(stride=(-1,)), FOUR, "negative"),
    "a negative offset": (tensor_pickle(offset=-1), FOUR, "negative"),
    "an offset past the end": (tensor_pickle(offset=1), FOUR, "reaches beyond its storage"),
    "a stride past the end": (tensor_pickle(size=(2, 2), stride=(3, 1)), FOUR, "reaches beyond its storage"),
    "sizes without strides": (tensor_pickle(stride=()), FOUR, "sizes, strides"),
    "a size as text": (tensor_pickle(size=("4",)), FOUR, "sizes, strides"),
    "a size that overflows": (tensor_pickle(size=(2**63, 2**63), stride=(2**63, 1)), FOUR, "sizes, strides"),
    "a negative number of elements": (tensor_pickle(numel=-4), FOUR, "no plain storage"),
    "a key that is no text": (tensor_pickle(key=0), FOUR, "no plain storage"),
    "a reference to nothing": (b"\x80\x02NQ.", FOUR, "refers to a NoneType"),
    "a reference to a text": (b"Pmodule\n.", FOUR, "instruction PERSID"),
    "a reference of no kind": (b"\x80\x02X\x06\x00\x00\x00modulecos\nsystem\n\x86Q.", FOUR, "damaged"),
    "the same key twice": (b"\x80\x02}(K\x01NK\x01Nu.", FOUR, "a key twice"),
    "an unhashable key": (b"\x80\x02}(]Nu.", FOUR, "a list as a key"),
    "a key of endless hash": (NESTED_KEY, FOUR, "a tuple as a key"),
    "a value without key": (b"\x80\x02}(K\x01u.", FOUR, "damaged"),
    "an empty stack": (b"\x80\x02R.", FOUR, "takes more than it has"),
    "no mark": (b"\x80\x02u.", FOUR, "damaged"),
    "an unknown memo": (b"\x80\x02h\x07.", FOUR, "damaged"),
    "no end": (b"\x80\x02}", FOUR, "damaged"),
    "no pickle": (b"\xff\xfe", FOUR, "damaged"),
    "nothing": (b"", FOUR, "damaged"),
    "a text longer than the file": (b"\x80\x02X\xff\xff\xff\x7fabc.", FOUR, "damaged"),
    "an extension": (b"\x80\x02\x82\x01.", FOUR, "instruction EXT1"),
    "a buffer out of band": (b"\x80\x05\x97.", FOUR, "instruction NEXT_BUFFER"),
    "a maker without arguments": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nNR.", FOUR, "is called with a NoneType"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_is_refused_by_name(tmp_path, kind):
    pickled, storages, message = HOSTILE[kind]
    path = archive(tmp_path / "hostile.ckpt", pickled, storages)
    with pytest.raises(ValueError, match=rf"hostile\.ckpt.*{message}"):
        TorchFile(path)


def test_an_expanded_tensor_is_refused_when_it_is_read(tmp_path):
    path = archive(tmp_path / "expanded.ckpt", tensor_pickle(size=(2**20, 2**20), stride=(0, 0)), FOUR)
    file = TorchFile(path)
    with pytest.raises(ValueError, match=r"expanded\.ckpt: .*\d+ bytes, but 1 tensors of it claim 4398046511104"):
        file.read(file.data)
    with pytest.raises(ValueError, match="'w' is no dense tensor but a str"):
        file.read({"w": "text"})


def test_other_files_are_refused_by_name(tmp_path):
    for name, content in {
        "empty.ckpt": b"",
        "text.ckpt": b"<html>404</html>",
        "plain.ckpt": pickle.dumps({"state_dict": {}}),
        "pointer.ckpt": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}.*(Remedy|git lfs pull)"):
            TorchFile(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.ckpt", "w") as file:
        file.writestr("word/document.xml", "<xml/>")
    with pytest.raises(ValueError, match=r"other\.ckpt.*not of torch\.save"):
        TorchFile(tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"ends\.ckpt.*big-endian"):
        TorchFile(archive(tmp_path / "ends.ckpt", b"\x80\x02}.", **{"x/byteorder": b"big"}))
    with pytest.warns(UserWarning), zipfile.ZipFile(archive(tmp_path / "twice.ckpt", b"\x80\x02}."), "a") as file:
        file.writestr("x/data.pkl", b"\x80\x02].")
    with pytest.raises(ValueError, match=r"twice\.ckpt.*twice"):
        TorchFile(tmp_path / "twice.ckpt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_damage_is_told_and_never_a_crash(tmp_path, is_zip):
    path = tmp_path / "whole.ckpt"
    torch.save({"w": torch.ones(3), "v": [torch.zeros(2)]}, path, _use_new_zipfile_serialization=is_zip)
    whole, draws = path.read_bytes(), random.Random(0)
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"whole\.ckpt"):
            TorchFile(path)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draws.randint(1, 4)):
            damaged[draws.randrange(len(whole))] = draws.randrange(256)
        path.write_bytes(damaged)
        try:
            data = TorchFile(path).data
        except ValueError as error:
            assert "whole.ckpt" in str(error)
        else:
            del data


def try_reading(path: Path) -> str:
    """Whether a file and its `state_dict` are read."""
    try:
        file = TorchFile(path)
        if isinstance(file.data, dict):
            file.read(file.data["state_dict"])
    except ValueError:
        return "refused"
    return "read"


def test_memory_stays_within_one_and_a_half_files(tmp_path, growth):
    mega = 2**20
    tensors = {f"layer.{i}": torch.ones(mega // 4) for i in range(15)}
    torch.save({"state_dict": tensors, "optimizer_states": [torch.ones(15 * mega // 4)]}, tmp_path / "genuine.ckpt")
    torch.save({"state_dict": dict(tensors)}, tmp_path / "weights.ckpt")
    torch.save({"state_dict": dict(tensors)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data.pkl", tensor_pickle(numel=2**24, size=(2**24,)))
        with file.open("x/data/0", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(mega))
    archive(tmp_path / "lists.ckpt", b"\x80\x02(" + b"]" * 8 * mega + b"l.")
    archive(tmp_path / "memo.ckpt", b"\x80\x02]r\xfe\xff\xff\xff.")
    laughs = b"\x80\x02]q\x00" + b"".join(
        b"0](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(60)
    )
    archive(tmp_path / "laughs.ckpt", laughs + b".")
    archive(tmp_path / "deep.ckpt", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    long_name = b"X" + struct.pack("<I", mega) + b"n" * mega + b"q\x00"
    archive(tmp_path / "names.ckpt", b"\x80\x04" + long_name + b"h\x00h\x00\x93" * 2000 + b".")
    kinds = ["genuine", "weights", "old", "bomb", "lists", "memo", "laughs", "deep", "names"]
    results = []
    peaks = {kind: growth(lambda path: results.append(try_reading(path)), tmp_path / f"{kind}.ckpt") for kind in kinds}
    assert results == ["read"] * 3 + ["refused"] * 2 + ["read"] * 3 + ["refused"]
    assert peaks["genuine"] < 20 * mega  # 15 of 30 are asked for
    assert all(peaks[kind] < 1.5 * 15 * mega for kind in ("weights", "old"))
    assert all(peaks[kind] < 2 * mega for kind in ("bomb", "memo", "laughs", "names"))
    assert all(peaks[kind] < 100 * mega for kind in ("lists", "deep"))
