"""Treated tensors → a checkpoint of the same container, keys, order and precision as the file they came from.

Everything else in the file is kept, optimizer and scheduler state included: they belong to the original training. Where
a file holds several copies of the weights (raw and averaged), all of them become the treated ones, since tools differ
in which they load. A module that was pickled whole keeps its own pickle, in which only the tensors' values change.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from modeldoctor.checkpoint import Checkpoint, find_weights, is_weight, without_prefix
from modeldoctor.checkpoint.container import Container, Contents, read_contents
from modeldoctor.checkpoint.folder import CONFIG, INDEX, PREPROCESSOR, WEIGHTS, split
from modeldoctor.checkpoint.names import copies
from modeldoctor.errors import CheckpointError, ModelDoctorWarning, UsageError, shortened
from modeldoctor.runtime.files import aside_of, noted, remove_leftovers, written_aside

STATISTICS = ("running_mean", "running_var")
COUNTER = "num_batches_tracked"
SUFFIX = re.compile(r"(\.pth?)?\.[a-z]\w*$", re.IGNORECASE)


def treated_path(original: Checkpoint, folder: str | Path) -> Path:
    """Where the treated twin of a checkpoint goes: `treated` with the original's own suffix, or a folder `treated`."""
    if original.container is Container.FOLDER:
        return Path(folder) / "treated"
    suffix = SUFFIX.search(original.path.name)
    default = ".safetensors" if original.container is Container.SAFETENSORS else ".pt"
    return Path(folder) / f"treated{suffix[0] if suffix else default}"


