"""Diagnosis to and from HDF5.

The contract of `diagnosis.h5`, schema 1. N classes, K channels of a layer, S samples, M explained images, D noise
ranges, E kernels kept an image. A reader MUST ignore what it does not know; a writer MUST NOT change a meaning without
a new schema number.

- The root MUST have the attributes `schema` (int), `modeldoctor`, `created` (UTC, ISO 8601), `arch`,
  `checkpoint_sha256`, `num_classes`, `seed`, `config` (JSON), `torch`, `device`, `examined` (split), `wrong` (int),
  `splits` (JSON list), `versions` (JSON). It MAY have `command`: the command line that makes it again,
  `preprocessing` (JSON): how images became the network's input, and
  `masked` (JSON): splits for which masks were given, and how many of their images have one that can be used;
  `explaining_s` (float): what explaining took;
  `unread` (JSON): splits that were not read to the end, and how many images that left unread (null: not known).
- `/classes` MUST hold the N names in the network's order. `/warnings` MUST hold what the user was warned of. `/assumed`
  MAY hold what the checkpoint did not say of preprocessing and construction, one string each.
- `/layers/<name>` MUST hold `correlation`, `variance`, `signed`, `activation`, `contribution` (N,K) f4 and `count` (N)
  i4; NaN where a class has no samples. Their dimensions MUST have the scales `class` (names) and `channel` attached.
  Its attributes MUST be `kind`, `channels`, `height`, `width`, `depth`, `macs_after`, `delta`, `activation_std`, and
  `order` (place in execution order). It MAY have the attributes `draws` (J), `variance_between_draws` and
  `variance_between_images`, and the dataset `standard_error` (N,K) f4, √(variance / count).
- `/samples` MUST hold `path` (bytes of the file system's encoding), `split` i4 (index into `splits`), `label`,
  `predicted` i4, `confidence` f4, `used_in_diagnosis` bool, (S) each, `stability` (S,D) f4, NaN where not measured, and
  `noise_range` (D) f4.
- `/misdiagnosed` MUST hold `sample`, `label`, `predicted`, `resembles` i4 (-1: none), `confidence`, `strength`,
  `stability`, `fallback`, `background_share`, `foreign_share`, `resemblance` f4, `verdict` (string), (M) each, and
  `/misdiagnosed/kernels` the fields of `diagnosis.Kernel` as (M,E), channel -1 where there are fewer. It MAY have the
  attribute `limits` (JSON of `Limits`), and the further fields of `Misdiagnosis`, f4 or i4 (NaN or -1: not measured).
- `/findings` MAY hold what was found of the whole network and its data: JSON of `Finding`, one string each.
- `/broken` MUST hold `path` and `reason` of unreadable images.
- `/shown` MAY hold P wrong images with maps: `sample` (P) i4, `thumbnail` (P,h,w,3) u1, `derivative`, `contribution`,
  `grad_cam` (P,H,W) f4; then it MUST have the attribute `layer`.
- `/pictures` MAY hold Q wrong images of every class: `sample` (Q) i4, `thumbnail` (Q,h,w,3) u1.
- `/altered` MAY hold R pictures of shown images after an intervention: `sample`, `change` (place in `altered.CHANGES`),
  `predicted` (R) i4, `confidence` (R) f4, `picture` (R,h,w,3) u1.
- `/adversarial` MAY hold A images that FGSM turned: `sample`, `predicted` (A) i4, `stability`, `fallback` (A,D) f4;
  then it MUST have the attributes `epsilon` (for pixels in [0, 1]) and `attacked` (int).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.errors import StoreError, storable
from modeldoctor.results.altered import Altered
from modeldoctor.results.checked import DAMAGED, check_attributes, check_range, check_storage
from modeldoctor.results.diagnosis import (
    Adversarial,
    Diagnosis,
    Finding,
    Kernel,
    LayerDiagnosis,
    Limits,
    Misdiagnosis,
    Samples,
    Verdict,
)
from modeldoctor.results.hdf5_checks import (
    BY_CLASS_AND_CHANNEL,
    IMAGE_FIELDS,
    KERNEL_FIELDS,
    SAMPLE_FIELDS,
    check_counts,
    check_values,
)
from modeldoctor.results.hdf5_file import new_hdf5, open_hdf5
from modeldoctor.results.pictures import Pictures, Shown

SCHEMA = 1
_TEXT = h5py.string_dtype("utf-8")
_LAYER_ATTRIBUTES = ("kind", "channels", "height", "width", "depth", "macs_after", "delta", "activation_std")
_DRAWS_ATTRIBUTES = ("draws", "variance_between_draws", "variance_between_images")
_SHOWN_FIELDS = {"sample": "i4", "thumbnail": "u1", "derivative": "f4", "contribution": "f4", "grad_cam": "f4"}
_PICTURES_FIELDS = {"sample": "i4", "thumbnail": "u1"}
_ALTERED_FIELDS = {"sample": "i4", "change": "i4", "predicted": "i4", "confidence": "f4", "picture": "u1"}
_ADVERSARIAL_FIELDS = {"sample": "i4", "predicted": "i4", "stability": "f4", "fallback": "f4"}

# What older files do not have.
_OPTIONAL = tuple(field.name for field in fields(Misdiagnosis) if field.default is not MISSING)


def write_diagnosis(diagnosis: Diagnosis, path: str | Path) -> None:
    """Write a diagnosis, whole or not at all; an old file is replaced only by a whole new one.

    >>> from modeldoctor import read_diagnosis, write_diagnosis
    >>> write_diagnosis(read_diagnosis("diagnosis.h5"), "copy.h5")

    Raises:
        UsageError: the folder cannot be written to.
    """
    with new_hdf5(Path(path)) as file:
        file.attrs.update(
            schema=SCHEMA,
            modeldoctor=diagnosis.versions.get("modeldoctor", ""),
            torch=diagnosis.versions.get("torch", ""),
            versions=json.dumps(diagnosis.versions),
            created=diagnosis.created,
            arch=diagnosis.arch,
            checkpoint_sha256=diagnosis.checkpoint_sha256,
            num_classes=len(diagnosis.classes),
            seed=diagnosis.seed,
            config=json.dumps(diagnosis.config.model_dump(mode="json")),
            device=diagnosis.device,
            examined=diagnosis.examined,
            wrong=diagnosis.wrong_count,
            splits=json.dumps(diagnosis.samples.splits),
            command=storable(diagnosis.command),
            preprocessing=json.dumps(diagnosis.preprocessing),
            explaining_s=diagnosis.explaining_s,
        )
        for name in ("unread", "masked"):
            if held := getattr(diagnosis, name):
                file.attrs[name] = json.dumps(dict(held))
        _write_text(file, "classes", diagnosis.classes)
        _write_text(file, "warnings", diagnosis.warnings)
        if diagnosis.assumed is not None:
            _write_text(file, "assumed", diagnosis.assumed)
        _write_text(file, "findings", [json.dumps(asdict(finding)) for finding in diagnosis.findings])
        layers = file.create_group("layers")
        for order, layer in enumerate(diagnosis.layers.values()):
            _write_layer(layers.create_group(layer.name), layer, diagnosis.classes, order)
        _write_samples(file.create_group("samples"), diagnosis.samples)
        _write_misdiagnosed(file.create_group("misdiagnosed"), diagnosis)
        if diagnosis.shown is not None:
            _write_record(file.create_group("shown"), diagnosis.shown, _SHOWN_FIELDS)
        if diagnosis.pictures is not None:
            _write_record(file.create_group("pictures"), diagnosis.pictures, _PICTURES_FIELDS)
        if diagnosis.altered is not None:
            _write_record(file.create_group("altered"), diagnosis.altered, _ALTERED_FIELDS)
        if diagnosis.adversarial is not None:
            _write_record(file.create_group("adversarial"), diagnosis.adversarial, _ADVERSARIAL_FIELDS)
        _write_text(file, "broken/path", [path.encode(errors="surrogateescape") for path, _ in diagnosis.broken])
        _write_text(file, "broken/reason", [reason for _, reason in diagnosis.broken])


def read_diagnosis(path: str | Path) -> Diagnosis:
    """Read a diagnosis.

    >>> from modeldoctor import read_diagnosis
    >>> diagnosis = read_diagnosis("diagnosis.h5")
    >>> diagnosis.examined, diagnosis.classes
    ('val', ('amber', 'birch', 'coral', 'denim'))

    Raises:
        StoreError: there is no such file, it is no diagnosis, is damaged, or has another schema.
    """
    with open_diagnosis(path) as diagnosis:
        return replace(diagnosis, layers=dict(diagnosis.layers))


@contextmanager
def open_diagnosis(path: str | Path) -> Iterator[Diagnosis]:
    """Open a diagnosis of any size: while this lasts, each of its `layers` is read when it is asked for.

    Raises:
        StoreError: as `read_diagnosis`; for a damaged layer, when it is read.
    """
    with ExitStack() as stack:
        with _readable(path):
            file = stack.enter_context(open_hdf5(Path(path)))
            check_attributes(file)
            schema = file.attrs.get("schema")
            if schema != SCHEMA:
                raise StoreError(
                    f"schema {schema}" if schema is not None else "an HDF5 file without a schema number",
                    where=str(path),
                    expected=f"a diagnosis of schema {SCHEMA}",
                    hint="make it anew with `modeldoctor diagnose`, or use the version of modeldoctor that wrote it",
                )
            check_storage(file)
            check_counts(file)
            check_values(file)
            found = _read(file, path)
        yield found


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        gone = not Path(path).exists()
        raise StoreError(
            "there is no such file" if gone else f"no readable diagnosis: {error}",
            where=str(path),
            expected=f"an HDF5 file of schema {SCHEMA}",
            hint="make it with `modeldoctor diagnose`",
        ) from error


class _Layers(Mapping[str, LayerDiagnosis]):
    """The layers of an open file, in execution order, each read when it is asked for."""

    def __init__(self, group: h5py.Group, path: str | Path):
        self._group, self._path = group, path
        order = {name: int(layer.attrs["order"]) for name, layer in group.items()}
        self._names = sorted(order, key=order.__getitem__)

    def __getitem__(self, name: str) -> LayerDiagnosis:
        if name not in self._names:
            raise KeyError(name)
        with _readable(self._path):
            return _read_layer(name, self._group[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _write_text(group: h5py.Group, name: str, texts: Any) -> h5py.Dataset:
    """Bytes as they are; of strings, what HDF5's UTF-8 cannot hold (stray bytes of file names, NUL) is escaped."""
    held = [text if isinstance(text, bytes) else storable(text).encode() for text in texts]
    return group.create_dataset(name, data=np.array(held, dtype=object), dtype=_TEXT)


