"""Heads that people put in the place of a network's own: the oracle is the network as they built it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import logits, randomised, timm_network, torchvision_network
from torch import nn
from torchvision.models import get_model
from typer.testing import CliRunner

from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.cli import app
from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import CheckpointError, UsageError
from modeldoctor.treatment.pipeline import load_network
from modeldoctor.zoo import identify_file, load_model
from modeldoctor.zoo.heads import parse_head


def with_head(arch: str, place: str, head: nn.Module) -> nn.Module:
    module = get_model(arch, weights=None)
    module.set_submodule(place, head)
    return randomised(module)


def saved(folder: Path, module: nn.Module) -> Path:
    torch.save(module.state_dict(), folder / "ckpt.pt")
    return folder / "ckpt.pt"


def mlp(features: int, *, first: Callable[[], nn.Module] | None = None) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(features, 8), nn.ReLU(), nn.Linear(8, 5)]
    return nn.Sequential(*([first()] if first else []), *layers)


ONE_LINEAR: dict[str, tuple[str, str, Callable[[], nn.Module]]] = {
    "under": ("resnet18", "fc", lambda: nn.Sequential(nn.Dropout(), nn.Linear(512, 5))),
    "under, without a bias": ("resnet18", "fc", lambda: nn.Sequential(nn.Dropout(), nn.Linear(512, 5, bias=False))),
    "without a bias": ("resnet18", "fc", lambda: nn.Linear(512, 5, bias=False)),
    "above": ("vit_b_32", "heads", lambda: nn.Linear(768, 5)),
    "above, own of several": ("mobilenet_v3_small", "classifier", lambda: nn.Linear(576, 5)),
    "under, own of 2": ("mobilenet_v3_small", "classifier", lambda: nn.Sequential(nn.Dropout(), nn.Linear(576, 5))),
    "above, own has a dropout": ("efficientnet_b0", "classifier", lambda: nn.Linear(1280, 5)),
    "own without its norm": ("convnext_tiny", "classifier", lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 5))),
}  # fmt: skip


@pytest.mark.parametrize("case", ONE_LINEAR)
def test_one_linear_layer_is_the_head(tmp_path: Path, case: str) -> None:
    arch, place, make = ONE_LINEAR[case]
    source = with_head(arch, place, make())
    path = saved(tmp_path, source)
    loaded = load_model(path, arch=f"torchvision/{arch}")
    assert loaded.num_classes == 5
    size = 224 if arch == "vit_b_32" else 64
    torch.testing.assert_close(logits(loaded.module, size), logits(source, size))
    assert any("head" in note for note in loaded.notes) or case == "without a bias"


SEVERAL: dict[str, tuple[str, str, Callable[[], nn.Module], str]] = {
    "shufflenet": ("shufflenet_v2_x0_5", "fc", lambda: mlp(1024), "Linear,ReLU,Linear"),
    "dropout first": ("resnet18", "fc", lambda: mlp(512, first=nn.Dropout), "Dropout,Linear,ReLU,Linear"),
    "tanh, norm": (
        "resnet18",
        "fc",
        lambda: nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(), nn.Linear(8, 5)),
        "linear, batchnorm1d, tanh, dropout, linear",
    ),
    "shorter than the own": (
        "alexnet",
        "classifier",
        lambda: nn.Sequential(nn.Linear(9216, 16), nn.GELU(), nn.Dropout(), nn.Linear(16, 5)),
        "Linear,GELU,Dropout,Linear",
    ),
    "in the last of the own": ("mobilenet_v3_small", "classifier.3", lambda: mlp(1024), "Linear,ReLU,Linear"),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_heads_of_several_layers_are_named_by_the_user(tmp_path: Path, case: str) -> None:
    arch, place, make, head = SEVERAL[case]
    source = with_head(arch, place, make())
    path = saved(tmp_path, source)
    loaded = load_model(path, arch=f"torchvision/{arch}", head=head)
    assert loaded.num_classes == 5
    torch.testing.assert_close(logits(loaded.module), logits(source))
    weights = {name: tensor + 1 for name, tensor in loaded.module.state_dict().items()}
    assert loaded.source is not None
    written = torch.load(write_checkpoint(loaded.source, weights, tmp_path / "treated.pt"), weights_only=True)
    source.load_state_dict(written, strict=True)
    assert torch.equal(written[f"{place}.{len(make()) - 1}.bias"], weights[f"{place}.{len(make()) - 1}.bias"])  # type: ignore[arg-type]


def test_a_head_numbered_on_from_the_network_s_parts(tmp_path: Path) -> None:
    parts = list(randomised(get_model("resnet18")).children())[:-1]
    source = randomised(nn.Sequential(*parts, nn.Flatten(), *mlp(512)))
    path = saved(tmp_path, source)
    with pytest.raises(CheckpointError, match=r"--head Linear,ReLU,Linear$"):
        load_model(path)
    loaded = load_model(path, head="Linear,ReLU,Linear")
    torch.testing.assert_close(logits(loaded.module), logits(source))


def test_without_the_option_the_message_has_it(tmp_path: Path) -> None:
    path = saved(tmp_path, with_head("resnet18", "fc", mlp(512, first=nn.Dropout)))
    with pytest.raises(CheckpointError) as caught:
        load_model(path, arch="torchvision/resnet18")
    said = str(caught.value)
    assert "fc.1 Linear 512 → 8, fc.3 Linear 8 → 5" in said
    assert "--head Dropout,Linear,ReLU,Linear" in said
    assert identify_file(path)["head"]["option"] == "Dropout,Linear,ReLU,Linear"
    for wrong in ("Linear,ReLU,Linear", "Dropout,Linear,Linear", "Dropout,Linear"):
        with pytest.raises(CheckpointError, match=f"not {wrong}: the file has fc.1"):
            load_model(path, arch="torchvision/resnet18", head=wrong)


@pytest.mark.parametrize("text", ["", (), "Linear,os.system", "ReLU", "Conv2d,Linear", "Linear,,Linear"])
def test_what_is_no_head(text: str | tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="--head"):
        parse_head(text)


def test_a_head_by_option_and_configuration(tmp_path: Path) -> None:
    source = timm_network("test_resnet")
    source.set_submodule("fc", mlp(source.get_submodule("fc").in_features))  # type: ignore[arg-type]
    path = saved(tmp_path, source)
    options: dict[str, Any] = {"checkpoint": path, "data": {"path": "x"}, "network": {"head": "Linear,ReLU,Linear"}}
    assert load_network(TreatConfig(**options)).num_classes == 5
    listed = CliRunner().invoke(app, ["diagnose", str(path), "--list-layers", "--head", "Linear,ReLU,Linear"])
    assert listed.exit_code == 0
    assert "layer4" in listed.output
    told = CliRunner().invoke(app, ["identify", str(path)])
    assert "--head Linear,ReLU,Linear" in " ".join(told.output.split())


def test_layers_of_an_unknown_order_beside_the_network_are_no_head_by_themselves(tmp_path: Path) -> None:
    """fc1 alone reads the features, but the logits come from fc2."""
    state = {name: tensor for name, tensor in get_model("resnet18").state_dict().items() if not name.startswith("fc.")}
    layers = {"fc1.weight": torch.ones(8, 512), "fc1.bias": torch.ones(8), "fc2.weight": torch.ones(5, 8)}
    torch.save(state | layers, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="fc1 Linear 512 → 8, fc2 Linear 8 → 5"):
        load_model(tmp_path / "ckpt.pt", arch="torchvision/resnet18")
    assert load_model(tmp_path / "ckpt.pt", arch="torchvision/resnet18", head="Linear,ReLU,Linear").num_classes == 5


def test_a_head_behind_the_network_s_own_is_not_passed_over(tmp_path: Path) -> None:
    """The network keeps its 1000 classes, and the user's layer reads them."""
    source = randomised(get_model("resnet18"))
    behind = randomised(nn.Linear(1000, 5), seed=1)
    parts = {"backbone": source, "classifier": behind}
    state = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}
    torch.save(state, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"more layers behind its head") as caught:
        load_model(tmp_path / "ckpt.pt", arch="torchvision/resnet18")
    assert "fc Linear 512 → 1000, classifier Linear 1000 → 5" in str(caught.value)
    loaded = load_model(tmp_path / "ckpt.pt", arch="torchvision/resnet18", head="Linear,Linear")
    torch.testing.assert_close(logits(loaded.module), behind(logits(source)))


