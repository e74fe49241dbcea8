"""What would have made an image right? Its object removed, put before other images' backgrounds or before those of its
own class, or other objects before its background.

Shapes: B images, C channels, h x w pixels, G backgrounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from modeldoctor.graph import LayeredNetwork

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

    Args:
        network: makes logits.
        backgrounds: None: the first alone is tried.
        images: (B,C,h,w).
        masks: for each image (h,w) bool, True on the object, or None.
        labels, predicted: (B,) true and predicted classes.

    Returns:
        `without_object`, `stays_without_object`, `other_backgrounds`, `misleads_others` and `own_backgrounds` of each
        image, as in `Misdiagnosis`; NaN without a mask, and where the mask leaves no background or no object.
    """
    names = ("without_object", "stays_without_object", "other_backgrounds", "misleads_others", "own_backgrounds")
    found: list[dict[str, Any]] = [dict.fromkeys(names, math.nan) for _ in range(len(images))]
    rows = [i for i, mask in enumerate(masks or ()) if is_object(mask)]
    if not rows or not masks:
        return found
    objects = torch.stack([mask for i in rows if (mask := masks[i]) is not None]).to(images.device)[:, None]
    pixels, classes = images[rows], predicted[rows]
    empty = without_objects(pixels, objects)
    probabilities = network.logits(empty).float().softmax(1)
    sure, same = probabilities.gather(1, classes[:, None])[:, 0], probabilities.argmax(1) == classes
    wrong = torch.nonzero(labels[rows] != classes)[:, 0]
    for row, *values in zip(rows, sure.tolist(), same.float().tolist(), strict=True):
        found[row] |= zip(names[:2], values, strict=True)
    if backgrounds is not None and len(wrong):
        part = pixels[wrong], objects[wrong], labels[rows][wrong]
        turned = _before_other_backgrounds(network, backgrounds, *part, classes[wrong])
        taken = _others_before_it(network, backgrounds, empty[wrong], classes[wrong])
        own = _before_own_backgrounds(network, backgrounds, *part)
        for row, *values in zip(wrong.tolist(), turned, taken, own, strict=True):
            found[rows[row]] |= zip(names[2:], values, strict=True)
    return found


def _before_other_backgrounds(
    network: LayeredNetwork,
    backgrounds: Backgrounds,
    images: Tensor,
    objects: Tensor,
    labels: Tensor,
    predicted: Tensor,
) -> list[float]:
    """The share of backgrounds, those of the predicted class aside, before which each wrong image is right."""
    right = [
        network.logits(torch.where(objects, images, picture)).argmax(1) == labels for picture in backgrounds.pictures
    ]
    return _shares(torch.stack(right), backgrounds, predicted)


def _others_before_it(
    network: LayeredNetwork, backgrounds: Backgrounds, empty: Tensor, predicted: Tensor
) -> list[float]:
    """The share of objects, those of the predicted class aside, that before each background (B,C,h,w) become it."""
    taken = [
        network.logits(torch.where(there, image, empty)).argmax(1) == predicted
        for image, there in zip(backgrounds.images, backgrounds.objects, strict=True)
    ]
    return _shares(torch.stack(taken), backgrounds, predicted)


def _before_own_backgrounds(
    network: LayeredNetwork, backgrounds: Backgrounds, images: Tensor, objects: Tensor, labels: Tensor
) -> list[float]:
    """The share of backgrounds of its own class before which each wrong image is right; NaN with fewer than two."""
    pictures = [backgrounds.of_class.get(label, ()) for label in labels.tolist()]
    right = [0] * len(pictures)
    for place in range(max(map(len, pictures), default=0)):
        rows = [row for row, own in enumerate(pictures) if len(own) > place]
        behind = torch.stack([pictures[row][place] for row in rows])
        answers = network.logits(torch.where(objects[rows], images[rows], behind)).argmax(1)
        for row, is_right in zip(rows, (answers == labels[rows]).tolist(), strict=True):
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
