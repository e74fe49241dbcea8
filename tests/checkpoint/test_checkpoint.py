from __future__ import annotations

import argparse
import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import (
    CLASSES,
    data_parallel,
    lightning_file,
    logits,
    refused,
    timm_network,
    timm_training_file,
    torchvision_network,
    torchvision_reference_file,
)
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn
from torchvision.transforms import InterpolationMode

from modeldoctor.checkpoint import Checkpoint, Container, read_checkpoint
from modeldoctor.errors import CheckpointError


def same(checkpoint: Checkpoint, network: nn.Module, twin: nn.Module) -> bool:
    """Whether a network of other weights, loaded strictly by torch itself, answers like the source."""
    twin.load_state_dict(checkpoint.tensors)
    return torch.equal(logits(twin), logits(network))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net", "weights", "model_ema"])
def test_weights_bare_and_under_every_key(tmp_path: Path, key: str | None, legacy: bool) -> None:
    network = torchvision_network()
    stored: Any = network.state_dict() if key is None else {key: network.state_dict(), "epoch": 3}
    path = tmp_path / "weights.pt"
    torch.save(stored, path, _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(path)
    assert checkpoint.container is (Container.TORCH_LEGACY if legacy else Container.TORCH)
    assert checkpoint.key == (() if key is None else (key,))
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert same(checkpoint, network, torchvision_network(seed=1))


def test_nested_weights_are_found_and_a_file_that_contains_itself_ends(tmp_path: Path) -> None:
    torch.save({"model": {"state_dict": {"a.weight": torch.ones(2)}}}, tmp_path / "nested.pt")
    assert read_checkpoint(tmp_path / "nested.pt").key == ("model", "state_dict")
    loop: dict[str, Any] = {}
    loop["model"] = loop
    torch.save(loop, tmp_path / "loop.pt")
    assert "'model'" in refused(tmp_path / "loop.pt")


def wrapped(kind: str, network: nn.Module) -> nn.Module:
    if kind == "module._orig_mod.":
        return data_parallel(torch.compile(network))  # type: ignore[arg-type]
    return {"module.": data_parallel, "_orig_mod.": torch.compile}[kind](network)  # type: ignore[operator, no-any-return]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_real_wrappers(tmp_path: Path, prefix: str) -> None:
    network = torchvision_network()
    torch.save({"state_dict": wrapped(prefix, network).state_dict()}, tmp_path / "wrapped.pt")
    checkpoint = read_checkpoint(tmp_path / "wrapped.pt")
    assert checkpoint.prefix == prefix
    assert same(checkpoint, network, torchvision_network(seed=1))


def test_a_prefix_stays_unless_all_tensors_carry_it(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "mixed.pt")
    checkpoint = read_checkpoint(tmp_path / "mixed.pt")
    assert (set(checkpoint.tensors), checkpoint.prefix) == ({"module.a", "b"}, "")


def test_timm_training_checkpoint_gives_the_ema_weights(tmp_path: Path) -> None:
    raw, ema = timm_network(seed=0), timm_network(seed=1)
    path = timm_training_file(tmp_path, raw, ema, img_size=64, mean=[0.1, 0.2, 0.3], num_classes=5)
    checkpoint = read_checkpoint(path)
    assert checkpoint.key == ("state_dict_ema",)
    assert same(checkpoint, ema, timm_network(seed=2))
    meta = checkpoint.metadata
    assert (meta.arch, meta.num_classes, meta.input_size, meta.interpolation) == ("resnet10t", 5, (3, 64, 64), None)
    assert meta.mean == (0.1, 0.2, 0.3)
    assert meta.training == {"lr": 0.05, "opt": "sgd", "epochs": 3, "weight_decay": 2e-5, "epoch": 0}


def test_timm_training_checkpoint_without_ema(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(timm_training_file(tmp_path, timm_network()))
    assert checkpoint.key == ("state_dict",)
    assert same(checkpoint, timm_network(), timm_network(seed=2))


def test_torchvision_reference_checkpoint_with_averaged_model(tmp_path: Path) -> None:
    raw, ema = torchvision_network("mobilenet_v3_small"), torchvision_network("mobilenet_v3_small", seed=1)
    path = torchvision_reference_file(tmp_path / "model_7.pth", raw, "mobilenet_v3_small", ema=ema)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.key, checkpoint.prefix) == (("model_ema",), "module.")
    assert "n_averaged" not in checkpoint.tensors
    assert same(checkpoint, ema, torchvision_network("mobilenet_v3_small", seed=2))
    meta = checkpoint.metadata
    assert (meta.arch, meta.input_size, meta.crop_pct) == ("mobilenet_v3_small", (3, 64, 64), 0.8)
    assert meta.interpolation == "bilinear"
    assert meta.training == {"lr": 0.1, "epochs": 90, "epoch": 7}


@pytest.mark.parametrize("prefix", ["model.", "net.", "model._orig_mod."])
def test_lightning_checkpoint(tmp_path: Path, prefix: str) -> None:
    network = torchvision_network()
    path = lightning_file(tmp_path / "last.ckpt", network, prefix, model_name="squeezenet1_1", num_classes=5, lr=0.01)
    checkpoint = read_checkpoint(path)
    assert (checkpoint.key, checkpoint.prefix) == (("state_dict",), prefix)
    assert same(checkpoint, network, torchvision_network(seed=1))
    assert (checkpoint.metadata.arch, checkpoint.metadata.num_classes) == ("squeezenet1_1", 5)
    assert checkpoint.metadata.training == {"lr": 0.01, "epoch": 1}


def test_safetensors_with_header_metadata(tmp_path: Path) -> None:
    network = torchvision_network()
    header = {"arch": "squeezenet1_1", "class_names": json.dumps(CLASSES), "num_classes": "5", "format": "pt"}
    save_file(network.state_dict(), tmp_path / "model.safetensors", metadata=header)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.container is Container.SAFETENSORS
    assert checkpoint.metadata.class_names == CLASSES
    assert (checkpoint.metadata.arch, checkpoint.metadata.num_classes) == ("squeezenet1_1", 5)
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    size = (tmp_path / "model.safetensors").stat().st_size
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(size // 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.tensors.items())
    assert same(checkpoint, network, torchvision_network(seed=1))


@pytest.mark.parametrize("safe", [True, False])
def test_timm_folder(tmp_path: Path, safe: bool) -> None:
    network = timm_network(in_chans=1)
    names = {"label_names": list(CLASSES)}
    save_for_hf(network, str(tmp_path), model_config=names, safe_serialization=safe, data_config={"crop_pct": 0.5})
    checkpoint = read_checkpoint(tmp_path)
    weights = tmp_path / ("model.safetensors" if safe else "pytorch_model.bin")
    assert checkpoint.container is Container.FOLDER
    assert (checkpoint.weights_path, checkpoint.path) == (weights, tmp_path)
    assert checkpoint.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    meta = checkpoint.metadata
    assert (meta.arch, meta.num_classes, meta.class_names) == ("resnet10t", 5, CLASSES)
    assert (meta.in_chans, meta.crop_pct) == (1, 0.5)
    twin = timm_network(in_chans=1, seed=1)
    twin.load_state_dict(checkpoint.tensors)
    assert torch.equal(logits(twin, channels=1), logits(network, channels=1))


def test_own_training_script(tmp_path: Path) -> None:
    stored = {
        "state_dict": {"fc.weight": torch.ones(5, 2, dtype=torch.float16)},
        "arch": "timm/resnet10t",
        "num_classes": 5,
        "in_chans": 1,
        "class_names": list(CLASSES),
        "preprocessing": {
            "input_size": [28, 28],
            "mean": [0.5],
            "std": 0.25,
            "interpolation": "nearest",
            "crop_pct": 1,
        },
        "args": {"lr": 0.1, "epochs": 2, "augment": ["flip"]},
    }
    torch.save(stored, tmp_path / "own.pt")
    checkpoint = read_checkpoint(tmp_path / "own.pt")
    meta = checkpoint.metadata
    assert checkpoint.tensors["fc.weight"].dtype is torch.float16
    assert (meta.arch, meta.num_classes, meta.in_chans, meta.class_names) == ("timm/resnet10t", 5, 1, CLASSES)
    assert (meta.input_size, meta.mean, meta.std) == ((1, 28, 28), (0.5,), (0.25,))
    assert (meta.interpolation, meta.crop_pct, dict(meta.training)) == ("nearest", 1.0, {"lr": 0.1, "epochs": 2})


@pytest.mark.parametrize(
    "stored",
    [
        {"class_names": CLASSES},
        {"classes": list(CLASSES)},
        {"class_names": {4: "elk", 0: "ant", 1: "bee", 3: "dog", 2: "cat"}},
        {"idx_to_class": {str(i): name for i, name in enumerate(CLASSES)}},
        {"class_to_idx": {name: i for i, name in reversed(list(enumerate(CLASSES)))}},
        {"args": {"label2id": {name: i for i, name in enumerate(CLASSES)}}},
        {"idx2label": dict(enumerate(CLASSES))},
        {"names": dict(enumerate(CLASSES))},
    ],
)
def test_class_names_come_in_index_order(tmp_path: Path, stored: dict[str, Any]) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, **stored}, tmp_path / "named.pt")
    assert read_checkpoint(tmp_path / "named.pt").metadata.class_names == CLASSES


