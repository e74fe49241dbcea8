"""What wrong images are beside right ones and training images: is the label doubtful, is the image like any other?

Shapes: S samples, R reference images of the training split, F features, N classes, K kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from modeldoctor.diagnosis.state import Looks
from modeldoctor.results.altered import SLIGHT
from modeldoctor.results.diagnosis import Floats

NEIGHBOURS = 5
_LEAST_RIGHT = 10
"""A class needs as many right images before others are compared with them."""
_LEAST_REFERENCES, _IMAGES_A_DIRECTION, _FLAT = 40, 8, 1e-3
"""How many training images a distance needs, in all and for each direction, and from which share of the longest on a
direction counts."""


def similarities(features: Floats, references: Looks, number_of_classes: int) -> Floats:
    """(S,N), mean cosine similarity to the nearest references of each class; NaN for a class without references."""
    found = np.full((len(features), number_of_classes), np.nan)
    if not len(references.label):
        return found
    cosines = _unit(features) @ _unit(references.features).T
    for number in np.unique(references.label):
        of_class = cosines[:, references.label == number]
        nearest = min(NEIGHBOURS, of_class.shape[1])
        found[:, number] = np.partition(of_class, -nearest, axis=1)[:, -nearest:].mean(axis=1)
    return found


def unfamiliarity(texture: Floats, references: Floats) -> Floats:
    """(S,), how far an image lies from training images, where 99% of these are at most at 1 from the others.

    The Mahalanobis distance (Lee et al. 2018) in the texture of an early layer: behind the last, whatever is shown has
    become some class. Each half of the references is measured from the other, so that they are as new to it as the
    images are; directions that so few cannot tell are left out.

    Args:
        texture: (S,C) of the images.
        references: (R,C) of training images.

    Returns:
        NaN with fewer than forty references.
    """
    if len(references) < _LEAST_REFERENCES:
        return np.full(len(texture), np.nan)
    halves = references[::2].astype(np.float64), references[1::2].astype(np.float64)
    first, second = (_distance_from(half) for half in halves)
    usual = float(np.quantile(np.concatenate([first(halves[1]), second(halves[0])]), 0.99))
    if usual == 0:
        return np.full(len(texture), np.nan)
    return np.asarray((first(texture) + second(texture)) / (2 * usual))


def _distance_from(images: Floats) -> Callable[[Floats], Floats]:
    """Root mean square of the deviations along the principal directions of images (R,C), each in its own unit."""
    mean, spread = images.mean(0), images.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    _, lengths, directions = np.linalg.svd((images - mean) / spread, full_matrices=False)
    kept = lengths[: max(1, len(images) // _IMAGES_A_DIRECTION)]
    kept = kept[kept > _FLAT * max(lengths[0], np.finfo(float).tiny)]
    whitening = directions[: len(kept)].T / (kept / np.sqrt(len(images) - 1))
    if not len(kept):
        return lambda points: np.zeros(len(points))
    return lambda points: np.asarray(np.sqrt(np.square((points - mean) / spread @ whitening).mean(1)))


def label_doubt(looks: Looks, predicted: NDArray[np.int64], similarity: Floats) -> Floats:
    """(S,), how much a wrong image is, but for its label, like right images of the class that it is taken for.

    A mislabelled image is a right image of the predicted class p whose label y says nothing about it. So it ranks
    anywhere among right images of p: by its margin over y, by its dissimilarity to training images of y, by its
    similarity to training images of p, and by its margin over the runner-up; an error ranks low in one of them. Doubt
    is the geometric mean of the four ranks, each the share of right images of p that it exceeds or equals. Margins are
    those of the mean logits of the image and its slightly altered copies, which separate errors better than its own.
    Ranks need no temperature, unlike confident learning's probabilities (Northcutt et al. 2021), and between classes
    that are alike the usual is what they are measured by.

    Args:
        looks: the examined images, right and wrong.
        predicted: (S,) classes.
        similarity: (S,N), from `similarities`.

    Returns:
        NaN for right images, and where class p has fewer than ten right images or y no training image.
    """
    logits = (looks.logits + len(SLIGHT) * looks.altered) / (1 + len(SLIGHT))
    margins = logits[np.arange(len(logits)), predicted][:, None] - logits
    others = np.where(np.arange(logits.shape[1]) == predicted[:, None], np.inf, margins)
    runner_up = others.min(axis=1)
    found = np.full(len(predicted), np.nan)
    for row, peers in _peers(looks, predicted):
        own, taken_for = int(looks.label[row]), int(predicted[row])
        ranks = (
            np.mean(margins[peers, own] <= margins[row, own]),
            np.mean(similarity[peers, own] >= similarity[row, own]),
            np.mean(similarity[peers, taken_for] <= similarity[row, taken_for]),
            np.mean(runner_up[peers] <= runner_up[row]),
        )
        known = not np.isnan(similarity[row, [own, taken_for]]).any()
        found[row] = np.prod(ranks) ** (1 / len(ranks)) if known else np.nan
    return found


def pull_to_label(looks: Looks, predicted: NDArray[np.int64]) -> Floats:
    """(S,), how much more than right images of the class that it is taken for a wrong image's copies turn to its label.

    In standard deviations of how slight alterations change the margin between the label y and the predicted class p,
    over right images of p. They hardly move these towards y, nor images that are honestly wrong or mislabelled; but
    they do move adversarial images, which stand isolated among the images of p (Discovery 2; Roth et al. 2019).

    Returns:
        NaN for right images, and where class p has fewer than ten right images.
    """
    change = looks.altered - looks.logits
    found = np.full(len(predicted), np.nan)
    for row, peers in _peers(looks, predicted):
        pulled = change[:, looks.label[row]] - change[:, predicted[row]]
        deviation = pulled[peers].std(ddof=1)
        found[row] = (pulled[row] - pulled[peers].mean()) / deviation if deviation > 0 else np.nan
    return found


def _peers(looks: Looks, predicted: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """For each wrong image the right ones of the class that it is taken for, where there are enough."""
    right = predicted == looks.label
    for row in np.flatnonzero(~right).tolist():
        peers = np.flatnonzero(right & (predicted == predicted[row]))
        if len(peers) >= _LEAST_RIGHT:
            yield row, peers


def _unit(features: Floats) -> Floats:
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(norms > 0, norms, 1))
