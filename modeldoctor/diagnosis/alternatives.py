"""Would the network be right more often with other preprocessing? The usual ones are tried on a few hundred images.

Shapes: B images, C channels, h x w pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import Batch, ImageSet
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.passes import Run
from modeldoctor.errors import GraphError
from modeldoctor.graph import logits_of

IMAGES, MOST_IMAGES = 200, 800
"""So many images are tried with every alternative, and with the best, where it may be chance, up to so many."""
GOOD_ENOUGH = 0.95
"""At this accuracy nothing is tried."""
_LEAST_GAIN, _SIGNIFICANT, _HINT = 0.03, 0.001, 0.05
"""An alternative is better that turns so large a share of images right, net, and is chance with so small a
probability; with the second probability more images are worth a try."""

# What networks are usually trained with, by the option that says it: mean and standard deviation for pixels in [0, 1].
_NORMALISATIONS = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR-10's mean and std": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "mean 0.5 and std 0.5": ((0.5,) * 3, (0.5,) * 3),
    "pixels in [0, 1], not normalised": ((0.0,) * 3, (1.0,) * 3),
    "pixels in [0, 255], not normalised": ((0.0,) * 3, (1 / 255,) * 3),
}
_SIDES = (28, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 299, 384)
BGR = "channels in the order BGR"


class Trial(NamedTuple):
    """One alternative: its name, the images, and what is done to a batch (B,C,h,w) of them."""

    name: str
    images: AnySet
    transform: Callable[[Tensor], Tensor]


def try_alternatives(run: Run, images: AnySet) -> None:
    """Predict up to 200 images with each alternative, and count those that turn right and those that turn wrong.

    Where that hints at the best of them without being sure, up to 600 further images decide. Only where accuracy leaves
    room for it. A network that does not take another input size is left alone.
    """
    index, label, predicted, _ = run.state.predictions[images.split].table()
    if not len(index) or np.mean(label == predicted) >= GOOD_ENOUGH:
        return
    order, right = np.sort(index), dict(zip(index.tolist(), (label == predicted).tolist(), strict=True))
    first, more = _spread(order, IMAGES), _spread(order, MOST_IMAGES)
    trials = {trial.name: trial for trial in _trials(images)}
    found = run.state.alternatives
    missing = [trial for trial in trials.values() if trial.name not in found]
    if together := [trial for trial in missing if trial.images is images]:
        found |= _count_together(run, together, first, right, len(trials))
    for trial in missing:
        if trial.name not in found:
            run.after_batch("preprocessing", len(found.keys() & trials.keys()), len(trials))
            found[trial.name] = _count(run, trial, first, right)
    best = best_of({name: found[name] for name in trials})  # a kept state may name others
    if best and _chance(*found[best][:2]) < _HINT and not is_better(*found[best]) and found[best][2] <= len(first):
        run.after_batch("preprocessing", len(trials), len(trials))
        counts = _count(run, trials[best], np.setdiff1d(more, first), right)
        gained, lost, number = np.add(found[best], counts).tolist()
        found[best] = (gained, lost, number)


def best_of(alternatives: Mapping[str, tuple[int, int, int]]) -> str | None:
    """The alternative that turns most images right, net; None without any."""
    return max(alternatives, key=lambda name: alternatives[name][0] - alternatives[name][1], default=None)


def is_better(gained: int, lost: int, number: int) -> bool:
    """Whether what an alternative turns right, of a number of images, is much and no chance."""
    return number > 0 and gained - lost >= max(_LEAST_GAIN * number, 1) and _chance(gained, lost) < _SIGNIFICANT


def _chance(gained: int, lost: int) -> float:
    """How probable it is that as many of the images that turn turn right, were both equally likely (a sign test)."""
    if not gained + lost:
        return 1.0
    return float(scipy.stats.binomtest(gained, gained + lost, alternative="greater").pvalue)


def _spread(indices: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """At most as many indices, evenly spread."""
    places = np.unique(np.linspace(0, len(indices) - 1, min(number, len(indices))).astype(int))
    return np.asarray(indices[places])


def _count_together(
    run: Run, trials: Sequence[Trial], chosen: NDArray[np.int64], right: Mapping[int, bool], total: int
) -> dict[str, tuple[int, int, int]]:
    """`_count` of trials by name that all take the images as they are: each is read once."""
    counts = {trial.name: np.zeros(3, dtype=np.int64) for trial in trials}
    refused: set[str] = set()
    for batch in run.batches(trials[0].images, chosen, run.chunks.batch):
        run.after_batch("preprocessing", 0, total)
        for trial in trials if len(batch.labels) else ():
            turned = None if trial.name in refused else _turned(run, trial, batch, right)
            if turned is None:
                refused.add(trial.name)
            else:
                counts[trial.name] += turned
    return {name: _of_all(run, count) for name, count in counts.items()}


def _count(run: Run, trial: Trial, chosen: NDArray[np.int64], right: Mapping[int, bool]) -> tuple[int, int, int]:
    """How many of these images turn right, turn wrong, and could be predicted; zeros where the network refuses them."""
    counts = np.zeros(3, dtype=np.int64)
    for batch in run.batches(trial.images, chosen, run.chunks.batch):
        if not len(batch.labels):
            continue
        turned = _turned(run, trial, batch, right)
        if turned is None:
            break
        counts += turned
    return _of_all(run, counts)


def _turned(run: Run, trial: Trial, batch: Batch, right: Mapping[int, bool]) -> NDArray[np.int64] | None:
    """(3,): how many images of a batch turn right, turn wrong, and were predicted; None where they cannot be."""
    now = _predicted(run, trial.transform(batch.images.to(run.device)))
    if now is None:
        return None
    fits = (now == batch.labels).numpy()
    before = np.array([right[key] for key in batch.indices.tolist()])
    return np.array([np.sum(fits & ~before), np.sum(~fits & before), len(fits)])


def _of_all(run: Run, counts: NDArray[np.int64]) -> tuple[int, int, int]:
    gained, lost, number = np.sum(run.team.all_gather(counts), axis=0).tolist()
    return gained, lost, number


def option_of(name: str) -> str:
    """The command-line option that makes an alternative the one that is used; empty where there is none."""
    if name in _NORMALISATIONS:
        mean, std = (",".join(f"{value:.4g}" for value in values) for values in _NORMALISATIONS[name])
        return f"--mean {mean} --std {std}"
    for words, option in (
        ("interpolation ", "--interpolation"),
        ("crop share ", "--crop-pct"),
        ("input size ", "--input-size"),
    ):
        if name.startswith(words):
            return f"{option} {name.removeprefix(words)}"
    return ""


def _trials(images: AnySet) -> Iterator[Trial]:
    """Each alternative."""
    used = images.preprocessing
    channels = used.input_size[0]
    for name, (mean, std) in _NORMALISATIONS.items():
        if not np.allclose([mean[:channels], std[:channels]], [used.mean, used.std], atol=0.01):
            yield Trial(name, images, _renormalise(used, mean[:channels], std[:channels]))
    if channels == 3:
        yield Trial(BGR, images, _renormalise(used, used.mean, used.std, flip=True))
    if not isinstance(images, ImageSet):
        return
    for name, preprocessing in _geometries(used):
        yield Trial(name, images.preprocessed_as(preprocessing), _as_it_is)


def _geometries(used: Preprocessing) -> Iterator[tuple[str, Preprocessing]]:
    for interpolation in ("bilinear", "bicubic", "nearest"):
        if interpolation != used.interpolation:
            yield f"interpolation {interpolation}", used.model_copy(update={"interpolation": interpolation})
    for share in (0.875, 1.0):
        if not math.isclose(share, used.crop_pct, abs_tol=0.03):
            yield f"crop share {share:g}", used.model_copy(update={"crop_pct": share})
    for side in _SIDES:
        # Four times the pixels cost four times as much; nobody evaluates that far above what a network was trained at.
        if used.input_size[1:] != (side, side) and side <= 2 * used.input_size[1]:
            yield f"input size {side}", used.model_copy(update={"input_size": (used.input_size[0], side, side)})


def _renormalise(
    used: Preprocessing, mean: tuple[float, ...], std: tuple[float, ...], *, flip: bool = False
) -> Callable[[Tensor], Tensor]:
    """From images normalised as they are used to the same pixels, normalised otherwise; with channels turned round."""
    old_mean, old_std, new_mean, new_std = (
        torch.tensor(values)[:, None, None] for values in (used.mean, used.std, mean, std)
    )

    def transform(batch: Tensor) -> Tensor:
        pixels = batch * old_std.to(batch) + old_mean.to(batch)
        return ((pixels.flip(1) if flip else pixels) - new_mean.to(batch)) / new_std.to(batch)

    return transform


def _as_it_is(batch: Tensor) -> Tensor:
    return batch


def _predicted(run: Run, images: Tensor) -> Tensor | None:
    """(B,) classes; None where the network does not take such images."""
    try:
        with torch.no_grad():
            logits = logits_of(run.module, images)
    except (GraphError, RuntimeError):  # at another size, or where memory is short
        return None
    return logits.argmax(1).cpu() if logits.shape[1:] == (run.classes,) else None