def test_a_softmax_at_the_end_is_left_out(tmp_path: Path) -> None:
    layers = {"fc1": nn.Linear(512, 8), "relu": nn.ReLU(), "fc2": nn.Linear(8, 5), "output": nn.LogSoftmax(dim=1)}
    source = with_head("resnet18", "fc", nn.Sequential(OrderedDict(layers)))
    path = saved(tmp_path, source)
    loaded = load_model(path, arch="torchvision/resnet18", head="Linear,ReLU,Linear,LogSoftmax")
    torch.testing.assert_close(logits(loaded.module).softmax(1), logits(source).exp())


def test_a_head_that_the_file_does_not_have(tmp_path: Path) -> None:
    path = saved(tmp_path, timm_network("test_resnet"))
    with pytest.raises(CheckpointError, match="not Linear,ReLU,Linear: the file has fc Linear 96 → 5"):
        load_model(path, head="Linear,ReLU,Linear")
    assert load_model(path, head="Linear").num_classes == 5


def test_a_network_and_its_head_in_two_parts_of_a_file_are_one(tmp_path: Path) -> None:
    source = with_head("resnet18", "fc", nn.Linear(512, 5))
    body = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("fc.")}
    path = tmp_path / "ckpt.pt"
    torch.save({"epoch": 3, "model": {"backbone": body, "head": source.fc.state_dict()}}, path)
    loaded = load_model(path)
    torch.testing.assert_close(logits(loaded.module), logits(source))
    assert loaded.source is not None
    moved = {
        name: tensor + 1 if tensor.is_floating_point() else tensor
        for name, tensor in loaded.module.state_dict().items()
    }
    write_checkpoint(loaded.source, moved, tmp_path / "treated.pt")
    parts = torch.load(tmp_path / "treated.pt", weights_only=True)["model"]
    assert {name: set(part) for name, part in parts.items()} == {"backbone": set(body), "head": {"weight", "bias"}}
    torch.testing.assert_close(parts["head"]["weight"], source.fc.weight + 1)
    torch.testing.assert_close(parts["backbone"]["conv1.weight"], source.conv1.weight + 1)


