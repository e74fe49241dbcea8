"""Networks that the user's own code builds: `path/to/file.py:make_model` or `package.module:make_model`.

Naming one is an explicit act: its code runs. The weights are still read from the checkpoint, as tensors alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from modeldoctor.checkpoint import unwrapped
from modeldoctor.errors import ArchitectureError

_EXPECTED = "path/to/file.py:FUNCTION or package.module:FUNCTION, a callable that returns an nn.Module"
# What a callable that demands a number of classes is given before the file's tensors have told it.
_ANY_CLASSES = 1000
_TWO_COUNTS = (13, 17)
_GROWING: dict[tuple[str, str, str], frozenset[str]] = {}
"""Of code that was asked, once a process: the weights whose rows grow with the number of classes."""


def names_code(arch: str) -> bool:
    """Whether a name of an architecture means the user's own code."""
    return ":" in arch and not arch.startswith(("hf-hub:", "hf_hub:"))


def build_from_code(name: str, num_classes: int | None, further: Mapping[str, Any] | None = None) -> nn.Module:
    """Call what the name means.

    Args:
        name: as above; a path is relative to the working directory.
        num_classes: given to the callable if it takes `num_classes`.
        further: arguments that the user states.

    Raises:
        ArchitectureError: there is no such callable, it fails, or returns no module.
    """
    make = _find(name)
    with _told(name), _on_path(*_roots(name)):
        signature = inspect.signature(make)
        takes = signature.parameters
        parameter = takes.get("num_classes")
        demanded = parameter is not None and parameter.default is inspect.Parameter.empty
        options = {"num_classes": num_classes or _ANY_CLASSES} if parameter and (num_classes or demanded) else {}
        _check_call(name, signature, {**options, **(further or {})})
        module = make(**{**options, **(further or {})})
    if not isinstance(module, nn.Module):
        raise ArchitectureError(
            f"{name} returned {type(module).__name__}", where="--arch", expected=_EXPECTED, hint=_instead_of(module)
        )
    return unwrapped(module)


def head_of_code(name: str, further: Mapping[str, Any] | None, layers: Sequence[tuple[str, nn.Module]]) -> str | None:
    """Which layer gives the logits: the one that grows with the number of classes; else the last.

    Args:
        name, further: of `build_from_code`.
        layers: the linear and convolutional ones of the network that it built, by name, in their order.
    """
    key = (str(Path.cwd()), name, repr(further))
    if key not in _GROWING:
        _GROWING[key] = frozenset()
        with suppress(Exception), torch.device("meta"), redirect_stderr(StringIO()):
            first, other = (build_from_code(name, count, further).state_dict() for count in _TWO_COUNTS)
            _GROWING[key] = frozenset(n for n in first if n in other and first[n].shape[:1] != other[n].shape[:1])
    heads = [layer for layer, _ in layers if f"{layer}.weight" in _GROWING[key]]
    return next(reversed(heads or [layer for layer, _ in layers]), None)


def _instead_of(value: object) -> str:
    if isinstance(value, tuple | list) and any(isinstance(part, nn.Module) for part in value):
        return "add a function that returns the network of these alone, and name that"
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f"name the class itself, {value.__module__.rpartition('.')[2]}.py:{value.__name__}"
    if callable(value):
        return "name a function that calls this in its turn"
    return "name the function or class that gives the network itself"


def _check_call(name: str, signature: inspect.Signature, options: Mapping[str, Any]) -> None:
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ArchitectureError(
            f"{name} cannot be called with {', '.join(options) or 'no arguments'} ({error})",
            where="--arch",
            expected="a callable that is content with num_classes=, or with nothing",
            hint="pass what it needs by --model-option KEY=VALUE, or name a function that fills it in",
        ) from error


def _find(name: str) -> Callable[..., Any]:
    place, _, attribute = name.rpartition(":")
    with _told(name), _on_path(*_roots(name)):
        module = _load_file(Path(place).expanduser()) if place.endswith(".py") else importlib.import_module(place)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, nn.Module):
        raise ArchitectureError(
            f"{name} is a network that was built, no callable that builds one",
            where="--arch",
            expected=_EXPECTED,
            hint=f"name its class, {type(found).__name__}, or add a function that returns it",
        )
    if not callable(found):
        callables = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
        ]
        raise ArchitectureError(
            f"{place} has no callable {attribute!r}",
            where="--arch",
            expected=_EXPECTED,
            hint=f"it has: {', '.join(callables[:8])}" if callables else "define the function there",
        )
    return found  # type: ignore[no-any-return]


def _roots(name: str) -> tuple[Path, ...]:
    """Where the code's own imports look first: beside the file, then beside its package; else the working directory."""
    place = name.rpartition(":")[0]
    if not place.endswith(".py"):
        return (Path.cwd(),)
    folder = Path(place).expanduser().resolve().parent
    package = folder
    while (package / "__init__.py").is_file() and package != package.parent:
        package = package.parent
    return tuple(dict.fromkeys((folder, package)))


def _load_file(path: Path) -> ModuleType:
    """The file as a module, once a process; it may import what lies beside it, also by `from .beside import`."""
    if not path.is_file():
        raise ArchitectureError(f"there is no file {path}", where="--arch", expected=_EXPECTED)
    path = path.resolve()
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def loaded_code(arch: str) -> ModuleType | None:
    """The module that holds the code of that name, once it was loaded; None for any other architecture."""
    place = arch.rpartition(":")[0] if names_code(arch) else ""
    if place.endswith(".py"):
        place = _module_name(Path(place).expanduser().resolve())
    return sys.modules.get(place)


def _module_name(path: Path) -> str:
    """Below a package of our own, so that relative imports find the file's neighbours and no installed namesake."""
    root = _roots(f"{path}:")[-1]
    top = f"modeldoctor_user_code_{abs(hash(str(root))):x}"
    if top not in sys.modules:
        sys.modules[top] = ModuleType(top)
        sys.modules[top].__path__ = [str(root)]
    return ".".join((top, *path.relative_to(root).with_suffix("").parts))


@contextmanager
def _on_path(*folders: Path) -> Iterator[None]:
    before = list(map(str, folders))
    sys.path[:0] = before
    try:
        yield
    finally:
        for folder in before:
            if folder in sys.path:
                sys.path.remove(folder)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Errors of the user's code as ours, with the line where they arose; what it prints is no result of ours."""
    try:
        with redirect_stdout(sys.stderr):
            yield
    except ArchitectureError:
        raise
    except (Exception, SystemExit) as error:
        lines = [line for line in traceback.extract_tb(error.__traceback__) if not line.filename.startswith("<frozen")]
        last = lines[-1]
        raise ArchitectureError(
            f"the code of {name} fails ({type(error).__name__}: {error})",
            where=f"{last.filename}, line {last.lineno}",
            expected=_EXPECTED,
            hint="it reads a command line or ends by itself: put that below `if __name__ == '__main__':`"
            if isinstance(error, SystemExit)
            else "mend the code, or check --arch",
        ) from error
