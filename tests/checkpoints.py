"""Small networks and checkpoint files, made the way that the tools make them."""

from __future__ import annotations

import argparse
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.utils import CheckpointSaver, ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import get_model

from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.errors import CheckpointError, ExitCode
from modeldoctor.zoo import load_model

CLASSES = ("ant", "bee", "cat", "dog", "elk")


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Eval mode and weights that all matter: fresh timm ResNets end their blocks in zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            spread = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + spread if "running_var" in name else (spread - 0.5) * 0.5)
    return module.eval()


def timm_network(arch: str = "resnet10t", *, seed: int = 0, **options: Any) -> nn.Module:
    return randomised(timm.create_model(arch, pretrained=False, num_classes=len(CLASSES), **options), seed)


def torchvision_network(arch: str = "squeezenet1_1", *, seed: int = 0, **options: Any) -> nn.Module:
    return randomised(get_model(arch, weights=None, num_classes=len(CLASSES), **options), seed)


def data_parallel(network: nn.Module) -> nn.Module:
    """On the CPU, where the wrapper leaves for a GPU as soon as there is one."""
    return nn.DataParallel(network).cpu()


def logits(module: nn.Module, size: int = 64, channels: int = 3) -> Tensor:
    """Of two fixed noise images; checked to differ, so that comparing them means something."""
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        answer = module(images)
    assert answer.std() > 0
    return answer


def timm_training_file(folder: Path, model: nn.Module, ema: nn.Module | None = None, **args: Any) -> Path:
    """By timm's own saver; the arguments as its train.py parses them, many None or empty."""
    plain = {"model": "resnet10t", "lr": 0.05, "opt": "sgd", "epochs": 3, "weight_decay": 2e-5, "interpolation": ""}
    namespace = argparse.Namespace(**{**plain, "num_classes": None, "in_chans": None, "mean": None, **args})
    averaged = None
    if ema is not None:
        averaged = ModelEmaV3(model, decay=0.9)
        averaged.module.load_state_dict(ema.state_dict())
    saver = CheckpointSaver(
        model, torch.optim.SGD(model.parameters(), lr=0.1), namespace, averaged, checkpoint_dir=str(folder)
    )
    saver.save_checkpoint(0, 50.0)
    return folder / "model_best.pth.tar"


def torchvision_reference_file(path: Path, model: nn.Module, arch: str, *, ema: nn.Module | None = None) -> Path:
    """As references/classification/train.py saves: the EMA model is an AveragedModel with use_buffers."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args = argparse.Namespace(
        model=arch, lr=0.1, epochs=90, data_path=Path("/data"), val_crop_size=64, val_resize_size=80,
        interpolation="bilinear", output_dir="."
    )  # fmt: skip
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 30).state_dict(),
        "epoch": 7,
        "args": args,
    }
    if ema is not None:
        averaged = AveragedModel(ema, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        checkpoint["model_ema"] = averaged.state_dict()
    torch.save(checkpoint, path)
    return path


def lightning_file(path: Path, model: nn.Module, prefix: str, **hyper_parameters: Any) -> Path:
    """The dict that Trainer.save_checkpoint writes for a module that holds the network under one attribute."""
    checkpoint = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"{prefix}{name}": tensor for name, tensor in model.state_dict().items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [torch.optim.SGD(model.parameters(), lr=0.1).state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": hyper_parameters,
    }
    torch.save(checkpoint, path)
    return path


class Bomb:
    """An object whose unpickling creates the file `sentinel`."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


class Eval:
    """As `Bomb`, by a global that is not on torch's own block list."""

    def __init__(self, sentinel: Path):
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, (f"__import__('pathlib').Path({str(self.sentinel)!r}).touch()",)


def repacked(source: Path, target: Path, *, inflate: int = 0) -> Path:
    """The archive with its entries compressed, and one of `inflate` zero bytes added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
        if inflate:
            new.writestr("archive/data/999", bytes(inflate))
    return target


def treated(network: nn.Module) -> nn.Module:
    """The network with every floating-point tensor moved a little."""
    generator = torch.Generator().manual_seed(5)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.mul_(1 + 0.1 * torch.rand(tensor.shape, generator=generator).to(tensor.dtype))
    return network


def tree(folder: Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


def refused(path: Path, *, trust_pickle: bool = False) -> str:
    """The message of the one error that reading gives, after checking what every such error must keep to."""
    before = tree(path.parent)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path, trust_pickle=trust_pickle)
    assert caught.value.exit_code == ExitCode.INPUT == 3
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert tree(path.parent) == before
    return str(caught.value)


def saved(folder: Path, state: Any, **beside: Any) -> Path:
    path = folder / "model.pt"
    torch.save({"state_dict": state, **beside} if beside else state, path)
    return path


def misfit(path: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    return str(caught.value)
