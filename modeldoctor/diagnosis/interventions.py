"""What would have made an image right? Its object removed, or put before other images' backgrounds.

Shapes: B images, C channels, h x w pixels, G backgrounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor

from modeldoctor.graph import LayeredNetwork

_LEAST = 2
"""An image is tried before as many backgrounds at least."""


class Backgrounds(NamedTuple):
    """Pictures (G,C,h,w) of right images without their objects (see `without_objects`); their classes (G,)."""

    pictures: Tensor
    label: Tensor


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
    """What the prediction is without the object, and with the object before other backgrounds.

    Args:
        network: makes logits.
        backgrounds: None: the second is not tried.
        images: (B,C,h,w).
        masks: for each image (h,w) bool, True on the object, or None.
        labels, predicted: (B,) true and predicted classes.

    Returns:
        `without_object`, `stays_without_object` and `other_backgrounds` of each image, as in `Misdiagnosis`; NaN
        without a mask, and where the mask leaves no background or no object.
    """
    names = ("without_object", "stays_without_object", "other_backgrounds")
    found: list[dict[str, Any]] = [dict.fromkeys(names, math.nan) for _ in range(len(images))]
    rows = [i for i, mask in enumerate(masks or ()) if is_object(mask)]
    if not rows or not masks:
        return found
    objects = torch.stack([mask for i in rows if (mask := masks[i]) is not None]).to(images.device)[:, None]
    pixels, classes = images[rows], predicted[rows]
    probabilities = network.logits(without_objects(pixels, objects)).float().softmax(1)
    sure, same = probabilities.gather(1, classes[:, None])[:, 0], probabilities.argmax(1) == classes
    others = _on_other_backgrounds(network, backgrounds, pixels, objects, labels[rows], classes)
    for row, *values in zip(rows, sure.tolist(), same.float().tolist(), others, strict=True):
        found[row] = dict(zip(names, values, strict=True))
    return found


def _on_other_backgrounds(
    network: LayeredNetwork,
    backgrounds: Backgrounds | None,
    images: Tensor,
    objects: Tensor,
    labels: Tensor,
    predicted: Tensor,
) -> list[float]:
    """The share of backgrounds, those of the predicted class aside, before which each wrong image is right."""
    wrong = torch.nonzero(labels != predicted)[:, 0]
    found = [math.nan] * len(images)
    if backgrounds is None or not len(wrong):
        return found
    right = torch.stack(
        [
            network.logits(torch.where(objects[wrong], images[wrong], picture)).argmax(1) == labels[wrong]
            for picture in backgrounds.pictures
        ]
    ).cpu()
    for column, row in enumerate(wrong.tolist()):
        other = backgrounds.label != int(predicted[row])
        if int(other.sum()) >= _LEAST:
            found[row] = float(right[other, column].float().mean())
    return found


def is_object(mask: Tensor | None) -> TypeGuard[Tensor]:
    """Whether a mask shows an object and leaves a background."""
    return mask is not None and bool(mask.any()) and not bool(mask.all())
