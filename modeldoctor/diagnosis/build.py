"""From the state of a run to the records of a diagnosis, and the choices between its passes.

Shapes: S samples, N classes, K channels, D noise ranges.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data import ImageSet, accuracy_warning, choose_confident
from modeldoctor.data.identity import Stamps, altered_since
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.compare import Compared
from modeldoctor.diagnosis.explain import Evidence, Probe, find_limits, judge
from modeldoctor.diagnosis.findings import find_findings
from modeldoctor.diagnosis.passes import NO_ANSWER, Run, delta_of, vanished
from modeldoctor.diagnosis.samples import PILOT, wanted
from modeldoctor.diagnosis.scan import first_confident
from modeldoctor.errors import ModelDoctorWarning, classes_have, counted, shortened
from modeldoctor.graph import Layer, select_layers
from modeldoctor.method.correlation import compute_state
from modeldoctor.results.diagnosis import Diagnosis, LayerDiagnosis, Samples
from modeldoctor.results.summary import count_pairs
from modeldoctor.runtime.versions import used_versions
from modeldoctor.zoo import Classifier

_REFERENCES = 200


def warn_of_predictions(run: Run, images: AnySet, classes: tuple[str, ...]) -> None:
    """Warn of an accuracy near chance, with its likely cause, and of images that count nowhere."""
    predictions = run.state.predictions[images.split]
    _, label, predicted, _ = predictions.table()
    if text := accuracy_warning(count_pairs(label, predicted, run.classes), classes):
        warnings.warn(f"{images.split}: {text}", ModelDoctorWarning, stacklevel=3)
    gone = {*vanished(predictions, images)}
    broken = [pair for pair in predictions.broken if pair not in gone]
    unanswered = [path for path, reason in broken if reason == NO_ANSWER]
    unread = [f"{path} ({reason})" for path, reason in broken if reason != NO_ANSWER]
    if unread:
        warnings.warn(
            f"{images.split}: {counted(len(unread), 'image')} cannot be read and "
            f"{'is' if len(unread) == 1 else 'are'} left out: {shortened(unread, 3)}",
            ModelDoctorWarning,
            stacklevel=3,
        )
    if unanswered:
        warnings.warn(
            f"{images.split}: the network's answers to {counted(len(unanswered), 'image')} are no finite numbers; they "
            f"are left out of every figure: {shortened(unanswered, 3)}",
            ModelDoctorWarning,
            stacklevel=3,
        )


def warn_of_vanished(run: Run, read: Sequence[AnySet]) -> None:
    """Warn of images that could be read in the first pass and in a later one not any more."""
    for images in read:
        if gone := vanished(run.state.predictions[images.split], images):
            path, reason = gone[0]
            warnings.warn(
                f"{images.split}: {counted(len(gone), 'image')} could be read at first and later not any more; the "
                f"figures are without them. The first: {path} ({reason})",
                ModelDoctorWarning,
                stacklevel=3,
            )


def warn_of_altered(run: Run, read: Sequence[tuple[AnySet, Stamps]]) -> None:
    """Warn of images that were replaced or written to while they were read: the figures mix old and new.

    Args:
        read: the splits, with their stamps of when the run began.
    """
    for images, before in read:
        indices = run.state.predictions[images.split].table()[0].tolist()
        unread = {path for path, _ in run.state.predictions[images.split].broken}  # which are named as such
        if altered := [path for path in altered_since(images, before, indices) if path not in unread]:
            warnings.warn(
                f"{images.split}: {counted(len(altered), 'image')}, or their masks, changed while this run read them, "
                f"so that its figures may mix old and new: {shortened(altered)}; run it again",
                ModelDoctorWarning,
                stacklevel=3,
            )


def choose_pilot(run: Run, images: AnySet) -> NDArray[np.int64]:
    """The images by which T is planned, ascending."""
    scanned = images.split in run.state.scanned
    rows = first_confident(run, images) if scanned else _confident(run, images, PILOT, run.config.seed)
    return np.sort(np.concatenate([row[:PILOT] for row in rows]))


def choose_samples(run: Run, images: AnySet, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """T right, confident images per class, ascending; warns of classes that have fewer."""
    config, most = run.config, wanted(run).tolist()
    scanned = images.split in run.state.scanned
    rows = first_confident(run, images) if scanned else _confident(run, images, most, config.seed)
    few = [f"{classes[n]} ({len(row)})" for n, row in enumerate(rows) if len(row) < most[n]]
    if few:
        number = counted(most[0], "image") if len(set(most)) == 1 else "the wanted number of images"
        warnings.warn(
            f"{classes_have(len(few), run.classes)} fewer than {number} predicted right with confidence >= "
            f"{config.min_confidence}: {shortened(few)}; what there is was used",
            ModelDoctorWarning,
            stacklevel=3,
        )
    return np.sort(np.concatenate(rows))


def choose_to_examine(run: Run, images: AnySet) -> NDArray[np.int64]:
    """The wrong images to explain and the right, confident ones that they are compared with, ascending."""
    index, label, predicted, _ = run.state.predictions[images.split].table()
    wrong, most = index[label != predicted], run.config.max_explained
    if len(wrong) > most:
        drawn = np.random.default_rng([run.config.seed, 1]).permutation(len(wrong))
        wrong = wrong[every_class_first(label[label != predicted][drawn], drawn)[:most]]
    # Another seed than the class correlation's: references should not be its own samples where there is a choice.
    references = _confident(run, images, max(1, _REFERENCES // run.classes), run.config.seed + 1)
    return np.sort(np.concatenate([wrong, *references]))


def every_class_first(labels: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Images in the order that they were drawn in, but those that are the first of their class before all others.

    Args:
        labels: of the images, in the order that they were drawn in.
        drawn: their places.
    """
    first = np.zeros(len(labels), dtype=bool)
    first[np.unique(labels, return_index=True)[1]] = True
    return np.concatenate([drawn[first], drawn[~first]])


