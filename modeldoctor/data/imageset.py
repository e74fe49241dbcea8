"""The image set: pictures, labels and masks of one split.

Shape letters: B images, C channels, H and W the network's input height and width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.classes import ClassMatch
from modeldoctor.data.masks import MaskCheck, Masks
from modeldoctor.data.pictures import Pictures, UnreadableError
from modeldoctor.data.transforms import Transform, make_transform, picture_mode
from modeldoctor.errors import DataError, MaskError


@dataclass(frozen=True)
class Sample:
    """One image, ready for the network."""

    image: Tensor
    """(C,H,W) float32, preprocessed."""
    label: int
    index: int
    """Position in its image set."""
    mask: Tensor | None
    """(H,W) bool, True on the object; None where the image is not annotated."""


@dataclass(frozen=True)
class Broken:
    """An image that cannot be read."""

    index: int
    reason: str


class ImageSet(Dataset[Sample | Broken]):
    """The images of one split, with random access.

    Args:
        split: the split's name.
        class_names: the classes that `labels` count through.
        labels: (B,) int64.
        paths: one path per image, relative to the data's root; made up where images are not files.
        pictures: where image i is read from.
        preprocessing: the network's input.
        masks: where object masks are found, by the same paths.

    Raises:
        DataError: the network takes neither 1 nor 3 channels.
    """

    def __init__(
        self,
        *,
        split: str,
        class_names: tuple[str, ...],
        labels: NDArray[np.int64],
        paths: Sequence[str],
        pictures: Pictures,
        preprocessing: Preprocessing,
        masks: Masks | None = None,
    ):
        self.split, self.class_names, self.labels = split, class_names, labels
        self.paths, self.pictures, self.masks = paths, pictures, masks
        self.preprocessing = preprocessing
        self._masked: frozenset[int] | None = None  # None: every image that has a mask
        self._found: frozenset[int] = frozenset()
        self._mode = picture_mode(preprocessing)
        self._transform = make_transform(preprocessing)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample | Broken:
        """Read one image.

        Raises:
            MaskError: the image has a mask that cannot be used.
        """
        return self.load(range(len(self))[index], self._transform)

    def load(self, index: int, transform: Transform) -> Sample | Broken:
        """Read one image and turn it, with its mask, into tensors in another way than evaluation does.

        Raises:
            MaskError: the image has a mask that cannot be used.
        """
        try:
            picture = self.pictures.read(index, self._mode)
        except UnreadableError as error:
            return Broken(index, str(error))
        wanted = self._masked is None or index in self._masked
        mask_file = self.masks.find(self.paths[index]) if self.masks and wanted else None
        mask = self._mask(mask_file, index, picture.size) if mask_file else None
        try:
            image, mask = transform(picture, mask)
        except Exception as error:  # whatever this one image does to it
            return Broken(index, f"{type(error).__name__}: {error}")
        return Sample(image, int(self.labels[index]), index, mask)

    def check_masks(self) -> MaskCheck:
        """Read each mask there is."""
        check = MaskCheck([], [], [], [])
        for index, path in enumerate(self.paths):
            mask, size = self.masks.find(path) if self.masks else None, self.pictures.size(index)
            if mask is None or size is None:
                continue
            try:
                pixels = self._mask(mask, index, size)
            except MaskError as error:
                check.invalid.append(error)
                continue
            check.usable.append(index)
            if pixels.all():
                check.whole.append(mask)
            elif pixels[[0, 0, -1, -1], [0, -1, 0, -1]].all():
                check.framing.append(mask)
        return check

    def _mask(self, mask: Path, index: int, size: tuple[int, int]) -> Tensor:
        if self.masks is None:
            raise ValueError("an image set without masks")
        try:
            return self.masks.read(mask, size, self.pictures.orientation(index))
        except MaskError:
            raise
        except Exception as error:  # whatever this one annotation does to what reads it
            raise MaskError(
                f"it cannot be read ({type(error).__name__}: {error})",
                where=str(mask),
                hint="make it again, or remove it: the image then counts as not annotated",
            ) from error

    def masked_at(self, indices: Iterable[int]) -> Self:
        """Return the same images of which these alone have their masks read."""
        chosen = copy.copy(self)
        chosen._masked = frozenset(indices)
        return chosen

    def with_masks(self, masks: Masks) -> Self:
        """Return the same images with their masks from elsewhere."""
        changed = copy.copy(self)
        changed.masks, changed._masked = masks, None
        return changed

    def with_found(self, masks: Masks, indices: Iterable[int]) -> Self:
        """Return the same images of which these, too, have masks; `annotated` holds none of them."""
        changed = copy.copy(self)
        changed.masks, changed._found = masks, frozenset(indices)
        changed._masked = frozenset(self.annotated or ()) | changed._found
        return changed

    @property
    def annotated(self) -> frozenset[int] | None:
        """The images whose masks, by a person, are read; None without masks, or where they were not looked at."""
        return None if self.masks is None or self._masked is None else self._masked - self._found

    @property
    def with_mask(self) -> frozenset[int] | None:
        """The images whose masks are read, a person's or found; None for all that have one."""
        return self._masked

    def preprocessed_as(self, preprocessing: Preprocessing) -> Self:
        """Return the same images for another network input."""
        changed = copy.copy(self)
        changed.preprocessing, changed._transform = preprocessing, make_transform(preprocessing)
        return changed

    def with_classes(self, match: ClassMatch) -> Self:
        """Return the same images with labels that count the network's outputs.

        Raises:
            DataError: a label counts no class.
        """
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(match.mapping):
            raise DataError(
                f"labels from {self.labels.min()} to {self.labels.max()}",
                where=f"split {self.split}",
                expected=f"0 to {len(match.mapping) - 1}, a number for each class",
                hint="take images without a class out of the data, or correct their labels",
            )
        relabelled = copy.copy(self)
        relabelled.class_names, relabelled.labels = match.names, match.mapping[self.labels]
        return relabelled
