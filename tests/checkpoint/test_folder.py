"""Sharded folders, and what is handed over in place of a checkpoint."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoints import timm_network
from safetensors.torch import load_file, save_file
from torch import Tensor

from modeldoctor.checkpoint import Container, read_checkpoint
from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.errors import CheckpointError


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.hint
    return str(caught.value)


def sharded(folder: Path, kind: str = "safetensors") -> dict[str, Tensor]:
    """As `save_pretrained(max_shard_size=...)` writes."""
    folder.mkdir()
    state = timm_network("test_resnet").state_dict()
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names, places = list(state), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{ending}"
        tensors = {name: state[name] for name in part}
        if ending == "bin":
            torch.save(tensors, folder / file)
        else:
            save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 5}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3}))
    return dict(state)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_checkpoint_and_go_back_as_shards(tmp_path: Path, kind: str) -> None:
    state = sharded(tmp_path / "model", kind)
    checkpoint = read_checkpoint(tmp_path / "model")
    assert checkpoint.container is Container.FOLDER
    assert checkpoint.metadata.arch == "test_resnet"
    assert state.keys() == checkpoint.tensors.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in checkpoint.tensors.items())
    index = next((tmp_path / "model").glob("*.index.json"))
    assert read_checkpoint(index).sha256 == checkpoint.sha256
    treated = {name: tensor + 1 for name, tensor in state.items()}
    written = write_checkpoint(checkpoint, treated, tmp_path / "treated")
    assert sorted(file.name for file in written.iterdir()) == sorted(file.name for file in index.parent.iterdir())
    for file in written.glob("*-of-*"):
        read = load_file if kind == "safetensors" else torch.load
        before, after = (read(place / file.name) for place in (index.parent, written))
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], treated[name]) for name in after)
    assert read_checkpoint(written).sha256 != checkpoint.sha256


def test_shards_that_are_not_all_there(tmp_path: Path) -> None:
    sharded(tmp_path / "model")
    first, second = sorted((tmp_path / "model").glob("*-of-*"))
    save_file({"a": torch.ones(1)}, second)
    assert "tensors are not in their shards" in refused(tmp_path / "model")
    second.unlink()
    assert f"1 of 2 shards are missing: {second.name}" in refused(tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    for wrong in ({"a": "../../etc/passwd"}, {"a": 3}, {}, [1], {"a": str(first)}):
        index.write_text(json.dumps({"weight_map": wrong}))
        assert "an index without a weight_map" in refused(tmp_path / "model")
    index.write_text("[" * 100_000)
    assert "not JSON" in refused(tmp_path / "model")


FILES: dict[str, tuple[str, bytes, str]] = {
    "openvino": ("net.xml", b'<?xml version="1.0"?>\n<net name="resnet" version="11">', "OpenVINO"),
    "tflite": ("net.tflite", b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
    "core ml": ("net.mlmodel", b"\x08\x04\x12\x10" + bytes(64), "Core ML"),
    "onnx": ("net.onnx", b"\x08\x07\x12\x07pytorch" + bytes(64), "ONNX"),
    "gguf": ("net.gguf", b"GGUF" + bytes(64), "GGUF"),
    "pointer": ("net.mlmodel", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull"),
    "pointer in place of shards": ("x.distcp", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "paddle": ("net.pdparams", b"\x80\x04}." + bytes(64), "PaddlePaddle"),
    "flax": ("flax_model.msgpack", b"\x81\xa6" + bytes(64), "Flax"),
    "tensorflow": ("frozen.pb", b"\n\x0f" + bytes(64), "TensorFlow"),
    "7z": ("net.7z", b"7z\xbc\xaf\x27\x1c" + bytes(64), "unpack"),
    "caffe": ("net.caffemodel", b"\n\x05mynet" + bytes(64), "weights of Caffe"),
    "darknet": ("net.weights", bytes(4) + b"\x02" + bytes(64), "weights of Darknet"),
    "mxnet": ("net-0000.params", b"\x12\x01" + bytes(64), "weights of MXNet"),
    "onnx without a producer": ("net.onnx", b"\x08\x0a:\x10abcdefgh" + bytes(64), "ONNX"),
    "code": ("net.py", b"def make_model(): ...\n", "--arch FILE.py:FUNCTION"),
    "configuration": ("net.yml", b"checkpoint: net.pt\n", "--config"),
    "picture": ("net.pt", b"\x89PNG\r\n\x1a\n" + bytes(64), "picture"),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_of_other_tools(tmp_path: Path, kind: str) -> None:
    name, content, said = FILES[kind]
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "beside", "said"),
    [
        ("net.bin", "net.xml", "OpenVINO"),
        ("net.bin", "net.param", "ncnn"),
        ("net.ckpt-5.data-00000-of-00001", "net.ckpt-5.index", "TensorFlow checkpoint"),
    ],
)
def test_a_file_that_its_neighbour_explains(tmp_path: Path, name: str, beside: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"\x01\x02\x03" * 50)
    (tmp_path / beside).write_bytes(b"x")
    assert said in refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "entries", "said"),
    [
        ("net.keras", ("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
        ("net.npz", ("a.npy",), "NumPy"),
        ("net.mlpackage", ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel"), "Core ML"),
        ("net.zip", ("MAR-INF/MANIFEST.json", "net.pt"), "TorchServe"),
    ],
)
def test_archives_of_other_tools(tmp_path: Path, name: str, entries: tuple[str, ...], said: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for entry in entries:
            archive.writestr(entry, "{}")
    assert said in refused(tmp_path / name)


def unpacked(folder: Path) -> None:
    torch.save({"a": torch.ones(2)}, folder / "net.pth")
    with zipfile.ZipFile(folder / "net.pth") as archive:
        archive.extractall(folder / "out")
    (folder / "net.pth").unlink()
    (folder / "out").rename(folder / "model")


def touched(*names: str) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        for name in names:
            (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "model" / name).write_bytes(b"{}")

    return make


FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "adapter": (touched("adapter_config.json", "adapter_model.safetensors"), "merge_and_unload"),
    "distcp": (lambda folder: dcp.save({"a": torch.ones(2)}, checkpoint_id=folder / "model"), "dcp_to_torch"),
    "unpacked": (unpacked, "zip -r -0"),
    "deepspeed": (touched("zero_to_fp32.py", "latest", "global_step1/mp_rank_00_model_states.pt"), "zero_to_fp32.py"),
    "saved model": (touched("saved_model.pb", "variables/variables.index"), "SavedModel"),
    "core ml": (touched("Manifest.json", "Data/com.apple.CoreML/model.mlmodel"), "Core ML"),
    "openvino": (touched("net.xml", "net.bin"), "OpenVINO"),
    "flax": (touched("config.json", "flax_model.msgpack"), "Flax"),
    "onnx": (touched("config.json", "model.onnx"), "ONNX"),
    "tensorflow": (touched("checkpoint", "net.ckpt.index", "net.ckpt.data-00000-of-00001"), "TensorFlow"),
    "accelerate": (touched("pytorch_model_fsdp_0/__0_0.distcp", "scheduler.bin"), "accelerate merge-weights"),
    "orbax": (touched("_CHECKPOINT_METADATA", "d/0"), "Orbax"),
    "shards alone": (
        touched("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        "2 shards without their index: copy model.safetensors.index.json",
    ),
    "folders of checkpoints": (touched("checkpoint-5/model.safetensors", "checkpoint-5/config.json"), "checkpoint-5"),
    "plain": (touched("best.pt", "log.txt"), "such as best.pt"),
    "empty": (lambda folder: (folder / "model").mkdir(), "without a weights file"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_of_other_tools(tmp_path: Path, kind: str) -> None:
    make, said = FOLDERS[kind]
    make(tmp_path)
    assert said in refused(tmp_path / "model")


def test_an_adapter_s_file_is_told_by_its_names(tmp_path: Path) -> None:
    save_file({"base_model.model.vit.q.lora_A.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert "merge_and_unload" in refused(tmp_path / "adapter_model.safetensors")


def test_a_part_of_a_distributed_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "__0_0.distcp").write_bytes(b"PK\x03\x04" + bytes(64))
    assert "dcp_to_torch" in refused(tmp_path / "__0_0.distcp")
