"""Every option of a diagnosis as one pydantic model: types, ranges, defaults and documentation in one place."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, model_validator

Interpolation = Literal["nearest", "bilinear", "bicubic"]
ResizeMode = Literal["shortest", "squash", "pad"]
_IMAGES, _MOST_IMAGES = 16, 256
"""Images at once: so many of 224 px, and of however small ones."""

CHANGE_NO_FIGURE = {"batch_size", "workers", "device", "memory", "expect_accuracy"}
"""Options of a diagnosis: with others of these an interrupted one can be resumed, and two can be compared."""


class Model(BaseModel):
    """Unknown keys are refused, nothing is NaN, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Preprocessing(Model):
    """How an image becomes the network's input: resize, centre crop, scale to [0, 1], normalise."""

    input_size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """One value per channel, for pixels in [0, 1]."""
    std: tuple[float, ...]
    """One value per channel, for pixels in [0, 1]."""
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    """Crop size / resize size, as in timm; 1.0 keeps the whole short side."""
    resize_mode: ResizeMode = "shortest"
    """`shortest` edge to the resize size, `squash` both edges to it whatever the picture's shape, or `pad` what the
    longest edge at the resize size leaves; then the centre is cropped. timm's crop modes center, squash and border."""

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Preprocessing:
        channels = self.input_size[0]
        if min(self.input_size) < 1:
            raise ValueError(f"input_size must be positive, not {self.input_size}")
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values, not {len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0 or not 0 < self.crop_pct <= 1:
            raise ValueError("std must be positive and crop_pct in (0, 1]")
        return self


class DiagnoseConfig(Model):
    """What a diagnosis measures, and how."""

    layers: str = "last:3"
    """`last`, `last:N`, `stages` (the last layer of each map size), `all`, or names and globs separated by commas."""
    noise_draws: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] = "auto"
    """J of Eq. 4; 0 measures without noise (Eq. 3), 10 is the paper's. `auto` takes for each layer as few as
    `draws_precision` allows, and 10 for figures of single images."""
    draws_precision: float = Field(default=0.05, gt=0)
    """With `noise_draws: auto`: by which share noise may widen the standard error of the class correlations."""
    delta: float = Field(default=0.1, gt=0)
    """Noise range δ."""
    delta_unit: Literal["std", "absolute"] = "std"
    """δ in units of each layer's activation standard deviation, or absolute as in the paper."""
    samples_per_class: int = Field(default=100, ge=1)
    """T: images per class that go into the class correlation."""
    samples_precision: float | None = Field(default=None, gt=0)
    """In the place of `samples_per_class`, for each class as many images as bring the median relative standard error of
    its correlated kernels to this share at every layer, by what 16 images per class show; null takes T as it is."""
    min_confidence: float = Field(default=0.9, ge=0, le=1)
    """Only images predicted right with at least this softmax go into the class correlation."""
    threshold: float = Field(default=0.2, ge=0, le=1)
    """v: minimum normalised correlation (0 to 1 within the class) of a kernel that counts as used by the class."""
    noise_ranges: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.2, 0.5, 1.0, 2.0), min_length=1)
    """Ascending noise ranges at which an image's stability is measured, in units of each layer's standard deviation."""
    max_explained: int = Field(default=1000, ge=0)
    """Wrong images to explain: all up to this number, else a random choice under the seed."""
    shown: int = Field(default=10, ge=0, le=1000)
    """Wrong images of which maps are kept for the report: those with the clearest verdicts."""
    fgsm_epsilon: float = Field(default=2 / 255, ge=0, le=1)
    """Step of FGSM (2/255), for pixels in [0, 1], that makes the adversarial images whose stability is measured; 0
    leaves them out."""
    scan: Literal["enough", "all"] = "enough"
    """`enough` stops reading a class of `split` once it has `samples_per_class` right, confident images; `all` reads
    every image, so that the split has an accuracy, too."""
    split: str | None = None
    """The split whose right images make the class correlation; `train` by default, else the first."""
    examine: str | None = None
    """The split whose wrong images are explained; `val` by default, else the split of the class correlation."""
    propagate_masks: bool = False
    """Give the images of `examine` that have no mask one that is found by what the annotated images of both splits
    teach, if on annotated images that were held out this finds the object."""
    expect_accuracy: float | None = Field(default=None, ge=0, le=1)
    """The share of right images of `examine` that your own evaluation gave: the command ends with 3 where the accuracy
    is farther away than chance allows. Changes no figure."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of all random choices: samples, noise, wrong images to explain."""
    batch_size: int | None = Field(default=None, ge=1)
    """Images that are read and run at once; by default 16 of 224 px, more of smaller ones. Changes no figure."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that read images; by default none beside a CPU, up to 8 beside a GPU. Changes no figure."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1` ..."""
    memory: ByteSize | None = Field(default=None, ge=1024**2)
    """What one process may take for images, maps and copies, e.g. 4GiB; by default a quarter of the free memory of a
    CPU, half of a GPU's. It bounds how many copies run at once; changes no figure."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs products in it and sums in float32: faster on GPUs, figures differ by about a percent."""
    hooks: bool = False
    """Run the whole network through hooks for every draw instead of cutting it; for comparison."""

    @classmethod
    def stored(cls, text: str) -> DiagnoseConfig:
        """The settings in a file of any age: what it lacks is at its default, keys that exist no more are passed over.

        Raises:
            ValueError: they are no settings of a diagnosis.
        """
        held = json.loads(text)
        if not isinstance(held, dict) or "threshold" not in held:
            raise ValueError("it holds no settings of a diagnosis")
        return cls.model_validate({key: value for key, value in held.items() if key in cls.model_fields})

    @property
    def draws_per_image(self) -> int:
        """J where a figure is of one image alone: verdicts, maps, stability."""
        return 10 if self.noise_draws == "auto" else self.noise_draws

    def images_at_once(self, input_size: tuple[int, int, int]) -> int:
        """B: as asked for, else as many images (C,h,w) as have the pixels of 16 of 224 px, 16 to 256."""
        _, height, width = input_size
        return self.batch_size or min(max(_IMAGES, _IMAGES * 224**2 // (height * width)), _MOST_IMAGES)

    @model_validator(mode="after")
    def _ascending(self) -> DiagnoseConfig:
        if list(self.noise_ranges) != sorted(set(self.noise_ranges)):
            raise ValueError(f"noise_ranges must ascend, not {self.noise_ranges}")
        return self
