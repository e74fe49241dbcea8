"""What a short trial of the remedies for the head changes in the weights, and what it leaves."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import Clinic
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.treatment import treat
from modeldoctor.treatment.remedies import erase_channels
from modeldoctor.zoo import load_model

ARMS = ("balanced", "last-layer", "erase-channels", "continue")
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def trained(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, dict[str, Weights]]:
    """The original weights, and each arm's after one epoch."""
    folder = tmp_path_factory.mktemp("parts")
    for split in ("train", "val"):
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / split).symlink_to(clinic.data / split)
    network = load_model(clinic.checkpoint)
    settings = TreatConfig(
        checkpoint=clinic.checkpoint, data={"path": str(folder / "images")}, output=folder / "run", arms=ARMS,
        seeds=(0,), training={"epochs": 1, "batch_size": 16, "learning_rate": 0.05},
    )  # fmt: skip
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", ModelDoctorWarning)
        patch.setattr(erase_channels, "_LEAST_WRONG", 1)
        wanted = DiagnoseConfig(scan="all", layers="last", max_explained=0, noise_draws=0, samples_per_class=5)
        trial = treat(settings, network, diagnose(network, folder / "images", config=wanted))
    assert {arm.arm for arm in trial.arms} == {"original", *ARMS}
    assert all(parameter.requires_grad for parameter in network.module.parameters())
    states = {arm: torch.load(folder / "run" / "arms" / f"{arm}-0.pt", weights_only=True)["network"] for arm in ARMS}
    return network.module.state_dict(), states


@pytest.mark.parametrize("arm", ["last-layer", "erase-channels"])
def test_only_the_head_changes_and_no_statistics(trained: tuple[Weights, dict[str, Weights]], arm: str) -> None:
    before, after = trained[0], trained[1][arm]
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}


def test_the_other_arms_train_the_whole_network(trained: tuple[Weights, dict[str, Weights]]) -> None:
    before, states = trained
    for arm in ("balanced", "continue"):
        assert not torch.equal(before["conv1.0.weight"], states[arm]["conv1.0.weight"])


def test_misleading_channels_stay_silent(trained: tuple[Weights, dict[str, Weights]]) -> None:
    before, states = trained
    silent = states["erase-channels"]["fc.weight"] == 0
    assert silent.any()
    assert not silent.all()
    assert not (before["fc.weight"] == 0).any()
    assert not (states["last-layer"]["fc.weight"] == 0).any()


def small_mobilenet_v3() -> nn.Module:
    """Its head behind two of the blocks."""
    rows = [(16, 3, 16, 16, True, "RE", 2, 1), (16, 3, 72, 24, False, "HS", 2, 1)]
    setting = [InvertedResidualConfig(*row, width_mult=1.0) for row in rows]
    return MobileNetV3(setting, last_channel=64, num_classes=3)


@pytest.mark.parametrize(
    ("build", "head"),
    [
        (partial(torchvision.models.squeezenet1_1, num_classes=3), ("classifier.1",)),
        (small_mobilenet_v3, ("classifier.0", "classifier.3")),
    ],
)
def test_the_head_is_what_reads_the_last_maps(build: Callable[[], nn.Module], head: tuple[str, ...]) -> None:
    network = build().eval()
    found = TrainableNetwork(network, torch.randn(2, 3, 64, 64)).head_parameters()
    names = {name for name, one in network.named_parameters() if any(one is other for other in found)}
    assert names == {f"{layer}.{part}" for layer in head for part in ("weight", "bias")}


def test_a_head_that_erase_channels_cannot_change_is_refused() -> None:
    network = torchvision.models.get_model("squeezenet1_1", weights=None, num_classes=3).eval()
    trainable = TrainableNetwork(network, torch.randn(2, 3, 64, 64))
    train = SimpleNamespace(images=SimpleNamespace(class_names=("a", "b", "c")))
    with pytest.raises(UsageError, match="last-layer takes any head"):
        erase_channels.make(SimpleNamespace(network=network, trainable=trainable, train=train))  # type: ignore[arg-type]