def only_right(run: Run, images: AnySet, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the chosen indices whose image is predicted right."""
    index, label, predicted, _ = run.state.predictions[images.split].table()
    return np.intersect1d(chosen, index[label == predicted])


def make_probe(run: Run, layers: dict[str, LayerDiagnosis]) -> Probe:
    """How single images are examined: noise on every measured layer, kernels of the deepest."""
    (deepest,) = select_layers(run.layers, "last")
    return Probe(
        layers=run.layers,
        scales=run.state.scales,
        profile=layers[deepest.name],
        threshold=run.config.threshold,
        noise_ranges=run.config.noise_ranges,
        draws=run.config.draws_per_image,
        delta=delta_of(run, deepest),
        seed=run.config.seed,
        rows=run.chunks.rows,
    )


def layer_diagnosis(run: Run, layer: Layer) -> LayerDiagnosis:
    """One layer's class correlation from its sums."""
    figures = compute_state(run.state.correlations[layer.name])
    arrays = {name: value.numpy().astype(np.float32) for name, value in figures._asdict().items() if name != "counts"}
    return LayerDiagnosis(
        **asdict(layer),
        delta=delta_of(run, layer),
        **run.state.draws[layer.name]._asdict(),
        activation_std=run.state.scales[layer.name],
        count=figures.counts.numpy().astype(np.int32),
        **arrays,
    )


def collect_samples(run: Run, sets: list[AnySet], used: NDArray[np.int64]) -> tuple[Samples, dict[str, int]]:
    """Every image that was read, split after split, and the row at which each split begins.

    Args:
        sets: the splits that were read; the first is that of the class correlation.
        used: indices in the first that went into it.
    """
    tables = [run.state.predictions[images.split].table() for images in sets]
    starts = np.cumsum([0, *(len(index) for index, *_ in tables)])
    paths = (images.paths[i] for images, (index, *_) in zip(sets, tables, strict=True) for i in index)
    used_here = np.zeros(starts[-1], dtype=np.bool_)
    used_here[: starts[1]] = np.isin(tables[0][0], used)
    samples = Samples(
        split=np.repeat(np.arange(len(sets), dtype=np.int32), np.diff(starts)),
        splits=tuple(images.split for images in sets),
        path=np.array([path.encode(errors="surrogateescape") for path in paths]),
        label=np.concatenate([table[1] for table in tables]).astype(np.int32),
        predicted=np.concatenate([table[2] for table in tables]).astype(np.int32),
        confidence=np.concatenate([table[3] for table in tables]),
        used_in_diagnosis=used_here,
        stability=np.full((starts[-1], len(run.config.noise_ranges)), np.nan, dtype=np.float32),
        noise_ranges=np.array(run.config.noise_ranges, dtype=np.float32),
    )
    return samples, {images.split: int(start) for images, start in zip(sets, starts, strict=False)}


def build_diagnosis(
    run: Run,
    network: Classifier,
    classes: tuple[str, ...],
    sets: list[AnySet],
    samples: Samples,
    probe: Probe,
    layers: dict[str, LayerDiagnosis],
    compared: Compared,
    first_row: int,
) -> Diagnosis:
    """The diagnosis, with a verdict on every image that was examined; fills the samples' stability."""
    examined = sets[-1].split
    gathered = [Evidence(**evidence) for evidence in run.state.evidence]
    for values in gathered:
        samples.stability[values.sample] = values.stability
    references = [values for values in gathered if values.label == values.predicted]
    limits = find_limits(references, probe)
    images = tuple(
        judge(values, limits, probe, compared.fields.get(values.sample, {}))
        for values in gathered
        if values.label != values.predicted
    )
    _, label, predicted, _ = run.state.predictions[examined].table()
    return Diagnosis(
        arch=network.arch,
        checkpoint_sha256=network.checkpoint_sha256,
        classes=classes,
        layers=layers,
        samples=samples,
        misdiagnosed=images,
        findings=find_findings(run, classes, sets, samples, first_row, images, references, compared, probe.profile),
        limits=limits,
        wrong_count=int((label != predicted).sum()),
        examined=examined,
        masked={
            images.split: len(annotated)
            for images in sets
            if isinstance(images, ImageSet) and (annotated := images.annotated) is not None
        },
        unread={split: number for split, number in run.state.scanned.items() if number != 0},
        broken=tuple(pair for prediction in run.state.predictions.values() for pair in prediction.broken),
        warnings=(),
        seed=run.config.seed,
        config=run.config,
        preprocessing=sets[-1].preprocessing.model_dump(mode="json"),
        assumed=network.notes,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=str(run.device),
        versions=used_versions(),
    )


def _confident(run: Run, images: AnySet, per_class: int | Sequence[int], seed: int) -> list[NDArray[np.int64]]:
    """For each class the chosen indices in the split."""
    index, label, predicted, confidence = run.state.predictions[images.split].table()
    rows = choose_confident(
        label,
        predicted,
        confidence,
        per_class=per_class,
        threshold=run.config.min_confidence,
        seed=seed,
        num_classes=run.classes,
    )
    return [index[row] for row in rows]