def _write_layer(group: h5py.Group, layer: LayerDiagnosis, classes: tuple[str, ...], order: int) -> None:
    known = () if layer.draws < 0 else _DRAWS_ATTRIBUTES
    attributes = {name: getattr(layer, name) for name in (*_LAYER_ATTRIBUTES, *known)}
    group.attrs.update(attributes | {"order": order})
    scales = {
        "class": _write_text(group, "class", classes),
        "channel": group.create_dataset("channel", data=np.arange(layer.channels)),
    }
    for name, scale in scales.items():
        scale.make_scale(name)
    for name in (*BY_CLASS_AND_CHANNEL, "standard_error"):
        dataset = group.create_dataset(name, data=getattr(layer, name).astype("f4"))
        for axis, scale in enumerate(scales.values()):
            dataset.dims[axis].attach_scale(scale)
    group.create_dataset("count", data=layer.count.astype("i4")).dims[0].attach_scale(scales["class"])


def _write_samples(group: h5py.Group, samples: Samples) -> None:
    _write_text(group, "path", samples.path.tolist())
    for name, kind in SAMPLE_FIELDS.items():
        group.create_dataset(name, data=getattr(samples, name).astype(kind))
    ranges = group.create_dataset("noise_range", data=samples.noise_ranges.astype("f4"))
    ranges.make_scale("noise_range")
    shape = samples.stability.shape
    stability = group.create_dataset(
        "stability", data=samples.stability.astype("f4"), compression="gzip" if shape[0] else None
    )
    stability.dims[1].attach_scale(ranges)


