"""Where is the object? A small network on the classifier's own features learns it from annotated images.

Shapes: S images, B of a batch, C channels, K features of a cell, G x G cells, H x W pixels of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.graph import Cut, Layer

GRID = 14
"""Cells on an edge; twice as many found objects no better (Menagerie, IoU 0.59 each)."""
_LAYERS, _HIDDEN, _STEPS, _CELLS = 5, 64, 400, 1024
_FOLDS = 4
_MOST = 400
"""Annotated images that are learned from; more cost memory and time for little."""
LEAST_IOU = 0.5
"""Of held-out annotated images, and as expected of an image: below it a mask is more wrong than right."""
LEAST_GAIN = 0.05
"""IoU by which the features must find the object better than its usual place does."""
Cuts = Callable[[Tensor, Sequence[Layer]], Iterator[Cut]]
"""One pass in eval mode over images (B,C,H,W) that stops at each of the layers."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well masks are propagated, on annotated images that were not learned from.

    Attributes:
        iou: mean of |found ∩ object| / |found ∪ object|, pixels of the network's input, over the images whose found
            mask would be used; 0 if none would be.
        by_place: the same of the mean annotated mask, which knows nothing of the image.
        by_image: (S,) that of every image.
        found: (S,H,W) bool, the found masks.
        indices: (S,) of the annotated images, as they were given.
    """

    iou: float
    by_place: float
    by_image: NDArray[np.float64]
    found: Tensor
    indices: NDArray[np.int64]

    @property
    def suffices(self) -> bool:
        """Whether the found masks can be used."""
        return self.iou >= self.least

    @property
    def least(self) -> float:
        """The IoU from which on they can."""
        return max(LEAST_IOU, self.by_place + LEAST_GAIN)

    @property
    def measured(self) -> str:
        """The figures, for a sentence; with what is missing where they do not suffice."""
        figures = f"{self.iou:.2f} (intersection over union; {self.by_place:.2f} by the usual place alone)"
        if self.suffices:
            return figures
        wanted = f"{self.least:.2f} is wanted" if self.least <= 1 else f"nothing can be better by {LEAST_GAIN}"
        return f"{figures}, and {wanted}"


class ObjectFinder:
    """A perceptron of two layers on the features of a cell, trained on annotated images.

    Args:
        cuts: of the network whose features are used.
        layers: all that it can be cut at.
        batch_size: images at once.
        device: of the network.
    """

    def __init__(self, cuts: Cuts, layers: Sequence[Layer], *, batch_size: int, device: torch.device):
        self._cuts, self._size, self._device = cuts, batch_size, device
        places = np.linspace(0, len(layers) - 1, _LAYERS + 1)[1:].round().astype(int)
        self._layers: list[Layer] = [layers[place] for place in dict.fromkeys(places.tolist())]

    def learn(self, annotated: Iterable[tuple[Tensor, Tensor, Tensor]]) -> Quality:
        """Train on annotated images, and measure on each with what the others taught; of fewer than two nothing is.

        Args:
            annotated: batches of indices (B,), images (B,C,H,W) and masks (B,H,W) bool.
        """
        parts = [(indices, self._cells(images).half().cpu(), masks) for indices, images, masks in annotated]
        if sum(len(indices) for indices, _, _ in parts) < 2:
            return _unmeasured([(indices, masks) for indices, _, masks in parts])
        indices, x, masks = (torch.cat(column) for column in zip(*parts, strict=True))
        self._mean = x.float().mean((0, 2, 3), keepdim=True).to(self._device)
        self._std = x.float().std((0, 2, 3), keepdim=True).clamp_min(1e-5).to(self._device)
        fold = torch.from_numpy(np.random.default_rng(1).permutation(len(x)) % _FOLDS)
        ious, places, found = np.empty(len(x)), np.empty(len(x)), torch.zeros_like(masks)
        used = np.zeros(len(x), dtype=np.bool_)
        for number in range(min(_FOLDS, len(x))):
            held_out, rest = fold == number, fold != number
            finder = self._trained(x[rest], masks[rest])
            chance = self._found(finder, x[held_out], masks.shape[1:])
            found[held_out], used[held_out] = chance > 0.5, expected_iou(chance) >= LEAST_IOU
            ious[held_out] = overlap(found[held_out], masks[held_out])
            usual = masks[rest].float().mean(0, keepdim=True) > 0.5
            places[held_out] = overlap(usual.expand_as(masks[held_out]), masks[held_out])
        self._finder = self._trained(x, masks)
        iou, by_place = (float(values[used].mean()) if used.any() else 0.0 for values in (ious, places))
        return Quality(iou=iou, by_place=by_place, by_image=ious, found=found, indices=indices.numpy())

    def find(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[int, Tensor]]:
        """Index and mask (2G,2G) bool of each image whose expected IoU is high enough; `learn` comes first.

        Args:
            batches: of indices (B,) and images (B,C,H,W).
        """
        for indices, images in batches:
            chance = self._found(self._finder, self._cells(images), (2 * GRID, 2 * GRID))
            for index, mask, expected in zip(indices.tolist(), chance > 0.5, expected_iou(chance), strict=True):
                if expected >= LEAST_IOU:
                    yield index, mask

    def _cells(self, images: Tensor) -> Tensor:
        """(B,K,G,G)."""
        cuts = self._cuts(images.to(self._device), self._layers)
        with torch.no_grad():
            return torch.cat([_on_grid(cut.maps.float()) for cut in cuts], 1)

    def _trained(self, features: Tensor, masks: Tensor) -> nn.Module:
        wanted = F.adaptive_avg_pool2d(masks[:, None].float(), GRID).to(self._device).flatten()
        x = self._inputs(features).permute(0, 2, 3, 1).flatten(0, 2)
        devices = [] if self._device.type == "cpu" else [self._device]
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            torch.manual_seed(0)
            finder = nn.Sequential(
                nn.Linear(x.shape[1], _HIDDEN), nn.ReLU(), nn.Dropout(0.3), nn.Linear(_HIDDEN, 1)
            ).to(self._device)
            optimizer = torch.optim.AdamW(finder.parameters(), 2e-3, weight_decay=1e-3)
            for _ in range(_STEPS):
                rows = torch.randint(len(x), (_CELLS,)).to(self._device)
                loss = F.binary_cross_entropy_with_logits(finder(x[rows])[:, 0], wanted[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return finder.eval()

    def _inputs(self, features: Tensor) -> Tensor:
        """(B,K+4,G,G): standardised features, and the place of each cell."""
        line = torch.linspace(-1, 1, GRID, device=self._device)
        y, x = torch.meshgrid(line, line, indexing="ij")
        place = torch.stack([x, y, x * x, y * y]).expand(len(features), -1, -1, -1)
        return torch.cat([(features.to(self._device).float() - self._mean) / self._std, place], 1)

    def _found(self, finder: nn.Module, features: Tensor, size: Sequence[int]) -> Tensor:
        """(B, *size) chance of the object, on the CPU."""
        parts = []
        with torch.no_grad():
            for some in features.split(self._size):
                chance = finder(self._inputs(some).permute(0, 2, 3, 1)).sigmoid().permute(0, 3, 1, 2)
                parts.append(F.interpolate(chance, size=tuple(size), mode="bilinear", align_corners=False)[:, 0].cpu())
        return torch.cat(parts)


def _unmeasured(parts: Sequence[tuple[Tensor, Tensor]]) -> Quality:
    """Of an image by itself, or none: nothing teaches where its object is."""
    indices, masks = parts[0] if parts else (torch.empty(0, dtype=torch.int64), torch.empty(0, 1, 1))
    found = torch.zeros_like(masks, dtype=torch.bool)
    return Quality(iou=0.0, by_place=0.0, by_image=np.zeros(len(found)), found=found, indices=indices.numpy())


def _on_grid(maps: Tensor) -> Tensor:
    if min(maps.shape[-2:]) >= GRID:
        return F.adaptive_avg_pool2d(maps, GRID)
    return F.interpolate(maps, size=(GRID, GRID), mode="bilinear", align_corners=False)


def to_learn_from(annotated: int) -> NDArray[np.int64]:
    """Which of so many annotated images are learned from: all, or as many as are worth it at random; ascending."""
    if annotated <= _MOST:
        return np.arange(annotated, dtype=np.int64)
    return np.sort(np.random.default_rng(0).choice(annotated, _MOST, replace=False))


def overlap(found: Tensor, masks: Tensor) -> NDArray[np.float64]:
    """(B,) intersection over union of masks (B,H,W) bool; 0 where both are empty."""
    union = (found | masks).sum((1, 2)).clamp_min(1)
    return np.asarray(((found & masks).sum((1, 2)) / union).double().numpy())


def expected_iou(chance: Tensor) -> NDArray[np.float64]:
    """(B,) expected |found ∩ object| / expected |found ∪ object| where found is chance > 0.5, from chances (B,H,W)."""
    found = chance > 0.5
    inside = (chance * found).sum((1, 2))
    union = found.sum((1, 2)) + (chance * ~found).sum((1, 2))
    return np.asarray((inside / union.clamp_min(1e-9)).double().numpy())
