"""The wrong images of a diagnosis for the page: which class is taken for which, and every class's images in turn."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass

import numpy as np

from modeldoctor.report.pictures import small_picture
from modeldoctor.results.diagnosis import Diagnosis, Misdiagnosis
from modeldoctor.results.summary import image_record, images_by_class
from modeldoctor.results.verdicts import most_telling, sentence_of

_PAIRS = 8
_MOST_OF_CLASS, _MOST_OF_ALL = 20, 4000
"""Images of a class and of all on the page; the table beside the diagnosis has all."""


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are taken for another.

    Attributes:
        label, predicted: names.
        wrong: how many there are.
        images: of the class, right and wrong.
        verdict: their most frequent verdict with its count; empty where none was explained.
    """

    label: str
    predicted: str
    wrong: int
    images: int
    verdict: str


@dataclass(frozen=True)
class WrongImage:
    """One wrong image in words; `picture` is a data URI, empty where none was kept."""

    path: str
    predicted: str
    confidence: float
    verdict: str
    sentence: str
    picture: str


@dataclass(frozen=True)
class ClassImages:
    """The wrong images of a class that were explained, the most telling first.

    Attributes:
        name: of the class.
        explained: how many there are; at most twenty are in `shown`, of very many classes fewer.
    """

    name: str
    explained: int
    shown: tuple[WrongImage, ...]


def confusions(diagnosis: Diagnosis) -> list[Confusion]:
    """The pairs of classes that most images are taken for each other in, with their direction."""
    samples, rows, number = diagnosis.samples, diagnosis.rows(diagnosis.examined), len(diagnosis.classes)
    wrong = rows & (samples.label != samples.predicted)
    # Of very many classes not all pairs could be held in memory.
    pairs, counts = np.unique(
        samples.label[wrong].astype(np.int64) * number + samples.predicted[wrong], return_counts=True
    )
    images, _ = images_by_class(diagnosis, rows)
    found = []
    for place in np.argsort(-counts, kind="stable")[:_PAIRS].tolist():
        label, predicted = divmod(int(pairs[place]), number)
        verdicts = Counter(
            image.verdict
            for image in diagnosis.misdiagnosed
            if (image.label, image.predicted) == (label, predicted)
        )  # fmt: skip
        said = "".join(f"{verdict} ({number})" for verdict, number in verdicts.most_common(1))
        names = diagnosis.classes[label], diagnosis.classes[predicted]
        found.append(Confusion(*names, int(counts[place]), int(images[label]), said))
    return found


def images_of_classes(diagnosis: Diagnosis) -> list[ClassImages]:
    """The explained wrong images class by class; the class with most of them first."""
    by_class: defaultdict[int, list[Misdiagnosis]] = defaultdict(list)
    for image in diagnosis.misdiagnosed:
        by_class[image.label].append(image)
    limits = asdict(diagnosis.limits) if diagnosis.limits else None
    pictures = (
        {}
        if diagnosis.pictures is None
        else dict(zip(diagnosis.pictures.sample.tolist(), diagnosis.pictures.thumbnail, strict=True))
    )
    most = max(1, min(_MOST_OF_CLASS, _MOST_OF_ALL // max(1, len(by_class))))
    found = []
    for label, images in sorted(by_class.items(), key=lambda item: (-len(item[1]), item[0])):
        shown = []
        for image in most_telling(images, most):
            record = image_record(diagnosis, image)
            sentence = sentence_of(record, limits)
            picture = small_picture(pictures[image.sample]) if image.sample in pictures else ""
            shown.append(
                WrongImage(
                    record["path"], record["predicted"], record["confidence"], record["verdict"], sentence, picture
                )
            )  # fmt: skip
        found.append(ClassImages(diagnosis.classes[label], len(images), tuple(shown)))
    return found
