"""Masks from masks: a small network on the classifier's own features finds the object in images without an annotation.

Shapes: S images, K features of a cell, G x G cells, H x W pixels of the network's input.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import ImageSet, Sample, make_loader
from modeldoctor.data.frames import STORED
from modeldoctor.data.masks import Masks
from modeldoctor.data.transforms import unfitted
from modeldoctor.errors import ModelDoctorWarning
from modeldoctor.graph import Layer
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.maps import thumbnails
from modeldoctor.results import run_directory
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.runtime.files import written_aside
from modeldoctor.treatment.arm import TrialContext
from modeldoctor.treatment.subsets import as_diagnosed, worth_annotating

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
_FOLDER = "propagated"
_TILE = 192


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well masks are propagated, on annotated images that were not learned from.

    Attributes:
        iou: mean of |found ∩ object| / |found ∪ object|, pixels of the network's input, over the images whose found
            mask would be used; 0 if none would be.
        by_place: the same of the mean annotated mask, which knows nothing of the image.
        by_image: (S,) that of every image.
        found: (S,H,W) bool, the found masks.
        indices: (S,) the annotated images.
    """

    iou: float
    by_place: float
    by_image: NDArray[np.float64]
    found: Tensor
    indices: NDArray[np.int64]

    @property
    def suffices(self) -> bool:
        """Whether the found masks can be trained on."""
        return self.iou >= max(LEAST_IOU, self.by_place + LEAST_GAIN)


class PropagatedMasks:
    """Given annotations, and found masks for other images.

    Args:
        given: what people annotated; for images that are not in `found`.
        found: by an image's path relative to the data's root (2G,2G) bool over the network's input, as packed bits.
        preprocessing: how pictures become the network's input.
    """

    def __init__(self, given: Masks, found: Mapping[str, bytes], preprocessing: Preprocessing):
        self._given, self._found, self._preprocessing = given, found, preprocessing

    def find(self, relative_path: str) -> Path | None:
        """See `Masks.find`."""
        if relative_path in self._found:
            return Path(_FOLDER, relative_path)
        return self._given.find(relative_path)

    def read(self, path: Path, size: tuple[int, int], orientation: int = STORED) -> Tensor:
        """See `Masks.read`."""
        parts = PurePosixPath(path).parts
        packed = self._found.get(str(PurePosixPath(*parts[1:]))) if parts[0] == _FOLDER else None
        if packed is None:
            return self._given.read(path, size, orientation)
        bits = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.bool_)
        return unfitted(torch.from_numpy(bits).view(2 * GRID, 2 * GRID), size, self._preprocessing)

    def warn(self, text: str) -> None:
        """See `Masks.warn`."""
        self._given.warn(text)


