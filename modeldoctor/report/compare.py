"""What changed between two diagnoses: images, classes, kernels.

Shapes: N classes, K channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modeldoctor.config.diagnose import CHANGE_NO_FIGURE
from modeldoctor.errors import counted
from modeldoctor.evaluate.statistics import mcnemar
from modeldoctor.report.collect import diagnosis_figures, key_figures
from modeldoctor.report.model import (
    ClassChange,
    ComparisonFigures,
    DiagnosisFigures,
    ImageChanges,
    LayerChange,
    Report,
    Turned,
)
from modeldoctor.report.results import Results
from modeldoctor.report.wording import comparison_headline
from modeldoctor.results.diagnosis import Bools, Diagnosis
from modeldoctor.results.summary import as_text
from modeldoctor.results.trial import Outcome
from modeldoctor.runtime.versions import own_version

_EXAMPLES = 20


def compare(before: Results, after: Results) -> Report:
    """The report on what changed, without gates; both must hold a diagnosis."""
    assert before.diagnosis
    assert after.diagnosis
    earlier = diagnosis_figures(before.diagnosis, str(before.diagnosis_path))
    later = diagnosis_figures(after.diagnosis, str(after.diagnosis_path))
    changes = _changes(before.diagnosis, after.diagnosis, earlier, later)
    outcome = _outcome(changes)
    figures = key_figures(later).model_copy(update={"gain": later.accuracy - earlier.accuracy})
    return Report(
        modeldoctor=own_version(),
        kind="comparison",
        state="complete",
        verdict=outcome,
        headline=comparison_headline(earlier, later, changes, outcome),
        figures=figures,
        diagnosis=later,
        before=earlier,
        comparison=changes,
        notes=tuple(_notes(changes, earlier, later)),
    )


def _outcome(changes: ComparisonFigures) -> Outcome:
    """By McNemar's test at 95% on the images that both have; of two networks that were fed alike."""
    images = changes.images
    if changes.same_checkpoint or not changes.same_preprocessing:
        return Outcome.NO_BENEFIT
    if not images.p_value < 0.05:  # also where it is NaN
        return Outcome.NO_BENEFIT
    return Outcome.IMPROVED if images.turned_right > images.turned_wrong else Outcome.HARMED


def _changes(
    before: Diagnosis, after: Diagnosis, earlier: DiagnosisFigures, later: DiagnosisFigures
) -> ComparisonFigures:
    old, new = ({row.name: row for row in figures.classes} for figures in (earlier, later))
    return ComparisonFigures(
        same_checkpoint=before.checkpoint_sha256 == after.checkpoint_sha256,
        same_preprocessing=before.preprocessing == after.preprocessing
        or not (before.preprocessing and after.preprocessing),
        same_settings=_what_counts(before) == _what_counts(after),
        images=_images(before, after),
        classes=tuple(
            ClassChange(name=name, images=value.images, before=old[name].accuracy, after=value.accuracy)
            for name, value in new.items()
            if name in old
        ),
        classes_lost=tuple(name for name in old if name not in new),
        classes_new=tuple(name for name in new if name not in old),
        layers=tuple(_layers(before, after)),
    )


def _what_counts(diagnosis: Diagnosis) -> dict[str, Any]:
    """The settings that figures depend on."""
    return diagnosis.config.model_dump(exclude=CHANGE_NO_FIGURE)


def _images(before: Diagnosis, after: Diagnosis) -> ImageChanges:
    """Images are the same by path and by the name of their class."""
    old, new = _by_path(before), _by_path(after)
    common = [key for key in new if key in old]
    was, now = (np.array([found[key] == key[1] for key in common], dtype=np.bool_) for found in (old, new))
    turned = [key for key, one, other in zip(common, was, now, strict=True) if one != other]
    test = mcnemar(0, now, was)
    return ImageChanges(
        common=len(common),
        turned_right=test.wins,
        turned_wrong=test.losses,
        p_value=test.p_value if common else math.nan,
        examples=tuple(
            Turned(path=as_text(key[0]), label=as_text(key[1]), before=as_text(old[key]), after=as_text(new[key]))
            for key in turned[:_EXAMPLES]
        ),
    )


def _by_path(diagnosis: Diagnosis) -> dict[tuple[bytes, str], str]:
    """Of the examined split: (path, class) to the predicted class."""
    rows, samples, names = diagnosis.rows(diagnosis.examined), diagnosis.samples, diagnosis.classes
    columns = (samples.path[rows].tolist(), samples.label[rows].tolist(), samples.predicted[rows].tolist())
    return {(path, names[label]): names[predicted] for path, label, predicted in zip(*columns, strict=True)}


def _layers(before: Diagnosis, after: Diagnosis) -> list[LayerChange]:
    """Of layers that both have, for classes that both measured; one layer is read at a time."""
    place = {name: n for n, name in enumerate(before.classes)}
    pairs = [(place[name], n) for n, name in enumerate(after.classes) if name in place]
    found = []
    for name in after.layers:
        if not pairs or name not in before.layers:
            continue
        old, new = before.layers[name], after.layers[name]
        if old.channels != new.channels:
            continue
        rows = [(mine, other) for mine, other in pairs if old.count[mine] and new.count[other]]
        sets = [
            layer.correlated(diagnosis.config.threshold)[[row[side] for row in rows]]
            for side, (layer, diagnosis) in enumerate(((old, before), (new, after)))
        ]
        shares = [float(images.mean()) if len(images) else math.nan for images in sets]
        found.append(LayerChange(name=name, before=shares[0], after=shares[1], kept=_kept(*sets)))
    return found


def _kept(old: Bools, new: Bools) -> float:
    """Mean Jaccard index of corresponding rows (N,K); NaN where no row has any."""
    union = (old | new).sum(axis=1)
    common = (old & new).sum(axis=1)[union > 0]
    return float((common / union[union > 0]).mean()) if len(common) else math.nan


def _notes(changes: ComparisonFigures, earlier: DiagnosisFigures, later: DiagnosisFigures) -> list[str]:
    said = [
        "Two diagnoses show that networks differ, not why: without a control, plain further training may have done "
        "the same. A trial (modeldoctor treat) runs one."
    ]
    if changes.same_checkpoint:
        said.insert(0, "Both diagnoses are of the same checkpoint: nothing was improved, whatever the figures.")
    if not changes.same_preprocessing:
        said.insert(0, "Images were prepared in different ways: what changed is that, or the network, or both.")
    if not changes.same_settings:
        said.append("The two were measured with different settings; figures of kernels may differ for that alone.")
    if changes.images.common < max(earlier.images, later.images):
        said.append(
            f"Both have {counted(changes.images.common, 'image')} in common; accuracies are of {earlier.images} and "
            f"{later.images}."
        )
    if changes.classes_lost or changes.classes_new:
        said.append(f"Classes that are gone: {len(changes.classes_lost)}; new: {len(changes.classes_new)}.")
    return said
