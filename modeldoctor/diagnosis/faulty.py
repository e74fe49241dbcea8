"""Kernels that do more harm than good: without such a kernel, more wrong images turn right than right ones wrong.

Shapes: S samples, F kernels of the features that a linear head reads, N classes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from modeldoctor.diagnosis.state import Looks
from modeldoctor.results.diagnosis import Floats

DEVIATIONS = 4.0
"""A kernel is faulty if the images that it costs exceed those that it serves by as many standard deviations."""
_LEAST_SHARE = 0.05
"""And if it costs this share of the wrong images."""


class FaultyKernel(NamedTuple):
    """One kernel that does more harm than good.

    Attributes:
        channel: among the features.
        mended: how many of the wrong images that were looked at turn right without it.
        broken: how many of the right ones turn wrong.
        looked_at_right: how many right ones there were.
    """

    channel: int
    mended: int
    broken: int
    looked_at_right: int


def find_faulty(
    looks: Looks, predicted: NDArray[np.int64], weight: Floats, usual: Floats, right_in_all: int, wrong_in_all: int
) -> tuple[list[FaultyKernel], NDArray[np.int64], Floats]:
    """Take each kernel away in turn, from every image, and count what that changes.

    Args:
        looks: the examined images, right and wrong.
        predicted: (S,) classes.
        weight: (N,F) of the head.
        usual: (F,), what a kernel is set to: 0 behind a ReLU, elsewhere its mean over training images.
        right_in_all, wrong_in_all: how many images of the split are right and wrong; those looked at are a sample.

    Returns:
        The faulty kernels, the costliest first; for each image the one that it turns right without (-1: none), and the
        softmax of its label then (NaN: none).
    """
    mended = _right_without(looks, weight, usual)
    right = predicted == looks.label
    gained, lost = mended[~right].sum(axis=0), (~mended[right]).sum(axis=0)
    wrong_weight = wrong_in_all / max(1, int((~right).sum()))
    right_weight = right_in_all / max(1, int(right.sum()))
    net = wrong_weight * gained - right_weight * lost
    # One image more than were seen to break: a count of none is no proof of none.
    deviation = np.sqrt(wrong_weight**2 * gained + right_weight**2 * (lost + 1))
    enough = gained >= max(1.0, _LEAST_SHARE * (~right).sum())
    channels = np.flatnonzero(enough & (net > DEVIATIONS * deviation))
    channels = channels[np.argsort(-net[channels], kind="stable")]
    found = [FaultyKernel(int(k), int(gained[k]), int(lost[k]), int(right.sum())) for k in channels]
    culprit, confidence = np.full(len(right), -1), np.full(len(right), math.nan)
    for row in np.flatnonzero(~right):
        for kernel in found:
            if mended[row, kernel.channel]:
                change = (looks.features[row, kernel.channel] - usual[kernel.channel]) * weight[:, kernel.channel]
                without = torch.from_numpy(looks.logits[row] - change).double().softmax(0)
                culprit[row], confidence[row] = kernel.channel, float(without[int(looks.label[row])])
                break
    return found, culprit, confidence


def _right_without(looks: Looks, weight: Floats, usual: Floats) -> NDArray[np.bool_]:
    """(S,F), whether an image is predicted right with that kernel at its usual value."""
    table, away = torch.from_numpy(np.ascontiguousarray(weight.T)), torch.from_numpy(looks.features - usual)
    logits = torch.from_numpy(looks.logits)
    found = np.empty(looks.features.shape, dtype=np.bool_)
    for row, label in enumerate(looks.label.tolist()):
        found[row] = ((logits[row] - away[row, :, None] * table).argmax(1) == label).numpy()
    return found


def usual_values(references: Looks) -> Floats:
    """(F,), zero where features are never negative, as behind a ReLU; their means over training images elsewhere."""
    means = references.features.mean(axis=0)
    return np.asarray(np.zeros_like(means) if (references.features >= 0).all() else means)
