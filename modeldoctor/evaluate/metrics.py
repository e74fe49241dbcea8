"""What is held out, what was predicted, and how a metric is taken of one or of many resamples of the images.

Shapes: R seeds (runs of one arm), S images, N classes, G groups, C cells (sets of images), D resamples, U patterns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from modeldoctor.config.treat import Metric
from modeldoctor.results.diagnosis import Bools, Floats, Ints

CHUNK = 2_000_000
_BITS = 30
"""Runs that a number of 64 bits has room for beside a cell."""


class Needs(Enum):
    """What a metric cannot be measured without."""

    IMAGES = auto()
    GROUPS = auto()
    SHARES = auto()


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The images that no arm was trained or chosen on.

    Attributes:
        labels: (S,) class indices.
        classes: (N,) names.
        groups: (S,) group names; None without a group column.
        group_shares: each group's share of the training images; None leaves the weighted accuracy out.
    """

    labels: Ints
    classes: tuple[str, ...]
    groups: NDArray[np.str_] | None = None
    group_shares: Mapping[str, float] | None = None

    def of(self, kept: NDArray[np.bool_]) -> HeldOut:
        """Some of the images: those where `kept` (S,) is true."""
        groups = None if self.groups is None else self.groups[kept]
        return replace(self, labels=self.labels[kept], groups=groups)

    @property
    def group_names(self) -> tuple[str, ...]:
        """(G,), sorted; with the groups that only the training images have."""
        found = () if self.groups is None else self.groups.tolist()
        return tuple(sorted({*found, *(self.group_shares or ())}))

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What can be measured on these images."""
        missing = {Needs.GROUPS: self.groups is None, Needs.SHARES: self.groups is None or self.group_shares is None}
        return tuple(metric for metric, rule in RULES.items() if not missing.get(rule.needs, False))

    def group_index(self) -> Ints:
        """(S,), into `group_names`."""
        return np.searchsorted(np.asarray(self.group_names), np.asarray(self.groups))


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one arm's runs answered.

    Attributes:
        arm: its name.
        seeds: (R,).
        predicted: (R,S) class indices, rows in the order of `seeds`, images in the order of `HeldOut`.
    """

    arm: str
    seeds: tuple[int, ...]
    predicted: Ints

    def right(self, held_out: HeldOut) -> Bools:
        """(R,S), which predictions are right.

        Raises:
            ValueError: not one row per seed and one column per image.
        """
        if self.predicted.shape != (len(self.seeds), len(held_out.labels)):
            raise ValueError(
                f"{self.arm}: predictions {self.predicted.shape} for {len(self.seeds)} seeds and "
                f"{len(held_out.labels)} images"
            )
        return np.asarray(self.predicted == held_out.labels)


@dataclass(frozen=True)
class Rule:
    """A metric: the accuracies of these cells (D,C), reduced to one number a resample (D,)."""

    cells: Callable[[HeldOut], Ints]
    reduce: Callable[[Floats, Ints, HeldOut], Floats]
    needs: Needs = Needs.IMAGES


def _lowest(accuracy: Floats, cells: Ints, held_out: HeldOut) -> Floats:
    return np.asarray(np.fmin.reduce(accuracy, axis=1))


def _by_share(accuracy: Floats, cells: Ints, held_out: HeldOut) -> Floats:
    shares = np.array([(held_out.group_shares or {}).get(name, 0.0) for name in held_out.group_names])[cells]
    weights = np.where(np.isnan(accuracy), 0.0, shares)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(accuracy * weights, axis=1) / weights.sum(axis=1))


def class_groups(held_out: HeldOut) -> Ints:
    """(S,), each image's class and group as label · G + group."""
    return np.asarray(held_out.labels * len(held_out.group_names) + held_out.group_index())


RULES: dict[Metric, Rule] = {
    Metric.ACCURACY: Rule(lambda held_out: np.zeros_like(held_out.labels), lambda accuracy, *_: accuracy[:, 0]),
    Metric.WORST_CLASS: Rule(lambda held_out: held_out.labels, _lowest),
    Metric.WORST_GROUP: Rule(HeldOut.group_index, _lowest, Needs.GROUPS),
    Metric.WORST_CLASS_GROUP: Rule(class_groups, _lowest, Needs.GROUPS),
    Metric.WEIGHTED: Rule(HeldOut.group_index, _by_share, Needs.SHARES),
}


@dataclass(frozen=True)
class Patterns:
    """Images that no metric can tell apart, counted: resampling their counts is resampling the images.

    Attributes:
        size: (U,) images of each pattern, ordered by cell.
        right: (A,U), for all arms' runs one below the other.
        starts: (C,) where each cell's patterns begin.
        cells: (C,) the cells that have images.
    """

    size: Ints | Floats
    right: Ints
    starts: Ints
    cells: Ints

    @classmethod
    def of(cls, cells: Ints, right: Bools, weights: Floats | None = None) -> Patterns:
        """From each image's cell (S,), whether each run has it right (A,S), and for how many it counts (S,)."""
        codes = cells.astype(np.int64)  # one number for a row: sorted many times as fast as rows
        for number, run in enumerate(right):
            codes = 2 * codes + run
            if number % _BITS == _BITS - 1:
                codes = np.unique(codes, return_inverse=True)[1]  # their ranks, which have room for more
        _, first, pattern, size = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
        if weights is not None:
            size = np.bincount(pattern, weights)
        present, starts = np.unique(cells[first].astype(np.int32), return_index=True)
        return cls(size, np.ascontiguousarray(right[:, first], np.int32), starts, present)

    def chunks(self, resamples: int) -> Iterator[int]:
        """Numbers of resamples that together are all, each of bounded memory."""
        step = max(1, CHUNK // len(self.size))
        yield from (min(step, resamples - done) for done in range(0, resamples, step))

    def metric(self, hits: Ints | Floats, total: Ints | Floats, rule: Rule, held_out: HeldOut) -> Floats:
        """(D,) from the right images (D,U) and all images (D,U) of each pattern; empty cells count for nothing."""
        with np.errstate(invalid="ignore"):
            accuracy = np.add.reduceat(hits, self.starts, axis=1) / np.add.reduceat(total, self.starts, axis=1)
        return rule.reduce(accuracy, self.cells, held_out)


def by_run(right: Bools, rule: Rule, held_out: HeldOut) -> Floats:
    """(R,), the metric of each run."""
    if not len(held_out.labels):
        return np.full(len(right), np.nan)
    patterns = Patterns.of(rule.cells(held_out), right)
    return np.array(
        [patterns.metric((patterns.size * row)[None], patterns.size[None], rule, held_out)[0] for row in patterns.right]
    )
