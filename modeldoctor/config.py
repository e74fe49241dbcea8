"""Every option of every command as one pydantic model: types, ranges, defaults and documentation in one place."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

Interpolation = Literal["nearest", "bilinear", "bicubic"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Preprocessing(_Model):
    """How an image becomes the network's input: resize, centre crop, scale to [0, 1], normalise."""

    input_size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """One value a channel, for pixels in [0, 1]."""
    std: tuple[float, ...]
    """One value a channel, for pixels in [0, 1]."""
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    """Crop size / resize size, as in timm; 1.0 keeps the whole short side."""

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
