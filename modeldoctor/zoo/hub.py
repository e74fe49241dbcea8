"""A name in place of a file: `timm/resnet50.a1_in1k`, `hf-hub:org/model`, `torchvision/resnet50:IMAGENET1K_V2`.

The weights come from the caches in which timm, torchvision and huggingface_hub keep what they fetch, so that nothing is
fetched twice; nothing is fetched at all unless the user says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub
import timm
import torch
import torchvision
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError
from torch.hub import HASH_REGEX
from torchvision.models import get_model_weights

from modeldoctor.checkpoint import Checkpoint, read_checkpoint
from modeldoctor.checkpoint.folder import CONFIG, INDEX, PREPROCESSOR, WEIGHTS
from modeldoctor.errors import ArchitectureError, CheckpointError
from modeldoctor.runtime.reading import exists
from modeldoctor.zoo.libraries import Plan, find_plans, torchvision_preprocessing

HUB = ("hf-hub:", "hf_hub:")
ENDINGS = (".pt", ".pth", ".ckpt", ".bin", ".tar", ".th", ".pkl", ".safetensors")
LIBRARIES = ("timm/", "torchvision/")


@dataclass(frozen=True, kw_only=True)
class Named:
    """What a name stands for.

    Attributes:
        path: of the file or folder in the cache.
        arch: the architecture; None where the folder says it.
        said: what the library says of these weights, by the names of `CheckpointMetadata`.
    """

    path: Path
    arch: str | None = None
    said: dict[str, Any] = field(default_factory=dict)


def find_named(name: str, *, download: bool) -> Named | None:
    """The weights of a name; None where it is none, or a file or folder of that name is there.

    Args:
        name: as above; a timm name without a tag, or a torchvision one without weights, is the library's default.
        download: fetch what is not in the cache.

    Raises:
        ArchitectureError: the library has no such network, or no weights for it.
        CheckpointError: the weights are not in the cache, or cannot be fetched.
    """
    if not name.startswith((*HUB, *LIBRARIES)) or exists(Path(name)):
        return None
    if name.startswith(HUB):
        repo, _, revision = name[len(HUB[0]) :].partition("@")
        return Named(path=_hub_folder(name, repo, revision or None, download))
    return _of_timm(name, download) if name.startswith("timm/") else _of_torchvision(name, download)


def read_named(
    path: str | Path, *, download: bool = False, trust_pickle: bool = False
) -> tuple[Checkpoint, str | None]:
    """Read a checkpoint from a path or a name, and the architecture that the name says.

    Raises:
        ArchitectureError, CheckpointError: as `find_named` and `read_checkpoint`.
    """
    named = find_named(str(path), download=download)
    if named is None:
        if not exists(Path(path)) and (meant := _meant(str(path))):
            raise CheckpointError(
                "no such file",
                where=str(path),
                expected="a PyTorch checkpoint, a .safetensors file, a timm folder, or a name with its library",
                hint=meant,
            )
        return read_checkpoint(path, trust_pickle=trust_pickle), None
    checkpoint = read_checkpoint(named.path)
    return replace(checkpoint, metadata=replace(checkpoint.metadata, **named.said)), named.arch


def _meant(name: str) -> str | None:
    """The next step where a name was given without its library, or a web address."""
    if address := re.match(r"(https?|hf|s3|gs):/+(.*)", name):
        host = re.match(r"(?:huggingface\.co/)?([\w.-]+/[\w.-]+)/?$", address[2])
        of_hub = address[1] == "hf" or address[2].startswith("huggingface.co/")
        return f"pass hf-hub:{host[1]}" if host and of_hub else "download the file and pass its path"
    bare = re.split(r"[.:]", name)[0]
    known = [f"timm/{name.partition(':')[0]}"] if bare in timm.list_models() else []
    if bare in torchvision.models.list_models(module=torchvision.models):
        known.append(f"torchvision/{bare}" + (f":{name.partition(':')[2]}" if ":" in name else ""))
    if known:
        return f"for a library's weights pass {' or '.join(known)}, otherwise check the path"
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and Path(name).suffix.lower() not in ENDINGS:
        return f"for a model of the Hugging Face hub pass hf-hub:{name}, otherwise check the path"
    return None


def _of_timm(name: str, download: bool) -> Named:
    plan = _plan_of(name)
    wanted = name.partition("/")[2].partition(".")[2]
    config = timm.get_pretrained_cfg(plan.arch.removeprefix("timm/"), allow_unregistered=True)
    if config is None or not config.has_weights or (wanted and not plan.tag):
        raise _no_weights(name, [f"timm/{tag}" for tag in timm.list_models(f"{plan.name}.*", pretrained=True)])
    arch = f"timm/{plan.name}.{config.tag}" if config.tag else plan.arch
    if config.hf_hub_id:
        files = [config.hf_hub_filename] if config.hf_hub_filename else WEIGHTS
        return Named(path=_hub_file(name, config.hf_hub_id, files, None, download), arch=arch)
    return Named(path=_by_url(name, config.url, download), arch=arch)


def _of_torchvision(name: str, download: bool) -> Named:
    arch, _, wanted = name.partition(":")
    _plan_of(arch)
    weights = get_model_weights(arch.partition("/")[2])
    known = {entry.name: entry for entry in weights}
    if not known or (wanted or "DEFAULT") not in (*known, "DEFAULT"):
        raise _no_weights(name, [f"{arch}:{tag}" for tag in known])
    entry = known.get(wanted) or weights.DEFAULT
    said = torchvision_preprocessing(entry) | {"class_names": tuple(entry.meta["categories"])}
    return Named(path=_by_url(name, entry.url, download, entry.meta.get("_file_size")), arch=arch, said=said)


def _plan_of(name: str) -> Plan:
    try:
        return find_plans(name, where="the checkpoint's name")[0]
    except ArchitectureError as error:
        near = (error.hint or "").partition("such as ")[2]
        raise ArchitectureError(
            f"neither a file nor a library's network is called {name}",
            where="the checkpoint's name",
            expected="a path, timm/NAME.TAG, torchvision/NAME:WEIGHTS or hf-hub:ORG/MODEL",
            hint=f"check the path{f', or take one of {near}' if near else ''}",
        ) from error


def _hub_folder(name: str, repo: str, revision: str | None, download: bool) -> Path:
    """A snapshot with the configuration and the weights, all their shards among them."""
    weights = (*WEIGHTS, *INDEX)

    def held() -> Path | None:
        config = _cached(repo, CONFIG, revision)
        folder = config.parent if config else None
        found = [folder / file for file in weights if (folder / file).is_file()] if folder else []
        whole = found and all((folder / shard).is_file() for shard in _shards(found[0])) if folder else False
        return folder if whole else None

    if folder := held():
        return folder
    if not download:
        raise _not_cached(name, f"{CONFIG} and the weights of {repo}", constants.HF_HUB_CACHE)
    _fetch(name, lambda: _fetch_from_hub(repo, [CONFIG], revision))
    file = _fetch(name, lambda: _fetch_from_hub(repo, weights, revision))
    for shard in _shards(file):
        _fetch(name, lambda shard=shard: _fetch_from_hub(repo, [shard], revision))  # type: ignore[misc]
    with suppress(Exception):  # a folder without it is whole
        _fetch_from_hub(repo, [PREPROCESSOR], revision)
    folder = held()
    if folder is None:
        raise _not_fetched(name, "its files are not all there")
    return folder


def _hub_file(name: str, repo: str, files: Iterable[str], revision: str | None, download: bool) -> Path:
    files = list(files)
    if found := next((path for file in files if (path := _cached(repo, file, revision))), None):
        return found
    if not download:
        raise _not_cached(name, f"{files[0]} of {repo}", constants.HF_HUB_CACHE)
    return _fetch(name, lambda: _fetch_from_hub(repo, files, revision))


def _by_url(name: str, url: str, download: bool, megabytes: float | None = None) -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if path.is_file():
        return path
    if not download:
        raise _not_cached(name, url + (f" ({megabytes:.0f} MB)" if megabytes else ""), str(folder))

    def fetch() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        prefix = HASH_REGEX.search(path.name)
        torch.hub.download_url_to_file(url, str(path), prefix[1] if prefix else None, progress=False)
        return path

    return _fetch(name, fetch)


def _cached(repo: str, file: str, revision: str | None) -> Path | None:
    try:
        found = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    except ValueError as error:
        raise CheckpointError(
            f"{repo!r} is no name of a model ({error})",
            where="the checkpoint's name",
            expected="hf-hub:ORG/MODEL",
            hint="write it as the hub does",
        ) from error
    return Path(found) if isinstance(found, str) else None


def _fetch_from_hub(repo: str, files: Iterable[str], revision: str | None) -> Path:
    """The first of the files that is there."""
    missing: EntryNotFoundError | None = None
    for file in files:
        try:
            return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
        except EntryNotFoundError as error:
            missing = error
    assert missing is not None
    raise missing


def _fetch(name: str, get: Callable[[], Path]) -> Path:
    try:
        return get()
    except Exception as error:  # connections fail in many ways
        raise _not_fetched(
            name, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        ) from error


def _shards(path: Path) -> list[str]:
    """The files that an index names."""
    if path.name not in INDEX:
        return []
    try:
        return sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _not_cached(name: str, what: str, where: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of {name} are not in the local cache",
        where=where,
        expected="a checkpoint file, or a name whose weights have been fetched before",
        hint=f"--download would fetch {what} to {where}",
    )


def _not_fetched(name: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"the weights of {name} could not be fetched ({why})",
        where=name,
        hint="check the name and the connection, or fetch the file elsewhere and pass its path",
    )


def _no_weights(name: str, known: list[str]) -> ArchitectureError:
    return ArchitectureError(
        f"the library has no weights of the name {name}",
        where="the checkpoint's name",
        expected=", ".join(known[:12]) or "a network with published weights",
        hint="take one of these" if known else "pass a checkpoint file",
    )
