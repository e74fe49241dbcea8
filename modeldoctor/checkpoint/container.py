"""From a path to the object stored there: names the kind of file, refuses what is unsafe, runs no code from it."""

from __future__ import annotations

import argparse
import hashlib
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NoReturn

import numpy as np
import torch
from safetensors import safe_open
from torch.torch_version import TorchVersion

from modeldoctor.checkpoint import folder, foreign
from modeldoctor.checkpoint.foreign import SAVE_WEIGHTS
from modeldoctor.checkpoint.inert import STRUCT_CODES, pickle_module
from modeldoctor.errors import CheckpointError

MAX_ENTRIES = 1_000_000
HEAD_BYTES = 4096


class Container(StrEnum):
    """Which kind of file the tensors came in."""

    TORCH = "torch"
    """A zip archive by `torch.save`."""
    TORCH_LEGACY = "torch-legacy"
    """A pickle stream by `torch.save` before 1.6, or with `_use_new_zipfile_serialization=False`."""
    SAFETENSORS = "safetensors"
    FOLDER = "folder"
    """A timm or Hugging Face folder: `config.json` beside `model.safetensors` or `pytorch_model.bin`."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds, before anyone has looked for weights in it."""

    container: Container
    weights_path: Path
    sha256: str
    root: object
    """The unpickled object, or the dict of tensors of a safetensors file."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """The folder's `config.json`, with its `preprocessor_config.json` under that name, or the safetensors header's own
    metadata."""
    shards: Mapping[str, str] = field(default_factory=dict)
    """Where the weights lie in several files: each tensor's file, beside the index that `weights_path` names."""
    storages: Mapping[str, torch.storage.TypedStorage] = field(default_factory=dict)
    """Where stand-ins took the place of objects: every storage by its key in the archive."""


DOWNLOAD_AGAIN = "copy or download the file again and compare its size with the source"
LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PRINTABLE = re.compile(rb"[\t\n\r\f\x20-\x7e\x80-\xff]+")


def read_contents(path: Path, *, trust_pickle: bool) -> Contents:
    """Read a file or a timm folder; nothing is executed unless `trust_pickle`, nothing is ever written.

    Raises:
        CheckpointError: for every file that cannot be read safely.
    """
    try:
        if path.is_dir() or (path.name in folder.INDEX and path.is_file()):
            held = folder.read_folder(path, lambda file: _read_file(file, trust_pickle), refuse)
            return replace(held, container=Container.FOLDER)
        return _read_file(path, trust_pickle)
    except (OSError, MemoryError) as error:
        refuse(path, f"the file cannot be read ({error or type(error).__name__})", "check its path, rights and size")


def read_kept(path: Path) -> object:
    """Read what a run of ours keeps for itself as carefully as a user's checkpoint: bounded, and nothing is executed.

    Raises:
        CheckpointError: it is damaged, unsafe, or of another kind.
    """
    try:
        if (container := _identify(path)) is not Container.TORCH:
            refuse(path, f"a file of the kind {container}", DOWNLOAD_AGAIN)
        return _unpickle(path, False, {})
    except (OSError, MemoryError) as error:
        refuse(path, f"the file cannot be read ({error or type(error).__name__})", "check its rights and size")


def refuse(path: Path, found: str, hint: str, *, expected: str | None = None) -> NoReturn:
    """Raise the one error that a bad checkpoint file gives."""
    raise CheckpointError(found, where=str(path), expected=expected, hint=hint)