def test_two_networks_in_a_file_are_not_joined(tmp_path: Path) -> None:
    state = torchvision_network("squeezenet1_1").state_dict()
    for parts in ({"G": state, "D": {"weight": torch.ones(5, 3)}}, {"head": state, "classifier": {"w": torch.ones(5)}}):
        torch.save(parts, tmp_path / "ckpt.pt")
        with pytest.raises(CheckpointError, match=f"2 sets of weights, .*: {', '.join(parts)}"):
            load_model(tmp_path / "ckpt.pt")


def test_a_head_behind_two_kinds_of_pooling_is_the_users_own_code(tmp_path: Path) -> None:
    """As fastai builds it: of the layers 1.2 to 1.8 the last two alone read what the network gives."""
    body = nn.Sequential(*list(get_model("resnet18").children())[:-2])
    layers = [nn.Identity(), nn.Flatten(), nn.BatchNorm1d(1024), nn.Dropout(), nn.Linear(1024, 512, bias=False)]
    head = nn.Sequential(*layers, nn.ReLU(), nn.BatchNorm1d(512), nn.Dropout(), nn.Linear(512, 5, bias=False))
    path = saved(tmp_path, nn.Sequential(body, head))
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert caught.value.hint == (
        "the head was replaced by other layers (1.4.weight, 1.8.weight): give your own code, --arch CODE.py:FUNCTION"
    )
