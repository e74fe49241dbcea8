"""Naming networks from their weights, as people's files hold them; the libraries themselves are the oracle."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from checkpoints import logits, randomised, timm_network, torchvision_network
from torch import Tensor, nn

from modeldoctor.errors import ArchitectureError, CheckpointError
from modeldoctor.zoo import identify_file, load_model
from modeldoctor.zoo.index import Index, describe_all, installed_versions, preference, shipped_index
from modeldoctor.zoo.libraries import architectures

State = dict[str, Tensor]


def saved(folder: Path, state: Any) -> Path:
    torch.save(state, folder / "ckpt.pt")
    return folder / "ckpt.pt"


def network(arch: str, **options: Any) -> nn.Module:
    library, _, name = arch.partition("/")
    return timm_network(name, **options) if library == "timm" else torchvision_network(name, **options)


@pytest.mark.parametrize(
    "arch",
    [
        "timm/resnet10t", "timm/vit_tiny_patch16_224", "timm/mobilenetv3_small_050", "torchvision/squeezenet1_1",
        "torchvision/shufflenet_v2_x0_5", "timm/convnext_atto", "timm/efficientvit_b0", "timm/mixer_s32_224",
    ],
)  # fmt: skip
def test_a_bare_state_dict_is_named_and_loaded(tmp_path: Path, arch: str) -> None:
    source = network(arch)
    loaded = load_model(saved(tmp_path, source.state_dict()))
    assert loaded.arch == arch
    assert loaded.num_classes == 5
    size = loaded.preprocessing.input_size[-1]
    assert torch.equal(logits(loaded.module, size), logits(source, size))
    assert any("named from the weights" in note for note in loaded.notes)


CHANGES: dict[str, Callable[[State], State]] = {
    "half": lambda state: {n: t.half() for n, t in state.items()},
    "counters": lambda state: {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")},
    "profiled": lambda state: {**state, "total_ops": torch.ones(1), "layer1.0.conv1.total_params": torch.ones(1)},
    "headless": lambda state: {n: t for n, t in state.items() if not n.startswith("fc.")},
    "new head": lambda state: {re.sub(r"^fc\.", "fc.1.", n): t for n, t in state.items()},
    "wrapped": lambda state: {f"module.backbone.{n}": t for n, t in state.items()},
    "unknown prefix": lambda state: {f"eye.cortex.{n}": t for n, t in state.items()},
    "beside a loss": lambda state: {**{f"eye.{n}": t for n, t in state.items()}, "criterion.weight": torch.ones(5)},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_people_do_to_files_does_not_hide_the_name(tmp_path: Path, change: str) -> None:
    state = timm_network("resnet10t", in_chans=1).state_dict()
    found = identify_file(saved(tmp_path, CHANGES[change](dict(state))))
    assert found["arch"] == "timm/resnet10t"
    assert found["channels"] == 1
    assert found["fits"] is (change != "headless")
    assert found["num_classes"] == (None if change == "headless" else 5)
    prefixes = {"wrapped": "module.backbone.", "unknown prefix": "eye.cortex.", "beside a loss": "eye."}
    assert found["prefix"] == prefixes.get(change, "")


def test_indices_that_the_network_computes_anew_may_be_missing(tmp_path: Path) -> None:
    source = torchvision_network("swin_t")
    indices = [name for name, tensor in source.state_dict().items() if not tensor.is_floating_point()]
    assert indices
    state = {name: tensor for name, tensor in source.state_dict().items() if name not in indices}
    loaded = load_model(saved(tmp_path, state))
    assert loaded.arch == "torchvision/swin_t"
    assert torch.equal(logits(loaded.module), logits(source))


@pytest.mark.parametrize(
    ("arch", "options", "size", "channels"),
    [
        ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4, "in_chans": 1}, 32, 1),
        ("mixer_s16_224", {"img_size": 64}, 64, 3),
        ("swin_tiny_patch4_window7_224", {"img_size": 256, "window_size": 8}, 256, 3),
        ("deit_tiny_distilled_patch16_224", {"img_size": 64}, 64, 3),
        ("maxvit_tiny_tf_224", {"img_size": 64}, 64, 3),
        ("coatnet_pico_rw_224", {"img_size": 96}, 96, 3),
    ],
)
def test_sizes_are_read_off_the_tensors(
    tmp_path: Path, arch: str, options: dict[str, Any], size: int, channels: int
) -> None:
    source = timm_network(arch, **options)
    path = saved(tmp_path, source.state_dict())
    assert f"timm/{arch}" in identify_file(path)["tied"]
    loaded = load_model(path)
    assert torch.equal(logits(loaded.module, size, channels), logits(source, size, channels))


def test_the_default_size_decides_between_names(tmp_path: Path) -> None:
    for name, also in (("vit_tiny_patch16_224", ["timm/deit_tiny_patch16_224"]), ("vit_tiny_patch16_384", [])):
        found = identify_file(saved(tmp_path, timm_network(name).state_dict()))
        assert (found["arch"], found["tied"]) == (f"timm/{name}", [f"timm/{name}", *also])


def test_a_network_that_has_no_head_by_default_is_no_better_fit(tmp_path: Path) -> None:
    """timm's vit_large_patch32_224 has none, so a file without a head lacks nothing of it; its size is another."""
    with torch.device("meta"):
        shapes = {n: t.shape for n, t in timm.create_model("vit_large_patch32_384").state_dict().items()}
    state = {name: torch.empty(1).expand(shape) for name, shape in shapes.items() if not name.startswith("head.")}
    assert identify_file(saved(tmp_path, state))["arch"] == "timm/vit_large_patch32_384"


