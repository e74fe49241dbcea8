"""How people have their networks: each form writes its file and, after a treatment, loads it as they would."""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeldoctor.zoo.libraries import Built


@dataclass(frozen=True)
class Form:
    """One way in which a network reaches the tool.

    Attributes:
        write: saves a network into a folder; the path to pass.
        load: the user's own network, that of `build`, with the treated file; strict.
        change: makes the user's own network out of the library's.
        options: for `load_model`; "{folder}" stands for the folder.
    """

    write: Callable[[nn.Module, Path], Path]
    load: Callable[[nn.Module, Path], object]
    change: Callable[[Built], nn.Module] = lambda built: built.module
    options: Mapping[str, str] = field(default_factory=dict)


def _save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def _read(path: Path) -> Any:
    return torch.load(path, weights_only=True)


def _plain(module: nn.Module, folder: Path) -> Path:
    return _save(module.state_dict(), folder / "ckpt.pt")


def _load_plain(module: nn.Module, path: Path) -> object:
    return module.load_state_dict(_read(path), strict=True)


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _lightning(module: nn.Module, folder: Path) -> Path:
    state, average = module.state_dict(), copy.deepcopy(module.state_dict())
    beside = {"criterion.weight": torch.ones(3), "val_acc.total": torch.ones(1)}
    content = {**_below("net.", state), **_below("ema.module.", average), **beside}
    return _save({"state_dict": content, "epoch": 1, "hyper_parameters": {"arch": "my network"}}, folder / "last.ckpt")


def _load_lightning(module: nn.Module, path: Path) -> object:
    state = _read(path)["state_dict"]
    own = {name.removeprefix("net."): tensor for name, tensor in state.items() if name.startswith("net.")}
    return module.load_state_dict(own, strict=True)


def _load_whole(module: nn.Module, path: Path) -> object:
    return module.load_state_dict(torch.load(path, weights_only=False)["model"].state_dict(), strict=True)


def _with_head(make: Callable[[int, int], nn.Module]) -> Callable[[Built], nn.Module]:
    def change(built: Built) -> nn.Module:
        assert built.head is not None
        own = built.module.get_submodule(built.head)
        assert isinstance(own, nn.Linear)
        built.module.set_submodule(built.head, make(own.in_features, own.out_features))
        return built.module

    return change


def _with_code(module: nn.Module, folder: Path) -> Path:
    """The code builds it by unpickling the network, which no library knows by this file."""
    torch.save(module, folder / "network.pkl")
    (folder / "mine.py").write_text(
        "from pathlib import Path\nimport torch\ndef make_model():\n"
        "    return torch.load(Path(__file__).with_name('network.pkl'), weights_only=False)\n"
    )
    return _plain(module, folder)


FORMS: dict[str, Form] = {
    "plain": Form(_plain, _load_plain),
    "whole module": Form(lambda module, folder: _save({"model": module, "epoch": 1}, folder / "whole.pt"), _load_whole),
    "prefix, average, loss": Form(_lightning, _load_lightning),
    "head of one layer": Form(
        _plain, _load_plain, _with_head(lambda width, classes: nn.Sequential(nn.Dropout(), nn.Linear(width, classes)))
    ),
    "head of several": Form(
        _plain,
        _load_plain,
        _with_head(lambda width, classes: nn.Sequential(nn.Linear(width, 8), nn.ReLU(), nn.Linear(8, classes))),
        {"head": "Linear,ReLU,Linear"},
    ),
    "file.py:function": Form(_with_code, _load_plain, options={"arch": "{folder}/mine.py:make_model"}),
}


def transformers_folders(folder: Path, classes: int) -> dict[str, Path]:
    """Small networks as `save_pretrained` writes them, in shards; empty where transformers is not installed."""
    try:
        hf = importlib.import_module("transformers")
    except ImportError:
        return {}
    hf.utils.logging.disable_progress_bar()
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    conv = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
    vit = {"image_size": 32, "patch_size": 8, "num_labels": classes, **small}
    networks = {
        "ViT": hf.ViTForImageClassification(hf.ViTConfig(**vit)),
        "DeiT": hf.DeiTForImageClassification(hf.DeiTConfig(**vit)),
        "DeiT with teacher": hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(**vit)),
        "Swin": hf.SwinForImageClassification(
            hf.SwinConfig(
                image_size=32, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=classes
            )
        ),
        "Swin V2": hf.Swinv2ForImageClassification(
            hf.Swinv2Config(
                image_size=32, embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=4, num_labels=classes
            )
        ),
        "BEiT": hf.BeitForImageClassification(hf.BeitConfig(**vit, use_relative_position_bias=True)),
        "data2vec": hf.Data2VecVisionForImageClassification(
            hf.Data2VecVisionConfig(**vit, use_relative_position_bias=True)
        ),
        "DINOv2": hf.Dinov2ForImageClassification(hf.Dinov2Config(**vit)),
        "DINOv2, gated": hf.Dinov2ForImageClassification(hf.Dinov2Config(**vit, use_swiglu_ffn=True)),
        "DINOv2 with registers": hf.Dinov2WithRegistersForImageClassification(hf.Dinov2WithRegistersConfig(**vit)),
        "ConvNeXt": hf.ConvNextForImageClassification(hf.ConvNextConfig(num_labels=classes, image_size=32, **conv)),
        "ConvNeXt V2": hf.ConvNextV2ForImageClassification(
            hf.ConvNextV2Config(num_labels=classes, image_size=32, **conv)
        ),
        "ResNet": hf.ResNetForImageClassification(hf.ResNetConfig(num_labels=classes, layer_type="basic", **conv)),
    }
    for name, network in networks.items():
        network.save_pretrained(folder / name, max_shard_size="40KB")
    return {name: folder / name for name in networks}


def logits_of_transformers(folder: Path, images: Tensor) -> Tensor:
    """What transformers itself makes of a folder."""
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    network = getattr(importlib.import_module("transformers"), kind).from_pretrained(folder).eval()
    with torch.no_grad():
        return network(images).logits  # type: ignore[no-any-return]