def _read_file(path: Path, trust_pickle: bool) -> Contents:
    before = _stamp(path)
    container = _identify(path)
    described: Mapping[str, Any] = {}
    storages: dict[str, torch.storage.TypedStorage] = {}
    root: object
    if container is Container.SAFETENSORS:
        root, described = _read_safetensors(path)
    else:
        root = _unpickle(path, trust_pickle, storages)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if _stamp(path) != before:  # the hash would be of other weights
        refuse(path, "the file was changed or replaced while it was read", "run this again when it is written")
    return Contents(
        container=container, weights_path=path, sha256=sha256, root=root, described=described, storages=storages
    )


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What is another number when a file is written to or replaced; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _identify(path: Path) -> Container:
    expected = "a PyTorch checkpoint, a .safetensors file or a timm folder"
    if not path.exists():
        refuse(path, "no such file", "check the path", expected=expected)
    if not path.is_file():
        refuse(path, "not a regular file", "pass the checkpoint file itself", expected=expected)
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        refuse(path, "an empty file", DOWNLOAD_AGAIN, expected=expected)
    if kind := foreign.of_file(path, head):
        refuse(path, *kind, expected=expected)
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
        return Container.TORCH
    if head.startswith(b"\x80") and LEGACY_MAGIC in head[:32]:
        return Container.TORCH_LEGACY
    if re.match(rb".{4}\0{4}\{", head, re.S) or (path.suffix == ".safetensors" and not PRINTABLE.fullmatch(head)):
        return Container.SAFETENSORS
    if re.match(rb"\x80[\x00-\x05]", head):
        refuse(path, "a pickle that torch.save did not write, or a truncated one", SAVE_WEIGHTS, expected=expected)
    if kind := foreign.of_unknown(path):
        refuse(path, *kind, expected=expected)
    what = "a text file" if PRINTABLE.fullmatch(head) else f"an unknown kind of file, beginning with {head[:8]!r}"
    refuse(path, what, f"check that this is the right file, or {DOWNLOAD_AGAIN}", expected=expected)


def _check_archive(path: Path) -> None:
    """Look at a zip's directory alone: torch.save stores entries as they are, so their sizes must add up."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:  # a forged directory makes zipfile raise many types
        refuse(path, f"a truncated or damaged zip archive ({error})", DOWNLOAD_AGAIN)
    for kind in foreign.ARCHIVES:
        if any(kind.pattern.search(entry.filename) for entry in entries):
            refuse(path, kind.what, kind.hint)
    declared, actual = sum(entry.file_size for entry in entries), path.stat().st_size
    compressed = next((e.filename for e in entries if e.compress_type != zipfile.ZIP_STORED), None)
    if compressed or declared > actual or len(entries) > MAX_ENTRIES:
        why = (
            f"{len(entries)} entries that unpack to {declared} bytes from a file of {actual} bytes"
            + f", with compressed entries such as {compressed!r}" * bool(compressed)
        )
        hint = "don't open it; a re-packed archive must be unpacked to the original checkpoint first"
        refuse(path, f"a zip archive with {why}: perhaps a zip bomb", hint, expected="torch.save never compresses")
    _check_sums(path)
    if not any(re.fullmatch(r"([^/]+/)?data\.pkl", entry.filename) for entry in entries):
        refuse(path, "a zip archive that torch.save did not write (no data.pkl in it)", "unpack it first")


def _check_sums(path: Path) -> None:
    """Refuse a file that was damaged since it was written; one written without sums has none that is right."""
    wrong = []
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        for entry in entries:
            try:
                with archive.open(entry) as file:
                    while file.read(2**20):
                        pass
            except Exception:  # zipfile has many words for a lie in a header
                wrong.append(entry.filename)
    if wrong and len(wrong) < len(entries):
        found = f"a damaged zip archive: the checksum of {wrong[0]} is wrong ({len(wrong)} of {len(entries)} entries)"
        refuse(path, found, DOWNLOAD_AGAIN)


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            # Cloned: the tensors are views of the mapped file, which may be replaced later.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # the reader has its own exception type for each kind of lie
        refuse(path, f"a damaged safetensors file ({error})", DOWNLOAD_AGAIN)


def _unpickle(path: Path, trust_pickle: bool, storages: dict[str, torch.storage.TypedStorage]) -> object:
    # Leaving the context forbids its names again; what the user's own code has allowed must stay so.
    ours = [name for name in SAFE_GLOBALS if name not in torch.serialization.get_safe_globals()]
    if not trust_pickle and _names_bytearray(path):
        return _load_inert(path, storages)
    try:
        with torch.serialization.safe_globals(ours):
            return _load(path, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a damaged stream raises whatever its bytes lead to
        if not (isinstance(error, pickle.UnpicklingError) and _NOT_READ.search(str(error))):
            refuse(path, f"a truncated or damaged checkpoint ({_last_line(error)})", DOWNLOAD_AGAIN)
        if not trust_pickle:
            return _load_inert(path, storages)
    try:
        return _load(path, weights_only=False)
    except Exception as error:  # the file's own code runs here, at the user's word
        hint = f"run where the file's own classes can be imported, or {SAVE_WEIGHTS}"
        refuse(path, f"its pickled objects cannot be rebuilt ({type(error).__name__}: {_last_line(error)})", hint)


def _names_bytearray(path: Path) -> bool:
    """Whether a pickle may call `bytearray`, which torch allows: of a number it takes as many bytes of memory."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return _holds(file, b"bytearray")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".pkl"):
                with archive.open(name) as file:
                    if _holds(file, b"bytearray"):
                        return True
    return False


