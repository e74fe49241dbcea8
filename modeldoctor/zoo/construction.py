"""What tells two networks apart that have the same weights: arguments, layers, and the code of the user's own."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path
from types import ModuleType

from torch import nn

from modeldoctor.zoo import Classifier
from modeldoctor.zoo.code import loaded_code

_INSTALLED = ("torch", "torchvision", "timm", "modeldoctor")


def construction_of(network: Classifier) -> list[str]:
    """The network's layers as text, digests of the user's own code that makes them, and the arguments they were given.

    Of the user's code these count: the file that `--arch` names, the files of the layers' classes, and what these
    import from beside themselves; a class that lies in no file counts by its source, where there is one.
    """
    own = {type(part) for part in network.module.modules()}
    own = {part for part in own if part.__module__.partition(".")[0] not in _INSTALLED}
    modules = [sys.modules.get(part.__module__) for part in own]
    files = _own_files([module for module in (*modules, loaded_code(network.arch)) if module is not None])
    code = {_digest(file.read_bytes()) for file in files}
    for part in own:
        if _file_of(sys.modules.get(part.__module__)) not in files:
            with suppress(OSError, TypeError):  # typed at a prompt, or made by a call
                code.add(_digest(inspect.getsource(part).encode()))
    return [_shown(network.module), *sorted(code), *network.options.get("model_option", ())]


def construction_digest(network: Classifier) -> str:
    """All of `construction_of` in 16 hexadecimal digits."""
    return _digest("\0".join(construction_of(network)).encode())


def _shown(module: nn.Module) -> str:
    # Some layers show a function with its place in memory.
    return re.sub(r" at 0x[0-9a-f]+", "", repr(module))


def _own_files(modules: list[ModuleType]) -> set[Path]:
    """The files of modules and of all that these import, without what is installed."""
    files: set[Path] = set()
    while modules:
        module = modules.pop()
        file = _file_of(module)
        if file is None or file in files or module.__name__.partition(".")[0] in _INSTALLED:
            continue
        files.add(file)
        names = _imported(file.read_bytes(), module.__package__ or "")
        modules += [sys.modules[name] for name in names if name in sys.modules]
    return files


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Names that the statements of a source import: modules, and what may be modules or values in one."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # changed since it was loaded: it counts by its bytes
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            with suppress(ImportError):  # from beyond its package
                base = resolve_name("." * node.level + (node.module or ""), package)
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names)


def _file_of(module: ModuleType | None) -> Path | None:
    """The module's source file; None for what has none, and for what is installed."""
    name = getattr(module, "__file__", None)
    if name is None or not name.endswith(".py"):
        return None
    file = Path(name).resolve()
    installed = any(file.is_relative_to(folder) for folder in map(Path, sysconfig.get_paths().values()))
    return file if file.is_file() and not installed and "site-packages" not in file.parts else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
