"""Wrong images beside right ones and training images: what is looked at, and what comes out for each wrong image.

Shapes: S samples, N classes, F features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.comparisons import label_doubt, pull_to_label, similarities, unfamiliarity
from modeldoctor.diagnosis.faulty import FaultyKernel, find_faulty, usual_values
from modeldoctor.diagnosis.looks import find_views, look
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.quality import damage_of
from modeldoctor.diagnosis.slices import Slice, find_slices
from modeldoctor.zoo import Classifier

_RIGHT, _RIGHT_PER_CLASS, _MOST = 500, 10, 2000
_REFERENCES, _REFERENCES_PER_CLASS = 500, 10


@dataclass(frozen=True)
class Compared:
    """What the comparison found.

    Attributes:
        fields: by row in `Samples`, further fields of `Misdiagnosis`.
        faulty: kernels that do more harm than good.
        slices: groups of images that are worse than the rest; their rows are those of `Samples`.
    """

    fields: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    faulty: tuple[FaultyKernel, ...] = ()
    slices: tuple[Slice, ...] = ()


def compare(
    run: Run,
    network: Classifier,
    classes: tuple[str, ...],
    source: AnySet,
    used: NDArray[np.int64],
    examined: AnySet,
    explained: NDArray[np.int64],
    first_row: int,
) -> Compared:
    """Look at the wrong images that are explained, at right ones, and at training images; compare them.

    Args:
        classes: names.
        source, used: the split of the class correlation and the indices that went into it.
        examined, explained: the examined split and the indices that were explained, right references among them.
        first_row: of the examined split among all samples.
    """
    index, label, predicted, _ = run.state.predictions[examined.split].table()
    wrong = np.intersect1d(explained, index[label != predicted])
    if not len(wrong):
        return Compared()
    views = find_views(run.module, network.example(run.device))
    references = look(run, source, _references(run, source, used), views, f"look at {source.split}")
    others = np.setdiff1d(index[label == predicted], used if source is examined else [])
    chosen = np.union1d(wrong, _at_random(others, max(_RIGHT, _RIGHT_PER_CLASS * run.classes), run.config.seed))
    looks = look(run, examined, chosen, views, f"compare {examined.split}", altered=True)
    if not len(looks.label):
        return Compared()
    decided = looks.logits.argmax(axis=1)
    strange = unfamiliarity(looks.texture, references.texture)
    pull = pull_to_label(looks, decided)
    doubt = label_doubt(looks, decided, similarities(looks.features, references, run.classes))
    damage, kind = damage_of(looks.quality, references.quality)
    faulty: list[FaultyKernel] = []
    culprit, without = np.full(len(decided), -1), np.full(len(decided), math.nan)
    right, total = int((label == predicted).sum()), len(label)
    if views is not None and views.linear:
        faulty, culprit, without = find_faulty(
            looks,
            decided,
            views.weight,
            usual_values(references if len(references.label) else looks),
            right,
            total - right,
        )
    rows = first_row + np.searchsorted(index, looks.row)
    slices = find_slices(looks._replace(row=rows), decided, classes, total - right, right, run.config.seed)
    return Compared(
        {
            int(row): {
                "damage": damage[i],
                "damage_kind": kind[i],
                "unfamiliarity": float(strange[i]),
                "pull_to_label": float(pull[i]),
                "label_doubt": float(doubt[i]),
                "faulty_kernel": int(culprit[i]),
                "without_kernel": float(without[i]),
            }
            for i, row in enumerate(rows)
            if decided[i] != looks.label[i]
        },
        tuple(faulty),
        slices,
    )


def _references(run: Run, source: AnySet, used: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the images of the class correlation the first ones of each class, ascending."""
    index, label, *_ = run.state.predictions[source.split].table()
    labels = label[np.searchsorted(index, used)]
    most = max(_REFERENCES_PER_CLASS, _REFERENCES // run.classes)
    return np.sort(np.concatenate([used[labels == number][:most] for number in range(run.classes)]))


def _at_random(indices: NDArray[np.int64], number: int, seed: int) -> NDArray[np.int64]:
    wanted = min(number, _MOST, len(indices))
    return np.random.default_rng([seed, 3]).choice(indices, wanted, replace=False)
