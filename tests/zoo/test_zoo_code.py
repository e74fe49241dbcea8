"""Networks that the user's own code builds, and modules that are in memory already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CLASSES, Clinic
from torch import nn

import modeldoctor
from modeldoctor import DiagnoseConfig, Preprocessing, TreatConfig
from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.errors import ArchitectureError, CheckpointError, UsageError
from modeldoctor.treatment.preparation import prepare

SOURCE = """
import torch
from torch import nn
from beside import WIDTH

class Fold(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
    def forward(self, maps):
        return self.function(maps)

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(3, WIDTH, 3)
        self.relu = Fold(lambda maps: maps.clamp(min=0))
        kernel = torch.empty(1)
        nn.init.constant_(kernel, 3.0)
        self.register_buffer("gain", kernel, persistent=False)
        self.out = nn.Linear(WIDTH, classes)
    def forward(self, images):
        return self.gain * self.out(self.relu(self.conv(images)).mean((2, 3)))

def make_model(num_classes=7):
    return Net(num_classes)

def demands(num_classes):
    return Net(num_classes)

class Fixed(Net):
    def __init__(self):
        super().__init__(5)

def demands_more(num_classes, width):
    return Net(num_classes)

made = Fixed()

def fails():
    raise RuntimeError("no such thing")

def other():
    return 3

def with_transform():
    return Fixed(), None

def the_class():
    return Net

def ends():
    raise SystemExit(2)

def late():
    from beside import WIDTH
    return Fixed()

def half():
    print("built")
    return Fixed().half()

def wrapped():
    return nn.DataParallel(Fixed())

def in_other_words(classes=7):
    return Net(classes)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with code, and a checkpoint of five classes that was saved by it."""
    (tmp_path / "beside.py").write_text("WIDTH = 6\n")
    (tmp_path / "net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    module = reference(tmp_path)
    torch.save({"model": {f"module.{k}": v for k, v in module.state_dict().items()}, "epoch": 4}, "net.pt")
    return tmp_path


@pytest.mark.parametrize("package", [True, False])
def test_a_file_of_a_package_imports_its_neighbours(own: Path, package: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By relative names, and in a package by absolute ones, wherever the command runs."""
    folder = own / "my_nets" / "deep" if package else own / "loose"
    folder.mkdir(parents=True)
    if package:
        (folder / "__init__.py").touch()
        (folder.parent / "__init__.py").write_text("WIDTH = 6\n")
    (folder / "sizes.py").write_text("WIDTH = 6\n")
    also = "from my_nets import WIDTH as W\nfrom .. import WIDTH as V\nassert W == V\n" if package else ""
    (folder / "net.py").write_text(also + SOURCE.replace("from beside", "from .sizes"))
    (folder / "photos").mkdir()
    monkeypatch.chdir(folder / "photos")
    network = modeldoctor.load_model(own / "net.pt", arch="../net.py:make_model")
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.module(images), reference(own)(images))


