"""Whether two networks of the same weights are made alike: by their layers, arguments and the user's own code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import modeldoctor
from modeldoctor.zoo.construction import construction_digest

NET = """
from torch import nn
from near_net import scaled
from net_shapes.sizes import WIDTH

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, WIDTH, 3), nn.Linear(WIDTH, classes)
    def forward(self, images):
        return self.out(scaled(self.conv(images)).mean((2, 3)))

def make_model(num_classes=5):
    return Net(num_classes)

def plain(num_classes=5):
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, num_classes))
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "net_shapes").mkdir()
    (tmp_path / "net_shapes" / "__init__.py").touch()
    (tmp_path / "net_shapes" / "sizes.py").write_text("from .more import WIDTH\n")
    (tmp_path / "net_shapes" / "more.py").write_text("WIDTH = 6\n")
    (tmp_path / "near_net.py").write_text("def scaled(maps):\n    return 2 * maps\n")
    (tmp_path / "unused.py").write_text("ANY = 1\n")
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    weights = {"conv.weight": torch.rand(6, 3, 3, 3), "conv.bias": torch.rand(6)}
    torch.save(weights | {"out.weight": torch.rand(5, 6), "out.bias": torch.rand(5)}, "net.pt")
    names = {"conv": "0", "out": "3"}
    torch.save({f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in torch.load("net.pt").items()}, "plain.pt")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("near_net", "net_shapes"))]:
        del sys.modules[name]


@pytest.mark.parametrize(("arch", "weights"), [("net.py:make_model", "net.pt"), ("net.py:plain", "plain.pt")])
def test_changed_code_is_another_construction(own: Path, arch: str, weights: str) -> None:
    """In the file that is named, in what it imports, by names or values, directly or not; nowhere else."""
    network = modeldoctor.load_model(weights, arch=arch, input_size=16)
    first = construction_digest(network)
    assert construction_digest(modeldoctor.load_model(weights, arch=arch, input_size=16)) == first
    for name in ("net.py", "near_net.py", "net_shapes/sizes.py", "net_shapes/more.py"):
        before = (own / name).read_text()
        (own / name).write_text(before.replace("2 * maps", "3 * maps") + "# changed\n")
        assert construction_digest(network) != first, name
        (own / name).write_text(before)
    (own / "unused.py").write_text("ANY = 2\n")
    assert construction_digest(network) == first


def test_networks_of_the_libraries_differ_by_their_layers(tmp_path: Path) -> None:
    import timm

    timm_net = timm.create_model("test_resnet", num_classes=3)
    torch.save(timm_net.state_dict(), tmp_path / "net.pt")
    one = modeldoctor.load_model(tmp_path / "net.pt", arch="test_resnet")
    first = construction_digest(one)
    assert construction_digest(modeldoctor.load_model(tmp_path / "net.pt", arch="test_resnet")) == first
    for module in one.module.modules():
        if isinstance(module, nn.Conv2d):
            module.dilation = (2, 2)
    assert construction_digest(one) != first
