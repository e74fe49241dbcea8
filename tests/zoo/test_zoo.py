from __future__ import annotations

import argparse
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoints import (
    CLASSES,
    lightning_file,
    logits,
    misfit,
    randomised,
    saved,
    timm_network,
    timm_training_file,
    torchvision_network,
    torchvision_reference_file,
)
from safetensors.torch import save_file
from timm.models import save_for_hf
from timm.models._registry import _deprecated_models
from torch import nn
from torchvision.models import Inception_V3_Weights

from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.errors import ArchitectureError, CheckpointError, InputError, UsageError
from modeldoctor.zoo import load_model
from modeldoctor.zoo.libraries import Plan, build, find_plans

IMAGENET_MEAN = (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    "arch",
    ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050", "convnext_atto", "deit_tiny_distilled_patch16_224"],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_timm_networks_answer_as_before(tmp_path: Path, arch: str, channels: int) -> None:
    source = timm_network(arch, in_chans=channels)
    network = load_model(saved(tmp_path, source.state_dict()), arch=f"timm/{arch}")
    height = network.preprocessing.input_size[1]
    assert torch.equal(logits(network.module, height, channels), logits(source, height, channels))
    assert (network.arch, network.num_classes) == (f"timm/{arch}", 5)
    assert network.preprocessing.input_size[0] == channels
    assert not network.module.training


@pytest.mark.parametrize(
    "arch", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "resnet18", "mnasnet0_5"]
)
@pytest.mark.parametrize("channels", [2, 3])
def test_torchvision_networks_answer_as_before(tmp_path: Path, arch: str, channels: int) -> None:
    source = torchvision_network(arch)
    name, first = next((n, m) for n, m in source.named_modules() if isinstance(m, nn.Conv2d))
    same = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding")}
    source.set_submodule(name, nn.Conv2d(channels, first.out_channels, bias=first.bias is not None, **same))
    randomised(source)
    network = load_model(saved(tmp_path, source.state_dict()), arch=f"torchvision/{arch}")
    assert torch.equal(logits(network.module, 64, channels), logits(source, 64, channels))
    assert (network.num_classes, network.preprocessing.input_size) == (5, (channels, 224, 224))


@pytest.mark.parametrize(
    "arch",
    ["densenet121", "efficientnet_b0", "googlenet", "mobilenet_v2", "regnet_y_400mf", "squeezenet1_0", "swin_t"],
)
def test_the_rule_for_torchvision_heads_and_stems(arch: str) -> None:
    built = build(Plan(library="torchvision", name=arch, num_classes=7, channels=4))
    state = built.module.state_dict()
    assert state[f"{built.head}.weight"].shape[0] == 7
    assert state[f"{built.stem}.weight"].shape[1] == 4
    assert (
        sum(tensor.ndim > 0 and tensor.shape[0] == 7 and name.endswith("weight") for name, tensor in state.items()) == 1
    )


def test_timm_training_checkpoint_end_to_end(tmp_path: Path) -> None:
    raw, ema = timm_network(), timm_network(seed=1)
    path = timm_training_file(tmp_path, raw, ema, img_size=64, mean=[0.1, 0.2, 0.3], std=[0.5], crop_pct=0.75)
    network = load_model(path)
    assert torch.equal(logits(network.module), logits(ema))
    plain = network.preprocessing
    assert (plain.input_size, plain.mean, plain.std, plain.crop_pct) == ((3, 64, 64), (0.1, 0.2, 0.3), (0.5,) * 3, 0.75)
    assert network.checkpoint_sha256 == read_checkpoint(path).sha256


@pytest.mark.parametrize(("crop_mode", "mode"), [("border", "pad"), ("squash", "squash"), ("center", "shortest")])
def test_timms_crop_mode_is_the_files_and_can_be_replaced(tmp_path: Path, crop_mode: str, mode: str) -> None:
    path = timm_training_file(tmp_path, timm_network(), img_size=64, crop_mode=crop_mode)
    assert load_model(path).preprocessing.resize_mode == mode
    assert load_model(path, resize_mode="squash").preprocessing.resize_mode == "squash"


def test_without_a_word_in_the_file_the_crop_mode_is_that_of_timms_own_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": timm_network().state_dict()}, tmp_path / "bare.pt")
    assert load_model(tmp_path / "bare.pt", arch="resnet10t").preprocessing.resize_mode == "shortest"
    module = timm.create_model("test_vit")
    module.pretrained_cfg = {**module.pretrained_cfg, "crop_mode": "squash"}
    assert load_model(module).preprocessing.resize_mode == "squash"


