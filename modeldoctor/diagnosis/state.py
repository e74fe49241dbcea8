"""What a diagnosis has done so far, so that an interrupted one can go on where it stopped.

Shapes: S samples, N classes, K channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.method.correlation import CorrelationState
from modeldoctor.runtime.files import noted, written_aside

FORMAT = 12


@dataclass
class Predictions:
    """The first pass over one split, batch by batch; broken images have no row.

    Attributes:
        next: the first image of the split that has not been read.
        rows: parts of (4,S): index in the split, label, predicted class, softmax of that class.
        broken: paths and reasons.
    """

    next: int = 0
    rows: list[NDArray[np.float64]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def table(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Index, label, prediction and confidence of every image read, each (S,)."""
        whole = np.concatenate([np.empty((4, 0)), *self.rows], axis=1)
        self.rows = [whole]
        index, label, predicted = whole[:3].astype(np.int64)
        return index, label, predicted, whole[3].astype(np.float32)


class Draws(NamedTuple):
    """Noise draws at one layer, and the variances that ask for them, as sums over kernels; NaN if not measured."""

    draws: int
    variance_between_draws: float
    variance_between_images: float


class Looks(NamedTuple):
    """What one forward pass shows of S images.

    Attributes:
        row: (S,), place in the split.
        label: (S,).
        logits: (S,N).
        altered: (S,N), mean logits of slightly altered copies; (S,0) where these were not looked at.
        features: (S,F), the input of the head.
        quality: (S,Q+1), of `image_quality`, and the share of the image that its object covers, NaN without a mask.
        texture: (S,2C), mean and standard deviation over positions of what an early layer reads.
    """

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    logits: NDArray[np.float32]
    altered: NDArray[np.float32]
    features: NDArray[np.float32]
    quality: NDArray[np.float32]
    texture: NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[Looks]) -> Looks:
        """All of them, in order of the split."""
        if not parts:
            none = np.zeros(0, dtype=np.int64)
            return cls(none, none, *(np.zeros((0, 0), dtype=np.float32) for _ in range(5)))
        whole = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
        order = np.argsort(whole[0], kind="stable")
        return cls(*(column[order] for column in whole))


class KeptChunks(NamedTuple):
    """What was asked for, and what fitted the memory then."""

    batch_asked: int
    memory_asked: int | None
    batch: int
    rows: dict[str, int]


@dataclass
class RunState:
    """Everything that a resumed run needs.

    Attributes:
        fingerprint: of checkpoint and what is measured; a state is only continued by the same run.
        data: digests of the data, by what they are of.
        predictions: by split.
        scanned: splits that were read no farther than was needed, and how many images that left unread (None where a
            stream does not say).
        scales: activation standard deviation by layer.
        wanted: T of every class, where a precision asks for it.
        draws: noise draws by layer.
        positions: by pass, how many of its chosen images are behind it, those that could not be read included.
        correlations: by layer.
        evidence: what was gathered on single images, a plain dict each.
        attacked: how many images were attacked.
        adversarial: sample, prediction, stability and fallback of each that was turned.
        looks: by pass, what was looked at.
        alternatives: by other preprocessing, how many images it turns right and wrong, of how many.
        chunks: images at once, and rows at once by layer; a resumed run rounds as the interrupted one did.
    """

    fingerprint: str
    data: dict[str, str] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    scanned: dict[str, int | None] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    wanted: list[int] | None = None
    draws: dict[str, Draws] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    correlations: dict[str, CorrelationState] = field(default_factory=dict)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    attacked: int = 0
    adversarial: list[list[Any]] = field(default_factory=list)
    looks: dict[str, list[Looks]] = field(default_factory=dict)
    alternatives: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    chunks: KeptChunks | None = None

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        content = {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "data": self.data,
            "predictions": {
                split: {"next": prediction.next, "rows": _columns(prediction), "broken": prediction.broken}
                for split, prediction in self.predictions.items()
            },
            "scanned": self.scanned,
            "scales": self.scales,
            "wanted": self.wanted,
            "draws": {layer: tuple(draws) for layer, draws in self.draws.items()},
            "positions": self.positions,
            "correlations": {layer: list(state) for layer, state in self.correlations.items()},
            "evidence": self.evidence,
            "attacked": self.attacked,
            "adversarial": self.adversarial,
            "looks": {
                stage: [torch.from_numpy(column) for column in Looks.join(parts)]
                for stage, parts in self.looks.items()
                if parts
            },
            "alternatives": self.alternatives,
            "chunks": None if self.chunks is None else tuple(self.chunks),
        }
        with written_aside(path) as aside, noted(aside) as file:
            torch.save(content, file)


def _columns(predictions: Predictions) -> Tensor:
    predictions.table()
    return torch.from_numpy(predictions.rows[0])


def fingerprint_of(*parts: Any) -> str:
    """A digest of JSON values and byte strings."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
        digest.update(b"\0")
    return digest.hexdigest()
