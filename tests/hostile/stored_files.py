"""Hostile results: a good HDF5 file with one dataset, link, attribute or byte that no tool of good will writes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import h5py
import numpy as np

Change = Callable[[h5py.File], object]
MANY = 1 << 31
_TEXT = h5py.string_dtype("utf-8")
_HOSTILE_TEXT = (b"\xff\xfe\x80", b"\x1b[2J\x1b]0;owned\x07", b"[/b]</script>", b"x" * 1_000_000, b"")


def changes(path: Path) -> Iterator[tuple[str, Change]]:
    """Every change of every dataset, group and attribute of a good file, with what it is."""
    with h5py.File(path, "r") as file:
        items: dict[str, h5py.Dataset | h5py.Group] = {"/": file}
        file.visititems(lambda name, item: items.__setitem__(name, item))
        made = [
            (f"{place}: {what}", change)
            for place, item in items.items()
            for what, change in chain(
                () if place == "/" else _of_links(place),
                _of_dataset(place, item) if isinstance(item, h5py.Dataset) else (),
                *(_of_attribute(place, name) for name in item.attrs if name.isascii() and name.islower()),
            )
        ]
    yield from made


def _of_links(place: str) -> Iterator[tuple[str, Change]]:
    def put(link: Callable[[h5py.File], object]) -> Change:
        def change(file: h5py.File) -> None:
            target = link(file)
            del file[place]
            file[place] = target

        return change

    yield "removed", lambda file: file.__delitem__(place)
    yield "external link", put(lambda file: h5py.ExternalLink("/etc/passwd", "/x"))
    yield "soft link", put(lambda file: h5py.SoftLink("/nowhere"))
    yield "link to itself", put(lambda file: h5py.SoftLink(f"/{place}"))
    yield "hard link to the root", put(lambda file: file["/"])
    yield "hard link to other values", put(lambda file: file["broken/path" if "broken" in file else "arms"])
    yield "named type", put(lambda file: np.dtype("f4"))
    yield "text", put(lambda file: "text")


def _of_dataset(place: str, item: h5py.Dataset) -> Iterator[tuple[str, Change]]:
    values, kind = item[()], item.dtype.kind
    ones = (1,) * values.ndim

    def put(data: object = None, **options: object) -> Change:
        def change(file: h5py.File) -> None:
            del file[place]
            file.create_dataset(place, data=data, **options)

        return change

    def references(file: h5py.File) -> None:
        del file[place]
        file.create_dataset(place, data=np.full(values.shape, file.ref, dtype=object), dtype=h5py.ref_dtype)

    yield "references", references
    yield "nothing", put(h5py.Empty("f4"))
    yield "a scalar", put(values.flat[0] if kind != "O" else "x", dtype=item.dtype)
    yield "one dimension more", put(values[..., None], dtype=item.dtype)
    yield "one more", put(np.concatenate([values, values[-1:]]), dtype=item.dtype)
    yield "none", put(values[:0], dtype=item.dtype)
    yield "far too many", put(shape=(MANY, *ones[1:]), dtype=item.dtype, chunks=(1 << 16, *ones[1:]), compression=9)
    yield "far too many, contiguous", put(shape=(MANY * 8, *values.shape[1:]), dtype=item.dtype)
    yield "compound", put(np.zeros(values.shape, dtype=[("a", "f4"), ("b", "i4")]))
    yield "lists", put(shape=values.shape, dtype=h5py.vlen_dtype(np.dtype("i4")))
    yield "opaque", put(np.zeros(values.shape, dtype="V7"))
    yield "an array type", put(shape=values.shape, dtype=np.dtype(("f4", (3,))))
    yield "dates", put(np.zeros(values.shape, dtype="M8[s]").astype(h5py.opaque_dtype("M8[s]")))
    yield "complex", put(np.zeros(values.shape, dtype="c8"))
    yield "stored elsewhere", put(shape=values.shape, dtype="f4", external=[("/etc/passwd", 0, values.size * 4)])
    if kind == "O":
        yield from (
            (f"text {n}", put(np.full(values.shape, said), dtype=_TEXT)) for n, said in enumerate(_HOSTILE_TEXT)
        )
        yield "one text a million times", _repeated(place)
        yield "numbers", put(np.zeros(values.shape, "i4"))
    else:
        yield "text", put(np.full(values.shape, b"x"))
        yield "as float16", put(values.astype("f2"))
        yield "as long floats", put(values.astype(np.longdouble))
        yield "as int64", put(np.nan_to_num(values).astype("i8"))
        for extreme in (np.nan, np.inf, -1e38, 1e38) if kind == "f" else (np.iinfo("i8").min, np.iinfo("i8").max, -1):
            yield f"all {extreme}", put(np.full(values.shape, extreme, "f4" if kind == "f" else "i8"))


def _repeated(place: str) -> Change:
    """A text of a megabyte to which a million entries point: a kilobyte of entries."""

    def change(file: h5py.File) -> None:
        one = file.create_dataset("one", data=[b"x" * (1 << 20)], dtype=_TEXT, chunks=(1,))
        entry = one.id.read_direct_chunk((0,))[1]
        del file[place], file["one"]
        count = 1 << 20
        many = file.create_dataset(place, shape=(count,), dtype=_TEXT, chunks=(count,), compression=9)
        many.id.write_direct_chunk((0,), zlib.compress(entry * count, 9))

    return change


def _of_attribute(place: str, name: str) -> Iterator[tuple[str, Change]]:
    def put(value: object) -> Change:
        return lambda file: file[place].attrs.__setitem__(name, file.ref if value is h5py.Reference else value)

    yield f"{name} removed", lambda file: file[place].attrs.__delitem__(name)
    values: tuple[object, ...] = (
        -1, 2**63 - 1, 1.5, np.nan, np.inf, h5py.Empty("f4"), np.zeros(0), np.zeros((3, 3)), np.True_, "", "x",
        "\x1b[2J", "null", "[]", "{}", "[1]", '{"a": NaN}', "[" * 50_000, "1e999", np.bytes_(b"\xff\xfe"), ["a", "b"],
        np.void(b"abc"), np.array([(1, 2)], dtype=[("a", "i4"), ("b", "i4")]), h5py.Reference,
    )  # fmt: skip
    yield from ((f"{name} = {str(value)[:20]!r}", put(value)) for value in values)


def damaged(whole: bytes, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """The file cut off, and with bytes of its metadata flipped."""
    yield from ((f"cut off after {part} of 16", whole[: len(whole) * part // 16]) for part in range(16))
    rng = np.random.default_rng(seed)
    for number in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + number % 20):
            content[place] = int(rng.integers(256))
        yield f"{number}: flipped bytes", bytes(content)