class ObjectFinder:
    """A perceptron of two layers on the features of a cell, trained on annotated images.

    Args:
        trainable: the network whose features are used, in eval mode.
        images: of the split, with their masks.
        batch_size: images at once.
        device: of the network.
    """

    def __init__(self, trainable: TrainableNetwork, images: ImageSet, *, batch_size: int, device: torch.device):
        self._trainable, self._images, self._size, self._device = trainable, images, batch_size, device
        layers = trainable.layers
        places = np.linspace(0, len(layers) - 1, _LAYERS + 1)[1:].round().astype(int)
        self._layers: list[Layer] = [layers[place] for place in dict.fromkeys(places.tolist())]

    def learn(self, annotated: NDArray[np.int64]) -> Quality:
        """Train on annotated images, and measure on each with what the others taught.

        Args:
            annotated: their indices, in the set; masks that can be used.
        """
        if len(annotated) > _MOST:
            annotated = np.sort(np.random.default_rng(0).choice(annotated, _MOST, replace=False))
        parts = [(read, cells.half().cpu(), masks) for read, cells, masks in self._features(annotated, masked=True)]
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

    def find(self, indices: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
        """Index and mask (2G,2G) bool of each image whose expected IoU is high enough; `learn` comes first."""
        for batch, cells, _ in self._features(indices, masked=False):
            chance = self._found(self._finder, cells, (2 * GRID, 2 * GRID))
            for index, mask, expected in zip(batch.tolist(), chance > 0.5, expected_iou(chance), strict=True):
                if expected >= LEAST_IOU:
                    yield index, mask

    def _features(self, indices: NDArray[np.int64], *, masked: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Indices (B,), features (B,K,G,G) and masks (B,H,W)."""
        images = self._images if masked else self._images.masked_at(())
        for batch in make_loader(images, indices, batch_size=self._size, device=self._device):
            if not len(batch.labels):
                continue
            cuts = self._trainable.eval_cuts(batch.images.to(self._device), self._layers)
            with torch.no_grad():
                cells = torch.cat([_on_grid(cut.maps.float()) for cut in cuts], 1)
            masks: Sequence[Tensor | None] = batch.masks or []
            found = torch.stack([mask for mask in masks if mask is not None]) if masked else batch.labels
            yield batch.indices, cells, found

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


def _on_grid(maps: Tensor) -> Tensor:
    if min(maps.shape[-2:]) >= GRID:
        return F.adaptive_avg_pool2d(maps, GRID)
    return F.interpolate(maps, size=(GRID, GRID), mode="bilinear", align_corners=False)


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


def with_propagated(
    context: TrialContext, diagnosis: Diagnosis, config: TreatConfig
) -> tuple[TrialContext, dict[str, Any] | None]:
    """The context with masks for `space.propagated_per_class` further images per class, and what the record says of it.

    What rests on a found mask counts by the overlap that was measured. Where held-out annotated images show that the
    masks would not do, the context stays as it is, and that is warned of.
    A picture of the best, the median and the worst of these images is written beside the trial.
    """
    per_class, train, size = config.space.propagated_per_class, context.splits.train, config.training.batch_size
    if not per_class or not len(context.annotated):
        return context, None
    assert size is not None  # resolved
    assert train.images.masks is not None
    context.progress("masks from masks", 0, None)
    finder = ObjectFinder(context.trainable, train.images, batch_size=size, device=context.device)
    quality = finder.learn(context.annotated)
    if context.team.is_primary:
        write_overlays(quality, train.images, config.output / run_directory.PROPAGATED)
    record = {"iou": quality.iou, "iou_by_place": quality.by_place, "images": 0}
    if not quality.suffices:
        warnings.warn(
            "masks are not propagated: on annotated images that were held out, the found masks that would be used "
            f"overlap with the annotated ones by {quality.iou:.2f} (intersection over union; {quality.by_place:.2f} by "
            "the usual place alone), and "
            f"{max(LEAST_IOU, quality.by_place + LEAST_GAIN):.2f} is wanted; the annotated images alone are used",
            ModelDoctorWarning,
            stacklevel=4,
        )
        return context, record
    wanted = worth_annotating(train, as_diagnosed(train, diagnosis), per_class, besides=context.annotated)
    found = {}
    for done, (index, mask) in enumerate(finder.find(wanted)):
        context.progress("masks from masks", done, len(wanted))
        context.stop_if_asked("finding objects")
        found[index] = np.packbits(mask.numpy()).tobytes()
    by_path = {train.images.paths[index]: bits for index, bits in found.items()}
    images = train.images.with_masks(PropagatedMasks(train.images.masks, by_path, train.images.preprocessing))
    annotated = np.union1d(context.annotated, np.array(list(found), dtype=np.int64))
    splits = replace(context.splits, train=replace(train, images=images, found_masks=dict.fromkeys(found, quality.iou)))
    return replace(context, splits=splits, annotated=annotated), record | {"images": len(found), "weight": quality.iou}


def write_overlays(quality: Quality, images: ImageSet, path: Path) -> None:
    """A picture for people: annotated images with the annotated outline (green) and the found one (red).

    The two best, the two median and the two worst, each with its intersection over union.
    """
    order = np.argsort(-quality.by_image, kind="stable")
    middle = len(order) // 2
    rows = list(dict.fromkeys([*order[:2], *order[max(0, middle - 1) : middle + 1], *order[-2:]]))
    tiles = []
    for row in rows:
        sample = images[int(quality.indices[row])]
        if not isinstance(sample, Sample) or sample.mask is None:
            continue
        mean, std = images.preprocessing.mean, images.preprocessing.std
        picture = Image.fromarray(thumbnails(sample.image[None], mean, std)[0]).convert("RGB").resize((_TILE, _TILE))
        for mask, colour in ((sample.mask, (0, 220, 0)), (quality.found[row], (255, 40, 40))):
            picture.paste(colour, mask=_outline(mask))
        ImageDraw.Draw(picture).text(
            (4, 4), f"{quality.by_image[row]:.2f}", fill="white", stroke_width=2, stroke_fill="black"
        )
        tiles.append(picture)
    sheet = Image.new("RGB", (_TILE * max(1, len(tiles)), _TILE))
    for place, tile in enumerate(tiles):
        sheet.paste(tile, (place * _TILE, 0))
    with written_aside(path) as aside:
        sheet.save(aside, format="PNG")


def _outline(mask: Tensor) -> Image.Image:
    whole = F.interpolate(mask[None, None].float(), size=(_TILE, _TILE), mode="nearest")
    edge = (F.max_pool2d(whole, 5, stride=1, padding=2) > whole)[0, 0]
    return Image.fromarray((edge.numpy() * 255).astype(np.uint8))
