"""Pickles read as plain data: no object is built, nothing is imported and nothing is called.

`Unpickler` interprets the instructions itself. Numbers, texts, lists, tuples and dictionaries become themselves, a
tensor a `StoredTensor`, which says where it lies, and every other object an `Inert`. An instruction costs no more than
the few bytes that it stands on: nothing of a size that the pickle claims is set aside, copied or hashed.

A foreign pickle is interpreted, not unpickled. Genuine Lightning files hold objects of modules that nobody else has, so
`weights_only=True` refuses them, and a restricted `find_class` still lets Python's unpickler set aside memory, call
`__setstate__` and hash what the file says.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

DAMAGED = "download or copy it again, or save it again with torch.save"
MAX_ARGUMENTS = 16  # of a call that is understood, dimensions of a tensor, parts of a key
MAX_NAME = 1000
STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "QInt8Storage": torch.qint8,
    "QUInt8Storage": torch.quint8,
    "QInt32Storage": torch.qint32,
}
DTYPES = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


class BrokenFile(Exception):
    """What is wrong with a file, still without its name."""


@dataclass(frozen=True)
class Global:
    """A name that the pickle would import."""

    path: str


@dataclass(eq=False, repr=False, slots=True)
class Inert:
    """An object that was not built: what it would have been called with, and the state it would have been given."""

    made_by: Any
    arguments: Any
    state: Any = None

    def __repr__(self) -> str:
        return f"<{describe(self)}>"  # its parts may refer to one another so often that they fill no memory but text


@dataclass(eq=False, frozen=True, slots=True)
class Storage:
    """`numel` elements of `dtype` under `key`, as the pickle claims."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(eq=False, frozen=True, slots=True)
class StoredTensor:
    """A dense tensor: `shape` and `stride` over a `storage` from element `offset` on. It lies within its storage."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def span(self) -> int:
        """Elements from the first to the last, both included."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.stride, strict=True))


def describe(value: Any) -> str:
    """A short name for what was read. Never its contents, which may refer to themselves endlessly."""
    maker = value.made_by if isinstance(value, Inert) else value
    return f"an object of {maker.path[:100]}" if isinstance(maker, Global) else f"a {type(value).__name__}"


# What may be done with the names that a pickle gives. Each entry is a function of ours that only notes its arguments.


def is_count(value: Any) -> bool:
    """Whether a value counts elements of a file."""
    return type(value) is int and 0 <= value < 2**62


def is_shape(value: Any) -> bool:
    """Whether a value is the shape or the strides of a tensor."""
    return type(value) is tuple and len(value) <= MAX_ARGUMENTS and all(map(is_count, value))


def stored_tensor(
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    _grad: Any = None,
    _hooks: Any = None,
    metadata: Any = None,
    dtype: torch.dtype | None = None,
) -> StoredTensor | Inert:
    """What `torch._utils._rebuild_tensor` would build, if it lies within its storage."""
    if not isinstance(storage, Storage):
        return Inert(Global("torch.Tensor"), (storage,))
    if dtype is None:
        dtype = storage.dtype
    if metadata:
        raise BrokenFile("a tensor is stored as a conjugate or negative view. Save a copy of it.")
    if not is_count(offset) or not (is_shape(shape) and is_shape(stride)) or len(shape) != len(stride):
        raise BrokenFile(f"a tensor has negative or unfit sizes, strides or offset. Remedy: {DAMAGED}.")
    tensor = StoredTensor(storage, dtype, offset, shape, stride)
    if (offset + tensor.span) * dtype.itemsize > storage.nbytes:
        raise BrokenFile(f"a tensor of shape {shape[:8]} reaches beyond its storage {storage.key!r}.")
    return tensor


def tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Global, metadata: Any = None
) -> StoredTensor | Inert:
    """What `torch._utils._rebuild_tensor_v3` would build."""
    return stored_tensor(storage, offset, shape, stride, metadata=metadata, dtype=DTYPES[dtype.path])


def dictionary(*pairs: Any) -> dict | Inert:
    """Empty, as torch makes it, and filled by later instructions."""
    return Inert(Global("collections.OrderedDict"), pairs) if pairs else {}


MAKERS: dict[str, Callable] = {
    "torch._utils._rebuild_tensor": stored_tensor,
    "torch._utils._rebuild_tensor_v2": stored_tensor,
    "torch._utils._rebuild_tensor_v3": tensor_of_dtype,
    "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: tensor,
    "torch._tensor._rebuild_from_type_v2": lambda function, _kind, arguments, _state: make(function, arguments),
    "torch.Size": lambda sizes=(): sizes,
    "collections.OrderedDict": dictionary,
    "collections.defaultdict": lambda *_: {},
}


def make(maker: Any, arguments: Any) -> Any:
    """What calling `maker` is taken for: plain data where it is known, else an `Inert`."""
    if isinstance(maker, Global) and maker.path in MAKERS:
        if type(arguments) is not tuple or len(arguments) > MAX_ARGUMENTS:
            raise BrokenFile(f"{maker.path} is called with {describe(arguments)}. Remedy: {DAMAGED}.")
        return MAKERS[maker.path](*arguments)
    return Inert(maker, arguments)


def is_key(value: Any, depth: int = 2) -> bool:
    """Whether a value is safe to hash: the hash of tuples nested deeply, or of integers made to collide, is not."""
    if isinstance(value, tuple):
        return depth > 0 and len(value) <= MAX_ARGUMENTS and all(is_key(item, depth - 1) for item in value)
    if type(value) is int:
        return value.bit_length() <= 64
    return value is None or isinstance(value, (str, bytes, bool, float, Global, Inert, StoredTensor))


