"""Maps of a few images under every arm of a trial, as a plain record, and the file `maps.h5` that holds them; no torch.

The contract of `maps.h5`, schema 1. A arms, P images, h x w pixels, H x W positions of the layer.

- The root MUST have the attributes `schema` (int), `layer`, `split`, `seed`.
- It MUST hold `arms` (A), `path` (P, bytes of the file system's encoding), `label` (P) i4, `thumbnail` (P,h,w,3) u1,
  `predicted` (A,P) i4, `confidence`, `background_share` (A,P) f4, `contribution`, `derivative`, `grad_cam`
  (A,P,H,W) f4.
- `outline` MAY hold the objects as (P,h,w) bool, all False where an image has no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from modeldoctor.errors import StoreError
from modeldoctor.results.checked import DAMAGED, check_shapes, check_storage
from modeldoctor.results.diagnosis import Bools, Floats, Ints
from modeldoctor.results.hdf5_file import new_hdf5, open_hdf5

_BY_ARM = ("predicted", "confidence", "background_share")
SCHEMA = 1
_TEXT = h5py.string_dtype("utf-8")
_KINDS = {
    "label": "i4", "predicted": "i4", "thumbnail": "u1", "outline": "?", "confidence": "f4", "background_share": "f4",
    "contribution": "f4", "derivative": "f4", "grad_cam": "f4",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrialMaps:
    """Where the evidence for the prediction lies, before and after treatment.

    Attributes:
        layer: where the maps were taken.
        split: of the images; never the test split.
        seed: of the run of each arm that is shown.
        arms: (A,), the original first.
        path, label: (P,), of the images.
        thumbnail: (P,h,w,3) uint8, what the network saw, in its own colours.
        outline: (P,h,w), True on the object; all False without a mask.
        predicted: (A,P), class indices.
        confidence: (A,P), softmax of the prediction.
        contribution, derivative, grad_cam: (A,P,H,W), as in `records.Shown`, of each arm's own prediction.
        background_share: (A,P), share of the contribution outside the object; NaN without a mask.
    """

    layer: str
    split: str
    seed: int
    arms: tuple[str, ...]
    path: NDArray[np.object_]
    label: Ints
    thumbnail: NDArray[np.uint8]
    outline: Bools
    predicted: Ints
    confidence: Floats
    contribution: Floats
    derivative: Floats
    grad_cam: Floats
    background_share: Floats


def write_maps(maps: TrialMaps, path: Path) -> None:
    """Write `maps.h5`, whole or not at all."""
    with new_hdf5(path) as file:
        file.attrs.update(schema=SCHEMA, layer=maps.layer, split=maps.split, seed=maps.seed)
        file.create_dataset("arms", data=np.array(maps.arms, dtype=object), dtype=_TEXT)
        file.create_dataset("path", data=maps.path, dtype=_TEXT)
        for name, kind in _KINDS.items():
            file.create_dataset(name, data=getattr(maps, name).astype(kind), compression="gzip")


def read_maps(path: Path) -> TrialMaps:
    """Read `maps.h5`.

    Raises:
        StoreError: it cannot be read, is of another schema, or damaged.
    """
    try:
        with open_hdf5(path) as file:
            check_storage(file)
            if file.attrs.get("schema") != SCHEMA:
                raise ValueError(f"schema {file.attrs.get('schema')}")
            shape = file["label"].shape
            check_shapes(file, {"path": shape} | {name: (len(file["arms"]), *shape) for name in _BY_ARM})
            thumbnail = file["thumbnail"][()]
            arrays = {name: file[name][()] for name in _KINDS if name in file}
            return TrialMaps(
                layer=str(file.attrs["layer"]),
                split=str(file.attrs["split"]),
                seed=int(file.attrs["seed"]),
                arms=tuple(file["arms"].asstr()[()]),
                path=file["path"][()],
                **{"outline": np.zeros(thumbnail.shape[:3], dtype=np.bool_), **arrays},
            )
    except DAMAGED as error:
        raise StoreError(
            f"no readable maps: {error}",
            where=str(path),
            expected=f"an HDF5 file of schema {SCHEMA}",
            hint="remove it to report without maps",
        ) from error
