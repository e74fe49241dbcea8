"""What wrong images are beside right ones and training images: is the label doubtful, is the image like any other?

Shapes: S samples, R reference images of the training split, F features, N classes, K kernels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from modeldoctor.diagnosis.state import Looks
from modeldoctor.results.diagnosis import Floats

NEIGHBOURS = 5
_LEAST_RIGHT = 10
"""A class needs as many right images before others are compared with them."""


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


def unfamiliarity(features: Floats, references: Looks) -> Floats:
    """(S,), the share of references that lie nearer to the other references; NaN with too few of them.

    Near is the cosine distance to the fifth nearest (Sun et al. 2022).
    """
    if len(references.label) <= NEIGHBOURS:
        return np.full(len(features), np.nan)
    own = _unit(references.features)
    among = own @ own.T
    np.fill_diagonal(among, -np.inf)
    usual, found = (1 - np.partition(c, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS] for c in (among, _unit(features) @ own.T))
    return np.asarray(np.searchsorted(np.sort(usual), found, "left") / len(usual))


def label_doubt(looks: Looks, predicted: NDArray[np.int64], similarity: Floats) -> Floats:
    """(S,), how much a wrong image is, but for its label, like right images of the class that it is taken for.

    A mislabelled image is a right image of the predicted class p whose label y says nothing about it. So it ranks
    anywhere among right images of p: by its margin over y, by its dissimilarity to training images of y, by its
    similarity to training images of p, and by its margin over the runner-up; an error ranks low in one of them. Doubt
    is the geometric mean of the four ranks, each the share of right images of p that it exceeds or equals. Ranks need
    no temperature, unlike confident learning's probabilities (Northcutt et al. 2021), and between classes that are
    alike the usual is what they are measured by.

    Args:
        looks: the examined images, right and wrong.
        predicted: (S,) classes.
        similarity: (S,N), from `similarities`.

    Returns:
        NaN for right images, and where class p has fewer than ten right images or y no training image.
    """
    margins = looks.logits.max(axis=1, keepdims=True) - looks.logits
    runner_up = np.partition(margins, 1, axis=1)[:, 1]
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