def _write_misdiagnosed(group: h5py.Group, diagnosis: Diagnosis) -> None:
    images = diagnosis.misdiagnosed
    if diagnosis.limits is not None:
        group.attrs["limits"] = json.dumps(asdict(diagnosis.limits))
    for name, kind in IMAGE_FIELDS.items():
        group.create_dataset(name, data=np.array([getattr(image, name) for image in images], dtype=kind))
    _write_text(group, "verdict", [str(image.verdict) for image in images])
    most = max((len(image.kernels) for image in images), default=0)
    kernels = group.create_group("kernels")
    for name in KERNEL_FIELDS:
        channel = name == "channel"
        table = np.full((len(images), most), -1 if channel else np.nan, dtype="i4" if channel else "f4")
        for row, image in enumerate(images):
            table[row, : len(image.kernels)] = [getattr(kernel, name) for kernel in image.kernels]
        kernels.create_dataset(name, data=table)


def _write_record(
    group: h5py.Group, record: Shown | Pictures | Altered | Adversarial, kinds: Mapping[str, str]
) -> None:
    """Fields of a stated kind as arrays, the others as attributes."""
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in kinds:
            packed = "gzip" if value.ndim > 3 else None  # pictures
            group.create_dataset(field.name, data=value.astype(kinds[field.name]), compression=packed)
        else:
            group.attrs[field.name] = value


def _read_record(group: h5py.Group, kinds: Mapping[str, str]) -> dict[str, Any]:
    return {name: group[name][()] for name in kinds}


