"""Unpickling that calls nothing of the file's: stand-ins take the place of every object that is not a tensor."""

from __future__ import annotations

import argparse
import builtins
import pickle
import re
import struct
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, ClassVar, NoReturn

import torch
from torch import Tensor

# What no network and no training value needs; a file that asks for it is hostile or damaged.
CODE_MODULES = frozenset((
    "os", "posix", "nt", "sys", "subprocess", "pty", "commands", "runpy", "importlib", "imp", "code",
    "codeop", "ctypes", "socket", "shutil", "webbrowser", "timeit", "pdb", "bdb", "platform",
    "multiprocessing", "asyncio", "pickle", "_pickle", "pip",
))  # fmt: skip
# Python 2's names are those that protocol 2 writes.
PLAIN_BUILTINS = frozenset(name for name, value in vars(builtins).items() if isinstance(value, type)) | {
    "getattr", "Ellipsis", "NotImplemented", "xrange", "long", "unicode",
}  # fmt: skip
TENSORS = ("_rebuild_tensor", "_rebuild_tensor_v2")
PARAMETERS = ("_rebuild_parameter", "_rebuild_parameter_with_state")
# Under what name quantized layers keep their weights.
PACKED = "_packed_params"
# What numpy calls its types of numbers, and what `struct` does.
STRUCT_CODES = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}
# A pickle may name one object below itself, so that following modules must end somewhere.
MAX_DEPTH = 200
_PIECE = 2**24
# Python's own, since the one in C cannot be overridden step by step.
_Reader: Any = pickle._Unpickler


class StandIn(dict[Any, Any]):
    """An object of the file: its class's name, its state and its items, none of which can do anything."""

    __slots__ = ("origin", "state")
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(self, origin: str) -> None:
        super().__init__()
        self.origin = origin
        self.state: dict[Any, Any] = {}

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def is_module(self) -> bool:
        """Whether this is an `nn.Module`, told by what every one of them holds."""
        return all(isinstance(self.state.get(name), Mapping) for name in ("_parameters", "_buffers", "_modules"))

    def tensors(self) -> dict[str, Any]:
        """What the module's `state_dict()` would give; of a quantized layer its stand-in under `PACKED`."""
        return dict(_tensors_of(self, "", 0))


