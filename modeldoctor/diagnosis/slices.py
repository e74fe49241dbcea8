"""Slices: groups of images that are alike in how they look, in their features or in what they are taken for, and
wrong more often than the rest.

Groups are formed without a look at which images are wrong, so that what stands out of them is no circle. Only what the
comparison of images has measured is used: all wrong images that were explained and a random sample of right ones.

Shapes: S samples, F features, Q figures of quality.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

from modeldoctor.diagnosis.state import Looks
from modeldoctor.evaluate.statistics import LEVEL, wilson
from modeldoctor.results.diagnosis import Bools, Floats

_QUALITIES = (
    ("the darkest fifth of the images", "the brightest fifth of the images"),
    ("the flattest fifth of the images", "the fifth of the images that is richest in contrast"),
    ("the blurriest fifth of the images", "the sharpest fifth of the images"),
    ("the cleanest fifth of the images", "the noisiest fifth of the images"),
    ("the least blocky fifth of the images", "the blockiest fifth of the images"),
    ("the fifth of the images with the smallest objects", "the fifth of the images with the largest objects"),
)
"""Words for the lowest and the highest fifth of each column of `Looks.quality`."""
_KNOWN = 0.95
"""A figure must be known of so many images: who annotates some alone may have chosen difficult ones."""
_FIFTH, _CLUSTERS = 0.2, 8
_LEAST_IMAGES, _LEAST_WRONG, _MUCH_WORSE = 20, 5, 1.5
_KINDS = 2
"""Groups of images and pairs of classes: each kind may err in half of the cases that all together may."""
_SAME, _MOST = 0.5, 2
"""Two slices that share this much (Jaccard index) are one; how many are told."""


class Slice(NamedTuple):
    """One group of images that is worse than the rest.

    Attributes:
        name: of what images, such as `the darkest fifth of the images`.
        rate, low, high: its error rate, and the interval that allows for all slices looked at.
        rest: the error rate of all other images.
        looked_at: how many slices were.
        excess: wrong images beyond what the rest's error rate would give.
        rows: its wrong images, by the `row` of what was looked at.
    """

    name: str
    rate: float
    low: float
    high: float
    rest: float
    looked_at: int
    excess: int
    rows: NDArray[np.int64]


def find_slices(
    looks: Looks, decided: NDArray[np.int64], classes: tuple[str, ...], wrong: int, right: int, seed: int
) -> tuple[Slice, ...]:
    """The slices that are worse than the rest beyond chance, most wrong images first.

    Wrong and right images were sampled separately. So the shares of a slice among the wrong (w) and among the right
    (r) have Wilson intervals, at a level that is corrected for all slices and both shares (Bonferroni); a slice is
    worse where these are disjoint, and its error rate is w·W / (w·W + r·R) with W wrong and R right images in all.

    Args:
        looks: the images that were compared.
        decided: (S,) their predicted classes.
        classes: names.
        wrong, right: W and R of the examined split.
        seed: of the clustering.
    """
    error = decided != looks.label
    failed, fine = int(error.sum()), int((~error).sum())
    if min(failed, fine) < _LEAST_IMAGES:
        return ()
    candidates = [*_by_quality(looks.quality), *_by_features(looks, classes, decided, seed)]
    level = 1 - (1 - LEVEL) / (_KINDS * 2 * max(len(candidates), 1))
    found = []
    for name, there in candidates:
        among_wrong = wilson(int((there & error).sum()), failed, level)
        among_right = wilson(int((there & ~error).sum()), fine, level)
        if (there & error).sum() < _LEAST_WRONG or among_wrong.low <= among_right.high:
            continue
        rate = _rate(among_wrong.value * wrong, among_right.value * right)
        rest = _rate((1 - among_wrong.value) * wrong, (1 - among_right.value) * right)
        if rate < _MUCH_WORSE * rest:
            continue
        images = among_wrong.value * wrong + among_right.value * right
        slice_ = Slice(
            name=name,
            rate=rate,
            low=_rate(among_wrong.low * wrong, among_right.high * right),
            high=_rate(among_wrong.high * wrong, among_right.low * right),
            rest=rest,
            looked_at=len(candidates),
            excess=round((rate - rest) * images),
            rows=looks.row[there & error],
        )
        found.append((slice_, there))
    return _different(found)


class Confusion(NamedTuple):
    """Images of one class that are taken for another far more often than all others are.

    Attributes:
        own, taken_for: the classes.
        share, low, high: of `own`'s images, those taken for the other, with an interval that allows for all pairs.
        rest: the share of all other classes' images, `taken_for`'s aside, that are.
        looked_at: how many pairs were.
        excess: wrong images beyond what the rest's share would give.
    """

    own: int
    taken_for: int
    share: float
    low: float
    high: float
    rest: float
    looked_at: int
    excess: int


def find_confusions(counts: NDArray[np.int64], told: Collection[frozenset[int]]) -> tuple[Confusion, ...]:
    """The ordered pairs of classes that stand out beyond chance, most wrong images first; two at most.

    Of class a's images the share taken for b, and that of all images that are of neither, have Wilson intervals at a
    level that is corrected for all pairs and both shares (Bonferroni); the pair stands out where these are disjoint.

    Args:
        counts: (N,N), images by class (rows) and prediction (columns) of the whole split.
        told: pairs that another finding is about.
    """
    number = len(counts)
    pairs = number * (number - 1)
    level = 1 - (1 - LEVEL) / (_KINDS * 2 * max(pairs, 1))
    images, taken = counts.sum(1), counts.sum(0)
    found: list[Confusion] = []
    for own, taken_for in np.argwhere(counts >= _LEAST_WRONG).tolist():
        wrong, of_neither = int(counts[own, taken_for]), int(images.sum() - images[own] - images[taken_for])
        if own == taken_for or not of_neither or {own, taken_for} in told:
            continue
        here = wilson(wrong, int(images[own]), level)
        rest = wilson(int(taken[taken_for] - counts[taken_for, taken_for]) - wrong, of_neither, level)
        if here.low > rest.high and here.value >= _MUCH_WORSE * rest.value:
            excess = round((here.value - rest.value) * int(images[own]))
            found.append(Confusion(own, taken_for, here.value, here.low, here.high, rest.value, pairs, excess))
    return tuple(sorted(found, key=lambda pair: -pair.excess)[:_MOST])


def _rate(wrong: float, right: float) -> float:
    return wrong / (wrong + right) if wrong + right else 0.0


def _different(found: list[tuple[Slice, Bools]]) -> tuple[Slice, ...]:
    """The first few, without those that are mostly the images of one before."""
    kept: list[tuple[Slice, Bools]] = []
    for slice_, there in sorted(found, key=lambda pair: -pair[0].excess):
        if all((there & other).sum() < _SAME * (there | other).sum() for _, other in kept):
            kept.append((slice_, there))
    return tuple(slice_ for slice_, _ in kept[:_MOST])


def _by_quality(quality: Floats) -> Iterator[tuple[str, Bools]]:
    """The lowest and the highest fifth of each figure; none of a figure that is the same in most images."""
    for figure, words in zip(quality.T, _QUALITIES, strict=False):
        known = np.isfinite(figure)
        if known.mean() < _KNOWN:
            continue
        low, high = np.quantile(figure[known], [_FIFTH, 1 - _FIFTH])
        if low < high:
            yield from zip(words, (figure <= low, figure >= high), strict=True)


def _by_features(
    looks: Looks, classes: tuple[str, ...], decided: NDArray[np.int64], seed: int
) -> Iterator[tuple[str, Bools]]:
    """Clusters of the features' directions (k-means)."""
    lengths = np.linalg.norm(looks.features, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster: fewer kinds of images than clusters
        directions = (looks.features / lengths).astype(np.float64)
        begin = np.random.default_rng([seed, 4]).choice(len(directions), _CLUSTERS, replace=False)
        _, cluster = scipy.cluster.vq.kmeans2(directions, directions[begin], minit="matrix")
    for number in range(_CLUSTERS):
        there = np.asarray(cluster == number)
        if there.any():
            named = [classes[i] for i, _ in Counter(decided[there].tolist()).most_common(2)]
            yield f"a group with like features, mostly taken for {' or '.join(named)},", there
