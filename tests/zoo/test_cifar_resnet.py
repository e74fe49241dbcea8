"""CIFAR's ResNets against the published sizes and a forward pass by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from modeldoctor.zoo import identify_file, load_model
from modeldoctor.zoo.networks.cifar_resnet import CIFAR_RESNETS


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_sizes_are_those_of_table_6(depth: int, millions: float) -> None:
    module = CIFAR_RESNETS[f"resnet{depth}"](10, 3)
    weights = sum(parameter.numel() for parameter in module.parameters())
    assert weights / 1e6 == pytest.approx(millions, abs=0.05 if depth == 110 else 0.006)
    assert len([name for name, value in module.named_parameters() if value.ndim > 1]) == depth


@pytest.mark.parametrize("option", ["", "_b"])
def test_a_block_that_changes_shape_is_that_of_the_paper(option: str) -> None:
    torch.manual_seed(0)
    block = CIFAR_RESNETS[f"resnet20{option}"](10, 3).eval().get_submodule("layer2.0")
    maps = torch.rand(2, 16, 8, 8)
    state = block.state_dict()

    def normed(values: torch.Tensor, name: str) -> torch.Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(values, *(state[f"{name}.{part}"] for part in names))

    inner = normed(F.conv2d(maps, state["conv1.weight"], stride=2, padding=1), "bn1").relu()
    inner = normed(F.conv2d(inner, state["conv2.weight"], padding=1), "bn2")
    if option:
        around = normed(F.conv2d(maps, state["shortcut.0.weight"], stride=2), "shortcut.1")
    else:
        around = torch.zeros(2, 32, 4, 4)
        around[:, 8:24] = maps[:, :, ::2, ::2]
    torch.testing.assert_close(block(maps), (inner + around).relu())


@pytest.mark.parametrize("name", ["resnet20", "resnet32_b", "resnet44_fc", "resnet20_b_fc"])
def test_they_are_named_from_their_tensors(tmp_path: Path, name: str) -> None:
    module = CIFAR_RESNETS[name](10, 3).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in module.state_dict().items()}}, tmp_path / "net.th")
    assert identify_file(tmp_path / "net.th")["arch"] == f"modeldoctor/{name}"
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(load_model(tmp_path / "net.th").module(images), module(images))
