"""Discovery 1, measured: how sparse class correlations are by depth, and whether single images agree with their class.

Shapes: S images, K kernels, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import ImageSet
from modeldoctor.data.loader import make_loader
from modeldoctor.graph import open_network
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.results.diagnosis import normalise
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.zoo import Classifier

Array = NDArray[np.float64]
PER_CLASS, _READ, _BATCH = 20, 4, 32
"""Right images of each class; so many times as many are looked at to find them; images at once."""


def correlations(network: Classifier, images: ImageSet, seed: int = 0) -> tuple[dict[str, tuple[float, Array]], Array]:
    """Eq. 3 of the true class, without noise, for the first right images of each class in a random order.

    Returns:
        By layer its depth and (S,K); and the classes (S,).
    """
    order = np.random.default_rng(seed).permutation(len(images))
    labels = np.asarray(images.labels)
    first = [order[labels[order] == number][: _READ * PER_CLASS] for number in range(network.num_classes)]
    device = torch.device("cpu")
    opened = open_network(network.module, network.example(device))
    found: dict[str, list[Array]] = {layer.name: [] for layer in opened.layers}
    classes, taken = [], np.zeros(network.num_classes, dtype=int)
    for batch in make_loader(images, np.concatenate(first), batch_size=_BATCH, workers=0, device=device):
        right = (opened.logits(batch.images).argmax(1) == batch.labels).tolist()
        rows = []
        for row, label in enumerate(batch.labels.tolist()):
            if right[row] and taken[label] < PER_CLASS:
                taken[label] += 1
                rows.append(row)
        if not rows:
            continue
        keys = batch.indices[rows].tolist()
        classes += batch.labels[rows].tolist()
        for cut in opened.cuts(batch.images[rows], opened.layers):
            name = cut.layer.name
            measured = correlate_samples(
                cut, batch.labels[rows], keys, noise=Noise(seed=seed, delta=0.0), draws=0, rows=BatchLimit(_BATCH, name)
            )
            found[name].append(measured.correlation.double().numpy())
    layers = {layer.name: (layer.depth, np.concatenate(found[layer.name])) for layer in opened.layers}
    return layers, np.array(classes)


def profiles(values: Array, classes: Array, number: int) -> Array:
    """(N,K), the mean over the images of each class; NaN for a class without images."""
    return np.stack([_mean(values[classes == each]) for each in range(number)])


def agreement(values: Array, classes: Array, number: int, threshold: float) -> dict[str, float]:
    """How much an image's correlations (S,K) are like its class's, made of the others, and like another class's.

    Returns:
        Means over images: `pearson` correlation and `jaccard` index of the kernels at the threshold or above after
        min-max normalisation, with the own class; `pearson_other`, `jaccard_other` with the next class that has images.
    """
    whole = profiles(values, classes, number)
    known = [each for each in range(number) if not np.isnan(whole[each]).any()]
    rows = []
    for row, own in enumerate(classes.tolist()):
        others = (classes == own) & (np.arange(len(classes)) != row)
        if not others.any() or len(known) < 2:
            continue
        another = known[(known.index(own) + 1) % len(known)]
        mine, class_mean = values[row], values[others].mean(0)
        rows.append([*_likeness(mine, class_mean, threshold), *_likeness(mine, whole[another], threshold)])
    means = np.nanmean(np.array(rows), axis=0).tolist() if rows else [math.nan] * 4
    return dict(zip(("pearson", "jaccard", "pearson_other", "jaccard_other"), means, strict=True))


def figures(network: Classifier, images: ImageSet) -> dict[str, Any]:
    """Sparsity and agreement at every layer of one network, in execution order."""
    layers, classes = correlations(network, images)
    threshold, number = DiagnoseConfig().threshold, network.num_classes
    measured = []
    for name, (depth, values) in layers.items():
        with np.errstate(invalid="ignore"):
            used = normalise(profiles(values, classes, number)) >= threshold
        found = agreement(values, classes, number, threshold)
        measured.append({"name": name, "depth": depth, "correlated": float(used.mean()), **found})
    return {"images": len(classes), "classes": number, "layers": measured}


def _likeness(image: Array, profile: Array, threshold: float) -> Sequence[float]:
    if len(image) < 2 or not image.std() or not profile.std():
        return math.nan, math.nan
    one, other = normalise(image) >= threshold, normalise(profile) >= threshold
    return float(np.corrcoef(image, profile)[0, 1]), float((one & other).sum() / (one | other).sum())


def _mean(values: Array) -> Array:
    return values.mean(0) if len(values) else np.full(values.shape[1], math.nan)
