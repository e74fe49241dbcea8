"""Networks of one logit: softmax(0, z) is the sigmoid, in the network, in a diagnosis, and after a treatment."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import logits, randomised, timm_network, torchvision_network
from conftest import Clinic
from torch import nn

from modeldoctor import DiagnoseConfig, diagnose
from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.errors import CheckpointError, DataError, ModelDoctorWarning
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.zoo import load_model

CODE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)
    def forward(self, x):
        return self.after(self.fc(self.conv(x).relu().mean((2, 3))))
    def after(self, z):
        return z
class Squeezed(Net):
    def after(self, z):
        return z.squeeze(1)
class Sigmoid(Net):
    def after(self, z):
        return z.sigmoid()
class Shifted(Net):
    def after(self, z):
        return z + 1
"""


def one_logit(kind: str) -> nn.Module:
    if kind == "conv":
        module = torchvision_network("squeezenet1_1")
        module.set_submodule("classifier.1", nn.Conv2d(512, 1, 1))
    else:
        module = timm_network("test_resnet")
        module.reset_classifier(1)  # type: ignore[operator]
    return randomised(module)


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_the_second_class_has_the_sigmoid_s_confidence(tmp_path: Path, kind: str) -> None:
    source = one_logit(kind)
    torch.save(source.state_dict(), tmp_path / "ckpt.pt")
    loaded = load_model(tmp_path / "ckpt.pt", class_names=["no", "yes"])
    assert (loaded.num_classes, loaded.class_names) == (2, ("no", "yes"))
    torch.testing.assert_close(logits(loaded.module).softmax(1)[:, 1:], logits(source).sigmoid())
    assert any("one logit" in note for note in loaded.notes)
    assert load_model(tmp_path / "ckpt.pt", num_classes=2).num_classes == 2
    assert loaded.source is not None
    treated = {name: tensor + 1 for name, tensor in loaded.module.state_dict().items()}
    written = torch.load(write_checkpoint(loaded.source, treated, tmp_path / "treated.pt"), weights_only=True)
    source.load_state_dict(written, strict=True)


def test_it_is_diagnosed_and_trained(tmp_path: Path, clinic: Clinic) -> None:
    source = one_logit("linear")
    paths, images, labels = clinic.images("train")
    with torch.no_grad():
        source.get_submodule("fc").bias -= source(images).median()  # type: ignore[operator]
    torch.save({"state_dict": source.state_dict(), "input_size": 32, "mean": 0.5, "std": 0.5}, tmp_path / "ckpt.pt")
    for name in ("amber", "birch"):
        (tmp_path / "data" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "train" / name).symlink_to(clinic.data / "train" / name)
    network = load_model(tmp_path / "ckpt.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        config = DiagnoseConfig(layers="last", noise_draws=1, min_confidence=0.0, max_explained=1, scan="all")
        found = diagnose(network, tmp_path / "data", config=config)
    with torch.no_grad():
        expected = (source(images[labels < 2])[:, 0] > 0).long().numpy()
    assert 0 < expected.mean() < 1
    order = {path: int(answer) for path, answer in zip(np.array(paths)[labels < 2], expected, strict=True)}
    assert [order[path.decode()] for path in found.samples.path] == found.samples.predicted.tolist()
    trainable = TrainableNetwork(network.module, images[:2])
    assert trainable.layers


def test_one_folder_is_refused(tmp_path: Path, clinic: Clinic) -> None:
    torch.save(one_logit("linear").state_dict(), tmp_path / "ckpt.pt")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "amber").symlink_to(clinic.data / "train" / "amber")
    with pytest.raises(DataError, match="one class folder, 'amber'"):
        diagnose(load_model(tmp_path / "ckpt.pt"), tmp_path / "data")


def test_own_code_must_return_the_logit(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CODE)
    state = {"conv.weight": torch.ones(4, 3, 3, 3), "conv.bias": torch.ones(4)}
    state |= {"fc.weight": torch.ones(1, 4), "fc.bias": torch.ones(1)}
    torch.save(state, tmp_path / "ckpt.pt")
    for name in ("Net", "Squeezed", "Sigmoid"):
        loaded = load_model(tmp_path / "ckpt.pt", arch=f"{tmp_path}/mine.py:{name}")
        answer = logits(loaded.module)
        assert answer.shape == (2, 2)
        assert not answer[:, 0].any()
    with pytest.raises(CheckpointError, match="before it returns it"):
        load_model(tmp_path / "ckpt.pt", arch=f"{tmp_path}/mine.py:Shifted")


@pytest.mark.parametrize(
    "said",
    [
        {"problem_type": "multi_label_classification"},
        {"args": argparse.Namespace(multi_label=True)},
        {"hyper_parameters": {"task": "multilabel"}},
        {"hyper_parameters": {"loss": "AsymmetricLossOptimized"}},
        {"config": {"criterion": "MultiLabelSoftMarginLoss"}},
    ],
)
def test_multi_label_networks_are_refused_for_what_they_are(tmp_path: Path, said: dict[str, Any]) -> None:
    torch.save({"state_dict": timm_network("test_resnet").state_dict(), **said}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="multi-label"):
        load_model(tmp_path / "ckpt.pt")


def test_single_labels_are_not_taken_for_several(tmp_path: Path) -> None:
    said = {"problem_type": "single_label_classification", "loss": "CrossEntropyLoss", "task": "multiclass"}
    torch.save({"state_dict": timm_network("test_resnet").state_dict(), "config": said}, tmp_path / "ckpt.pt")
    assert load_model(tmp_path / "ckpt.pt").num_classes == 5
