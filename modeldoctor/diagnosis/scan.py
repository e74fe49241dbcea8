"""The first pass over the split of the class correlation: each class is read at random until it has images enough.

What is read depends on the seed and on the predictions alone, never on batches, workers or processes.

Shapes: B images, N classes, T right, confident images per class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data import ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.passes import Run, checked, read_predictions, rest_of
from modeldoctor.diagnosis.samples import wanted
from modeldoctor.diagnosis.state import Predictions

_LEAST_READ = 8
_MARGIN = 1.1  # more than the share of usable images so far asks for, so that few rounds are needed


def scan(run: Run, images: AnySet) -> Predictions:
    """Predict images of a split until every class has T right, confident ones.

    A folder or list is read class by class in random order, in rounds; a stream from its beginning on.

    Raises:
        DataError: not one image can be read.
    """
    prediction = run.state.predictions.setdefault(images.split, Predictions())
    if isinstance(images, ImageSet):
        for indices in _rounds(run, images, prediction):
            read_predictions(run, images, np.setdiff1d(indices, _seen(images, prediction)))
        whole = np.concatenate([np.empty((4, 0)), *prediction.rows], axis=1)
        prediction.rows = [whole[:, np.argsort(whole[0])]] if whole.shape[1] else []
    else:
        fill = _Fill(run, prediction)
        if not fill.done:
            read_predictions(run, *rest_of(images, prediction), fill)
    run.state.scanned[images.split] = len(images) - prediction.next if isinstance(images, ImageSet) else None
    return checked(prediction, images.split)


def first_confident(run: Run, images: AnySet) -> list[NDArray[np.int64]]:
    """For each class the first T right, confident images in the order in which it was read; fewer where they lack."""
    prediction = run.state.predictions[images.split]
    index, label, *_ = prediction.table()
    usable = _usable(run, prediction)
    if isinstance(images, ImageSet):
        orders = [order[np.isin(order, usable)] for order in _random_orders(run, images)]
    else:
        orders = [np.sort(np.intersect1d(usable, index[label == number])) for number in range(run.classes)]
    return [order[:number] for order, number in zip(orders, wanted(run).tolist(), strict=True)]


def _seen(images: ImageSet, prediction: Predictions) -> NDArray[np.int64]:
    """Indices of the images that were read, or could not be."""
    index, *_ = prediction.table()
    gone = {path for path, _ in prediction.broken}
    broken = [place for place, path in enumerate(images.paths) if path in gone] if gone else []
    return np.union1d(index, np.array(broken, dtype=np.int64))


def _random_orders(run: Run, images: ImageSet) -> list[NDArray[np.int64]]:
    return [
        np.random.default_rng([run.config.seed, 2, number]).permutation(np.flatnonzero(images.labels == number))
        for number in range(run.classes)
    ]


def _rounds(run: Run, images: ImageSet, prediction: Predictions) -> Iterator[NDArray[np.int64]]:
    """Ascending indices to read next, as long as some class lacks images and has unread ones.

    A resumed run walks the same rounds: what was read in the rounds before decides the next one, as it did then.
    """
    orders, targets = _random_orders(run, images), wanted(run).tolist()
    read = np.zeros(run.classes, dtype=np.int64)
    while True:
        usable = np.zeros(len(images), dtype=np.bool_)
        usable[_usable(run, prediction)] = True
        more = np.zeros_like(read)
        for number, (order, done, target) in enumerate(zip(orders, read, targets, strict=True)):
            have = int(usable[order[:done]].sum())
            if have < target:
                rate = max(have / int(done), 0.05) if done else 1.0
                asked = math.ceil(_MARGIN * (target - have) / rate)
                more[number] = min(max(_LEAST_READ, asked), len(order) - int(done))
        if not more.any():
            return
        yield np.sort(np.concatenate([order[n : n + m] for order, n, m in zip(orders, read, more, strict=True)]))
        read += more


def _usable(run: Run, prediction: Predictions) -> NDArray[np.int64]:
    """Indices of the right, confident images among those read."""
    index, label, predicted, confidence = prediction.table()
    rows = np.flatnonzero((label == predicted) & (confidence >= run.config.min_confidence))
    return index[rows]


class _Fill:
    """Counts a stream's right, confident images per class, and says where every class has enough of them."""

    def __init__(self, run: Run, prediction: Predictions):
        self._config, self._wanted = run.config, wanted(run)
        self._counts = np.zeros(run.classes, dtype=np.int64)
        whole = np.stack([column.astype(np.float64) for column in prediction.table()])
        self.done = self(whole) is not None

    def __call__(self, rows: NDArray[np.float64]) -> int | None:
        """How many of the next rows (4,B) are needed; None if all are, and more."""
        _, label, predicted, confidence = rows
        for place in np.flatnonzero((label == predicted) & (confidence >= self._config.min_confidence)):
            self._counts[int(label[place])] += 1
            if (self._counts >= self._wanted).all():
                return int(place) + 1
        return None
