"""The labels of image sets, counted as a network counts its outputs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from modeldoctor.data.classes import match_classes
from modeldoctor.data.imageset import ImageSet
from modeldoctor.data.streams import StreamSet
from modeldoctor.errors import DataError, ModelDoctorWarning

AnySet = ImageSet | StreamSet


def random_access(images: AnySet) -> ImageSet:
    """The images themselves, if they are no stream.

    Raises:
        DataError: they are.
    """
    if isinstance(images, ImageSet):
        return images
    raise DataError(
        "the images are a stream, which cannot be shuffled or split, and to whose images no annotation can belong",
        where=f"split {images.split}",
        expected="images with random access: a folder, a CSV, a torchvision data set",
        hint="unpack the shards into an image folder",
    )


def in_network_classes(
    splits: Mapping[str, AnySet],
    class_names: tuple[str, ...] | None,
    num_classes: int,
    stated_order: str | None = None,
) -> tuple[dict[str, AnySet], tuple[str, ...]]:
    """The splits with labels that count the network's outputs, and the outputs' names; warns of what looks wrong.

    Args:
        splits: image sets by split.
        class_names: of the network, in the order of its outputs; None if its file does not say.
        num_classes: of the network.
        stated_order: of the class folders, as `match_classes` takes it.
    """
    matched: dict[str, AnySet] = {}
    names: tuple[str, ...] = ()
    said: dict[str, None] = {}
    for split, images in splits.items():
        match = match_classes(images.class_names, class_names, num_classes, stated_order)
        said |= dict.fromkeys((*match.notes, *match.warnings))
        matched[split], names = images.with_classes(match), names or match.names
        matched[split].split = split  # splits put together from several sources may bear the same name
    for text in said:
        warnings.warn(text, ModelDoctorWarning, stacklevel=3)
    return matched, names