def as_stored(
    original: Checkpoint, tensors: Mapping[str, Tensor], *, untreated: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors as the file will hold them: its names in its order, its precision, on the CPU.

    A half-precision file rounds: what is tested must be loaded from these.

    Args:
        original: the checkpoint as it was read.
        tensors: the network's state dict, by plain names.
        untreated: names in the file that the network does not have (auxiliary heads, recomputed buffers), kept as
            they are. BatchNorm's counters, indices and recomputed tables may be absent from the file.

    Raises:
        CheckpointError: a tensor is missing, unknown to the file, of another shape, or too large for its precision.
    """
    held = original.tensors
    absent = [n for n in held if n not in tensors and n not in untreated and not n.endswith(COUNTER)]
    unknown = [n for n in tensors if n not in held and is_weight(n, tensors[n])]
    misshapen = [n for n in held if n in tensors and tensors[n].shape != held[n].shape]
    stored = {n: tensors[n].detach().to("cpu", held[n].dtype) for n in held if n in tensors and n not in misshapen}
    overflown = [n for n, t in stored.items() if not _finite(t) and _finite(tensors[n])]
    problems = {
        "missing": absent,
        "unknown to the file": unknown,
        "of another shape": misshapen,
        "too large for the file's precision": overflown,
    }
    found = "; ".join(f"{len(names)} {what} ({shortened(names)})" for what, names in problems.items() if names)
    if found:
        raise CheckpointError(
            f"the treated tensors do not go back into the file: {found}",
            where=str(original.weights_path),
            expected=f"its {len(held)} tensors, each of its own shape",
            hint="pass the whole state dict of the network that was built from this file",
        )
    return {name: stored.get(name, tensor) for name, tensor in held.items()}


def write_checkpoint(
    original: Checkpoint, tensors: Mapping[str, Tensor], output: str | Path, *, untreated: Collection[str] = ()
) -> Path:
    """Write the original's twin with treated tensors; the file appears whole or not at all.

    Of a file in torch's old format that holds objects, and of one that was changed since it was read, only the weights
    are written, under the same keys; a `ModelDoctorWarning` says so. Of a
    folder, the config and the weights file are written. Numpy numbers beside the weights become plain ones.

    Args:
        original: the checkpoint as it was read.
        tensors: the network's state dict, by plain names, in any precision and on any device.
        output: a file, or for a folder checkpoint a folder; an earlier checkpoint there is replaced.
        untreated: see `as_stored`.

    Returns:
        `output`.

    Raises:
        CheckpointError: the tensors do not fit the file.
        UsageError: the output cannot be written, or is the original itself.
    """
    output = Path(output)
    if output.resolve() in (original.path.resolve(), original.weights_path.resolve()):
        hint = "choose another place for the output"
        raise UsageError("the output would overwrite the original checkpoint", where=str(output), hint=hint)
    stored = as_stored(original, tensors, untreated=untreated)
    contents = _treated_contents(original, stored)
    try:
        if original.container is Container.FOLDER:
            with _folder_aside(output) as folder:
                for name in (CONFIG, PREPROCESSOR):
                    if (held := original.weights_path.parent / name).is_file():
                        shutil.copyfile(held, folder / name)
                _save_into(folder, contents)
        else:
            with written_aside(output) as aside:
                SAVERS[contents.container](contents, aside)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"cannot write: {error}", where=str(output), hint="check the space on the disk, or choose another place"
        ) from error
    return output


def _treated_contents(original: Checkpoint, stored: dict[str, Tensor]) -> Contents:
    try:
        contents = read_contents(original.weights_path, trust_pickle=False)
        reason = "it has changed since it was read" if contents.sha256 != original.sha256 else ""
    except CheckpointError as error:
        contents, reason = None, error.found
    if contents and contents.storages and contents.container is Container.TORCH_LEGACY:
        reason = "it holds objects in torch's old format"
    if contents is None or reason:
        warnings.warn(
            f"{original.weights_path}: {reason}; of the treated network only the weights are written, "
            "as a state dict. Load it with load_state_dict into a network that your own code builds.",
            ModelDoctorWarning,
            stacklevel=3,
        )
        return _weights_alone(original, stored)
    for _, held in find_weights(contents.root):
        assert isinstance(held, dict)
        old = dict(held)
        _replace(held, original, stored)
        if contents.storages:  # the pickle stays as it is: the new values go where the old ones lie
            for name in (n for n in held if held[n] is not old[n]):
                old[name].detach().copy_(held[name].detach())
    return contents


def _weights_alone(original: Checkpoint, stored: dict[str, Tensor]) -> Contents:
    root: dict[str, Any] = {original.prefix + n: _own(t) for n, t in original.to_file(stored).items()}
    for key in reversed(original.key):
        root = {key: root}
    container = original.container
    path = original.weights_path
    if path.name in INDEX:
        path = path.with_name(WEIGHTS[INDEX.index(path.name)])
    if container is Container.FOLDER:
        container = Container.SAFETENSORS if path.suffix == ".safetensors" else Container.TORCH
    return Contents(container=container, weights_path=path, sha256=original.sha256, root=root)


def _replace(held: dict[Any, Any], original: Checkpoint, stored: dict[str, Tensor]) -> None:
    """Put the treated tensors into every copy of the network among these weights; what is of another one stays."""
    in_file = {n: v for n, v in held.items() if isinstance(n, str) and isinstance(v, Tensor)}
    whole = original.to_file(stored)
    # What the network does not have may differ from copy to copy and stays.
    kept = original.to_file({n: t for n, t in stored.items() if t is original.tensors[n]}).keys()
    _, prefix = without_prefix(whole)
    wanted = {name.removeprefix(prefix): tensor for name, tensor in whole.items()}
    for names in copies(wanted, in_file):
        # An averaged copy may lack buffers.
        lacking = [n for n in wanted if n not in names and is_weight(n, wanted[n]) and not n.endswith(STATISTICS)]
        if lacking or any(in_file[place].shape != wanted[name].shape for name, place in names.items()):
            continue
        for name, place in names.items():
            if prefix + name not in kept:
                old, new = in_file[place], _own(wanted[name].to(in_file[place].dtype))
                held[place] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


def _own(tensor: Tensor) -> Tensor:
    """A copy that shares no storage: views would drag their whole storage into the file."""
    return tensor.clone(memory_format=torch.contiguous_format)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


@contextmanager
def _folder_aside(output: Path) -> Iterator[Path]:
    """Yield a new folder beside `output`; put it in its place on success, remove it on failure."""
    if output.exists() and not (output / CONFIG).is_file() and not _empty_folder(output):
        raise UsageError(
            "cannot write: something other than a checkpoint folder is there",
            where=str(output),
            hint="choose another place for the output",
        )
    aside, old = aside_of(output), aside_of(output)
    aside.mkdir(parents=True)
    remove_leftovers(output)
    try:
        yield aside
        if output.exists():
            output.rename(old)
        aside.rename(output)
    except BaseException:
        if old.exists() and not output.exists():
            old.rename(output)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _save_into(folder: Path, contents: Contents) -> None:
    """One file of weights, or each shard under its name with the index."""
    if not contents.shards:
        SAVERS[contents.container](contents, folder / contents.weights_path.name)
        return
    shutil.copyfile(contents.weights_path, folder / contents.weights_path.name)
    assert isinstance(contents.root, dict)
    for name, tensors in split(contents.root, contents.shards).items():
        container = Container.SAFETENSORS if name.endswith(".safetensors") else Container.TORCH
        header: Mapping[str, str] = {}
        if container is Container.SAFETENSORS:
            with safe_open(contents.weights_path.with_name(name), framework="pt") as original:
                header = original.metadata() or {}
        SAVERS[container](replace(contents, described=header, root=tensors, shards={}), folder / name)


def _save_around_objects(contents: Contents, path: Path) -> None:
    """The archive with other storages: what the file's own objects are is nobody's business but its reader's."""
    reader = torch._C.PyTorchFileReader(str(contents.weights_path))
    with noted(path) as file:
        writer = torch._C.PyTorchFileWriter(file)
        for name in reader.get_all_records():
            folder, _, key = name.rpartition("/")
            if folder == "data" and key in contents.storages:
                held = torch.empty(0, dtype=torch.uint8).set_(contents.storages[key]._untyped_storage)
                data = held.numpy().tobytes()
            else:
                data = reader.get_record(name)
            if name != "version" and not name.startswith(".data/"):  # the writer's own
                writer.write_record(name, data, len(data))
        writer.write_end_of_file()


def _save_torch(contents: Contents, path: Path) -> None:
    if contents.storages:
        _save_around_objects(contents, path)
        return
    # By an open file: the archive would carry the temporary path's name otherwise.
    with noted(path) as file:
        torch.save(contents.root, file, _use_new_zipfile_serialization=contents.container is Container.TORCH)


def _save_safetensors(contents: Contents, path: Path) -> None:
    assert isinstance(contents.root, dict)
    try:
        save_file(contents.root, path, metadata=dict(contents.described) or None)
    except SafetensorError as error:
        # It has the system's number in its text alone.
        if said := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(said[1]), os.strerror(int(said[1])), str(path)) from error
        raise


SAVERS: dict[Container, Callable[[Contents, Path], None]] = {
    Container.TORCH: _save_torch,
    Container.TORCH_LEGACY: _save_torch,
    Container.SAFETENSORS: _save_safetensors,
}