class _Array(list[Any]):
    """A numpy array of one dimension, such as class names or a mean, as a list; empty where it holds anything else."""

    def fill(self, shape: object, dtype: object, data: object) -> None:
        """Take what numpy pickles: the values as bytes or, for objects, in a list."""
        if not (isinstance(shape, tuple) and len(shape) == 1):
            return
        code = str(getattr(dtype, "code", ""))
        if isinstance(data, list):
            self[:] = data if all(isinstance(value, str | int | float) for value in data) else []
        elif isinstance(data, bytes) and code in STRUCT_CODES:
            size = struct.calcsize(STRUCT_CODES[code])
            self[:] = struct.unpack(f"<{len(data) // size}{STRUCT_CODES[code]}", data[: len(data) // size * size])
        elif isinstance(data, bytes) and re.fullmatch(r"U[1-9]\d{0,4}", code):
            size = 4 * int(code[1:])
            texts = (data[at : at + size].decode("utf-32-le", "replace") for at in range(0, len(data), size))
            self[:] = [text.rstrip("\0") for text in texts]


def is_array(value: object) -> bool:
    """Whether this stands for a numpy array."""
    return isinstance(value, _Array)


class _Name:
    """A class or function that the file asks for: its name alone."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name
        self.__name__ = name  # torch names it where an old file holds its class's source
        self.full = f"{module}.{name}"


class _Ours:
    """One of our own stand-ins, which may be called."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make


class _Unpickler(_Reader):  # type: ignore[misc]
    """Python's own reader, with every step that would call something of the file's replaced."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Reader.dispatch)

    def __init__(self, file: IO[bytes], **options: Any) -> None:
        super().__init__(file, **options)
        self._file_read = lambda size: _read(file, size)

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in CODE_MODULES or (
            module in ("builtins", "__builtin__") and name not in PLAIN_BUILTINS
        ):
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")
        if (module, name) == ("torch.storage", "UntypedStorage"):  # of types that have no storage class of their own
            return torch.UntypedStorage
        value = getattr(torch, name, None) if module == "torch" else None
        return value if isinstance(value, torch.dtype) else _Name(module, name)

    def get_extension(self, code: int) -> NoReturn:
        raise pickle.UnpicklingError(f"GLOBAL copyreg.extension_{code}")

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = _made(self.stack[-1], args)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_newobj()

    def load_inst(self) -> None:
        module, name = (self.readline()[:-1].decode("ascii") for _ in range(2))
        self.append(_made(self.find_class(module, name), tuple(self.pop_mark())))

    def load_obj(self) -> None:
        what, *args = self.pop_mark()
        self.append(_made(what, tuple(args)))

    def load_build(self) -> None:
        state = self.stack.pop()
        held = self.stack[-1]
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] or {}), **state[1]}
        if isinstance(held, _Array):
            if isinstance(state, tuple) and len(state) == 5:  # version, shape, type, order of dimensions, values
                held.fill(state[1], state[2], state[4])
        elif isinstance(held, StandIn) and type(state) in (dict, OrderedDict):
            held.state = dict(state)
        elif isinstance(held, argparse.Namespace) and type(state) is dict:
            held.__dict__.update(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))  # of what is there: Python's own takes the memory first

    def load_append(self) -> None:
        value = self.stack.pop()
        if type(self.stack[-1]) is list:
            self.stack[-1].append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is list:
            self.stack[-1].extend(values)

    def load_additems(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is set:
            self.stack[-1].update(values)

    for _code, _load in (
        (pickle.REDUCE, load_reduce),
        (pickle.NEWOBJ, load_newobj),
        (pickle.NEWOBJ_EX, load_newobj_ex),
        (pickle.INST, load_inst),
        (pickle.OBJ, load_obj),
        (pickle.BUILD, load_build),
        (pickle.APPEND, load_append),
        (pickle.APPENDS, load_appends),
        (pickle.ADDITEMS, load_additems),
        (pickle.BYTEARRAY8, load_bytearray8),
    ):
        dispatch[_code[0]] = _load


def pickle_module(
    stand_ins: Mapping[str, Callable[..., Any]], storages: dict[str, torch.storage.TypedStorage]
) -> types.ModuleType:
    """What `torch.load` takes as `pickle_module`.

    Args:
        stand_ins: full name → our own callable that stands for it and can do nothing but hold values.
        storages: is filled with what lies under each key of the archive.
    """

    class Unpickler(_Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            ours = stand_ins.get(f"{module}.{name}")
            return _Ours(ours) if ours else super().find_class(module, name)

        def load_binpersid(self) -> None:
            place = self.stack.pop()
            held = self.persistent_load(place)
            if isinstance(held, torch.storage.TypedStorage):
                storages[str(place[2])] = held
            self.append(held)

        dispatch: ClassVar[dict[int, Any]] = {**_Unpickler.dispatch, pickle.BINPERSID[0]: load_binpersid}

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    module = types.ModuleType("inert")
    vars(module).update(Unpickler=Unpickler, load=load)
    return module


def _read(file: IO[bytes], size: int) -> bytes:
    """Up to `size` bytes, in pieces: a length that lies takes no memory for what is not there."""
    if size <= _PIECE:
        return file.read(size)
    pieces = []
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _made(what: Any, args: Any) -> Any:
    """What a call in the file stands for: a tensor, a plain container, one of our stand-ins, or a `StandIn`."""
    if not isinstance(args, tuple):
        raise pickle.UnpicklingError("a call without a tuple of arguments")
    if isinstance(what, _Ours):
        return what.make(*args)
    if not isinstance(what, _Name):
        return StandIn(type(what).__name__)
    if what.module == "torch._utils" and what.name in TENSORS:
        return _tensor(*args[:4])
    if what.full == "torch._utils._rebuild_tensor_v3" and len(args) > 6 and isinstance(args[6], torch.dtype):
        return _tensor(args[0], args[1], args[2], args[3], args[6])
    if what.module == "torch._utils" and what.name in PARAMETERS and args and isinstance(args[0], Tensor):
        return args[0]
    if what.full == "torch.nn.parameter.Parameter" and args and isinstance(args[0], Tensor):
        return args[0]
    if what.full == "torch.Size":
        return tuple(*args)
    if what.full == "collections.OrderedDict":
        return OrderedDict(*args)
    if what.full in ("builtins.set", "__builtin__.set"):
        return set(*args)
    if what.name == "_reconstruct" and what.module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        return _Array()
    if what.name == "_frombuffer" and what.module in ("numpy.core.numeric", "numpy._core.numeric") and len(args) == 4:
        array = _Array()
        array.fill(args[2], args[1], bytes(args[0]) if isinstance(args[0], bytearray) else args[0])
        return array
    if what.full == "_codecs.encode" and len(args) == 2 and args[1] == "latin1":
        return str(args[0]).encode("latin1")  # how protocol 2 writes bytes
    if what.name == "_reconstructor" and args and isinstance(args[0], _Name):
        return StandIn(args[0].full)
    made = StandIn(what.full)
    networks = [arg for arg in args if isinstance(arg, StandIn) and arg.is_module]
    if len(networks) == 1:  # what is made around a network, as torch.compile does
        made.state = {"model": networks[0]}
    return made


def _tensor(
    storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype | None = None
) -> Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise pickle.UnpicklingError("a tensor without a storage")
    numbers = (offset, *size, *stride)
    if not all(type(n) is int and n >= 0 for n in numbers) or len(size) != len(stride):
        raise pickle.UnpicklingError("a tensor of impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    dtype = dtype or storage.dtype
    if 0 not in size and (last + 1) * dtype.itemsize > storage.nbytes():
        raise pickle.UnpicklingError("a tensor that is larger than its storage")
    return torch.empty(0, dtype=dtype).set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


def _tensors_of(module: StandIn, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise pickle.UnpicklingError("modules within modules without end")
    if ".quantized." in module.origin:
        yield f"{prefix}{PACKED}", module
    state = module.state
    passing = state.get("_non_persistent_buffers_set")
    skipped = passing if isinstance(passing, set) else set()
    for part in ("_parameters", "_buffers"):
        for name, tensor in state[part].items():
            if isinstance(tensor, Tensor) and not (part == "_buffers" and name in skipped):
                yield f"{prefix}{name}", tensor.detach()
    for name, inner in state["_modules"].items():
        if isinstance(inner, StandIn) and inner.is_module:
            yield from _tensors_of(inner, f"{prefix}{name}.", depth + 1)
