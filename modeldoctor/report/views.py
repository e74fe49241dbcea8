"""Pictures of single images for the page: the wrong ones of a diagnosis, and a trial's before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modeldoctor.report.pictures import overlay, thumbnail
from modeldoctor.results.altered import CHANGES
from modeldoctor.results.diagnosis import Diagnosis, Verdict
from modeldoctor.results.maps import TrialMaps
from modeldoctor.results.summary import as_text


@dataclass(frozen=True)
class ShownImage:
    """The pictures of one wrong image, as data URIs."""

    thumbnail: str
    contribution: str
    derivative: str
    grad_cam: str
    tries: tuple[Try, ...]
    """First the image as it is; empty where no intervention led to its verdict."""


@dataclass(frozen=True)
class Try:
    """What the network made of an image after an intervention."""

    change: str
    uri: str
    """Empty where the pixels are as they were."""
    predicted: str
    right: bool
    confidence: float


def shown_images(diagnosis: Diagnosis) -> dict[str, ShownImage]:
    """Pictures by the image's path as the figures give it."""
    shown = diagnosis.shown
    if shown is None:
        return {}
    tries = tried_on(diagnosis)
    return {
        as_text(diagnosis.samples.path[row]): ShownImage(
            thumbnail(shown.thumbnail[i]),
            overlay(shown.thumbnail[i], shown.contribution[i]),
            overlay(shown.thumbnail[i], shown.derivative[i]),
            overlay(shown.thumbnail[i], shown.grad_cam[i]),
            tries.get(row, ()),
        )
        for i, row in enumerate(shown.sample.tolist())
    }


def tried_on(diagnosis: Diagnosis) -> dict[int, tuple[Try, ...]]:
    """What the interventions behind the verdicts did, by the image's row in `Samples`: before first, then after."""
    tries: dict[int, list[Try]] = {}
    for image in diagnosis.misdiagnosed:
        if image.verdict is Verdict.FOREIGN_KERNELS and image.faulty_kernel >= 0:
            before = Try("as it is", "", diagnosis.classes[image.predicted], False, image.confidence)
            after = f"without kernel {image.faulty_kernel}"
            tries[image.sample] = [before, Try(after, "", diagnosis.classes[image.label], True, image.without_kernel)]
    altered, samples = diagnosis.altered, diagnosis.samples
    if altered is None or diagnosis.shown is None:
        return {row: tuple(found) for row, found in tries.items()}
    originals = dict(zip(diagnosis.shown.sample.tolist(), diagnosis.shown.thumbnail, strict=True))
    for i, row in enumerate(altered.sample.tolist()):
        if row in originals and row not in tries:
            name = diagnosis.classes[samples.predicted[row]]
            tries[row] = [Try("as it is", thumbnail(originals[row]), name, False, float(samples.confidence[row]))]
        if row in originals:
            predicted = int(altered.predicted[i])
            right, name = predicted == samples.label[row], diagnosis.classes[predicted]
            picture, confidence = thumbnail(altered.picture[i]), float(altered.confidence[i])
            tries[row].append(Try(CHANGES[altered.change[i]], picture, name, right, confidence))
    return {row: tuple(found) for row, found in tries.items()}


@dataclass(frozen=True)
class ArmView:
    """One image under one arm."""

    arm: str
    uri: str
    predicted: str
    right: bool
    confidence: float
    background_share: float


@dataclass(frozen=True)
class BeforeAfter:
    """One image under every arm."""

    path: str
    label: str
    thumbnail: str
    views: tuple[ArmView, ...]


@dataclass(frozen=True)
class BeforeAfterMaps:
    """All of them."""

    layer: str
    split: str
    seed: int
    cells: tuple[int, int]
    """Height and width of a map."""
    outlined: bool
    """Whether any image has an outline."""
    images: tuple[BeforeAfter, ...]


def before_after(maps: TrialMaps, classes: Sequence[str]) -> BeforeAfterMaps:
    """Pictures of a trial's maps.

    Args:
        maps: as stored.
        classes: (N,) names in the network's order.
    """
    images = tuple(
        BeforeAfter(
            as_text(maps.path[i]),
            classes[label],
            thumbnail(maps.thumbnail[i], maps.outline[i]),
            tuple(
                ArmView(
                    arm,
                    overlay(maps.thumbnail[i], maps.contribution[a, i]),
                    classes[int(maps.predicted[a, i])],
                    int(maps.predicted[a, i]) == label,
                    float(maps.confidence[a, i]),
                    float(maps.background_share[a, i]),
                )
                for a, arm in enumerate(maps.arms)
            ),
        )
        for i, label in enumerate(maps.label.tolist())
    )
    height, width = maps.contribution.shape[-2:]
    return BeforeAfterMaps(maps.layer, maps.split, maps.seed, (height, width), bool(maps.outline.any()), images)
