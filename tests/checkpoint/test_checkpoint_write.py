from __future__ import annotations

import argparse
import io
import json
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
import timm
import torch
from checkpoints import (
    CLASSES,
    data_parallel,
    lightning_file,
    logits,
    timm_network,
    timm_training_file,
    torchvision_network,
    torchvision_reference_file,
    treated,
)
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models import load_checkpoint, save_for_hf
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torchvision.transforms import InterpolationMode

from modeldoctor.checkpoint import Checkpoint, read_checkpoint
from modeldoctor.checkpoint.write import as_stored, treated_path, write_checkpoint
from modeldoctor.errors import CheckpointError, ModelDoctorWarning
from modeldoctor.zoo import load_model


def written(path: Path, network: nn.Module, output: Path | None = None) -> tuple[Path, Checkpoint]:
    """The file after its weights were replaced by those of the network."""
    original = read_checkpoint(path)
    output = output or treated_path(original, path.parent / "run")
    assert write_checkpoint(original, network.state_dict(), output) == output
    again = read_checkpoint(output)
    assert (again.container, again.key, again.prefix) == (original.container, original.key, original.prefix)
    assert again.metadata == original.metadata
    assert list(again.tensors) == list(original.tensors)
    assert [(t.shape, t.dtype) for t in again.tensors.values()] == [
        (t.shape, t.dtype) for t in original.tensors.values()
    ]
    return output, again


def load(path: Path) -> Any:
    return torch.load(path, weights_only=False)


