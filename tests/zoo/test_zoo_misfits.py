"""Weights that do not fit the network that they are said to be of, and what is said then."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    CLASSES,
    logits,
    misfit,
    saved,
    timm_network,
    torchvision_network,
)
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from modeldoctor.errors import ArchitectureError, ModelDoctorWarning
from modeldoctor.zoo import load_model


def edited(state: dict[str, Tensor], **changes: Any) -> dict[str, Tensor]:
    return {**state, **{name.replace("__", "."): value for name, value in changes.items()}}


def renamed(state: dict[str, Tensor], pattern: str, new: str) -> dict[str, Tensor]:
    return OrderedDict((re.sub(pattern, new, name), tensor) for name, tensor in state.items())


def test_misfits_name_their_likeliest_cause(tmp_path: Path) -> None:
    state = timm_network().state_dict()
    path = saved(tmp_path, state)
    message = misfit(path, arch="resnet10t", num_classes=7)
    assert "fc.weight (5, 512) instead of (7, 512)" in message
    assert "--num-classes" in message
    assert "--channels" in misfit(path, arch="resnet10t", channels=1)
    assert "another architecture" in misfit(path, arch="mobilenetv3_small_050")
    cases = (
        ({n: t for n, t in state.items() if not n.startswith("fc.")}, "no classification head"),
        (renamed(state, r"^fc\.", "fc.out_proj.in_proj_"), "replaced"),
        (edited(state, layer1__0__conv1__weight=torch.ones(3)), "changed"),
        ({n: t.to(torch.int8) for n, t in state.items()}, "floating-point"),
    )
    for wrong, cause in cases:
        assert cause in misfit(saved(tmp_path, wrong), arch="resnet10t")


def test_a_detection_network_is_recognised(tmp_path: Path) -> None:
    detector = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    state = renamed(detector.state_dict(), r"^backbone\.features", "backbone.body")
    assert "detection" in misfit(saved(tmp_path, state), arch="torchvision/mobilenet_v3_large")


def test_a_misfit_counts_and_shows_the_first_names(tmp_path: Path) -> None:
    state = timm_network().state_dict()
    del state["layer1.0.bn1.weight"], state["layer2.0.bn1.weight"]
    message = misfit(saved(tmp_path, edited(state, extra=torch.ones(1))), arch="resnet10t")
    assert "2 missing (layer1.0.bn1.weight, layer2.0.bn1.weight); 1 unexpected (extra)" in message


def test_weights_that_are_not_finite_warn(tmp_path: Path) -> None:
    state = timm_network().state_dict()
    state["layer2.0.conv1.weight"][0] = float("nan")
    with pytest.warns(ModelDoctorWarning, match=r"1 tensors .*layer2\.0\.conv1\.weight"):
        load_model(saved(tmp_path, state), arch="resnet10t")


def test_tensors_of_no_known_network_ask_for_an_architecture(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="pass --arch") as caught:
        load_model(saved(tmp_path, {"conv.weight": torch.ones(8, 3, 3, 3), "head.weight": torch.ones(2, 8)}))
    assert caught.value.exit_code == 3


def test_options_that_the_library_refuses(tmp_path: Path) -> None:
    path = saved(tmp_path, torchvision_network("vit_b_32", image_size=64).state_dict())
    with pytest.raises(ArchitectureError, match="square"):
        load_model(path, arch="torchvision/vit_b_32", input_size=(64, 96))


def test_class_names_must_match_the_head(tmp_path: Path) -> None:
    state = timm_network().state_dict()
    named = saved(tmp_path, state, arch="timm/resnet10t", class_to_idx={name: i for i, name in enumerate(CLASSES)})
    assert load_model(named).class_names == CLASSES
    other = load_model(saved(tmp_path, state, arch="timm/resnet10t", class_names=["a", "b"]))
    assert other.class_names is None
    assert any("2 classes" in note for note in other.notes)


@pytest.mark.parametrize(
    ("said", "note", "names"),
    [
        ({"classes": CLASSES, "class_to_idx": dict(zip(CLASSES[::-1], range(5), strict=True))}, "two orders", CLASSES),
        ({"class_to_idx": dict(zip(CLASSES, range(1, 6), strict=True))}, "not 0 to 4", None),
        ({"id2label": dict(zip("13579", CLASSES, strict=True))}, "not 0 to 4", None),
        ({"classes": CLASSES, "class_to_idx": dict(zip(CLASSES, range(5), strict=True))}, None, CLASSES),
    ],
)
def test_an_order_of_classes_that_cannot_be_trusted_is_said(tmp_path, said, note, names) -> None:
    path = saved(tmp_path, timm_network().state_dict(), arch="timm/resnet10t", **said)
    loaded = load_model(path)
    assert loaded.class_names == (None if names is None else tuple(names))
    doubts = [found for found in loaded.notes if "--class-order" in found]
    assert len(doubts) == (note is not None)
    assert all(note and note in found for found in doubts)
    assert not [found for found in load_model(path, class_order=",".join(CLASSES)).notes if "--class-order" in found]


def test_the_weights_beat_stale_metadata(tmp_path: Path) -> None:
    stale = argparse.Namespace(model="resnet10t", num_classes=1000, in_chans=3)
    source = timm_network(in_chans=1)
    loaded = load_model(saved(tmp_path, source.state_dict(), args=stale))
    assert (loaded.num_classes, loaded.preprocessing.input_size[0]) == (5, 1)


def test_a_trusted_module_is_used_itself(tmp_path: Path) -> None:
    source = timm_network(in_chans=1).train()
    path = tmp_path / "whole.pt"
    torch.save({"model": source.half()}, path)
    loaded = load_model(path, trust_pickle=True)
    assert (loaded.arch, loaded.num_classes) == ("module/ResNet", 5)
    assert loaded.preprocessing.input_size[0] == 1
    assert torch.equal(logits(loaded.module, channels=1), logits(source.float().eval(), channels=1))


def test_loading_leaves_the_random_state_and_the_file_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, timm_network("vit_tiny_patch16_224").state_dict())
    before, content = torch.get_rng_state(), path.read_bytes()
    first, second = (load_model(path, arch="vit_tiny_patch16_224").module for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert path.read_bytes() == content
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0
    assert nn.init.ones_(torch.zeros(1)).item() == 1


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda layer: l1_unstructured(layer, "weight", amount=0.3), "prune.remove"),
        (nn.utils.weight_norm, "remove_weight_norm"),
        (nn.utils.spectral_norm, "remove_spectral_norm"),
        (nn.utils.parametrizations.weight_norm, "remove_parametrizations"),
    ],
)
def test_weights_in_parts_say_how_they_become_whole(tmp_path: Path, change: Any, step: str) -> None:
    network = timm_network("test_resnet")
    change(network.get_submodule("fc"))
    assert step in misfit(saved(tmp_path, network.state_dict()), arch="timm/test_resnet")
