"""The index of every known classifier's features, and how a file's tensors are looked up in it.

It ships as `index.npz.xz`, written by `scripts/build_index.py`: an xz stream of an uncompressed .npz with `header`
(JSON: the libraries' versions, the architectures' names, and those that cannot be built), `features` (F, uint32), and
for `core` and `detail` each the features of architecture a as positions in `features`, `at[ends[a-1]:ends[a]]` where
`at` is the running sum of `*_steps`: relatives share most features, and what is new in one stands together, so nearly
all steps are 1.
"""

from __future__ import annotations

import io
import json
import lzma
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modeldoctor.errors import ArchitectureError
from modeldoctor.runtime.versions import used_versions
from modeldoctor.zoo.libraries import plan_of
from modeldoctor.zoo.signature import Shape, Signature, describe, features_of

INDEX_FILE = Path(__file__).with_name("index.npz.xz")
LIBRARY_PACKAGES = ("timm", "torchvision", "modeldoctor")
"""Where networks come from, in the order of preference."""


class Match(NamedTuple):
    """How much of an architecture is in a file.

    Attributes:
        arch: such as "timm/resnet50".
        found, wanted: how many core features of it the file has, and how many there are.
        lacking: core features that the file has not, less those that it has; the fewest is the best match.
        detail_lacking: the same of the features that tell sizes and normalisation.
    """

    arch: str
    found: int
    wanted: int
    lacking: int
    detail_lacking: int

    @property
    def whole(self) -> bool:
        """Whether the file has every core feature."""
        return self.found == self.wanted

    @property
    def score(self) -> tuple[int, int]:
        """Equal for architectures that the file's tensors do not tell apart; the lowest is the best."""
        return self.lacking, self.detail_lacking