def test_torchvision_reference_checkpoint_end_to_end(tmp_path: Path) -> None:
    source = torchvision_network("mobilenet_v3_small")
    network = load_model(torchvision_reference_file(tmp_path / "m.pth", source, "mobilenet_v3_small"))
    assert torch.equal(logits(network.module), logits(source))
    assert network.arch == "torchvision/mobilenet_v3_small"
    assert network.preprocessing.crop_pct == 0.8


def test_lightning_and_safetensors_and_folder_end_to_end(tmp_path: Path) -> None:
    source = torchvision_network()
    path = lightning_file(tmp_path / "a.ckpt", source, "model.", arch="torchvision/squeezenet1_1")
    assert torch.equal(logits(load_model(path).module), logits(source))
    save_file(source.state_dict(), tmp_path / "a.safetensors", metadata={"arch": "squeezenet1_1"})
    assert torch.equal(logits(load_model(tmp_path / "a.safetensors").module), logits(source))
    vit = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, global_pool="avg"))
    save_for_hf(vit, str(tmp_path / "vit"), model_config={"label_names": list(CLASSES)}, safe_serialization=True)
    network = load_model(tmp_path / "vit")
    assert torch.equal(logits(network.module), logits(vit))
    assert (network.class_names, network.preprocessing.input_size) == (CLASSES, (3, 64, 64))


def test_a_bare_name_goes_to_the_library_whose_weights_fit(tmp_path: Path) -> None:
    for network, library in (
        (timm_network("efficientnet_b0"), "timm"),
        (torchvision_network("efficientnet_b0"), "torchvision"),
    ):
        loaded = load_model(saved(tmp_path, network.state_dict()), arch="efficientnet_b0")
        assert loaded.arch == f"{library}/efficientnet_b0"
        assert any("do not fit" in note for note in loaded.notes)
        assert torch.equal(logits(loaded.module), logits(network))


def test_a_name_whose_weights_fit_both_libraries_is_noted(tmp_path: Path) -> None:
    source = torchvision_network("resnet18")
    loaded = load_model(saved(tmp_path, source.state_dict()), arch="resnet18")
    assert any("torchvision/resnet18 as well" in note for note in loaded.notes)
    assert torch.equal(logits(loaded.module), logits(source))


@pytest.mark.parametrize(
    ("arch", "near"), [("resnet10tt", "timm/resnet10t"), ("torchvision/squeezenet1", "squeezenet1_0")]
)
def test_unknown_names_list_the_nearest(tmp_path: Path, arch: str, near: str) -> None:
    path = saved(tmp_path, {"a": torch.ones(1)})
    with pytest.raises(ArchitectureError, match=re.escape(near)):
        load_model(path, arch=arch)