def set_items(target: Any, items: list) -> Any:
    """Put keys and values, which alternate in `items`, into a dictionary. Those of an inert object are dropped."""
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not is_key(key) or key in target:
                raise BrokenFile(f"a dictionary has {describe(key)} as a key, or has a key twice. Remedy: {DAMAGED}.")
            target[key] = value
    return target


VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list, "EMPTY_TUPLE": tuple}
MARKED: dict[str, Callable[[list], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "FROZENSET": tuple,
    "DICT": lambda items: set_items({}, items),
}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
NOTHING = {"PROTO", "FRAME", "STOP"}


@dataclass
class Unpickler:
    """Interprets pickles as plain data; `storages` are those that they name. Sets become lists, which hash nothing."""

    instruction_limit: int
    storages: list[Storage] = field(default_factory=list)

    def load(self, file: Any) -> Any:
        """Interpret the next pickle of `file`."""
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        for instruction, argument, _ in pickletools.genops(file):
            self.instruction_limit -= 1
            if self.instruction_limit < 0:
                raise BrokenFile("its pickle has more instructions than any checkpoint of its size needs.")
            self.step(instruction.name, argument)
        (result,) = self.stack
        self.memo.clear()
        return result

    def step(self, name: str, argument: Any) -> None:
        if name in VALUES:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name])
        elif name in EMPTY:
            self.stack.append(EMPTY[name]())
        elif name in MARKED:
            self.stack.append(MARKED[name](self.pop_marked()))
        elif name in TUPLES:
            self.stack.append(tuple(self.pop(TUPLES[name])))
        elif name not in NOTHING:
            if name not in ACTIONS:
                raise BrokenFile(f"its pickle has the instruction {name}, which torch.save does not write.")
            ACTIONS[name](self, argument)

    def pop(self, count: int) -> list:
        if len(self.stack) < count:
            raise BrokenFile(f"its pickle takes more than it has. Remedy: {DAMAGED}.")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop_marked(self) -> list:
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def drop(self, _: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.pop(1)

    def drop_marked(self, _: Any) -> None:
        self.pop_marked()

    def dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def append(self, _: Any) -> None:
        self.extend(self.pop(1))

    def append_marked(self, _: Any) -> None:
        self.extend(self.pop_marked())

    def extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_item(self, _: Any) -> None:
        items = self.pop(2)
        set_items(self.stack[-1], items)

    def set_marked(self, _: Any) -> None:
        items = self.pop_marked()
        set_items(self.stack[-1], items)

    def name(self, names: str) -> None:
        self.stack.append(Global(names.replace(" ", ".")))

    def stack_name(self, _: Any) -> None:
        module, name = self.pop(2)
        if max(len(module), len(name)) > MAX_NAME:
            raise BrokenFile(f"its pickle has a name of more than {MAX_NAME} characters. Remedy: {DAMAGED}.")
        self.stack.append(Global(f"{module}.{name}"))

    def call(self, _: Any) -> None:
        self.stack.append(make(*self.pop(2)))

    def call_with_keywords(self, _: Any) -> None:
        maker, arguments, _keywords = self.pop(3)
        self.stack.append(Inert(maker, arguments))

    def call_name(self, names: str) -> None:
        self.stack.append(Inert(Global(names.replace(" ", ".")), tuple(self.pop_marked())))

    def call_marked(self, _: Any) -> None:
        maker, *arguments = self.pop_marked()
        self.stack.append(Inert(maker, tuple(arguments)))

    def build(self, _: Any) -> None:
        (state,) = self.pop(1)
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state

    def refer(self, _: Any) -> None:
        """A storage: ("storage", type, key, device, number of elements), and in the old format a view of it, None."""
        (identity,) = self.pop(1)
        if type(identity) is not tuple or len(identity) > MAX_ARGUMENTS:
            raise BrokenFile(f"its pickle refers to {describe(identity)}, no storage. Remedy: {DAMAGED}.")
        kind, storage_type, key, _device, numel, *view = identity
        if kind != "storage" or type(key) is not str or not is_count(numel) or any(item is not None for item in view):
            raise BrokenFile(f"its pickle refers to what is no plain storage. Remedy: {DAMAGED}.")
        dtype = STORAGE_DTYPES.get(storage_type.path.rpartition(".")[2])
        if dtype is None:  # of a kind that holds no weights of ours
            self.stack.append(Inert(storage_type, ()))
        else:
            self.storages.append(Storage(key, dtype, numel))
            self.stack.append(self.storages[-1])


ACTIONS: dict[str, Callable[[Unpickler, Any], None]] = {
    "MARK": Unpickler.mark,
    "POP": Unpickler.drop,
    "POP_MARK": Unpickler.drop_marked,
    "DUP": Unpickler.dup,
    "PUT": Unpickler.put,
    "BINPUT": Unpickler.put,
    "LONG_BINPUT": Unpickler.put,
    "MEMOIZE": Unpickler.memoize,
    "GET": Unpickler.get,
    "BINGET": Unpickler.get,
    "LONG_BINGET": Unpickler.get,
    "APPEND": Unpickler.append,
    "APPENDS": Unpickler.append_marked,
    "ADDITEMS": Unpickler.append_marked,
    "SETITEM": Unpickler.set_item,
    "SETITEMS": Unpickler.set_marked,
    "GLOBAL": Unpickler.name,
    "STACK_GLOBAL": Unpickler.stack_name,
    "REDUCE": Unpickler.call,
    "NEWOBJ": Unpickler.call,
    "NEWOBJ_EX": Unpickler.call_with_keywords,
    "INST": Unpickler.call_name,
    "OBJ": Unpickler.call_marked,
    "BUILD": Unpickler.build,
    "BINPERSID": Unpickler.refer,
}
