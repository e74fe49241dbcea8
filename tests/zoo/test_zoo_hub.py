"""Names in place of files: a hub folder and a download folder made here, laid out as the libraries lay them out."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from checkpoints import logits, randomised
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights, get_model
from typer.testing import CliRunner

from modeldoctor.cli import app
from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import ArchitectureError, CheckpointError
from modeldoctor.treatment.pipeline import load_network
from modeldoctor.zoo import hub, identify_file, load_model

TIMM = "test_resnet.r160_in1k"


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of both kinds."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put_into_hub(cache: Path, repo: str, folder: Path) -> None:
    """As huggingface_hub keeps a snapshot: blobs by their hash, links to them by their names, the commit of `main`."""
    base = cache / "hub" / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for part in ("blobs", "refs", f"snapshots/{commit}"):
        (base / part).mkdir(parents=True, exist_ok=True)
    (base / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        data = file.read_bytes()
        blob = base / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (base / "snapshots" / commit / file.name).symlink_to(Path("../../blobs") / blob.name)


def timm_folder(folder: Path, name: str = TIMM) -> nn.Module:
    source = randomised(timm.create_model(name))
    save_for_hf(source, folder, safe_serialization=True)
    return source


def test_a_timm_name_is_loaded_from_the_cache(caches: Path) -> None:
    source = timm_folder(caches / "made")
    (caches / "made" / "config.json").unlink()  # timm fetches the weights alone
    put_into_hub(caches, f"timm/{TIMM}", caches / "made")
    for name in (f"timm/{TIMM}", "timm/test_resnet"):
        loaded = load_model(name)
        assert loaded.arch == f"timm/{TIMM}"
        assert loaded.preprocessing.input_size == (3, 160, 160)
        assert loaded.preprocessing.crop_pct == timm.get_pretrained_cfg(TIMM).crop_pct
        torch.testing.assert_close(logits(loaded.module), logits(source))
    assert identify_file(f"timm/{TIMM}")["fits"]


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "hf_hub:someone/model", "hf-hub:someone/model@main"])
def test_a_hub_s_folder_is_loaded_from_the_cache(caches: Path, name: str) -> None:
    source = timm_folder(caches / "made")
    put_into_hub(caches, "someone/model", caches / "made")
    config: dict[str, Any] = {"checkpoint": name, "data": {"path": "x"}}
    for loaded in (load_model(name), load_network(TreatConfig(**config))):
        assert loaded.arch.startswith("timm/test_resnet")
        torch.testing.assert_close(logits(loaded.module), logits(source))


def test_a_torchvision_name_brings_its_preprocessing_and_classes(caches: Path) -> None:
    weights = SqueezeNet1_1_Weights.IMAGENET1K_V1
    source = randomised(get_model("squeezenet1_1"))
    place = caches / "torch" / "hub" / "checkpoints" / Path(weights.url).name
    place.parent.mkdir(parents=True)
    torch.save(source.state_dict(), place)
    for name in (
        "torchvision/squeezenet1_1:IMAGENET1K_V1",
        "torchvision/squeezenet1_1:DEFAULT",
        "torchvision/squeezenet1_1",
    ):
        loaded = load_model(name)
        assert loaded.arch == "torchvision/squeezenet1_1"
        assert loaded.class_names == tuple(weights.meta["categories"])
        assert loaded.preprocessing.crop_pct == pytest.approx(224 / 256)
        torch.testing.assert_close(logits(loaded.module), logits(source))


@pytest.mark.parametrize(
    ("name", "what", "where"),
    [
        (f"timm/{TIMM}", f"model.safetensors of timm/{TIMM}", "hub"),
        ("hf-hub:someone/model", "config.json and the weights of someone/model", "hub"),
        ("torchvision/squeezenet1_1:IMAGENET1K_V1", SqueezeNet1_1_Weights.IMAGENET1K_V1.url, "torch/hub/checkpoints"),
    ],
)
def test_what_is_not_cached_is_not_fetched_unasked(
    caches: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str, where: str
) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("it was fetched"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("it was fetched"))
    for command in (["identify", name], ["diagnose", name, "--data", "x"], ["treat", name, "--data", "x"]):
        caught = CliRunner().invoke(app, command).exception
        assert isinstance(caught, CheckpointError)
        assert caught.exit_code == 3
        assert f"--download would fetch {what}" in (caught.hint or "")
        assert str(caches / where) in (caught.hint or "")
    assert not (caches / where).exists()


def test_download_fetches_once(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, asked = timm_folder(caches / "made"), []

    def fetch(repo: str, file: str, revision: str | None = None) -> str:
        asked.append(file)
        if not (caches / "made" / file).exists():
            raise huggingface_hub.errors.EntryNotFoundError("404")
        put_into_hub(caches, repo, caches / "made")
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: found(*a, **k))
        return found(repo, file)

    def found(repo: str, file: str, revision: str | None = None) -> str:
        asked.append(file)
        if (path := huggingface_hub.try_to_load_from_cache(repo, file)) is None:
            raise huggingface_hub.errors.EntryNotFoundError("404")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    loaded = load_model("hf-hub:someone/model", download=True)
    torch.testing.assert_close(logits(loaded.module), logits(source))
    assert asked[0] == "config.json"
    asked.clear()
    load_model("hf-hub:someone/model", download=True)
    assert not asked


def test_a_url_is_fetched_whole_or_not_at_all(caches: Path) -> None:
    torch.save({"a": torch.ones(1)}, caches / "net.pth")
    path = hub._by_url("torchvision/net", (caches / "net.pth").as_uri(), download=True)
    assert path == caches / "torch" / "hub" / "checkpoints" / "net.pth"
    assert path.read_bytes() == (caches / "net.pth").read_bytes()
    (caches / "net-00000000.pth").write_bytes(b"cut")
    for name in ("net-00000000.pth", "absent.pth"):
        with pytest.raises(CheckpointError, match="could not be fetched"):
            hub._by_url("torchvision/net", (caches / name).as_uri(), download=True)
        assert not (path.parent / name).exists()


def test_connections_that_fail(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    for name in (f"timm/{TIMM}", "hf-hub:someone/model"):
        with pytest.raises(CheckpointError, match=r"could not be fetched \(ConnectionError: no route to host\)"):
            load_model(name, download=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("timm/resnet50.nope", "timm/resnet50.a1_in1k"),
        ("timm/resnet50x", "timm/resnet50"),
        ("timm/ckpt.pt", "neither a file nor"),
        ("torchvision/resnet50:IMAGENET1K_V9", "torchvision/resnet50:IMAGENET1K_V2"),
        ("torchvision/nothing", "neither a file nor"),
        ("timm/vit_giant_patch14_224", "no weights"),
    ],
)
def test_names_of_nothing(caches: Path, name: str, said: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        load_model(name)
    assert said in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "timm/resnet50 or torchvision/resnet50"),
        ("resnet18:IMAGENET1K_V1", "torchvision/resnet18:IMAGENET1K_V1"),
        ("vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k"),
        ("someone/model", "hf-hub:someone/model"),
        ("https://huggingface.co/someone/model", "hf-hub:someone/model"),
        ("https://example.org/net.pth", "download the file"),
        ("runs/best.pt", "check the path"),
        ("resnet50." + 300 * "x", "timm/resnet50"),
    ],
)
def test_a_name_without_its_library(caches: Path, name: str, said: str) -> None:
    for command in ("identify", "diagnose"):
        caught = CliRunner().invoke(app, [command, name] + ["--data", "x"] * (command == "diagnose")).exception
        assert isinstance(caught, CheckpointError)
        assert "no such file" in str(caught)
        assert said in (caught.hint or "")


@pytest.mark.parametrize("name", ["hf-hub:/etc/passwd", "hf-hub:a b/c", "hf-hub:"])
def test_names_that_the_hub_cannot_have(caches: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="no name of a model") as caught:
        load_model(name)
    assert caught.value.hint


def test_a_file_goes_before_a_name(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(caches)
    source = timm_folder(caches / "made", "test_vit.r160_in1k")
    Path("timm").mkdir()
    save_file(dict(source.state_dict()), f"timm/{TIMM}")
    assert load_model(f"timm/{TIMM}").arch.startswith("timm/test_vit")
