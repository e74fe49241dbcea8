"""What is refused or interrupted while treated weights are written leaves the user's files as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    timm_network,
    torchvision_network,
    treated,
)
from safetensors.torch import save_file
from timm.models import save_for_hf

from modeldoctor.checkpoint import Container, read_checkpoint
from modeldoctor.checkpoint import write as checkpoint_write
from modeldoctor.checkpoint.write import treated_path, write_checkpoint
from modeldoctor.errors import CheckpointError, UsageError


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("fc.weight"), "1 missing (fc.weight)"),
        (lambda t: t.update({"fc.weight": torch.ones(4, 3)}), "1 of another shape (fc.weight)"),
        (lambda t: t.update(surplus=torch.ones(1)), "1 unknown to the file (surplus)"),
        (lambda t: t.update({"fc.bias": torch.full((5,), 1e6)}), "1 too large for the file's precision (fc.bias)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, change: Callable[[Any], None], said: str) -> None:
    state = {"fc.weight": torch.ones(5, 3).half(), "fc.bias": torch.ones(5).half()}
    torch.save(state, tmp_path / "a.pt")
    original, tensors = read_checkpoint(tmp_path / "a.pt"), dict(state)
    change(tensors)
    with pytest.raises(CheckpointError) as caught:
        write_checkpoint(original, tensors, tmp_path / "run" / "new.pt")
    assert said in str(caught.value)
    assert str(tmp_path / "a.pt") in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", ["torch", "safetensors", "folder"])
def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, old: bool, error: type[BaseException]
) -> None:
    path = tmp_path / f"model.{kind}"
    if kind == "torch":
        torch.save(torchvision_network().state_dict(), path)
    elif kind == "safetensors":
        save_file(torchvision_network().state_dict(), path)
    else:
        save_for_hf(timm_network(), str(path), safe_serialization=True)
    original = read_checkpoint(path)
    output = treated_path(original, tmp_path / "run")
    if old:
        write_checkpoint(original, original.tensors, output)

    def files() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def breaks(contents: Any, aside: Path) -> None:
        aside.write_bytes(b"half")
        raise error("disk full")

    before = files()
    monkeypatch.setattr(checkpoint_write, "SAVERS", dict.fromkeys(Container, breaks))
    with pytest.raises(error if error is KeyboardInterrupt else UsageError):
        write_checkpoint(original, original.tensors, output)
    assert files() == before
    assert [p.name for p in (tmp_path / "run").iterdir()] == [output.name] * old


def test_an_interrupted_exchange_of_folders_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_for_hf(timm_network(), str(tmp_path / "original"), safe_serialization=True)
    original, output = read_checkpoint(tmp_path / "original"), tmp_path / "run" / "treated"
    write_checkpoint(original, original.tensors, output)
    before, rename = read_checkpoint(output).sha256, Path.rename

    interrupted = []

    def once(self: Path, target: Path) -> Path:
        if target == output and not interrupted:  # the new one on its way to its place
            interrupted.append(self)
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(original, treated(timm_network()).state_dict(), output)
    assert read_checkpoint(output).sha256 == before
    assert [p.name for p in output.parent.iterdir()] == ["treated"]


def test_nothing_of_the_users_is_overwritten(tmp_path: Path) -> None:
    save_for_hf(timm_network(), str(tmp_path / "original"), safe_serialization=True)
    folder = read_checkpoint(tmp_path / "original")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "note").touch()
    for taken in ("photos", "note"):
        with pytest.raises(UsageError, match="something other"):
            write_checkpoint(folder, folder.tensors, tmp_path / taken)
    assert (tmp_path / "photos" / "a.jpg").exists()
    (tmp_path / "empty").mkdir()
    write_checkpoint(folder, folder.tensors, tmp_path / "empty")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    file = read_checkpoint(tmp_path / "a.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "a.pt")
    for checkpoint, output in ((folder, folder.path), (file, file.path), (file, tmp_path / "link.pt")):
        with pytest.raises(UsageError, match="overwrite the original"):
            write_checkpoint(checkpoint, checkpoint.tensors, output)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ckpt.pt", "treated.pt"),
        ("model_best.pth.tar", "treated.pth.tar"),
        ("resnet18-v1.5.pth", "treated.pth"),
        ("epoch=3-loss=0.25.ckpt", "treated.ckpt"),
        ("weights", "treated.pt"),
        ("run-0.25", "treated.pt"),
        ("best.BIN", "treated.BIN"),
    ],
)
def test_the_name_of_the_treated_file(tmp_path: Path, name: str, expected: str) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    assert treated_path(read_checkpoint(tmp_path / name), tmp_path / "run") == tmp_path / "run" / expected


def test_views_and_shared_storages_do_not_bloat_the_file(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "a.pt")
    original, large = read_checkpoint(tmp_path / "a.pt"), torch.zeros(1_000_000)
    write_checkpoint(original, {"a": large[:4], "b": large[2:6]}, tmp_path / "new.pt")
    assert (tmp_path / "new.pt").stat().st_size < 10_000
    save_file({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "a.safetensors")
    original = read_checkpoint(tmp_path / "a.safetensors")
    write_checkpoint(original, {"a": large[:4], "b": large[2:6]}, tmp_path / "new.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "new.safetensors").tensors["b"], torch.zeros(4))