def test_ties_are_said_listed_and_left_to_arch(tmp_path: Path) -> None:
    path = saved(tmp_path, torchvision_network("resnet18").state_dict())
    found = identify_file(path)
    assert found["arch"] == "timm/resnet18"
    assert {"torchvision/resnet18", "timm/resnetblur18"} <= set(found["tied"])
    # The oracle of a tie: the other network takes the file's tensors as they are.
    timm.create_model("resnetblur18", num_classes=5).load_state_dict(torch.load(path), strict=True)
    note = next(note for note in load_model(path).notes if "named from" in note)
    assert "torchvision/resnet18" in note
    assert "--arch decides" in note
    assert load_model(path, arch="torchvision/resnet18").arch == "torchvision/resnet18"
    assert sorted(found["tied"], key=preference) == found["tied"]


def test_running_statistics_tell_batch_norm_from_group_norm(tmp_path: Path) -> None:
    for name in ("resnet50", "resnet50_gn"):
        with torch.device("meta"):
            state = timm.create_model(name, num_classes=5).state_dict()
        found = identify_file(saved(tmp_path, {n: torch.empty(t.shape, dtype=t.dtype) for n, t in state.items()}))
        assert found["arch"] == f"timm/{name}"


def test_a_changed_network_is_named_and_the_difference_told(tmp_path: Path) -> None:
    state = timm_network("resnet10t").state_dict()
    state["layer2.0.conv1.weight"] = torch.ones(3)
    found = identify_file(saved(tmp_path, state))
    assert (found["arch"], found["fits"]) == ("timm/resnet10t", False)
    best = found["candidates"][0]
    assert best["misshapen"] == {"count": 1, "first": ["layer2.0.conv1.weight"]}
    assert best["found"] == best["wanted"] - 1
    with pytest.raises(CheckpointError, match=r"layer2\.0\.conv1\.weight"):
        load_model(tmp_path / "ckpt.pt")


HOSTILE: dict[str, State] = {
    "one": {"a": torch.ones(1)},
    "scalar": {"conv1.weight": torch.tensor(1.0), "fc.weight": torch.tensor(2.0)},
    "empty": {"conv1.weight": torch.ones(0, 3, 7, 7)},
    "nine dimensions": {"conv1.weight": torch.ones(*(1,) * 9)},
    "odd names": {"": torch.ones(2), ".": torch.ones(2), "..fc.": torch.ones(2), "ж\ud800": torch.ones(2, 2)},
    "integers": {"conv1.weight": torch.ones(64, 3, 7, 7, dtype=torch.int8)},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_tensors_of_nothing_known(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, HOSTILE[kind])
    for ask in (identify_file, load_model):
        with pytest.raises(ArchitectureError) as caught:
            ask(path)
        assert caught.value.exit_code == 3
        assert "--arch" in (caught.value.hint or "")
        assert caught.value.where == str(path)


def test_networks_newer_than_the_index_are_built_on_the_fly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = ["timm/resnet10t", "timm/test_vit"]
    old = describe_all(["timm/resnet18"])
    rest = tuple(name for name in architectures() if name not in (*new, *old.names))
    monkeypatch.setattr(
        sys.modules[identify_file.__module__], "shipped_index", lambda: Index(**{**vars(old), "refused": rest})
    )
    found = identify_file(saved(tmp_path, timm_network("resnet10t").state_dict()))
    assert found["arch"] == "timm/resnet10t"
    assert "2 architectures" in found["notes"][0]


def test_a_name_that_the_library_no_longer_has_is_no_candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = shipped_index()
    gone = Index(**{**vars(index), "names": tuple(n.replace("timm/resnet10t", "timm/gone") for n in index.names)})
    monkeypatch.setattr(sys.modules[identify_file.__module__], "shipped_index", lambda: gone)
    found = identify_file(saved(tmp_path, timm_network("resnet10t").state_dict()))
    assert "timm/gone" not in [one["arch"] for one in found["candidates"]]


def test_the_shipped_index_knows_every_architecture_of_its_versions() -> None:
    index = shipped_index()
    libraries = [name for name in ("timm", "torchvision") if index.versions[name] == installed_versions()[name]]
    for library in (*libraries, "modeldoctor"):
        assert not [n for n in index.unknown(architectures()) if n.startswith(f"{library}/")]
    assert len(index.names) > 1400


def test_the_file_s_own_word_is_reported_but_not_believed(tmp_path: Path) -> None:
    path = saved(tmp_path, {"state_dict": randomised(timm_network()).state_dict(), "arch": "resnet50"})
    found = identify_file(path)
    assert (found["arch"], found["stated"]) == ("timm/resnet10t", "resnet50")
