"""Folders of timm and Hugging Face: a configuration beside the weights: one file, or shards and an index."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from modeldoctor.checkpoint import foreign
from modeldoctor.runtime.files import regular

if TYPE_CHECKING:
    from modeldoctor.checkpoint.container import Contents

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
INDEX = tuple(f"{name}.index.json" for name in WEIGHTS)
PREPROCESSOR = "preprocessor_config.json"
"""How Hugging Face's image processors say what is done to images; optional."""
MAX_CONFIG_BYTES = 32 * 2**20
_EXPECTED = f"a folder of {CONFIG} beside {' or '.join(WEIGHTS)}, or their shards with an index"
_WHOLE = (*WEIGHTS, *INDEX)
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_AGAIN = "copy or download the folder again and compare it with the source"

Refuse = Callable[..., NoReturn]


def read_folder(path: Path, read_file: Callable[[Path], Contents], refuse: Refuse) -> Contents:
    """Read the weights, and what the folder says of them.

    Args:
        path: the folder, or an index in it.
        read_file: how one file of weights is read.
        refuse: raises the error that a bad checkpoint gives.
    """
    index = path if path.is_file() else None
    path = path.parent if index else path
    weights = index or next((path / name for name in (*WEIGHTS, *INDEX) if (path / name).is_file()), None)
    if kind := foreign.of_folder(path, weights=weights is not None):
        refuse(path, *kind, expected=_EXPECTED)
    if weights is None or not (index or (path / CONFIG).is_file()):
        lacks = CONFIG if weights else "a weights file"
        refuse(path, f"a folder without {lacks}", _pass_instead(path), expected=_EXPECTED)
    config = _read_json(path / CONFIG, refuse) if (path / CONFIG).is_file() else {}
    if (path / PREPROCESSOR).is_file():
        config["preprocessor_config"] = _read_json(path / PREPROCESSOR, refuse)
    held = _read_shards(weights, read_file, refuse) if weights.name in INDEX else read_file(weights)
    return replace(held, described={**held.described, **config})


def _read_shards(index: Path, read_file: Callable[[Path], Contents], refuse: Refuse) -> Contents:
    stated = _read_json(index, refuse).get("weight_map")
    places: dict[str, Any] = stated if isinstance(stated, dict) else {}
    if not places or any(not isinstance(place, str) or PurePath(place).name != place for place in places.values()):
        refuse(index, "an index without a weight_map from tensors to files beside it", _AGAIN, expected=_EXPECTED)
    files = sorted(set(places.values()))
    absent = [name for name in files if not (index.parent / name).is_file()]
    if absent:
        found = f"{len(absent)} of {len(files)} shards are missing: {', '.join(absent[:4])}"
        refuse(index, found, _AGAIN, expected=_EXPECTED)
    held = {name: read_file(index.parent / name) for name in files}
    roots = {name: contents.root for name, contents in held.items()}
    tensors: dict[Any, Any] = {}
    for root in roots.values():
        if isinstance(root, Mapping):
            tensors |= root
    lost = [name for name in places if name not in tensors]
    if lost:
        refuse(index, f"{len(lost)} tensors are not in their shards: {', '.join(lost[:4])}", _AGAIN, expected=_EXPECTED)
    digest = hashlib.sha256(index.read_bytes())
    for contents in held.values():
        digest.update(contents.sha256.encode())
    shards = {name: file for file, root in roots.items() if isinstance(root, Mapping) for name in root}
    first = held[files[0]]
    return replace(first, weights_path=index, sha256=digest.hexdigest(), root=tensors, shards=shards)


def _read_json(path: Path, refuse: Refuse) -> dict[str, Any]:
    if path.stat().st_size > MAX_CONFIG_BYTES:
        refuse(path, f"a {path.name} of absurd size", _AGAIN, expected=_EXPECTED)
    try:
        config = json.loads(regular(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        refuse(path, f"not JSON ({error})", _AGAIN, expected=_EXPECTED)
    if not isinstance(config, dict):
        refuse(path, f"JSON, but a {type(config).__name__} and no object", _AGAIN, expected=_EXPECTED)
    return dict(config)


def _pass_instead(path: Path) -> str:
    endings = (".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".tar")
    files = sorted(entry.name for entry in path.iterdir() if entry.suffix.lower() in endings)
    if shards := [name for name in files if _SHARD.search(name)]:
        stem, _, ending = _SHARD.sub("", shards[0]).rpartition(".")
        return f"{len(shards)} shards without their index: copy {stem}.{ending}.index.json from the source, too"
    below = sorted(
        entry.name for entry in path.iterdir() if entry.is_dir() and any((entry / name).exists() for name in _WHOLE)
    )
    if below and not files:
        return f"pass the folder in it that holds the weights, such as {path / below[-1]}"
    return f"pass the checkpoint file itself{f', such as {files[0]}' if files else ''}"


def split(tensors: Mapping[str, Tensor], shards: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each shard."""
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in shards.values()}
    for name, tensor in tensors.items():
        parts[shards[name]][name] = tensor
    return parts