@pytest.mark.parametrize(
    "names", [{0: "a", 2: "b"}, {"a": 0, "b": 0}, [1, 1], [], "abc", 5, {0: "a", 1: None}, {"a": -1, "b": 0}]
)
def test_class_names_that_make_no_sense_are_unknown(tmp_path: Path, names: Any) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "class_names": names}, tmp_path / "named.pt")
    assert read_checkpoint(tmp_path / "named.pt").metadata.class_names is None


def test_values_that_scripts_store_beside_the_weights(tmp_path: Path) -> None:
    args = argparse.Namespace(output=Path("runs/1"), lr=np.float64(0.25), seed=np.int64(7), when=torch.__version__)
    stored = {"state_dict": {"a": torch.ones(1)}, "args": args, "interpolation": InterpolationMode.BICUBIC}
    torch.save(stored, tmp_path / "rich.pt")
    meta = read_checkpoint(tmp_path / "rich.pt").metadata
    assert dict(meta.training) == {"lr": 0.25, "seed": 7}
    assert meta.interpolation == "bicubic"


@pytest.mark.parametrize("legacy", [False, True])
def test_a_whole_module_is_read_without_its_code(tmp_path: Path, legacy: bool) -> None:
    network = torchvision_network()
    torch.save(data_parallel(network), tmp_path / "whole.pt", _use_new_zipfile_serialization=not legacy)
    checkpoint = read_checkpoint(tmp_path / "whole.pt")
    assert checkpoint.module is None
    assert checkpoint.tensors.keys() == network.state_dict().keys()
    assert same(checkpoint, network, torchvision_network(seed=1))


