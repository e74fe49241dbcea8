"""The interventions behind a verdict once more, on the few images that are shown: what did the network see and say?

Shapes: C channels, h x w pixels, A altered pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.diagnosis.interventions import Backgrounds, is_object, without_objects
from modeldoctor.diagnosis.looks import slight_alterations
from modeldoctor.diagnosis.passes import Run
from modeldoctor.method.maps import thumbnails
from modeldoctor.results.altered import (
    CHANGES,
    OTHER_BACKGROUND,
    OTHER_OBJECT,
    OWN_BACKGROUND,
    SLIGHT,
    WITHOUT_OBJECT,
    Altered,
)
from modeldoctor.results.diagnosis import Misdiagnosis, Verdict
from modeldoctor.results.verdicts import MISLED_OTHERS, MOST_BACKGROUNDS, OWN_BACKGROUNDS


class Alteration(NamedTuple):
    """One of the rows of `Altered`."""

    sample: int
    change: int
    predicted: int
    confidence: float
    picture: NDArray[np.uint8]


def alter(
    run: Run,
    preprocessing: Preprocessing,
    image: Tensor,
    mask: Tensor | None,
    explained: Misdiagnosis,
    backgrounds: Backgrounds | None,
) -> Iterator[Alteration]:
    """What the interventions that an image's verdict rests on make of it; nothing for other verdicts.

    Args:
        preprocessing: of the images.
        image: (C,h,w), on the network's device.
        mask: (h,w) bool, True on the object.
        explained: its verdict.
        backgrounds: that objects are put before.
    """
    changed: dict[str, Tensor] = {}
    if explained.verdict is Verdict.ISOLATED:
        copies = slight_alterations(image[None], preprocessing)
        changed = {name: copy[0] for name, copy in zip(SLIGHT, copies, strict=True)}
    elif explained.verdict is Verdict.BACKGROUND and is_object(mask):
        there = mask.to(image.device)
        changed[WITHOUT_OBJECT] = empty = without_objects(image[None], there[None, None])[0]
        if (other := _usual_background(run, image, there, explained, backgrounds)) is not None:
            changed[OTHER_BACKGROUND] = other
        if (other := _misled_object(run, empty, explained, backgrounds)) is not None:
            changed[OTHER_OBJECT] = other
        if (other := _own_background(run, image, there, explained, backgrounds)) is not None:
            changed[OWN_BACKGROUND] = other
    for name, pixels in changed.items():
        confidence, predicted = run.network.logits(pixels[None]).float().softmax(1).max(1)
        (picture,) = thumbnails(pixels[None], preprocessing.mean, preprocessing.std)
        yield Alteration(explained.sample, CHANGES.index(name), int(predicted), float(confidence), picture)


def _usual_background(
    run: Run, image: Tensor, mask: Tensor, explained: Misdiagnosis, backgrounds: Backgrounds | None
) -> Tensor | None:
    """The image before the first other background that does to it what most of them do; None where none was tried."""
    if backgrounds is None or np.isnan(explained.other_backgrounds):
        return None
    usually_right = explained.other_backgrounds > MOST_BACKGROUNDS
    pictures = (torch.where(mask, image, picture) for picture in backgrounds.pictures)
    return _first(run, pictures, backgrounds, explained, lambda answer: (answer == explained.label) == usually_right)


def _misled_object(run: Run, empty: Tensor, explained: Misdiagnosis, backgrounds: Backgrounds | None) -> Tensor | None:
    """The first other object that is taken for the same class before this background; None unless many are."""
    if backgrounds is None or not explained.misleads_others >= MISLED_OTHERS:
        return None
    lenders = zip(backgrounds.images, backgrounds.objects, strict=True)
    pictures = (torch.where(there, picture, empty) for picture, there in lenders)
    return _first(run, pictures, backgrounds, explained, lambda answer: answer == explained.predicted)


def _own_background(
    run: Run, image: Tensor, mask: Tensor, explained: Misdiagnosis, backgrounds: Backgrounds | None
) -> Tensor | None:
    """The image before the first background of its class that turns it right; None unless most of them do."""
    if backgrounds is None or not explained.own_backgrounds > OWN_BACKGROUNDS:
        return None
    for picture in backgrounds.of_class.get(explained.label, ()):  # an image may have vanished since
        before = torch.where(mask, image, picture)
        if int(run.network.logits(before[None]).argmax()) == explained.label:
            return before
    return None


def _first(
    run: Run,
    pictures: Iterable[Tensor],
    backgrounds: Backgrounds,
    explained: Misdiagnosis,
    fits: Callable[[int], bool],
) -> Tensor | None:
    """The first picture (C,h,w) that is predicted to be what fits, from lenders of other classes than the predicted."""
    for picture, number in zip(pictures, backgrounds.label.tolist(), strict=True):
        if number != explained.predicted and fits(int(run.network.logits(picture[None]).argmax())):
            return picture
    return None


def join(found: list[Alteration]) -> Altered | None:
    """As one record; None without any."""
    if not found:
        return None
    sample, change, predicted, confidence, picture = zip(*found, strict=True)
    return Altered(
        sample=np.array(sample, dtype=np.int32),
        change=np.array(change, dtype=np.int32),
        predicted=np.array(predicted, dtype=np.int32),
        confidence=np.array(confidence, dtype=np.float32),
        picture=np.stack(picture),
    )
