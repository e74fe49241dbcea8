"""Hostile checkpoints: archives, pickles and safetensors by hand."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from walk import Make, cut, folder_instead, loop, sparse


def saved(state: Any, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def archive(pickled: bytes, **options: Any) -> bytes:
    """What torch.save would write around a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", pickled, **options)
        file.writestr("archive/version", "3\n")
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", bytes(64))
    return stream.getvalue()


def repacked(change: Callable[[str], list[str]]) -> Make:
    """A good archive whose entries have other names."""

    def make(path: Path) -> bytes:
        stream = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved(_STATE))) as old, zipfile.ZipFile(stream, "w") as new:
            for entry in old.namelist():
                for name in change(entry):
                    new.writestr(name, old.read(entry))
        return stream.getvalue()

    return make


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: object = "F32", shape: object = (1,), offsets: object = (0, 4)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def tensor_call(offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A pickle of one tensor, as torch.save writes it, whose shape and place are free."""

    def plain(value: object) -> bytes:
        return pickle.dumps(value, protocol=2)[2:-1]

    place = b"(" + plain("storage") + b"ctorch\nFloatStorage\n" + plain("0") + plain("cpu") + plain(16) + b"tQ"
    rebuilt = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + place
        + plain(offset)
        + plain(size)
        + plain(stride)
        + plain(False)
        + b"ccollections\nOrderedDict\n)RtR"
    )
    return b"\x80\x02}" + plain("weight") + rebuilt + b"s."


_STATE = {"weight": torch.arange(6.0), "bias": torch.ones(3)}
_SELF: dict[str, Any] = {"weight": torch.ones(2)}
_SELF["state_dict"] = _SELF
_CUT = cut(saved(_STATE), 12) | {f"legacy {name}": make for name, make in cut(saved(_STATE, legacy=True), 8).items()}


def _flipped(place: float) -> Make:
    def make(path: Path) -> bytes:
        content = bytearray(saved({"weight": torch.arange(1000.0)}))
        content[int(len(content) * place)] ^= 64
        return bytes(content)

    return make


CHECKPOINTS: dict[str, Make] = {
    **{f"{name}/x.pt": make for name, make in _CUT.items()},
    "absolute names/x.pt": repacked(lambda name: ["/" + name]),
    "names above/x.pt": repacked(lambda name: ["../../" + name]),
    "names of another system/x.pt": repacked(lambda name: ["C:\\" + name]),
    "two pickles/x.pt": repacked(lambda name: [name, name.replace("data.pkl", "more/data.pkl")]),
    "nothing but a pickle/x.pt": repacked(lambda name: [name] if name.endswith("data.pkl") else []),
    "no pickle/x.pt": repacked(lambda name: [] if name.endswith("data.pkl") else [name]),
    "an empty archive/x.pt": lambda path: b"PK\x05\x06" + bytes(18),
    "many entries/x.pt": repacked(lambda name: [f"{name}{n}" for n in range(2000)]),
    "a flipped bit in the middle/x.pt": _flipped(0.5),
    "a view of ten billion/x.pt": lambda path: saved({"weight": torch.zeros(1).expand(10**10)}),
    "a view of views/x.pt": lambda path: saved({f"w{n}": torch.zeros(1).expand(10**9) for n in range(50)}),
    "a tensor beyond its storage/x.pt": lambda path: archive(tensor_call(0, (100,), (1,))),
    "a tensor of steps of zero/x.pt": lambda path: archive(tensor_call(0, (10**10,), (0,))),
    "a tensor of negative size/x.pt": lambda path: archive(tensor_call(0, (-5,), (1,))),
    "a tensor of negative steps/x.pt": lambda path: archive(tensor_call(15, (16,), (-1,))),
    "a tensor before its storage/x.pt": lambda path: archive(tensor_call(-100, (4,), (1,))),
    "a tensor of 2^62 by 4/x.pt": lambda path: archive(tensor_call(0, (2**62, 4), (0, 0))),
    "a tensor of other numbers of steps/x.pt": lambda path: archive(tensor_call(0, (4, 4), (1,))),
    "a memo of two billion/x.pt": lambda path: archive(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a text of 2^60/x.pt": lambda path: archive(b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"a."),
    "bytes of 2^31/x.pt": lambda path: archive(b"\x80\x03B" + struct.pack("<I", 2**31) + b"a."),
    "a frame of 2^60/x.pt": lambda path: archive(b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"}."),
    "an array of 2^33/x.pt": lambda path: archive(b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"."),
    "an array of 2^33, no archive/x.pt": lambda path: b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b".",
    "a frame of 2^33, no archive/x.pt": lambda path: b"\x80\x04\x95" + struct.pack("<Q", 2**33) + b"}.",
    "a number of 2^31 bytes/x.pt": lambda path: archive(b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"."),
    "a deep pickle/x.pt": lambda path: archive(b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b"."),
    "a deep tuple/x.pt": lambda path: archive(b"\x80\x02)" + b"\x85" * 50_000 + b"."),
    "popping nothing/x.pt": lambda path: archive(b"\x80\x020."),
    "an endless pickle/x.pt": lambda path: archive(b"\x80\x02" + b"N" * 100_000),
    "a state within itself/x.pt": lambda path: pickle_of_itself(),
    "NUL in a name/x.pt": lambda path: saved({"a\0b": torch.ones(1)}),
    "a name of a million letters/x.pt": lambda path: saved({"a" * 10**6: torch.ones(1)}),
    "escapes in a name/x.pt": lambda path: saved({"\x1b[31m\n.weight": torch.ones(1)}),
    "half a letter in a name/x.pt": lambda path: saved({"\ud800": torch.ones(1)}),
    "names of numbers/x.pt": lambda path: saved({1: torch.ones(1), None: torch.ones(1)}),
    "complex numbers/x.pt": lambda path: saved({"weight": torch.ones(2, dtype=torch.complex64)}),
    "no numbers/x.pt": lambda path: saved({"weight": torch.empty(0, 3)}),
    "a hundred sides/x.pt": lambda path: saved({"weight": torch.ones((1,) * 60)}),
    "many tensors/x.pt": lambda path: saved({f"layer.{n}.weight": torch.zeros(()) for n in range(3000)}),
    "quantised/x.pt": lambda path: saved({"weight": torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8)}),
    "a header of nothing/x.safetensors": lambda path: safetensors(b""),
    "a header of 2^63/x.safetensors": lambda path: safetensors(b"{}", length=2**63),
    "a header of 100 MB/x.safetensors": sparse(200 << 20, struct.pack("<Q", 100 << 20) + b"{"),
    "a deep header/x.safetensors": lambda path: safetensors(b'{"a":' + b"[" * 100_000),
    "a header of a list/x.safetensors": lambda path: safetensors([1]),
    "a header of half a letter/x.safetensors": lambda path: safetensors(b'{"\xc3": 1}'),
    "an unknown type/x.safetensors": lambda path: safetensors({"a": entry("F7")}, bytes(4)),
    "negative offsets/x.safetensors": lambda path: safetensors({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "offsets backwards/x.safetensors": lambda path: safetensors({"a": entry(offsets=(4, 0))}, bytes(4)),
    "offsets beyond/x.safetensors": lambda path: safetensors({"a": entry(offsets=(0, 2**40))}, bytes(4)),
    "one place for two/x.safetensors": lambda path: safetensors({"a": entry(), "b": entry()}, bytes(4)),
    "a gap/x.safetensors": lambda path: safetensors({"a": entry(offsets=(4, 8))}, bytes(8)),
    "too many sides/x.safetensors": lambda path: safetensors({"a": entry(shape=(2**62, 2**62))}, bytes(4)),
    "sides of zero/x.safetensors": lambda path: safetensors({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}),
    "sides of text/x.safetensors": lambda path: safetensors({"a": entry(shape="one")}, bytes(4)),
    "a name twice/x.safetensors": lambda path: safetensors(
        b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", bytes(4)
    ),
    "words of numbers/x.safetensors": lambda path: safetensors({"__metadata__": {"a": 1}, "a": entry()}, bytes(4)),
    "loop/x.pt": loop,
    "a folder of nothing/x.pt": folder_instead,
    "far too large/x.pt": sparse(3 << 30, b"PK\x03\x04"),
    "far too large and plain/x.safetensors": sparse(1 << 30, struct.pack("<Q", 64) + b'{"a":'),
    "a shard from above/x": lambda path: sharded(path, "../../x.safetensors"),
    "a shard of the system/x": lambda path: sharded(path, "/etc/passwd"),
    "a shard of nothing/x": lambda path: sharded(path, ""),
    "a shard of a number/x": lambda path: sharded(path, 5),
    "a shard of a NUL/x": lambda path: sharded(path, "a\0b"),
    "a map of text/x": lambda path: sharded(path, None),
    "a configuration of NaN/x": lambda path: configured(path, '{"num_classes": NaN, "architecture": 1e999}'),
    "a deep configuration/x": lambda path: configured(path, '{"a": ' + "[" * 100_000),
    "a configuration in itself/x": lambda path: (path.mkdir(), (path / "config.json").symlink_to("config.json"))[1],
}


def pickle_of_itself() -> bytes:
    return saved(_SELF)


def sharded(path: Path, shard: object) -> None:
    """A folder whose index says where its tensors lie."""
    configured(path, '{"architecture": "resnet18", "num_classes": 2}', weights=False)
    index = {"metadata": {}, "weight_map": {"weight": shard} if shard is not None else "x"}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def configured(path: Path, config: str, *, weights: bool = True) -> None:
    path.mkdir()
    (path / "config.json").write_text(config)
    if weights:
        (path / "model.safetensors").write_bytes(safetensors({"a": entry()}, bytes(4)))
