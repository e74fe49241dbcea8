"""A diagnosis in figures: what the terminal shows, `diagnosis.json` holds and CI jobs read. Plain JSON values.

N classes, K channels.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeldoctor.errors import printable
from modeldoctor.results.diagnosis import Bools, Diagnosis, Finding, Ints, LayerDiagnosis, Misdiagnosis, Verdict
from modeldoctor.results.verdicts import most_telling
from modeldoctor.runtime.files import written_aside

SUMMARY_SCHEMA = 1
TELLING = 10


def summarise(diagnosis: Diagnosis) -> dict[str, Any]:
    """The figures of a diagnosis as JSON values; what is undefined is None.

    Keys:
        schema, arch, checkpoint_sha256, created, seed, config, versions, device, warnings: how it was made.
        preprocessing, assumed: how images became the input, and what of that or of the construction the checkpoint did
            not say (None in older files).
        examined: the split of the following figures; images, wrong, accuracy.
        classes: name, images, accuracy, wrong predictions by verdict, and `doubtful_labels`, the estimated share of
            images with a doubtful label, for each class in the network's order.
        worst_classes: names, lowest accuracy first.
        splits: images read, images left unread, images with a usable mask, and accuracy of each split; None where it
            is not known, or no masks were given.
        layers: for each its place and shape, `correlated_share` (mean over classes of the share of kernels with
            Â >= v), `sharing` (mean Jaccard index of two classes' correlated kernels), `classes_without_samples`,
            `draws` (J of Eq. 4) and `relative_standard_error` (of the class correlations, median over the correlated
            kernels).
        explained, explaining_s, verdicts: how many wrong images were explained, the seconds that took, and the counts
            of each verdict.
        findings: what was found of the whole network and its data and what to do, the first step first: name,
            sentence, action, command, wrong (images it accounts for), examples (paths).
        telling: the wrong images with the clearest verdicts, of each verdict some: those that there are maps of, and
            ten at least.
        limits: what right predictions show, against which verdicts are reached.
        broken: unreadable images.
    """
    samples, rows = diagnosis.samples, diagnosis.rows(diagnosis.examined)
    classes = _classes(diagnosis, rows)
    known = [row for row in classes if row["images"]]
    limits = diagnosis.limits
    shown = set() if diagnosis.shown is None else {*diagnosis.shown.sample.tolist()}
    telling = most_telling(diagnosis.misdiagnosed, max(TELLING, len(shown)))
    content = {
        "schema": SUMMARY_SCHEMA,
        "arch": diagnosis.arch,
        "checkpoint_sha256": diagnosis.checkpoint_sha256,
        "created": diagnosis.created,
        "seed": diagnosis.seed,
        "config": diagnosis.config.model_dump(mode="json"),
        "preprocessing": diagnosis.preprocessing,
        "assumed": None if diagnosis.assumed is None else list(diagnosis.assumed),
        "versions": diagnosis.versions,
        "device": diagnosis.device,
        "warnings": list(diagnosis.warnings),
        "examined": diagnosis.examined,
        "images": int(rows.sum()),
        "wrong": diagnosis.wrong_count,
        "accuracy": diagnosis.accuracy,
        "splits": {
            split: {
                "images": int(there.sum()),
                "unread": diagnosis.unread.get(split, 0),
                "masks": diagnosis.masked.get(split),
                "accuracy": math.nan if split in diagnosis.unread else _accuracy(diagnosis, there),
            }
            for split in samples.splits
            for there in [diagnosis.rows(split)]
        },
        "classes": classes,
        "worst_classes": [row["name"] for row in sorted(known, key=lambda row: float(row["accuracy"]))],
        "layers": [_layer(layer, diagnosis.config.threshold) for layer in diagnosis.layers.values()],
        "explained": len(diagnosis.misdiagnosed),
        "explaining_s": diagnosis.explaining_s,
        "verdicts": _verdicts(diagnosis.misdiagnosed),
        "findings": [_finding(diagnosis, finding) for finding in diagnosis.findings],
        "telling": [image_record(diagnosis, image) for image in telling],
        "limits": None if limits is None else vars(limits),
        "broken": [{"path": as_text(path), "reason": reason} for path, reason in diagnosis.broken],
    }
    return plain(content)  # type: ignore[no-any-return]


def class_sharing(correlated: Bools) -> float:
    """Mean Jaccard index of the correlated kernels of two classes; NaN with fewer than two classes.

    Pairs without any correlated kernel have no index and are left out.

    Args:
        correlated: (N,K), classes with samples only.
    """
    sets = correlated.astype(np.float64)
    common = sets @ sets.T
    sizes = sets.sum(axis=1)
    union = sizes[:, None] + sizes[None, :] - common
    pairs = np.triu_indices(len(sets), 1)
    known = union[pairs] > 0
    return float(np.mean(common[pairs][known] / union[pairs][known])) if known.any() else math.nan


def _accuracy(diagnosis: Diagnosis, rows: Bools) -> float:
    samples = diagnosis.samples
    return float(np.mean(samples.label[rows] == samples.predicted[rows])) if rows.any() else math.nan


def _classes(diagnosis: Diagnosis, rows: Bools) -> list[dict[str, Any]]:
    verdicts: dict[int, list[Misdiagnosis]] = {}
    for image in diagnosis.misdiagnosed:
        verdicts.setdefault(image.label, []).append(image)
    images, right = images_by_class(diagnosis, rows)
    return [
        {
            "name": name,
            "images": int(images[n]),
            "accuracy": float(right[n] / images[n]) if images[n] else math.nan,
            "verdicts": _verdicts(tuple(verdicts.get(n, ()))),
            "doubtful_labels": _doubtful(verdicts.get(n, ()), int(images[n] - right[n]), int(images[n])),
        }
        for n, name in enumerate(diagnosis.classes)
    ]


def images_by_class(diagnosis: Diagnosis, rows: Bools) -> tuple[Ints, Ints]:
    """(N,) and (N,), how many of these images each class has, and how many of them are right."""
    samples, number = diagnosis.samples, len(diagnosis.classes)
    right = rows & (samples.label == samples.predicted)
    return np.bincount(samples.label[rows], minlength=number), np.bincount(samples.label[right], minlength=number)


def confusion(diagnosis: Diagnosis, rows: Bools) -> NDArray[np.int64]:
    """(N,N), how many of these images of each class (rows) are predicted as which (columns)."""
    return count_pairs(diagnosis.samples.label[rows], diagnosis.samples.predicted[rows], len(diagnosis.classes))


def count_pairs(label: Ints, predicted: Ints, classes: int) -> NDArray[np.int64]:
    """(N,N), how many images of each class (rows) are predicted as which (columns)."""
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (label, predicted), 1)
    return counts


def _doubtful(explained: Sequence[Misdiagnosis], wrong: int, images: int) -> float:
    """Share of a class's images whose label is doubtful, from those of its wrong images that were explained."""
    if not images or (wrong and not explained):
        return math.nan
    doubtful = sum(image.verdict is Verdict.MISLABELLED for image in explained)
    return doubtful / max(len(explained), 1) * wrong / images


def _layer(layer: LayerDiagnosis, threshold: float) -> dict[str, Any]:
    present = layer.count > 0
    correlated = layer.correlated(threshold)[present]
    return {
        "name": layer.name,
        "kind": layer.kind,
        "channels": layer.channels,
        "height": layer.height,
        "width": layer.width,
        "depth": layer.depth,
        "correlated_share": float(correlated.mean()) if len(correlated) else math.nan,
        "sharing": class_sharing(correlated),
        "classes_without_samples": int((~present).sum()),
        "draws": layer.draws if layer.draws >= 0 else None,
        "relative_standard_error": _relative_error(layer, correlated, present),
    }


def _relative_error(layer: LayerDiagnosis, correlated: Bools, present: Bools) -> float:
    """Median of standard error / class correlation over the correlated kernels; NaN without two samples of a class."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = (layer.standard_error[present] / np.abs(layer.correlation[present]))[correlated]
    known = ratios[np.isfinite(ratios)]
    return float(np.median(known)) if len(known) else math.nan


def _verdicts(images: tuple[Misdiagnosis, ...]) -> dict[str, int]:
    counts = Counter(image.verdict for image in images)
    return {str(verdict): counts[verdict] for verdict in Verdict}


def image_record(diagnosis: Diagnosis, image: Misdiagnosis) -> dict[str, Any]:
    """All that is known of one wrong image, by name; classes and paths as text."""
    names = diagnosis.classes
    return {
        "path": as_text(diagnosis.samples.path[image.sample]),
        "label": names[image.label],
        "predicted": names[image.predicted],
        "confidence": image.confidence,
        "verdict": str(image.verdict),
        "strength": image.strength,
        "stability": image.stability,
        "fallback": image.fallback,
        "background_share": image.background_share,
        "without_object": image.without_object,
        "stays_without_object": image.stays_without_object,
        "other_backgrounds": image.other_backgrounds,
        "misleads_others": image.misleads_others,
        "own_backgrounds": image.own_backgrounds,
        "foreign_share": image.foreign_share,
        "resembles": names[image.resembles] if image.resembles >= 0 else None,
        "resemblance": image.resemblance,
        "damage": image.damage,
        "damage_kind": image.damage_kind,
        "unfamiliarity": image.unfamiliarity,
        "pull_to_label": image.pull_to_label,
        "label_doubt": image.label_doubt,
        "faulty_kernel": image.faulty_kernel,
        "without_kernel": image.without_kernel,
        "kernels": [asdict(kernel) for kernel in image.kernels],
    }


def _finding(diagnosis: Diagnosis, finding: Finding) -> dict[str, Any]:
    examples = [as_text(diagnosis.samples.path[sample]) for sample in finding.samples]
    fields = {name: value for name, value in asdict(finding).items() if name != "samples"}
    return fields | {"examples": examples}


def as_text(path: bytes | str) -> str:
    """A path that any JSON reader and terminal can show."""
    stored = path if isinstance(path, bytes) else path.encode(errors="surrogateescape")
    return printable(stored.decode(errors="replace"))


def plain(value: Any) -> Any:
    """None for what is not finite, and text that is UTF-8: a class folder's name may hold stray bytes."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, str):
        return as_text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_summary(summary: dict[str, Any], beside: Path) -> Path:
    """Write the summary as JSON beside a diagnosis, with its name and the ending `.json`."""
    path = beside.with_suffix(".json")
    with written_aside(path) as aside:
        aside.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