def test_what_the_users_code_prints_is_no_result(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    modeldoctor.load_model("net.pt", arch="net.py:half")
    out, err = capsys.readouterr()
    assert not out
    assert "built" in err


@pytest.mark.parametrize(
    ("arch", "step"),
    [
        ("net.py:with_transform", "a function that returns the network of these alone"),
        ("net.py:the_class", "name the class itself"),
        ("net.py:ends", "below `if __name__ == '__main__':`"),
        ("net.py:in_other_words", "--model-option WORD=5"),
        ("net.py:nothing", "it has: Fold, Net, make_model"),
    ],
)
def test_the_next_step_is_that_of_the_fault(own: Path, arch: str, step: str) -> None:
    with pytest.raises((ArchitectureError, CheckpointError)) as caught:
        modeldoctor.load_model("net.pt", arch=arch)
    assert step in str(caught.value.hint)


def reference(folder: Path) -> nn.Module:
    """The network by plain Python."""
    scope: dict[str, object] = {}
    exec(SOURCE.replace("from beside import WIDTH", "WIDTH = 6"), scope)
    torch.manual_seed(0)
    module = scope["Fixed"]()  # type: ignore[operator]
    assert isinstance(module, nn.Module)
    return module.eval()


@pytest.mark.parametrize(
    "arch",
    [
        "net.py:make_model", "net.py:demands", "net.py:Fixed", "net:make_model", "net.py:late", "net.py:half",
        "net.py:wrapped",
    ],
)  # fmt: skip
def test_the_users_code_builds_and_the_file_fills(own: Path, arch: str) -> None:
    network = modeldoctor.load_model("net.pt", arch=arch, input_size=16)
    assert (network.arch, network.num_classes) == (arch, 5)
    images = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(network.module(images), reference(own)(images))


@pytest.mark.parametrize(
    ("arch", "found"),
    [
        ("gone.py:make_model", "there is no file gone.py"),
        ("net.py:nothing", "no callable 'nothing'"),
        ("net.py:fails", "RuntimeError: no such thing"),
        ("net.py:other", "returned int"),
        ("net.py:made", "a network that was built"),
        ("net.py:demands_more", "cannot be called with num_classes .*'width'"),
        ("no.such.package:make", "No module named"),
    ],
)
def test_what_goes_wrong_in_the_users_code_is_said(own: Path, arch: str, found: str) -> None:
    with pytest.raises(ArchitectureError, match=found) as caught:
        modeldoctor.load_model("net.pt", arch=arch)
    assert caught.value.exit_code == 3


def test_a_file_without_a_function_is_asked_for_it(own: Path) -> None:
    with pytest.raises(ArchitectureError) as caught:
        modeldoctor.load_model("net.pt", arch="net.py")
    assert "net.py:FUNCTION" in str(caught.value.hint)


def test_the_line_that_fails_is_named(own: Path) -> None:
    with pytest.raises(ArchitectureError) as caught:
        modeldoctor.load_model("net.pt", arch="net.py:fails")
    line = SOURCE.splitlines().index('    raise RuntimeError("no such thing")') + 1
    assert caught.value.where == f"{own / 'net.py'}, line {line}"


def test_treated_weights_go_back_into_the_same_container(own: Path) -> None:
    network = modeldoctor.load_model("net.pt", arch="net.py:make_model")
    assert network.source is not None
    changed = {name: tensor + 1 for name, tensor in network.module.state_dict().items()}
    write_checkpoint(network.source, changed, own / "treated.pt")
    content = torch.load(own / "treated.pt", weights_only=True)
    assert content["epoch"] == 4
    before = reference(own).state_dict()
    for name, tensor in content["model"].items():
        torch.testing.assert_close(tensor, before[name.removeprefix("module.")] + 1)


def test_a_module_in_memory_is_diagnosed_like_its_file_and_stays_as_it_is(clinic: Clinic) -> None:
    module = clinic.network().double().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    preprocessing = Preprocessing(
        input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bilinear", crop_pct=1.0
    )
    config = DiagnoseConfig(layers="layer3.0.conv3", noise_draws=0, samples_per_class=4, device="cpu", hooks=True)
    live = modeldoctor.diagnose(module, clinic.data, preprocessing=preprocessing, config=config)
    filed = modeldoctor.diagnose(modeldoctor.load_model(clinic.checkpoint), clinic.data, config=config)
    torch.testing.assert_close(
        torch.from_numpy(live["layer3.0.conv3"].correlation), torch.from_numpy(filed["layer3.0.conv3"].correlation)
    )
    assert live.classes == CLASSES
    assert live.command == ""
    assert module.training
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype


def test_a_module_without_a_file_is_not_treated(clinic: Clinic, tmp_path: Path) -> None:
    network = modeldoctor.load_model(clinic.network(), class_names=CLASSES)
    assert network.class_names == CLASSES
    config = TreatConfig(checkpoint=clinic.checkpoint, data={"path": str(clinic.data)}, output=tmp_path / "run")
    with pytest.raises(UsageError, match="without a checkpoint"):
        prepare(config, network)


def test_what_a_treatment_writes_is_of_the_file_that_was_read(clinic: Clinic, tmp_path: Path) -> None:
    """The file may be replaced while a treatment runs; its newer metadata is not the network's."""
    path = tmp_path / "ckpt.pt"
    path.write_bytes(clinic.checkpoint.read_bytes())
    network = modeldoctor.load_model(path)
    torch.save({"state_dict": clinic.network().state_dict(), "arch": "resnet18", "epoch": 99}, path)
    assert network.source is not None
    with pytest.warns(modeldoctor.errors.ModelDoctorWarning, match="has changed since it was read"):
        write_checkpoint(network.source, network.module.state_dict(), tmp_path / "treated.pt")
    assert "epoch" not in torch.load(tmp_path / "treated.pt", weights_only=True)
    assert read_checkpoint(tmp_path / "treated.pt").tensors.keys() == network.source.tensors.keys()


def test_a_module_is_filled_from_a_file_whose_container_takes_the_treated_weights(clinic: Clinic) -> None:
    blank = clinic.network()
    for weight in blank.parameters():
        torch.nn.init.zeros_(weight)
    network = modeldoctor.load_model(blank, clinic.checkpoint)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.module(images), clinic.network().eval()(images))
    assert not next(blank.parameters()).any()
    assert network.source is not None
    assert network.source.path == clinic.checkpoint
    assert network.arch.startswith("module/")


def test_a_module_that_the_file_does_not_fit_is_refused(clinic: Clinic) -> None:
    with pytest.raises(CheckpointError, match="do not fit module/Sequential"):
        modeldoctor.load_model(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 3)), clinic.checkpoint)


class HoldsModule(nn.Module):
    """A part of one's own that is called as wrappers call theirs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.module = inner
        self.scale = 3.0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scale * self.module(images)  # type: ignore[no-any-return]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel, torch.compile, HoldsModule])
def test_wrappers_in_memory_are_taken_off_and_a_part_called_module_is_not(wrap: Callable[..., nn.Module]) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    network = modeldoctor.load_model(wrap(inner), input_size=8)
    images = torch.rand(2, 3, 8, 8)
    times = 3 if wrap is HoldsModule else 1
    torch.testing.assert_close(network.module(images), times * inner(images))
    assert network.arch == ("module/HoldsModule" if wrap is HoldsModule else "module/Sequential")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (nn.Identity, "the class Identity"),
        (nn.Linear(3, 2).state_dict(), "a dict"),
        (lambda images: images, "type function"),
    ],
)
def test_what_is_no_network_is_said(clinic: Clinic, value: Any, found: str) -> None:
    with pytest.raises(UsageError, match=found):
        modeldoctor.diagnose(value, clinic.data)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), "lazy layers"),
        (nn.Linear(3, 2, device="meta"), "cannot be copied"),
        (torch.jit.trace(nn.Linear(3, 2), torch.rand(1, 3)), "is TorchScript"),
    ],
)
def test_a_module_that_cannot_be_taken_says_why(module: nn.Module, found: str) -> None:
    with pytest.raises(ArchitectureError, match=found):
        modeldoctor.load_model(module)


def test_two_files_are_refused(clinic: Clinic) -> None:
    with pytest.raises(UsageError, match="two files"):
        modeldoctor.load_model(clinic.checkpoint, clinic.checkpoint)