def test_a_trusted_whole_module_is_itself(tmp_path: Path) -> None:
    network = torchvision_network()
    torch.save(data_parallel(network), tmp_path / "whole.pt")
    checkpoint = read_checkpoint(tmp_path / "whole.pt", trust_pickle=True)
    assert checkpoint.module is not None
    assert torch.equal(logits(checkpoint.module), logits(network))


def test_a_trusted_module_without_weights_is_refused_and_does_not_go_round_for_ever(tmp_path: Path) -> None:
    torch.save(nn.Flatten(), tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="no network weights"):
        read_checkpoint(tmp_path / "whole.pt", trust_pickle=True)


def test_plain_values_of_foreign_types_do_not_refuse_a_file(tmp_path: Path) -> None:
    stored = {"state_dict": {"a": torch.ones(2)}, "curve": np.arange(3), "when": datetime.datetime(2024, 1, 1)}
    stored |= {"epochs": range(3), "part": slice(1, None), "rest": [..., NotImplemented, 1j], "why": ValueError("nan")}
    torch.save(stored, tmp_path / "values.pt")
    assert torch.equal(read_checkpoint(tmp_path / "values.pt").tensors["a"], torch.ones(2))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("whole", [False, True])
def test_every_protocol_of_pickle_is_read(tmp_path: Path, protocol: int, whole: bool) -> None:
    network = torchvision_network(seed=3)
    torch.save(network if whole else network.state_dict(), tmp_path / "n.pt", pickle_protocol=protocol)
    assert same(read_checkpoint(tmp_path / "n.pt"), network, torchvision_network(seed=1))
    assert read_checkpoint(tmp_path / "n.pt", trust_pickle=True).tensors.keys() == network.state_dict().keys()


def test_a_flipped_byte_in_a_tensor_is_seen(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(10_000)}, tmp_path / "flip.pt")
    data = bytearray((tmp_path / "flip.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "flip.pt").write_bytes(data)
    assert "checksum" in refused(tmp_path / "flip.pt")


def test_class_to_idx_of_digits_is_read_by_its_key(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "class_to_idx": {"2": 0, "0": 1, "1": 2}}, tmp_path / "n.pt")
    assert read_checkpoint(tmp_path / "n.pt").metadata.class_names == ("2", "0", "1")


def test_a_trusted_module_whose_class_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.Identity, "__module__", "vanished_package")
    monkeypatch.setitem(__import__("sys").modules, "vanished_package", argparse.Namespace(Identity=nn.Identity))
    torch.save(nn.Identity(), tmp_path / "gone.pt")
    monkeypatch.undo()
    assert "vanished_package" in refused(tmp_path / "gone.pt", trust_pickle=True)


def linear() -> dict[str, torch.Tensor]:
    return nn.Linear(2, 3).state_dict()


@pytest.mark.parametrize("around", [lambda w: (w, {"epoch": 1}), lambda w: [3, w], lambda w: {"folds": [w, None]}])
def test_weights_in_a_list_are_found(tmp_path: Path, around: Callable[[Any], Any]) -> None:
    weights = linear()
    torch.save(around(weights), tmp_path / "list.pt")
    assert torch.equal(read_checkpoint(tmp_path / "list.pt").tensors["weight"], weights["weight"])


