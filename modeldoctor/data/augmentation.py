"""Training pictures: changed at random, and their masks with them.

Shape letters: C channels, H and W the network's input height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.transforms import fitted, in_mode, normalised


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A picture's way into training; geometry is shared with the mask, through torchvision's paired transforms.

    Attributes:
        preprocessing: the network's input.
        shift: random translation of up to this share of the edge, edges repeated.
        flip: mirror half of the pictures.
        scale: least share of the area that a random crop keeps; 1 crops as in evaluation.
        color_jitter: range by which brightness, contrast and saturation change.
        erase: share of pictures of which a random rectangle is set to the mean colour.
    """

    preprocessing: Preprocessing
    shift: float = 0.0
    flip: bool = False
    scale: float = 1.0
    color_jitter: float = 0.0
    erase: float = 0.0

    def __call__(self, picture: Image.Image, mask: Tensor | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """The image (C,H,W) float32 and its mask (H,W) bool; what is drawn depends on `seed` alone.

        Args:
            picture: as it was read.
            mask: (H,W) bool of the picture's own size.
            seed: of everything random.
        """
        picture = in_mode(picture, self.preprocessing)
        if self.scale == 1:
            picture, mask = fitted(picture, mask, self.preprocessing)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's alone: torch.manual_seed queues calls for others
            if mask is None:
                moved = self._geometry(picture)
            else:
                moved, outline = self._geometry(picture, tv_tensors.Mask(mask[None]))
                mask = outline.as_subclass(Tensor)[0] > 0
            return self._pixels(normalised(moved, self.preprocessing)), mask

    @cached_property
    def _geometry(self) -> v2.Transform:
        size = list(self.preprocessing.input_size[1:])
        steps: list[v2.Transform] = []
        if self.scale < 1:
            mode = InterpolationMode(self.preprocessing.interpolation)
            steps.append(v2.RandomResizedCrop(size, scale=(self.scale, 1.0), interpolation=mode, antialias=True))
        if self.shift:
            margin = [round(self.shift * edge) for edge in size]
            # A mask is padded as its picture is: an object at the edge goes on behind it.
            steps += [v2.Pad([margin[1], margin[0]], padding_mode="edge"), v2.RandomCrop(size)]
        if self.flip:
            steps.append(v2.RandomHorizontalFlip())
        if self.color_jitter:
            steps.append(v2.ColorJitter(*(self.color_jitter,) * 3))
        return v2.Compose(steps or [v2.Identity()])

    @cached_property
    def _pixels(self) -> v2.Transform:
        return v2.RandomErasing(self.erase) if self.erase else v2.Identity()