@pytest.mark.parametrize(
    "arch", ["hf-hub:someone/model", "local-dir:/x", "os:getcwd", "x.py:f", "../x", "keras/resnet50", "", "resnet"]
)
def test_names_in_a_file_reach_nothing_but_the_two_libraries(tmp_path: Path, arch: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        load_model(saved(tmp_path, {"a": torch.ones(1)}, arch=arch))
    assert str(tmp_path) in str(caught.value)
    assert "--arch" in str(caught.value)
    assert isinstance(caught.value, InputError)


def test_constructor_arguments_in_a_file_are_picked(tmp_path: Path) -> None:
    weights = tmp_path / "other.pt"
    torch.save(timm_network().state_dict(), weights)
    hostile = {"checkpoint_path": str(weights), "pretrained": True, "cache_dir": str(tmp_path)}
    source = timm_network(seed=1)
    loaded = load_model(saved(tmp_path, source.state_dict(), arch="resnet10t", model_args=hostile))
    assert torch.equal(logits(loaded.module), logits(source))


def test_options_beat_the_file_which_beats_the_library(tmp_path: Path) -> None:
    recorded = {"input_size": [3, 40, 48], "mean": [0.1, 0.1, 0.1], "interpolation": "nearest"}
    path = saved(tmp_path, timm_network().state_dict(), arch="resnet10t", preprocessing=recorded)
    loaded = load_model(path, mean=(0.2, 0.3, 0.4), crop_pct=0.5)
    plain = loaded.preprocessing
    assert (plain.mean, plain.crop_pct) == ((0.2, 0.3, 0.4), 0.5)
    assert (plain.input_size, plain.interpolation) == ((3, 40, 48), "nearest")
    assert plain.std == timm.get_pretrained_cfg_value("resnet10t", "std")
    note = next(note for note in loaded.notes if "does not state" in note)
    assert "std" in note
    assert "mean" not in note
    assert load_model(path, input_size=96, std=[0.3]).preprocessing.input_size == (3, 96, 96)
    assert load_model(path, std=[0.3]).preprocessing.std == (0.3, 0.3, 0.3)


@pytest.mark.parametrize("where", ["file", "option"])
def test_mean_and_std_of_pixels_up_to_255_are_divided(tmp_path: Path, where: str) -> None:
    values = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
    path = tmp_path / "ckpt.pt"
    torch.save({"state_dict": timm_network().state_dict(), **(values if where == "file" else {})}, path)
    loaded = load_model(path, arch="resnet10t", **(values if where == "option" else {}))
    assert loaded.preprocessing.mean == pytest.approx(IMAGENET_MEAN, abs=1e-5)
    assert loaded.preprocessing.std == pytest.approx((0.229, 0.224, 0.225), abs=1e-5)
    assert any("taken for pixels from 0 to 255" in note for note in loaded.notes)
    centred = load_model(path, arch="resnet10t", mean=(127.5,), std=(1.0,)).preprocessing  # Caffe's: x - 127.5
    assert (centred.mean[0], centred.std[0]) == pytest.approx((0.5, 1 / 255), abs=1e-6)
    assert load_model(path, arch="resnet10t", mean=(0.0,), std=(1.0,)).preprocessing.std == (1.0,) * 3
    beyond = load_model(path, arch="resnet10t", mean=(1354.4,), std=(245.7,))  # of a satellite's reflectances
    assert beyond.preprocessing.mean == (1354.4,) * 3
    assert any("of a range beyond 8 bits" in note for note in beyond.notes)


def test_one_channel_takes_the_average_of_the_library_mean(tmp_path: Path) -> None:
    source = randomised(timm.create_model("mobilenetv3_small_050", num_classes=5, in_chans=1))
    loaded = load_model(saved(tmp_path, source.state_dict()), arch="mobilenetv3_small_050")
    assert loaded.preprocessing.mean == pytest.approx((sum(IMAGENET_MEAN) / 3,))
    assert any(note.startswith("mean") for note in loaded.notes)


def test_options_that_contradict_each_other_are_usage_errors(tmp_path: Path) -> None:
    path = saved(tmp_path, timm_network().state_dict(), arch="resnet10t")
    for options in ({"mean": (0.1, 0.2)}, {"std": (0.0,)}, {"crop_pct": 1.5}, {"interpolation": "cubic"}):
        with pytest.raises(UsageError, match="preprocessing"):
            load_model(path, **options)  # type: ignore[arg-type]
    bad = saved(tmp_path, timm_network().state_dict(), arch="resnet10t", preprocessing={"std": [0.0, 0.0, 0.0]})
    with pytest.raises(CheckpointError, match="preprocessing"):
        load_model(bad)


def test_torchvision_preprocessing_is_of_its_own_weights(tmp_path: Path) -> None:
    source = torchvision_network("inception_v3", init_weights=False)
    loaded = load_model(saved(tmp_path, source.state_dict()), arch="torchvision/inception_v3")
    preset = Inception_V3_Weights.IMAGENET1K_V1.transforms()
    assert loaded.preprocessing.input_size[1:] == (preset.crop_size[0], preset.crop_size[0]) == (299, 299)
    assert loaded.preprocessing.crop_pct == preset.crop_size[0] / preset.resize_size[0]
    assert loaded.preprocessing.interpolation == preset.interpolation.value


@pytest.mark.parametrize("held", ["both", "none", "one"])
def test_auxiliary_heads_do_not_matter(tmp_path: Path, held: str) -> None:
    source = torchvision_network("googlenet", init_weights=False)
    dropped = {"both": (), "none": ("aux1.", "aux2."), "one": ("aux2.",)}[held]
    state = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith(tuple(dropped))}
    loaded = load_model(saved(tmp_path, state), arch="torchvision/googlenet")
    assert torch.equal(logits(loaded.module), logits(source))
    assert any(name.startswith("aux1") for name in loaded.module.state_dict()) == (held == "both")
    assert all(tensor.isfinite().all() for tensor in loaded.module.state_dict().values())


