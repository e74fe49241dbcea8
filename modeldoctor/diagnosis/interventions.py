"""What would have made an image right? Its object removed, put before other images' backgrounds or before those of its
own class, or other objects before its background.

Shapes: B images, C channels, h x w pixels, G backgrounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from modeldoctor.graph import LayeredNetwork
from modeldoctor.results.verdicts import MISLED_OTHERS, MOST_BACKGROUNDS, OWN_BACKGROUNDS

_LEAST = 2
"""An image is tried with as many others at least."""


class Backgrounds(NamedTuple):
    """Right images that lend their backgrounds and objects.

    Attributes:
        images: (G,C,h,w).
        objects: (G,1,h,w) bool, True on the object.
        label: (G,) classes.
        of_class: by class, (P,C,h,w) pictures of its right images without their objects, for images of that class.
    """

    images: Tensor
    objects: Tensor
    label: Tensor
    of_class: Mapping[int, Tensor] = {}

    @property
    def pictures(self) -> Tensor:
        """(G,C,h,w), without their objects (see `without_objects`)."""
        return without_objects(self.images, self.objects)


def without_objects(images: Tensor, objects: Tensor) -> Tensor:
    """Images (B,C,h,w) with the pixels of objects (B,1,h,w) filled with the mean of the others."""
    outside = ~objects
    fill = (images * outside).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True)
    return torch.where(objects, fill, images)


def intervene(
    network: LayeredNetwork,
    backgrounds: Backgrounds | None,
    images: Tensor,
    masks: Sequence[Tensor | None] | None,
    labels: Tensor,
    predicted: Tensor,
) -> list[dict[str, Any]]:
    """What the prediction is without the object, with the object before other backgrounds, and of other objects here.

    Questions cost many passes, so that a wrong image is asked the next one only if no answer settled it yet.

    Args:
        network: makes logits.
        backgrounds: None: the first alone is tried.
        images: (B,C,h,w).
        masks: for each image (h,w) bool, True on the object, or None.
        labels, predicted: (B,) true and predicted classes.

    Returns:
        `without_object`, `stays_without_object`, `other_backgrounds`, `misleads_others` and `own_backgrounds` of each
        image, as in `Misdiagnosis`; NaN without a mask, where the mask leaves no background or no object, and where
        an earlier answer settled it.
    """
    names = ("without_object", "stays_without_object", *(name for name, _, _ in _QUESTIONS))
    found: list[dict[str, Any]] = [dict.fromkeys(names, math.nan) for _ in range(len(images))]
    rows = [i for i, mask in enumerate(masks or ()) if is_object(mask)]
    if not rows or not masks:
        return found
    objects = torch.stack([mask for i in rows if (mask := masks[i]) is not None]).to(images.device)[:, None]
    case = _Case(images[rows], objects, without_objects(images[rows], objects), labels[rows], predicted[rows])
    probabilities = network.logits(case.empty).float().softmax(1)
    sure, stays = probabilities.gather(1, case.predicted[:, None])[:, 0], probabilities.argmax(1) == case.predicted
    for row, *values in zip(rows, sure.tolist(), stays.float().tolist(), strict=True):
        found[row] |= zip(names[:2], values, strict=True)
    asked = torch.nonzero((case.labels != case.predicted) & ~stays)[:, 0]
    for name, answers_of, settled in _QUESTIONS if backgrounds is not None else ():
        answers = answers_of(network, backgrounds, case.at(asked)) if len(asked) else []
        for row, answer in zip(asked.tolist(), answers, strict=True):
            found[rows[row]][name] = answer
        asked = asked[[not settled(answer) for answer in answers]]
    return found


class _Case(NamedTuple):
    """Images (B,C,h,w), their objects (B,1,h,w), what they are without these, true and predicted classes (B,)."""

    images: Tensor
    objects: Tensor
    empty: Tensor
    labels: Tensor
    predicted: Tensor

    def at(self, rows: Tensor) -> _Case:
        return _Case(*(part[rows] for part in self))


def _before_other_backgrounds(network: LayeredNetwork, backgrounds: Backgrounds, case: _Case) -> list[float]:
    """The share of backgrounds, those of the predicted class aside, before which each wrong image is right."""
    right = [
        network.logits(torch.where(case.objects, case.images, picture)).argmax(1) == case.labels
        for picture in backgrounds.pictures
    ]
    return _shares(torch.stack(right), backgrounds, case.predicted)


def _others_before_it(network: LayeredNetwork, backgrounds: Backgrounds, case: _Case) -> list[float]:
    """The share of objects, those of the predicted class aside, that before each image's background become it."""
    taken = [
        network.logits(torch.where(there, image, case.empty)).argmax(1) == case.predicted
        for image, there in zip(backgrounds.images, backgrounds.objects, strict=True)
    ]
    return _shares(torch.stack(taken), backgrounds, case.predicted)


def _before_own_backgrounds(network: LayeredNetwork, backgrounds: Backgrounds, case: _Case) -> list[float]:
    """The share of backgrounds of its own class before which each wrong image is right; NaN with fewer than two."""
    pictures = [backgrounds.of_class.get(label, ()) for label in case.labels.tolist()]
    right = [0] * len(pictures)
    for place in range(max(map(len, pictures), default=0)):
        rows = [row for row, own in enumerate(pictures) if len(own) > place]
        behind = torch.stack([pictures[row][place] for row in rows])
        answers = network.logits(torch.where(case.objects[rows], case.images[rows], behind)).argmax(1)
        for row, is_right in zip(rows, (answers == case.labels[rows]).tolist(), strict=True):
            right[row] += is_right
    return [count / len(own) if len(own) >= _LEAST else math.nan for count, own in zip(right, pictures, strict=True)]


def _shares(true: Tensor, backgrounds: Backgrounds, predicted: Tensor) -> list[float]:
    """Of (G,B), per image: over the lenders that are not of its predicted class; NaN with fewer than two of them."""
    asked = backgrounds.label[:, None] != predicted.cpu()
    number = asked.sum(0)
    shares = (true.cpu() & asked).sum(0).double() / number  # 3 of 10 are 0.3
    return torch.where(number >= _LEAST, shares, math.nan).tolist()


def is_object(mask: Tensor | None) -> TypeGuard[Tensor]:
    """Whether a mask shows an object and leaves a background."""
    return mask is not None and bool(mask.any()) and not bool(mask.all())


_QUESTIONS: tuple[tuple[str, Callable[..., list[float]], Callable[[float], bool]], ...] = (
    ("other_backgrounds", _before_other_backgrounds, lambda share: share > MOST_BACKGROUNDS),
    ("misleads_others", _others_before_it, lambda share: share >= MISLED_OTHERS),
    ("own_backgrounds", _before_own_backgrounds, lambda share: share > OWN_BACKGROUNDS),
)
"""Fields of `Misdiagnosis`, how they are found, and from where on they settle it; NaN settles nothing."""
