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
from modeldoctor.results.checked import DAMAGED, check_range, check_shapes, check_storage
from modeldoctor.results.diagnosis import Bools, Floats, Ints
from modeldoctor.results.hdf5_checks import BOOLS, FLOATS, WHOLE, check_kinds, check_pictures
from modeldoctor.results.hdf5_file import new_hdf5, open_hdf5

_BY_ARM = ("predicted", "confidence", "background_share")
_MAPS = ("contribution", "derivative", "grad_cam")
_FLOAT = ("confidence", "background_share", *_MAPS)
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
        contribution, derivative, grad_cam: (A,P,H,W), as in `pictures.Shown`, of each arm's own prediction.
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


def read_maps(path: Path, classes: int | None = None) -> TrialMaps:
    """Read `maps.h5`.

    Args:
        path: of the file.
        classes: N, where it is known.

    Raises:
        StoreError: it cannot be read, is of another schema, or damaged.
    """
    try:
        with open_hdf5(path) as file:
            check_storage(file)
            if file.attrs.get("schema") != SCHEMA:
                raise ValueError(f"schema {file.attrs.get('schema')}")
            _check(file, classes)
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


def _check(file: h5py.File, classes: int | None) -> None:
    """Whether arrays and attributes are of the contract's kinds and shapes.

    Raises:
        ValueError: the first that is not.
    """
    for name in ("arms", "path"):
        if h5py.check_string_dtype(file[name].dtype) is None or file[name].ndim != 1:
            raise ValueError(f"{name} holds {file[name].dtype} of shape {file[name].shape} in place of texts")
    if not all(isinstance(file.attrs[name], str) for name in ("layer", "split")):
        raise ValueError("its layer or split is no text")
    arms, images = len(file["arms"]), len(file["path"])
    check_kinds(file, dict.fromkeys(("label", "predicted"), WHOLE) | dict.fromkeys(_FLOAT, FLOATS))
    check_kinds(file, {"thumbnail": "u", "outline": BOOLS})
    check_pictures(file, "thumbnail", images)
    cells = file["contribution"].shape[2:]
    if len(cells) != 2 or min(cells) < 1:
        raise ValueError(f"contribution is of shape {file['contribution'].shape}")
    check_shapes(file, {"label": (images,), "outline": file["thumbnail"].shape[:3]})
    check_shapes(file, dict.fromkeys(_BY_ARM, (arms, images)) | dict.fromkeys(_MAPS, (arms, images, *cells)))
    for name in ("label", "predicted"):
        check_range(name, file[name][()], np.iinfo("i4").max if classes is None else classes)