@pytest.mark.parametrize("keys", [("params", "params_ema"), ("student", "teacher"), ("net_ema", "network")])
def test_of_a_network_and_its_average_under_other_keys_the_average_is_taken(
    tmp_path: Path, keys: tuple[str, str]
) -> None:
    sets = {key: linear() for key in keys}
    torch.save(sets, tmp_path / "twins.pt")
    average = next(key for key in keys if key in ("params_ema", "teacher", "net_ema"))
    read = read_checkpoint(tmp_path / "twins.pt")
    assert read.key == (average,)
    assert torch.equal(read.tensors["weight"], sets[average]["weight"])


def test_several_sets_of_weights_are_named_and_not_guessed(tmp_path: Path) -> None:
    torch.save({"backbone": linear(), "head": linear()}, tmp_path / "parts.pt")
    with pytest.raises(CheckpointError, match=r"2 sets of weights.*backbone, head"):
        read_checkpoint(tmp_path / "parts.pt")


def test_a_compiled_module_that_was_pickled_whole_is_read(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 3))
    torch.save(torch.compile(network), tmp_path / "compiled.pt")
    assert torch.equal(read_checkpoint(tmp_path / "compiled.pt").tensors["0.weight"], network[0].weight)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("whole", [True, False])
def test_a_quantized_network_is_refused_as_one(tmp_path: Path, whole: bool) -> None:
    packed = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 3)), {nn.Linear})
    torch.save(packed if whole else packed.state_dict(), tmp_path / "quantized.pt")
    with pytest.raises(CheckpointError, match=r"quantized network.*1\._packed_params"):
        read_checkpoint(tmp_path / "quantized.pt")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_an_average_beside_the_network_is_read_where_it_is_whole(tmp_path: Path, whole: bool, inside: bool) -> None:
    """As in ultralytics' files; an average of the parameters alone has no running statistics."""
    state, average = timm_network().state_dict(), timm_network(seed=1).state_dict()
    if not whole:
        average = {name: tensor for name, tensor in average.items() if "running" not in name}
    torch.save({"model": state, "ema": {"module": average, "updates": 3} if inside else average}, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt")
    assert read.key == ((("ema", "module") if inside else ("ema",)) if whole else ("model",))
    for name, tensor in (average if whole else state).items():
        assert torch.equal(read.tensors[name], tensor)


def test_tensors_of_types_without_a_storage_of_their_own_lie_beside_a_network(tmp_path: Path) -> None:
    """Read with stand-ins, since a loss is saved, too."""
    network = timm_network()
    network.register_buffer("codes", torch.arange(300).to(torch.uint16)[7:200])
    network.register_buffer("scale", torch.tensor([0.5, 2.0]).to(torch.float8_e4m3fn))
    torch.save({"model": network, "criterion": torch.nn.CrossEntropyLoss()}, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt")
    assert read.tensors["codes"].int().tolist() == list(range(7, 200))
    assert read.tensors["scale"].float().tolist() == [0.5, 2.0]
    for name, tensor in network.state_dict().items():
        assert torch.equal(read.tensors[name].float(), tensor.float())


ORDERED = {name: index for index, name in enumerate(CLASSES)}


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"class_to_idx": {name: float(index) for name, index in ORDERED.items()}}, CLASSES),
        ({"class_to_idx": {name: torch.tensor(index) for name, index in ORDERED.items()}}, CLASSES),
        ({"class_to_idx": {10: 0, 2: 1, 0: 2, 1: 3, 3: 4}}, ("10", "2", "0", "1", "3")),
        ({"class_to_idx": {0: 2, 1: 0, 2: 1}}, ("1", "2", "0")),
        ({"idx_to_class": {0: 10, 1: 2, 2: 0}}, ("10", "2", "0")),
        ({"classes": [10, 2, 0]}, ("10", "2", "0")),
        ({"classes": [0, 1, 2]}, None),
        ({"labels": [3, 3, 1, 0]}, None),
        ({"meta": {"CLASSES": CLASSES}}, CLASSES),
        ({"meta": {"dataset_meta": {"classes": list(CLASSES)}}}, CLASSES),
    ],
)
def test_class_names_as_tools_write_them(tmp_path: Path, said: dict[str, Any], names: tuple[str, ...] | None) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, **said}, tmp_path / "n.pt")
    assert read_checkpoint(tmp_path / "n.pt").metadata.class_names == names


def test_arguments_in_a_namespace_within_others(tmp_path: Path) -> None:
    args = argparse.Namespace(model="test_resnet", model_kwargs=argparse.Namespace(global_pool="max"))
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": args}, tmp_path / "n.pt")
    assert read_checkpoint(tmp_path / "n.pt").metadata.model_args == {"global_pool": "max"}
