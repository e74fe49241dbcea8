"""Checkpoint files that are damaged, hostile or something else: refused with a message, and no code of theirs runs."""

from __future__ import annotations

import argparse
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    Bomb,
    Eval,
    refused,
    repacked,
    torchvision_network,
)
from safetensors.torch import save_file
from torch import nn

from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.errors import CheckpointError


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("evil", [Bomb, Eval])
@pytest.mark.parametrize("place", ["bare", "beside", "args", "key"])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, place: str, evil: Any, legacy: bool) -> None:
    sentinel = tmp_path.parent / f"{tmp_path.name}-sentinel"
    weights, code = {"a": torch.ones(1)}, evil(sentinel)
    places: dict[str, Any] = {
        "bare": code,
        "beside": {"state_dict": weights, "epoch": code},
        "args": {"state_dict": weights, "args": argparse.Namespace(model="resnet18", hook=code)},
        "key": {"state_dict": weights, (1, code): 2},
    }
    torch.save(places[place], tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    message = refused(tmp_path / "evil.pt")
    assert ("system" if evil is Bomb else "eval") in message
    assert "--trust-pickle" in message
    assert not sentinel.exists()


class Greedy:
    """Asks for 32 TiB when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (2**45,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_asks_for_memory_gets_none(tmp_path: Path, legacy: bool) -> None:
    file = {"state_dict": {"a": torch.ones(2)}, "more": Greedy()}
    torch.save(file, tmp_path / "greedy.pt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(MemoryError):
        torch.load(tmp_path / "greedy.pt", weights_only=True)
    assert read_checkpoint(tmp_path / "greedy.pt").tensors["a"].tolist() == [1.0, 1.0]


def test_the_sentinel_of_these_tests_works(tmp_path: Path) -> None:
    for evil in (Bomb, Eval):
        pickle.loads(pickle.dumps(evil(tmp_path / evil.__name__)))
        assert (tmp_path / evil.__name__).exists()


def test_plain_pickles_with_code_are_refused(tmp_path: Path) -> None:
    for protocol in (0, 2, 4):
        (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Eval(tmp_path / "sentinel"), protocol=protocol))
        refused(tmp_path / "plain.pkl", trust_pickle=True)
        assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    state, path = torchvision_network().state_dict(), tmp_path / f"cut.{kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    os.truncate(path, int(path.stat().st_size * share))
    refused(path)


LFS = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24\n"
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"epoch,loss\n1,0.5\n", "text"),
        ("Gewichte für später\n".encode(), "text"),
        (b"\n<!DOCTYPE html>\n<html><title>404</title></html>", "HTML"),
        (b"<html><body>Sign in</body></html>", "HTML"),
        (LFS, "git lfs pull"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "gzip"),
        (bytes(range(1, 200)), "unknown kind"),
        (b"PK\x03\x04" + bytes(200), "zip"),
        (b"\x80\x02}q\x00.", "pickle"),
        (struct.pack("<Q", 2**60) + b'{"a":1}', "safetensors"),
        (struct.pack("<Q", 5000) + b'{"a":1}', "safetensors"),
        (struct.pack("<Q", 7) + b'{"a":1}', "safetensors"),
        (struct.pack("<Q", 7) + b"{{{{{{{", "safetensors"),
        (struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,39996]}}  ', "safetensors"),
        (
            struct.pack("<Q", 62) + b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,4]}}     ' + bytes(4),
            "safetensors",
        ),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / ("x.safetensors" if said == "safetensors" else "x.pt")
    path.write_bytes(content)
    assert said in refused(path)


def test_missing_files_and_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.pt")
    folder = tmp_path / "folder"
    folder.mkdir()
    assert "config.json" in refused(folder)
    torch.save({"a": torch.ones(1)}, folder / "pytorch_model.bin")
    assert "without config.json" in refused(folder)
    (folder / "config.json").write_text("[" * 100_000)
    assert "not JSON" in refused(folder)
    (folder / "config.json").write_text("[1]")
    assert "no object" in refused(folder)
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in refused(tmp_path / "pipe")


def test_zip_bombs_are_refused_by_their_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(1000)}, tmp_path / "good.pt")
    bomb = repacked(tmp_path / "good.pt", tmp_path / "bomb.pt", inflate=300_000_000)
    compressed = repacked(tmp_path / "good.pt", tmp_path / "compressed.pt")
    lying = tmp_path / "lying.pt"
    raw = bytearray((tmp_path / "good.pt").read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = struct.pack("<I", 2**31)
    lying.write_bytes(raw)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    for path in (bomb, compressed, lying):
        assert "zip bomb" in refused(path)


def test_torchscript_and_exported_programs_say_what_to_save(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    torch.jit.script(network).save(tmp_path / "script.pt")
    torch.export.save(torch.export.export(network, (torch.ones(1, 2),)), tmp_path / "program.pt2")
    assert "TorchScript" in refused(tmp_path / "script.pt")
    assert "torch.export" in refused(tmp_path / "program.pt2")
    assert "state_dict" in refused(tmp_path / "program.pt2")


def optimizer_only() -> dict[str, Any]:
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(2)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (optimizer_only, "only optimizer state: the keys 'state', 'param_groups'"),
        (lambda: {"epoch": 3, "optimizer": optimizer_only()}, "'epoch', 'optimizer'"),
        (lambda: {"epoch": torch.tensor(3), "a": 1}, "'epoch', 'a'"),
        (dict, "(none)"),
        (lambda: [torch.ones(1)], "list"),
        (lambda: torch.ones(1), "Tensor"),
        (lambda: {0: torch.ones(1)}, "no name"),
        (lambda: {"a": torch.ones(2, 2).to_sparse()}, "sparse"),
        (lambda: {"a": torch.empty(2, device="meta")}, "meta"),
    ],
)
def test_files_without_usable_weights(tmp_path: Path, make: Callable[[], Any], said: str) -> None:
    torch.save(make(), tmp_path / "none.pt")
    assert said in refused(tmp_path / "none.pt")


def test_allowed_globals_do_not_outlive_the_read(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save({"a": torch.ones(1), "b": Eval(tmp_path / "s")}, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("fate", ["written to", "replaced"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    path, other = tmp_path / "net.pt", tmp_path / "other.pt"
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    torch.save({"state_dict": {"a": torch.zeros(3)}}, other)
    load = torch.load

    def slow(*args: Any, **options: Any) -> object:
        found = load(*args, **options)
        if fate == "replaced":
            other.replace(path)
        else:
            path.write_bytes(other.read_bytes() + b" ")
        return found

    monkeypatch.setattr(torch, "load", slow)
    with pytest.raises(CheckpointError, match="changed or replaced while it was read"):
        read_checkpoint(path)