def test_batch_counters_may_be_absent_and_half_precision_becomes_float32(tmp_path: Path) -> None:
    source = timm_network()
    state = {n: t.half() for n, t in source.state_dict().items() if not n.endswith("num_batches_tracked")}
    loaded = load_model(saved(tmp_path, state), arch="resnet10t")
    assert {tensor.dtype for tensor in loaded.module.parameters()} == {torch.float32}
    assert torch.allclose(logits(loaded.module), logits(source), rtol=0.05, atol=0.05 * float(logits(source).std()))


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_the_position_embedding_tells_the_image_size(tmp_path: Path, library: str) -> None:
    if library == "timm":
        arch, source = "timm/vit_tiny_patch16_224", timm_network("vit_tiny_patch16_224", img_size=96)
    else:
        arch, source = "torchvision/vit_b_32", torchvision_network("vit_b_32", image_size=96)
    path = saved(tmp_path, source.state_dict())
    loaded = load_model(path, arch=arch)
    assert loaded.preprocessing.input_size == (3, 96, 96)
    assert torch.equal(logits(loaded.module, 96), logits(source, 96))
    assert "--input-size" in misfit(path, arch=arch, input_size=64)


def test_a_pretraining_tag_chooses_the_preprocessing(tmp_path: Path) -> None:
    path = saved(tmp_path, timm_network("vit_tiny_patch16_224").state_dict(), arch="vit_tiny_patch16_224.augreg_in21k")
    loaded = load_model(path)
    assert loaded.arch == "timm/vit_tiny_patch16_224.augreg_in21k"
    assert loaded.preprocessing.mean == (0.5, 0.5, 0.5)
    assert load_model(path, arch="vit_tiny_patch16_224.no_such_tag").arch == "timm/vit_tiny_patch16_224"


@pytest.mark.parametrize("place", ["args", "model_args", "model_kwargs", "config"])
def test_the_pooling_that_a_network_was_trained_with_is_used(tmp_path: Path, place: str) -> None:
    source = timm_network("test_resnet", global_pool="max")
    said: dict[str, dict[str, Any]] = {
        "args": {"args": argparse.Namespace(model="test_resnet", gp="max", drop=0.3, drop_path=0.1, drop_block=None)},
        "model_args": {"arch": "test_resnet", "model_args": {"global_pool": "max", "drop_rate": 0.5}},
        "model_kwargs": {"args": argparse.Namespace(model="test_resnet", model_kwargs={"global_pool": "max"}, gp=None)},
        "config": {"arch": "test_resnet", "global_pool": "max"},
    }
    loaded = load_model(saved(tmp_path, source.state_dict(), **said[place]))
    assert torch.equal(logits(loaded.module), logits(source))
    assert not torch.allclose(logits(source), logits(timm_network("test_resnet")))


def test_build_options_change_what_is_built(tmp_path: Path) -> None:
    for said, options in (({"bn_eps": 0.1}, {"bn_eps": 0.1}), ({"bn_tf": True, "bn_eps": None}, {"bn_eps": 1e-3})):
        source = timm_network("test_efficientnet", **options)
        args = argparse.Namespace(model="test_efficientnet", **said)
        loaded = load_model(saved(tmp_path, source.state_dict(), args=args))
        assert torch.equal(logits(loaded.module), logits(source))
    source = timm_network("test_vit", reg_tokens=2, depth=2)
    loaded = load_model(saved(tmp_path, source.state_dict(), arch="test_vit", model_args={"reg_tokens": 2, "depth": 2}))
    assert torch.equal(logits(loaded.module, 160), logits(source, 160))


def test_build_options_that_the_network_does_not_have_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path, timm_network("test_resnet").state_dict(), arch="test_resnet", model_args={"bn_eps": 0.1})
    assert any("no option bn_eps" in note for note in load_model(path).notes)
    hostile = {"layers": [10**9] * 4, "channels": [1] * 10**6, "stem_width": 10**12}
    load_model(saved(tmp_path, timm_network("test_resnet").state_dict(), arch="test_resnet", model_args=hostile))


@pytest.mark.parametrize("name", ["tf_efficientnet_b0_ns", "timm/efficientnet_b2a", "vit_tiny_patch16_224_in21k"])
def test_names_that_timm_has_given_up_are_built(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = timm.create_model(name.removeprefix("timm/"), num_classes=5)
    (plan,) = find_plans(name, where="--arch")
    built = build(replace(plan, num_classes=5), meta=True)
    assert {n: t.shape for n, t in built.module.state_dict().items()} == {
        n: t.shape for n, t in theirs.state_dict().items()
    }
    assert built.defaults["mean"] == theirs.pretrained_cfg["mean"]


def test_every_name_that_timm_has_given_up_leads_to_one_that_it_has() -> None:
    assert len(_deprecated_models) > 200
    for name in _deprecated_models:
        (plan,) = find_plans(name, where="--arch")
        assert timm.get_pretrained_cfg(plan.arch.removeprefix("timm/")) is not None