def _holds(file: IO[bytes], word: bytes) -> bool:
    """Whether a word is in a file, which is read piece by piece."""
    tail = b""
    while piece := file.read(2**20):
        if word in tail + piece:
            return True
        tail = piece[-len(word) :]
    return False


def _load(path: Path, *, weights_only: bool) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _load_inert(path: Path, storages: dict[str, torch.storage.TypedStorage]) -> object:
    """With stand-ins for what is no tensor; nothing that the file names is imported or called."""
    ours = {
        entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__name__}": (
            entry[0] if isinstance(entry, tuple) else entry
        )
        for entry in SAFE_GLOBALS
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inert = pickle_module(ours, storages)
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=inert)
    except MemoryError:
        raise
    except Exception as error:  # a damaged stream raises whatever its bytes lead to
        refused = REFUSED.search(str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if refused is not None:
            _refuse_code(path, refused[1])
        refuse(path, f"a truncated or damaged checkpoint ({_last_line(error)})", DOWNLOAD_AGAIN)


def _refuse_code(path: Path, name: str) -> NoReturn:
    refuse(
        path,
        f"its pickle asks for {name}, which is no tensor and was refused; nothing was executed",
        f"{SAVE_WEIGHTS}. --trust-pickle would EXECUTE code from the file: only for files from a trusted source",
        expected="tensors and plain values",
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Check the documentation" not in line]
    return lines[-1][:200] if lines else type(error).__name__


class _Dtype:
    """Stands in for numpy.dtype, whose own state is not checked when unpickled."""

    def __init__(self, code: str, *_: object):
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Ignore byte order and flags: a scalar's code says enough."""

    def __reduce__(self) -> tuple[Any, ...]:
        return np.dtype, (self.code,)


# The stand-ins below are pickled as what they stand for, so that a rewritten file needs nothing of ours to be read.
class _PosixPath(PurePosixPath):
    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.PosixPath, self.parts


class _WindowsPath(PureWindowsPath):
    def __reduce__(self) -> tuple[Any, ...]:
        return pathlib.WindowsPath, self.parts


class _Interpolation(str):
    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        from torchvision.transforms import InterpolationMode

        return InterpolationMode, (str(self),)


def _scalar(dtype: _Dtype, data: bytes = b"") -> float | int | bool | None:
    code = STRUCT_CODES.get(dtype.code)
    return struct.unpack("<" + code, data)[0] if code and len(data) == struct.calcsize(code) else None


REFUSED = re.compile(r"(?:GLOBAL|class|function|but got) (?:<class ')?([\w.]+)")
# What torch's reader of weights does not know: other classes, and the codes of pickle's protocols 3 to 5.
_NOT_READ = re.compile(f"{REFUSED.pattern}|Unsupported operand")
# What training scripts store beside the weights, each with a stand-in that can do nothing but hold values.
SAFE_GLOBALS: tuple[Callable[..., Any] | tuple[Callable[..., Any], str], ...] = (
    argparse.Namespace,
    TorchVersion,
    (_Interpolation, "torchvision.transforms.functional.InterpolationMode"),
    *((_PosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((_WindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    *((PurePosixPath, f"{module}.PurePosixPath") for module in ("pathlib", "pathlib._local")),
    (_Dtype, "numpy.dtype"),
    (_scalar, "numpy.core.multiarray.scalar"),
    (_scalar, "numpy._core.multiarray.scalar"),
)
