"""What a checkpoint says about its network beside the weights: each field read from every place where tools put it."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, cast

from modeldoctor.errors import shortened

Scalar = float | int | str | bool


@dataclass(frozen=True, kw_only=True)
class CheckpointMetadata:
    """Facts from the file; None where it is silent."""

    arch: str | None = None
    num_classes: int | None = None
    in_chans: int | None = None
    class_names: tuple[str, ...] | None = None
    """In the order of the network's outputs."""
    names_doubt: str | None = None
    """What the file says of its classes that contradicts these names, or could not be used."""
    input_size: tuple[int, int, int] | None = None
    """Channels, height, width; where the file gives height and width alone, channels are `in_chans` or 3."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    multi_label: bool = False
    """Whether an image may have several classes."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """Constructor arguments that the file records."""
    transformers: Mapping[str, Any] = field(default_factory=dict)
    """The configuration, where the file is of Hugging Face transformers."""
    resize_mode: str | None = None
    """As in `Preprocessing`; squash, where the file says that images were stretched to the input's shape."""
    training: Mapping[str, Scalar] = field(default_factory=dict)
    """Plain training arguments under the names of `TRAINING`."""


def _name(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable() else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**6 else None


def _share(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 < value <= 1 else None


CROP_MODES = {"center": "shortest", "squash": "squash", "border": "pad"}
"""timm's names for how a picture of another shape becomes the input, and ours."""


def _resize_mode(value: object) -> str | None:
    name = CROP_MODES.get(value, value) if isinstance(value, str) else None
    return name if name in CROP_MODES.values() else None


def _floats(value: object) -> tuple[float, ...] | None:
    values = value if isinstance(value, (list, tuple)) else (value,)
    good = 0 < len(values) <= 1000 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values)
    return tuple(float(v) for v in values) if good else None


def _size(value: object) -> tuple[int, ...] | None:
    """An edge, (height, width) or (channels, height, width), as 2 or 3 numbers."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not 0 < len(values) <= 3 or any(_count(v) is None for v in values):
        return None
    return cast(tuple[int, ...], values * 2 if len(values) == 1 else values)


def class_names_of(value: object) -> tuple[str, ...] | None:
    """Names from name → index, also where the names are digits; else as `_class_names`."""
    if not isinstance(value, Mapping) or any(isinstance(index, str) for index in value.values()):
        return _class_names(value)
    by_index = {_index(index): _class_name(name) for name, index in value.items()}
    return _class_names(by_index) if len(by_index) == len(value) and None not in by_index else None


def _class_names(value: object) -> tuple[str, ...] | None:
    """Names from a list, from index → name, or from name → index; the indices must be 0 ... N - 1."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
        if (
            pairs
            and all(_index(name) is not None for _, name in pairs)
            and not all(_index(k) is not None for k, _ in pairs)
        ):
            pairs = [(index, name) for name, index in pairs]
        order = {_index(index): name for index, name in pairs}
        value = [order.get(index) for index in range(len(pairs))]
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if list(value) == list(range(len(value))):  # says nothing
        return None
    if all(_class_name(name) is not None for name in value) and len(set(value)) == len(value):
        value = [_class_name(name) for name in value]  # numbers, as folders have for names
    if not all(isinstance(name, str) for name in value):
        return None
    if all(name == f"LABEL_{index}" for index, name in enumerate(value)):  # how transformers calls unnamed classes
        return None
    return tuple(value)


def _class_name(value: object) -> str | None:
    """A text, or a whole number that stands for one."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _multi_label(value: object) -> bool | None:
    """True where a flag is set or a text names the task or a loss of its own."""
    return True if value is True or (isinstance(value, str) and _MULTI_LABEL.search(value)) else None


def _index(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None
    if callable(numel := getattr(value, "numel", None)) and numel() == 1:  # a tensor
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


_MULTI_LABEL = re.compile(r"multi[-_ ]?label|asymmetric[-_ ]?loss", re.IGNORECASE)
_NAMES_BY_INDEX = (
    "idx_to_class", "id2label", "idx2label", "idx2class", "idx_to_label", "index_to_class", "id_to_class",
)  # fmt: skip
CLASS_NAMES = (
    "class_names", "label_names", "classes", *_NAMES_BY_INDEX, "classnames", "CLASSES", "labels", "names",
)  # fmt: skip
CLASS_NUMBERS = (
    "class_to_idx", "label2id", "class2idx", "class2id", "label_to_idx", "class_to_index", "class_to_id", "label_to_id",
)  # fmt: skip
FIELDS: dict[str, tuple[tuple[str, ...], Callable[[object], Any]]] = {
    "arch": (("arch", "architecture", "model_name", "model", "backbone"), _name),
    "num_classes": (("num_classes", "nb_classes", "n_classes"), _count),
    "in_chans": (("in_chans", "in_channels", "num_channels"), _count),
    "class_names": (CLASS_NAMES, _class_names),
    "input_size": (("input_size", "img_size", "image_size", "val_crop_size"), _size),
    "mean": (("mean",), _floats),
    "std": (("std",), _floats),
    "interpolation": (("interpolation",), _name),
    "crop_pct": (("crop_pct",), _share),
    "resize_mode": (("resize_mode", "crop_mode"), _resize_mode),
}
BUILD: dict[str, tuple[tuple[str, ...], Callable[[object], Any]]] = {
    "global_pool": (("gp", "global_pool"), _name),
    "bn_eps": (("bn_eps",), _share),
}
_RESAMPLING = {"0": "nearest", "1": "lanczos", "2": "bilinear", "3": "bicubic"}  # Pillow's numbers
_NEVER_CROPPED = 384
_TENSORFLOW_EPS = 1e-3
MULTI_LABEL = ("multi_label", "multilabel", "is_multilabel", "problem_type", "task", "loss", "loss_fn", "criterion")
SECTIONS = ("pretrained_cfg", "preprocessing", "args", "hyper_parameters", "config", "meta", "dataset_meta")
TRAINING = {
    "lr": ("lr", "learning_rate"),
    "opt": ("opt", "optimizer"),
    "epochs": ("epochs", "max_epochs"),
    "weight_decay": ("weight_decay", "wd"),
    "momentum": ("momentum",),
    "batch_size": ("batch_size",),
    "sched": ("sched", "lr_scheduler", "scheduler"),
    "warmup_epochs": ("warmup_epochs", "lr_warmup_epochs"),
    "smoothing": ("smoothing", "label_smoothing"),
    "seed": ("seed",),
    "epoch": ("epoch",),
}


def read_metadata(root: object, described: Mapping[str, Any]) -> CheckpointMetadata:
    """Collect what the config or header, the checkpoint's own keys and its sections say; the first place wins."""
    described = _decoded(described)
    images = described.get("preprocessor_config")
    images = images if isinstance(images, Mapping) else {}
    places = [_image_processor(images), *_places(described), *_places(root)]
    found = {name: _first(places, keys, parse) for name, (keys, parse) in FIELDS.items()}
    numbered = _first(places, CLASS_NUMBERS, class_names_of)
    found["names_doubt"] = _names_doubt(places, found["class_names"], numbered)
    found["class_names"] = found["class_names"] or numbered
    size = found["input_size"]
    if size is not None and len(size) == 2:
        found["input_size"] = (found["in_chans"] or 3, *size)
    elif size is not None and found["in_chans"] is None:
        found["in_chans"] = size[0]
    found["transformers"] = {} if "architecture" in described or "model_type" not in described else dict(described)
    found["resize_mode"] = "squash" if _stretches(images) else found["resize_mode"]
    found["multi_label"] = bool(_first(places, MULTI_LABEL, _multi_label))
    found["model_args"] = _build_options(places)
    found["training"] = {
        name: value for name, keys in TRAINING.items() if (value := _first(places, keys, _scalar)) is not None
    }
    assert set(found) == {f.name for f in fields(CheckpointMetadata)}
    return CheckpointMetadata(**found)


def _names_doubt(
    places: list[Mapping[str, Any]], names: tuple[str, ...] | None, numbered: tuple[str, ...] | None
) -> str | None:
    """Two orders of the classes that contradict each other, or, where there is no other, one that has gaps."""
    if names is not None and numbered is not None and names != numbered:
        return (
            f"the checkpoint gives its classes in two orders, {shortened(names)} as a list and {shortened(numbered)} by"
            " index: the list is used; settle it with --class-order"
        )
    return _first(places, (*_NAMES_BY_INDEX, *CLASS_NUMBERS), _gaps) if names is None and numbered is None else None


def _gaps(value: object) -> str | None:
    """What is wrong with the indices of a mapping between names and indices."""
    if not isinstance(value, Mapping) or not value:
        return None
    found = next(
        (found for side in (value.values(), value) if None not in (found := [_index(index) for index in side])), None
    )
    if found is None or set(found) == set(range(len(found))):
        return None
    return (
        f"the checkpoint's {len(found)} class names are not used: their indices are "
        f"{shortened(sorted(map(str, found)))}, not 0 to {len(found) - 1}; give the order with --class-order"
    )


def _build_options(places: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What the network was built with: timm's command line has options of its own for some arguments.

    Dropout and its like (`drop`, `drop_path`, `drop_block`) are left out: they change nothing in evaluation.
    """
    options: dict[str, Any] = {}
    if _first(places, ("bn_tf",), lambda value: value is True or None):
        options["bn_eps"] = _TENSORFLOW_EPS
    for name, (keys, parse) in BUILD.items():
        if (value := _first(places, keys, parse)) is not None:
            options[name] = value
    for keys in (("model_kwargs",), ("model_args",)):
        options |= _first(places, keys, _mapping) or {}
    return options


def _places(root: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(root, Mapping):
        return
    yield root
    for section in SECTIONS:
        value = root.get(section)
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            yield {**_reference_crop(value), **value}
            if isinstance(inner := value.get("dataset_meta"), Mapping):  # as MMPretrain has it, in "meta"
                yield inner


def _reference_crop(args: Mapping[str, Any]) -> dict[str, float]:
    """Torchvision's reference training states the crop as two edges in pixels."""
    crop, resize = _count(args.get("val_crop_size")), _count(args.get("val_resize_size"))
    return {"crop_pct": crop / resize} if crop and resize and crop <= resize else {}


def _image_processor(images: Mapping[str, Any]) -> dict[str, Any]:
    """What a `preprocessor_config.json` of transformers says, in our words."""
    if not images:
        return {}
    scale = images.get("rescale_factor", 1 / 255) if images.get("do_rescale", True) else 1.0
    scale = 255 * scale if isinstance(scale, int | float) and scale else 1.0
    mean, std = (_floats(images.get(name)) for name in ("image_mean", "image_std"))
    if images.get("do_normalize") is False:
        mean, std = (0.0,), (1.0,)
    size, crop = _edges(images.get("size")), _edges(images.get("crop_size"))
    cropped = crop if images.get("do_center_crop") else None
    share = min(1.0, cropped[0] / size[0]) if cropped and size else 1.0
    kind = str(images.get("image_processor_type") or images.get("feature_extractor_type"))
    if "ConvNext" in kind:  # its size is that of the crop
        share = 1.0 if size and size[0] >= _NEVER_CROPPED else _share(images.get("crop_pct")) or 224 / 256
    return {
        "mean": [value / scale for value in mean] if mean else None,
        "std": [value / scale for value in std] if std else None,
        "input_size": cropped or size,
        "crop_pct": share,
        "interpolation": _RESAMPLING.get(str(images.get("resample"))),
    }


def _edges(value: object) -> tuple[int, ...] | None:
    """Height and width from an edge or from transformers' words for them."""
    if isinstance(value, Mapping):
        value = value.get("shortest_edge") or [value.get("height"), value.get("width")]
    return _size(value)


def _stretches(images: Mapping[str, Any]) -> bool:
    size = images.get("size")
    return isinstance(size, Mapping) and "height" in size and not images.get("do_center_crop")


def _decoded(described: Mapping[str, Any]) -> dict[str, Any]:
    """Safetensors headers hold strings only; values that are JSON are taken as what they say."""
    return {key: _from_json(value) if isinstance(value, str) else value for key, value in described.items()}


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _first(places: list[Mapping[str, Any]], keys: tuple[str, ...], parse: Callable[[object], Any]) -> Any:
    values = (parse(place[key]) for place in places for key in keys if key in place)
    return next((value for value in values if value is not None), None)


def _mapping(value: object) -> dict[str, Any] | None:
    value = vars(value) if isinstance(value, argparse.Namespace) else value
    return {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else None


def _scalar(value: object) -> Scalar | None:
    return value if isinstance(value, (int, float, str)) else None