@dataclass(frozen=True, kw_only=True)
class Index:
    """Signatures of many architectures, as arrays.

    Attributes:
        versions: of each library, as it was indexed.
        names: of the architectures, library first.
        refused: names that cannot be built, and need not be tried again.
        features: (F,) uint32.
        core, detail: of each architecture, positions in `features`.
    """

    versions: Mapping[str, str]
    names: tuple[str, ...]
    refused: tuple[str, ...]
    features: NDArray[np.uint32]
    core: _Rows
    detail: _Rows

    @classmethod
    def of(cls, signatures: Mapping[str, Signature | None], versions: Mapping[str, str]) -> Index:
        """The index of these signatures by architecture, None for one that cannot be built."""
        refused = tuple(name for name, signature in signatures.items() if signature is None)
        known = {name: signature for name, signature in signatures.items() if signature is not None}
        position: dict[int, int] = {}
        for signature in known.values():
            for shape in (*sorted(signature.core), *sorted(signature.detail)):
                position.setdefault(shape, len(position))
        return cls(
            versions=versions,
            names=tuple(known),
            refused=refused,
            features=np.fromiter(position, dtype=np.uint32),
            core=_Rows.of([signature.core for signature in known.values()], position),
            detail=_Rows.of([signature.detail for signature in known.values()], position),
        )

    @classmethod
    def read(cls, path: Path = INDEX_FILE) -> Index:
        """Read an index; its layout is at the top of this module."""
        with lzma.open(path) as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            return cls(
                versions=header["versions"],
                names=tuple(header["names"]),
                refused=tuple(header["refused"]),
                features=arrays["features"],
                core=_Rows.unpacked(arrays, "core"),
                detail=_Rows.unpacked(arrays, "detail"),
            )

    def write(self, path: Path) -> None:
        """Write it for `read`; the same index gives the same bytes."""
        header = json.dumps({"versions": dict(self.versions), "names": self.names, "refused": self.refused})
        content = io.BytesIO()
        arrays: dict[str, Any] = {"header": np.frombuffer(header.encode(), dtype=np.uint8), "features": self.features}
        np.savez(content, **arrays, **self.core.packed("core"), **self.detail.packed("detail"))
        path.write_bytes(lzma.compress(content.getvalue(), preset=9 | lzma.PRESET_EXTREME))

    def joined(self, other: Index) -> Index:
        """Both indices as one; what `other` says of an architecture takes precedence."""
        signatures: dict[str, Signature | None] = dict.fromkeys((*self.refused, *other.refused))
        for index in (self, other):
            rows = zip(
                index.names, index.core.of_each(index.features), index.detail.of_each(index.features), strict=True
            )
            signatures |= {name: Signature(core=core, detail=detail) for name, core, detail in rows}
        return Index.of(signatures, other.versions)

    def match(self, shapes: Mapping[str, Shape]) -> list[Match]:
        """Every architecture against a file's tensors, the best first; ties in the order of `preference`.

        Args:
            shapes: of the file's tensors by name.
        """
        there = np.isin(self.features, np.fromiter(features_of(shapes), dtype=np.uint32))
        core, detail = self.core.count(there), self.detail.count(there)
        wanted, detailed = self.core.sizes, self.detail.sizes
        found = [
            Match(name, int(c), int(w), int(w - 2 * c), int(d - 2 * s))
            for name, c, w, s, d in zip(self.names, core, wanted, detail, detailed, strict=True)
        ]
        return sorted(found, key=lambda match: (match.score, preference(match.arch)))

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those of the names that it says nothing about."""
        known = {*self.names, *self.refused}
        return [name for name in names if name not in known]


@dataclass(frozen=True)
class _Rows:
    """Ragged rows of positions in the features, one row an architecture."""

    at: NDArray[np.int32]
    ends: NDArray[np.int32]

    @classmethod
    def of(cls, rows: Iterable[frozenset[int]], position: Mapping[int, int]) -> _Rows:
        placed = [sorted(position[value] for value in row) for row in rows]
        ends = np.cumsum([len(row) for row in placed])
        return cls(np.array([place for row in placed for place in row], dtype=np.int32), ends.astype(np.int32))

    @classmethod
    def unpacked(cls, arrays: Mapping[str, NDArray[np.int32]], name: str) -> _Rows:
        return cls(np.cumsum(arrays[f"{name}_steps"], dtype=np.int32), arrays[f"{name}_ends"])

    def packed(self, name: str) -> dict[str, Any]:
        return {f"{name}_steps": np.diff(self.at, prepend=np.int32(0)), f"{name}_ends": self.ends}

    def of_each(self, features: NDArray[np.uint32]) -> list[frozenset[int]]:
        """Every row's features."""
        return [frozenset(row.tolist()) for row in np.split(features[self.at], self.ends[:-1])]

    @property
    def sizes(self) -> NDArray[np.int32]:
        return np.diff(self.ends, prepend=0)

    def count(self, there: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of each row's features are there."""
        sums = np.concatenate([[0], np.cumsum(there[self.at])])
        return np.asarray(np.diff(sums[self.ends], prepend=0), dtype=np.int64)


def describe_all(names: Iterable[str]) -> Index:
    """Build and index these architectures."""
    return Index.of({name: _described(name) for name in names}, installed_versions())


def _described(name: str) -> Signature | None:
    try:
        return describe(plan_of(name))
    except ArchitectureError:
        return None


def preference(arch: str) -> tuple[int, int, str]:
    """The rule by which one of several architectures with the same tensors is chosen; the lowest is.

    timm before torchvision before the package's own, then the shortest name, then the first in the alphabet: the
    plain network rather than a variant with another stride, activation or preprocessing.
    """
    library, _, name = arch.partition("/")
    return LIBRARY_PACKAGES.index(library), len(name), name


@cache
def shipped_index() -> Index:
    """The index that ships with the package."""
    return Index.read()


def installed_versions() -> dict[str, str]:
    """The versions of the libraries whose networks are indexed."""
    versions = used_versions()
    return {name: versions[name] for name in LIBRARY_PACKAGES}