def alike(a: Any, b: Any, *but: str) -> bool:
    """Deep equality of types and values, tensors included, except under the keys `but`."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(key in but or alike(a[key], b[key], *but) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(alike(x, y, *but) for x, y in zip(a, b, strict=True))
    return alike(vars(a), vars(b)) if isinstance(a, argparse.Namespace) else bool(a == b)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net", "weights", "model_ema"])
def test_weights_bare_and_under_every_key(tmp_path: Path, key: str | None, legacy: bool) -> None:
    stored: Any = torchvision_network().state_dict()
    stored = stored if key is None else {"epoch": 3, key: stored, "note": "kept"}
    torch.save(stored, tmp_path / "weights.pth", _use_new_zipfile_serialization=not legacy)
    network = treated(torchvision_network())
    output, _ = written(tmp_path / "weights.pth", network)
    assert output == tmp_path / "run" / "treated.pth"
    assert zipfile.is_zipfile(output) is not legacy
    new = torch.load(output, weights_only=True)
    assert list(new) == list(stored)
    twin = torchvision_network(seed=1)
    twin.load_state_dict(new if key is None else new[key], strict=True)
    assert torch.equal(logits(twin), logits(network))
    assert key is None or (new["epoch"], new["note"]) == (3, "kept")


@pytest.mark.parametrize("use_ema", [True, False])
def test_timm_training_checkpoint_as_timm_loads_it(tmp_path: Path, use_ema: bool) -> None:
    path = timm_training_file(tmp_path, timm_network(seed=0), timm_network(seed=1), num_classes=5)
    network = treated(timm_network(seed=1))
    output, _ = written(path, network)
    assert output.name == "treated.pth.tar"
    twin = timm_network(seed=2)
    load_checkpoint(twin, str(output), use_ema=use_ema, strict=True, weights_only=False)
    assert torch.equal(logits(twin), logits(network))
    by_name = timm.create_model("resnet10t", num_classes=5, checkpoint_path="")
    load_checkpoint(by_name.eval(), str(output), weights_only=False)
    assert torch.equal(logits(by_name), logits(network))
    assert alike(load(output), load(path), "state_dict", "state_dict_ema")
    assert load(output)["args"].opt == "sgd"


def test_torchvision_reference_checkpoint_with_averaged_model(tmp_path: Path) -> None:
    arch = "mobilenet_v3_small"
    path = torchvision_reference_file(
        tmp_path / "model_7.pth", torchvision_network(arch), arch, ema=torchvision_network(arch, seed=1)
    )
    network = treated(torchvision_network(arch, seed=1))
    output, _ = written(path, network)
    old, new = load(path), load(output)
    averaged, raw = (
        AveragedModel(torchvision_network(arch, seed=2), use_buffers=True),
        torchvision_network(arch, seed=2),
    )
    averaged.load_state_dict(new["model_ema"], strict=True)
    raw.load_state_dict(new["model"], strict=True)
    for twin in (averaged.eval(), raw):
        assert torch.equal(logits(twin), logits(network))
    assert alike(new, old, "model", "model_ema")
    assert alike(new["model_ema"]["n_averaged"], old["model_ema"]["n_averaged"])
    assert list(new["model_ema"]) == list(old["model_ema"])
    assert new["model"]._metadata == old["model"]._metadata
    assert type(new["args"].data_path) is PosixPath


@pytest.mark.parametrize("prefix", ["model.", "net.", "model._orig_mod."])
def test_lightning_checkpoint(tmp_path: Path, prefix: str) -> None:
    path = lightning_file(tmp_path / "last.ckpt", torchvision_network(), prefix, model_name="squeezenet1_1")
    network = treated(torchvision_network())
    output, _ = written(path, network)
    new = load(output)
    assert output.name == "treated.ckpt"
    assert alike(new, load(path), "state_dict")
    twin = torchvision_network(seed=1)
    twin.load_state_dict({name.removeprefix(prefix): t for name, t in new["state_dict"].items()}, strict=True)
    assert torch.equal(logits(twin), logits(network))


@pytest.mark.parametrize("wrap", [data_parallel, torch.compile, lambda n: data_parallel(torch.compile(n))])
def test_wrapped_networks(tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]) -> None:
    torch.save({"state_dict": wrap(torchvision_network()).state_dict()}, tmp_path / "wrapped.pt")
    network = treated(torchvision_network())
    output, _ = written(tmp_path / "wrapped.pt", network)
    twin = torchvision_network(seed=1)
    wrap(twin).load_state_dict(load(output)["state_dict"], strict=True)
    assert torch.equal(logits(twin), logits(network))


@pytest.mark.parametrize(
    "header", [None, {"arch": "squeezenet1_1", "class_names": json.dumps(CLASSES), "format": "pt"}]
)
def test_safetensors_keep_their_header(tmp_path: Path, header: dict[str, str] | None) -> None:
    save_file(torchvision_network().state_dict(), tmp_path / "model.safetensors", metadata=header)
    network = treated(torchvision_network())
    output, again = written(tmp_path / "model.safetensors", network)
    assert output.name == "treated.safetensors"
    with safe_open(output, framework="pt") as file:
        assert file.metadata() == header
    twin = torchvision_network(seed=1)
    twin.load_state_dict(again.tensors, strict=True)
    assert torch.equal(logits(twin), logits(network))


@pytest.mark.parametrize("safe", [True, False])
def test_timm_folder_as_timm_loads_it(tmp_path: Path, safe: bool) -> None:
    folder = tmp_path / "original"
    save_for_hf(timm_network(), str(folder), model_config={"label_names": list(CLASSES)}, safe_serialization=safe)
    network = treated(timm_network())
    output, again = written(folder, network)
    name = "model.safetensors" if safe else "pytorch_model.bin"
    assert {p.name for p in output.iterdir()} == {"config.json", name}
    assert (output / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert again.metadata.class_names == CLASSES
    twin = timm.create_model(f"local-dir:{output}", pretrained=True).eval()
    assert torch.equal(logits(twin), logits(network))
    assert [p.name for p in output.parent.iterdir()] == ["treated"]
    written(folder, timm_network(seed=3), output)
    assert torch.equal(
        logits(timm.create_model(f"local-dir:{output}", pretrained=True).eval()), logits(timm_network(seed=3))
    )


def test_the_tool_reads_back_what_it_wrote(tmp_path: Path) -> None:
    path = timm_training_file(tmp_path, timm_network(), num_classes=5)
    network = load_model(path).module
    treated(network)
    output, _ = written(path, network)
    assert torch.equal(logits(load_model(output).module), logits(network))


def test_half_precision_goes_in_and_comes_out(tmp_path: Path) -> None:
    torch.save(torchvision_network().half().state_dict(), tmp_path / "half.pt")
    original, network = read_checkpoint(tmp_path / "half.pt"), treated(torchvision_network())
    _, again = written(tmp_path / "half.pt", network)
    stored = as_stored(original, network.state_dict())
    assert alike(stored, again.tensors)
    assert {t.dtype for t in stored.values()} == {torch.float16}
    twin = torchvision_network(seed=1).half()
    twin.load_state_dict(again.tensors, strict=True)
    expected = {name: tensor.half() for name, tensor in network.state_dict().items()}
    assert alike(dict(twin.state_dict()), expected)


@pytest.mark.parametrize("place", ["file", "network"])
def test_counters_of_batch_normalisation_may_be_on_one_side_alone(tmp_path: Path, place: str) -> None:
    state, tensors = timm_network().state_dict(), treated(timm_network()).state_dict()
    shorter = state if place == "network" else tensors
    for name in [n for n in shorter if n.endswith("num_batches_tracked")]:
        del shorter[name]
    torch.save(state, tmp_path / "old.pt")
    original = read_checkpoint(tmp_path / "old.pt")
    write_checkpoint(original, tensors, tmp_path / "new.pt")
    assert list(torch.load(tmp_path / "new.pt")) == list(state)


def test_indices_that_the_file_has_not_are_not_added(tmp_path: Path) -> None:
    torch.save({"table": torch.zeros(3)}, tmp_path / "a.pt")
    state = {"table": torch.ones(3), "relative_position_index": torch.arange(9)}
    output = write_checkpoint(read_checkpoint(tmp_path / "a.pt"), state, tmp_path / "b.pt")
    assert {name: tensor.tolist() for name, tensor in load(output).items()} == {"table": [1.0, 1.0, 1.0]}


def test_what_the_network_does_not_have_stays(tmp_path: Path) -> None:
    auxiliary = {"aux1.fc.weight": torch.randn(5, 4), "aux1.fc.bias": torch.randn(5)}
    torch.save({"model": {**torchvision_network().state_dict(), **auxiliary}}, tmp_path / "aux.pt")
    original, tensors = read_checkpoint(tmp_path / "aux.pt"), treated(torchvision_network()).state_dict()
    with pytest.raises(CheckpointError, match="2 missing"):
        write_checkpoint(original, tensors, tmp_path / "new.pt")
    write_checkpoint(original, tensors, tmp_path / "new.pt", untreated=auxiliary)
    new = torch.load(tmp_path / "new.pt")["model"]
    assert all(torch.equal(new[name], tensor) for name, tensor in {**tensors, **auxiliary}.items())


def test_weights_of_another_network_stay(tmp_path: Path) -> None:
    teacher = timm_network("resnet18").state_dict()
    stored = {"state_dict": timm_network().state_dict(), "model": teacher, "optimizer": {"state": {0: torch.ones(1)}}}
    torch.save(stored, tmp_path / "two.pt")
    output, _ = written(tmp_path / "two.pt", treated(timm_network()))
    assert alike(load(output), load(tmp_path / "two.pt"), "state_dict")


def test_an_averaged_copy_of_parameters_alone(tmp_path: Path) -> None:
    """Copies may lack buffers; what is a Parameter stays one."""
    shadow = {name: p.clone().detach() for name, p in timm_network(seed=1).named_parameters()}
    stored = {"state_dict": timm_network().state_dict(), "weights": {n: nn.Parameter(t) for n, t in shadow.items()}}
    torch.save(stored, tmp_path / "shadow.pt")
    network = treated(timm_network())
    output, _ = written(tmp_path / "shadow.pt", network)
    new = load(output)["weights"]
    assert list(new) == list(shadow)
    assert all(isinstance(new[n], nn.Parameter) and torch.equal(new[n], p) for n, p in network.named_parameters())


def test_values_beside_the_weights_keep_their_types(tmp_path: Path) -> None:
    args = argparse.Namespace(output=Path("runs/1"), lr=np.float64(0.25), seed=np.int64(7), when=torch.__version__)
    stored = OrderedDict(
        args=args, mode=InterpolationMode.BICUBIC, state_dict={"a": torch.ones(2)}, best=(1, "x", None)
    )
    torch.save(stored, tmp_path / "rich.pt")
    write_checkpoint(read_checkpoint(tmp_path / "rich.pt"), {"a": torch.zeros(2)}, tmp_path / "new.pt")
    new = load(tmp_path / "new.pt")
    assert alike(dict(new), {**stored, "args": new["args"]}, "state_dict")
    assert type(new) is OrderedDict
    assert vars(new["args"]) == vars(args)
    assert type(new["args"].output) is PosixPath
    assert torch.equal(new["state_dict"]["a"], torch.zeros(2))
    assert b"modeldoctor" not in (tmp_path / "new.pt").read_bytes()


def test_a_namespace_is_as_safe_as_before(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1), "model": {"a": torch.ones(1)}}, tmp_path / "plain.pt")
    # What a user has allowed stays allowed after our own reading.
    with torch.serialization.safe_globals([argparse.Namespace]):
        output, _ = written(tmp_path / "plain.pt", _One())
        assert torch.load(output, weights_only=True)["args"] == argparse.Namespace(lr=1)
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(output, weights_only=True)


class _One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(1))


def globals_in(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    return {str(arg) for code, arg, _ in pickletools.genops(io.BytesIO(pickled)) if code.name == "GLOBAL"}


@pytest.mark.parametrize("key", [None, "model"])
def test_a_whole_module_stays_one(tmp_path: Path, key: str | None) -> None:
    module: Any = data_parallel(torchvision_network())
    torch.save(module if key is None else {key: module, "epoch": 3}, tmp_path / "whole.pt")
    original, network = read_checkpoint(tmp_path / "whole.pt"), treated(torchvision_network())
    write_checkpoint(original, network.state_dict(), tmp_path / "new.pt")
    assert globals_in(tmp_path / "new.pt") == globals_in(tmp_path / "whole.pt")
    new = torch.load(tmp_path / "new.pt", weights_only=False)
    assert torch.equal(logits((new if key is None else new[key]).module), logits(network))


def test_a_whole_module_of_the_old_format_becomes_a_state_dict(tmp_path: Path) -> None:
    torch.save(torchvision_network(), tmp_path / "whole.pt", _use_new_zipfile_serialization=False)
    original, network = read_checkpoint(tmp_path / "whole.pt"), treated(torchvision_network())
    with pytest.warns(ModelDoctorWarning, match="only the weights"):
        write_checkpoint(original, network.state_dict(), tmp_path / "new.pt")
    twin = torchvision_network(seed=1)
    twin.load_state_dict(torch.load(tmp_path / "new.pt", weights_only=True), strict=True)
    assert torch.equal(logits(twin), logits(network))


@pytest.mark.parametrize("kind", ["torch", "safetensors", "folder"])
@pytest.mark.parametrize("fate", ["deleted", "changed"])
def test_treated_weights_survive_the_loss_of_their_original(tmp_path: Path, kind: str, fate: str) -> None:
    path = tmp_path / f"model.{kind}"
    if kind == "torch":
        torch.save({"state_dict": timm_network().state_dict()}, path)
    elif kind == "safetensors":
        save_file(timm_network().state_dict(), path)
    else:
        save_for_hf(timm_network(), str(path), safe_serialization=True)
    original, network = read_checkpoint(path), treated(timm_network())
    if fate == "deleted":
        original.weights_path.unlink()
    elif kind == "torch":
        torch.save({"state_dict": {"other": torch.ones(1)}}, path)
    else:
        save_file({"other": torch.ones(1)}, original.weights_path)
    said = "no such file" if fate == "deleted" else "changed since"
    with pytest.warns(ModelDoctorWarning, match=said):
        write_checkpoint(original, network.state_dict(), tmp_path / "new")
    again = read_checkpoint(tmp_path / "new")
    assert (again.container, again.key) == (original.container, original.key)
    assert alike(again.tensors, {name: network.state_dict()[name] for name in again.tensors})
