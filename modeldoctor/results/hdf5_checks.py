"""Does a diagnosis in HDF5 hold the kinds of values that its contract names? Asked before it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields

import h5py
import numpy as np
from numpy.typing import NDArray

from modeldoctor.results.altered import CHANGES
from modeldoctor.results.checked import check_range, check_shapes
from modeldoctor.results.diagnosis import Kernel, Misdiagnosis
from modeldoctor.results.verdicts import DAMAGES

# Datasets by name, with the types they are written in.
BY_CLASS_AND_CHANNEL = ("correlation", "variance", "signed", "activation", "contribution")
SAMPLE_FIELDS = {"split": "i4", "label": "i4", "predicted": "i4", "confidence": "f4", "used_in_diagnosis": "?"}
KERNEL_FIELDS = tuple(field.name for field in fields(Kernel))
IMAGE_FIELDS = {
    field.name: "i4" if field.type == "int" else "f4"
    for field in fields(Misdiagnosis)
    if field.name not in ("verdict", "kernels")
}
FLOATS, WHOLE, BOOLS = "f", "iu", "b"
_SAMPLES = {
    "label": WHOLE, "predicted": WHOLE, "split": WHOLE, "confidence": FLOATS, "used_in_diagnosis": BOOLS,
    "noise_range": FLOATS, "stability": FLOATS,
}  # fmt: skip
_LAYER = dict.fromkeys(BY_CLASS_AND_CHANNEL, FLOATS) | {"count": WHOLE}
_SHOWN = {"sample": WHOLE, "thumbnail": "u", "derivative": FLOATS, "contribution": FLOATS, "grad_cam": FLOATS}
_PICTURES = {"sample": WHOLE, "thumbnail": "u"}
_ALTERED = {"sample": WHOLE, "change": WHOLE, "predicted": WHOLE, "confidence": FLOATS, "picture": "u"}
_ADVERSARIAL = {"sample": WHOLE, "predicted": WHOLE, "stability": FLOATS, "fallback": FLOATS}
_TEXTS = ("arch", "checkpoint_sha256", "examined", "created", "device", "config", "splits")
_LARGEST_SIDE = 2048
_ROUNDING = 1e-3
"""Of a softmax in single or half precision."""


def check_counts(file: h5py.File) -> None:
    """Whether the arrays agree on N, S, M, D and E, and point at what is there.

    Raises:
        ValueError: the first that does not.
    """
    number, samples, images = len(file["classes"]), file["samples"], file["misdiagnosed"]
    rows, explained = len(samples["path"]), len(images["sample"])
    check_shapes(samples, dict.fromkeys(SAMPLE_FIELDS, (rows,)))
    check_shapes(samples, {"stability": (rows, len(samples["noise_range"]))})
    check_shapes(images, dict.fromkeys((*IMAGE_FIELDS, "verdict"), (explained,)))
    check_shapes(images["kernels"], dict.fromkeys(KERNEL_FIELDS, images["kernels/channel"].shape))
    check_shapes(file, {"broken/reason": file["broken/path"].shape})
    check_range("samples/split", samples["split"][()], len(json.loads(file.attrs["splits"])))
    for group in (samples, images):
        check_range(f"{group.name}/label", group["label"][()], number)
        check_range(f"{group.name}/predicted", group["predicted"][()], number)
    check_range("misdiagnosed/sample", images["sample"][()], rows)
    if "damage_kind" in images:
        check_range("misdiagnosed/damage_kind", images["damage_kind"][()], len(DAMAGES), least=-1)
    check_range("misdiagnosed/resembles", images["resembles"][()], number, least=-1)
    for name in ("shown", "pictures", "altered", "adversarial"):
        if name in file:
            check_range(f"{name}/sample", file[name]["sample"][()], rows)
    if "altered" in file:
        check_range("altered/predicted", file["altered/predicted"][()], number)
        check_range("altered/change", file["altered/change"][()], len(CHANGES))
    for name, layer in file["layers"].items():
        shape = (number, int(layer.attrs["channels"]))
        check_shapes(layer, dict.fromkeys(BY_CLASS_AND_CHANNEL, shape) | {"count": (number,)})
        if not layer["correlation"].dtype.kind == "f":
            raise ValueError(f"layers/{name}/correlation holds {layer['correlation'].dtype}")


def check_values(file: h5py.File) -> None:
    """Kinds of arrays and attributes, and what the attributes say of the arrays.

    Raises:
        ValueError: the first that is something else.
    """
    _check_attributes(file)
    for name in ("classes", "warnings", "samples/path", "misdiagnosed/verdict", "broken/path", "broken/reason"):
        if h5py.check_string_dtype(file[name].dtype) is None:
            raise ValueError(f"{name} holds {file[name].dtype} in place of text")
    check_kinds(file["samples"], _SAMPLES)
    images = file["misdiagnosed"]
    check_kinds(images, {name: FLOATS + WHOLE for name in images if name not in ("verdict", "kernels")})
    for group in (file["samples"], images):
        _check_shares(f"{group.name}/confidence", group["confidence"][()])
    check_kinds(images["kernels"], dict.fromkeys(images["kernels"], FLOATS + WHOLE))
    for name, layer in file["layers"].items():
        check_kinds(layer, _LAYER)
        if (
            not isinstance(layer.attrs["kind"], str)
            or layer.attrs["channels"] < 1
            or not math.isfinite(layer.attrs["depth"])
        ):
            raise ValueError(f"layers/{name} has no kind, channels or depth of a layer")
    if "shown" in file:
        _check_shown(file["shown"])
    if "pictures" in file:
        check_kinds(file["pictures"], _PICTURES)
        check_pictures(file["pictures"], "thumbnail", len(file["pictures/sample"]))
    if "altered" in file:
        _check_altered(file["altered"])
    if "adversarial" in file:
        check_kinds(file["adversarial"], _ADVERSARIAL)


def _check_attributes(file: h5py.File) -> None:
    attributes = file.attrs
    for name in _TEXTS:
        if not isinstance(attributes[name], str):
            raise ValueError(f"{name} is {attributes[name]!r} in place of text")
    splits = json.loads(attributes["splits"])
    if (
        not isinstance(splits, list)
        or not all(isinstance(name, str) for name in splits)
        or len({*splits}) < len(splits)
    ):
        raise ValueError(f"splits are {splits}")
    if splits and attributes["examined"] not in splits:
        raise ValueError(f"examined is {attributes['examined']}, which is no split of it")
    if not 0 <= int(attributes["wrong"]) <= len(file["samples/path"]):
        raise ValueError(f"wrong is {attributes['wrong']}, of {len(file['samples/path'])} images")
    if not math.isfinite(json.loads(attributes["config"])["threshold"]):
        raise ValueError("config's threshold is no number")
    for name in ("versions", "preprocessing", "masked", "unread"):
        held = json.loads(attributes.get(name, "{}"))
        counts = name in ("masked", "unread")
        if not isinstance(held, dict) or (counts and not all(v is None or type(v) is int for v in held.values())):
            raise ValueError(f"{name} is {held}")
    limits = json.loads(file["misdiagnosed"].attrs.get("limits", "null"))
    if limits is not None and not isinstance(limits.get("layer"), str):
        raise ValueError("limits name no layer")


def _check_shares(name: str, values: NDArray[np.floating]) -> None:
    known = values[~np.isnan(values)].astype("f8")
    if known.size and not 0 <= known.min() <= known.max() <= 1 + _ROUNDING:
        raise ValueError(f"{name} holds {known.min():.4g} to {known.max():.4g} in place of shares")


def _check_shown(group: h5py.Group) -> None:
    check_kinds(group, _SHOWN)
    number = len(group["sample"])
    check_pictures(group, "thumbnail", number)
    for name in ("derivative", "contribution", "grad_cam"):
        shape = group[name].shape
        if len(shape) != 3 or shape[0] != number or min(shape[1:]) < 1:
            raise ValueError(f"{group.name}/{name} is of shape {shape}")


def _check_altered(group: h5py.Group) -> None:
    check_kinds(group, _ALTERED)
    number = len(group["sample"])
    check_pictures(group, "picture", number)
    for name in ("change", "predicted", "confidence"):
        if group[name].shape != (number,):
            raise ValueError(f"{group.name}/{name} is of shape {group[name].shape}")


def check_pictures(group: h5py.Group, name: str, number: int) -> None:
    """Whether there are so many pictures.

    Raises:
        ValueError: there are not, or they are none.
    """
    shape = group[name].shape
    if (
        len(shape) != 4
        or shape[0] != number
        or shape[3] != 3
        or not 1 <= min(shape[1:3]) <= max(shape[1:3]) <= _LARGEST_SIDE
    ):
        raise ValueError(f"{group.name}/{name} is of shape {shape}")


def check_kinds(group: h5py.Group, kinds: Mapping[str, str]) -> None:
    """Whether arrays hold values of these kinds, in numpy's letters.

    Raises:
        ValueError: one does not.
    """
    for name, kind in kinds.items():
        if name in group and group[name].dtype.kind not in kind:
            raise ValueError(f"{group.name}/{name} holds {group[name].dtype}")