def _read(file: h5py.File, path: str | Path) -> Diagnosis:
    attributes, misdiagnosed = file.attrs, file["misdiagnosed"]
    limits = misdiagnosed.attrs.get("limits")
    return Diagnosis(
        arch=str(attributes["arch"]),
        checkpoint_sha256=str(attributes["checkpoint_sha256"]),
        classes=tuple(file["classes"].asstr()[()]),
        layers=_Layers(file["layers"], path),
        samples=_read_samples(file["samples"], tuple(json.loads(attributes["splits"]))),
        misdiagnosed=_read_misdiagnosed(misdiagnosed),
        limits=Limits(**json.loads(limits)) if limits is not None else None,
        wrong_count=int(attributes["wrong"]),
        examined=str(attributes["examined"]),
        broken=tuple(
            (path.decode(errors="surrogateescape"), reason)
            for path, reason in zip(file["broken/path"][()], file["broken/reason"].asstr()[()], strict=True)
        ),
        warnings=tuple(file["warnings"].asstr()[()]),
        seed=int(attributes["seed"]),
        config=DiagnoseConfig.stored(attributes["config"]),
        created=str(attributes["created"]),
        device=str(attributes["device"]),
        versions=json.loads(attributes["versions"]),
        command=str(attributes.get("command", "")),
        preprocessing=dict(json.loads(attributes.get("preprocessing", "{}"))),
        assumed=tuple(file["assumed"].asstr()[()]) if "assumed" in file else None,
        unread=json.loads(attributes.get("unread", "{}")),
        masked=json.loads(attributes.get("masked", "{}")),
        findings=_read_findings(file),
        explaining_s=float(attributes.get("explaining_s", "nan")),
        shown=_read_shown(file["shown"]) if "shown" in file else None,
        pictures=Pictures(**_read_record(file["pictures"], _PICTURES_FIELDS)) if "pictures" in file else None,
        altered=Altered(**_read_record(file["altered"], _ALTERED_FIELDS)) if "altered" in file else None,
        adversarial=_read_adversarial(file["adversarial"]) if "adversarial" in file else None,
    )


def _read_shown(group: h5py.Group) -> Shown:
    return Shown(layer=str(group.attrs["layer"]), **_read_record(group, _SHOWN_FIELDS))


def _read_adversarial(group: h5py.Group) -> Adversarial:
    attacked, epsilon = int(group.attrs["attacked"]), float(group.attrs["epsilon"])
    return Adversarial(attacked=attacked, epsilon=epsilon, **_read_record(group, _ADVERSARIAL_FIELDS))


def _read_findings(file: h5py.File) -> tuple[Finding, ...]:
    if "findings" not in file:
        return ()
    found = [json.loads(text) for text in file["findings"].asstr()[()]]
    for finding in found:
        check_range("findings", finding["samples"], len(file["samples/path"]))
    return tuple(Finding(**{**finding, "samples": tuple(finding["samples"])}) for finding in found)


def _read_layer(name: str, group: h5py.Group) -> LayerDiagnosis:
    attributes = {key: group.attrs[key] for key in _LAYER_ATTRIBUTES}
    attributes |= {key: group.attrs[key] for key in _DRAWS_ATTRIBUTES if key in group.attrs}
    arrays = {key: group[key][()] for key in (*BY_CLASS_AND_CHANNEL, "count")}
    return LayerDiagnosis(
        name=name,
        **{key: value.item() if hasattr(value, "item") else value for key, value in attributes.items()},
        **arrays,
    )


def _read_samples(group: h5py.Group, splits: tuple[str, ...]) -> Samples:
    names = ("path", "stability", *SAMPLE_FIELDS)
    return Samples(splits=splits, noise_ranges=group["noise_range"][()], **{name: group[name][()] for name in names})


def _read_misdiagnosed(group: h5py.Group) -> tuple[Misdiagnosis, ...]:
    columns = {name: group[name][()].tolist() for name in IMAGE_FIELDS if name in group or name not in _OPTIONAL}
    verdicts = group["verdict"].asstr()[()]
    kernels = {name: group["kernels"][name][()].tolist() for name in KERNEL_FIELDS}
    return tuple(
        Misdiagnosis(
            verdict=Verdict(verdict),
            kernels=tuple(
                Kernel(**dict(zip(KERNEL_FIELDS, values, strict=True)))
                for values in zip(*(kernels[name][row] for name in KERNEL_FIELDS), strict=True)
                if values[0] >= 0
            ),
            **{name: column[row] for name, column in columns.items()},
        )
        for row, verdict in enumerate(verdicts)
    )
