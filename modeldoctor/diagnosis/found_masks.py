"""Masks from masks, for the examined images: what people annotated in either split teaches where the object is.

Shapes: S images.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import ImageSet
from modeldoctor.data.found_masks import PropagatedMasks, annotated_batches, packed, plain_batches
from modeldoctor.data.outputs import AnySet
from modeldoctor.errors import ModelDoctorWarning, UsageError, counted
from modeldoctor.graph import LayeredNetwork
from modeldoctor.method.object_finder import ObjectFinder, to_learn_from
from modeldoctor.runtime.progress import Progress


def with_found_masks(
    read: Sequence[AnySet], network: LayeredNetwork, config: DiagnoseConfig, device: torch.device, progress: Progress
) -> list[AnySet]:
    """The splits, the examined one last; its images without a mask have found ones, if these are good enough.

    Either way a warning says how good they are, which terminal, file and page repeat: they are nobody's annotations.

    Raises:
        UsageError: no image has a mask.
    """
    given = [images for images in read if isinstance(images, ImageSet) and images.annotated]
    examined, number = read[-1], sum(len(images.annotated or ()) for images in given)
    if not given or not isinstance(examined, ImageSet) or examined.masks is None:
        raise UsageError(
            "no image has a mask from which others could be found",
            where="propagate_masks",
            expected="masks of about 20 images per class, of the split for the class correlation or the examined one",
            hint="`modeldoctor annotate` picks the images to annotate; give them with --masks",
        )
    progress("masks from masks", 0, None)
    size = config.images_at_once(examined.preprocessing.input_size)
    finder = ObjectFinder(network.cuts, network.layers, batch_size=size, device=device)
    quality = finder.learn(_annotated(given, to_learn_from(number), config, device))
    overlap = f"on annotated images that were held out, they overlap with the annotated ones by {quality.measured}"
    if not quality.suffices:
        _warn(f"masks are not propagated: {overlap}")
        return list(read)
    free = np.setdiff1d(np.arange(len(examined), dtype=np.int64), list(examined.annotated or ()))
    found = dict[int, bytes]()
    batches = plain_batches(examined, free, batch_size=size, workers=config.workers, device=device)
    for index, mask in finder.find(batches):
        progress("masks from masks", len(found), len(free))
        found[index] = packed(mask)
    _warn(
        f"{examined.split}: masks of {counted(len(found), 'image')} were found from {number} annotated ones and are "
        f"nobody's annotations: {overlap}. Verdicts on backgrounds rest on them"
    )
    by_path = {examined.paths[index]: bits for index, bits in found.items()}
    masks = PropagatedMasks(examined.masks, by_path, examined.preprocessing)
    return [*read[:-1], examined.with_found(masks, found)]


def _annotated(
    given: Sequence[ImageSet], chosen: NDArray[np.int64], config: DiagnoseConfig, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of the annotated images of all splits, of which those in these places are taken."""
    before = 0
    for images in given:
        annotated = np.array(sorted(images.annotated or ()), dtype=np.int64)
        size = config.images_at_once(images.preprocessing.input_size)
        here = chosen[(chosen >= before) & (chosen < before + len(annotated))] - before
        yield from annotated_batches(images, annotated[here], batch_size=size, workers=config.workers, device=device)
        before += len(annotated)


def _warn(text: str) -> None:
    warnings.warn(text, ModelDoctorWarning, stacklevel=4)
