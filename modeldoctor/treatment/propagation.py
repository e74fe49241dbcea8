"""Masks from masks: in images without an annotation the object is found by what the annotated ones teach.

Shapes: S images, H x W pixels of the network's input.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import ImageSet, Sample
from modeldoctor.data.found_masks import PropagatedMasks, annotated_batches, packed, plain_batches
from modeldoctor.errors import ModelDoctorWarning
from modeldoctor.method.maps import thumbnails
from modeldoctor.method.object_finder import ObjectFinder, Quality, to_learn_from
from modeldoctor.results import run_directory
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.runtime.files import written_aside
from modeldoctor.treatment.arm import TrialContext
from modeldoctor.treatment.subsets import as_diagnosed, worth_annotating

_TILE = 192


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
    trainable = context.trainable
    finder = ObjectFinder(trainable.eval_cuts, trainable.layers, batch_size=size, device=context.device)
    reading: dict[str, Any] = {"batch_size": size, "workers": config.workers, "device": context.device}
    annotated = context.annotated[to_learn_from(len(context.annotated))]
    quality = finder.learn(annotated_batches(train.images, annotated, **reading))
    if context.team.is_primary:
        write_overlays(quality, train.images, config.output / run_directory.PROPAGATED)
    record = {"iou": quality.iou, "iou_by_place": quality.by_place, "images": 0}
    if not quality.suffices:
        warnings.warn(
            "masks are not propagated: on annotated images that were held out, the found masks that would be used "
            f"overlap with the annotated ones by {quality.measured}; the annotated images alone are used",
            ModelDoctorWarning,
            stacklevel=4,
        )
        return context, record
    wanted = worth_annotating(train, as_diagnosed(train, diagnosis), per_class, besides=context.annotated)
    found = {}
    for done, (index, mask) in enumerate(finder.find(plain_batches(train.images, wanted, **reading))):
        context.progress("masks from masks", done, len(wanted))
        context.stop_if_asked("finding objects")
        found[index] = packed(mask)
    by_path = {train.images.paths[index]: bits for index, bits in found.items()}
    images = train.images.with_masks(PropagatedMasks(train.images.masks, by_path, train.images.preprocessing))
    with_masks = np.union1d(context.annotated, np.array(list(found), dtype=np.int64))
    splits = replace(context.splits, train=replace(train, images=images, found_masks=dict.fromkeys(found, quality.iou)))
    return replace(context, splits=splits, annotated=with_masks), record | {"images": len(found), "weight": quality.iou}


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
