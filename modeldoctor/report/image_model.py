"""What `report.json` holds of single images and of findings, as pydantic models."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict

Number = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class Model(BaseModel):
    """Unknown keys are refused, and nothing changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class KernelFigures(Model):
    """One kernel that carries a wrong prediction; see `results.diagnosis.Kernel`."""

    channel: int
    size: Number
    normalised: Number
    own_class: Number
    own_class_normalised: Number
    predicted_class: Number


class ImageFigures(Model):
    """One wrong image; see `results.diagnosis.Misdiagnosis`."""

    path: str
    label: str
    predicted: str
    confidence: Number
    verdict: str
    strength: Number
    stability: Number
    fallback: Number
    background_share: Number
    without_object: Number = math.nan
    """Softmax of the predicted class with the object removed."""
    stays_without_object: Number = math.nan
    """1 if the prediction is the same then, else 0."""
    other_backgrounds: Number = math.nan
    """Share of other images' backgrounds before which it is right."""
    misleads_others: Number = math.nan
    """Share of other images' objects that before its background are taken for the same class."""
    own_backgrounds: Number = math.nan
    """Share of backgrounds of right images of its class before which it is right."""
    foreign_share: Number
    resembles: str | None
    resemblance: Number
    damage: Number = math.nan
    """The share of training images that are less so."""
    damage_kind: int = -1
    unfamiliarity: Number = math.nan
    """Distance from training images, where 99% of these are at most at 1."""
    pull_to_label: Number = math.nan
    """Standard deviations by which slight alterations turn it to its label."""
    label_doubt: Number = math.nan
    faulty_kernel: int = -1
    """The kernel of the features without which it is right."""
    without_kernel: Number = math.nan
    kernels: tuple[KernelFigures, ...]


class FindingFigures(Model):
    """What was found of the whole network and its data, and what to do."""

    name: str
    sentence: str
    action: str
    command: str
    wrong: int
    """Wrong images that it accounts for."""
    examples: tuple[str, ...]


class LimitFigures(Model):
    """What 95% of right, confident predictions stay within; see `results.diagnosis.Limits`."""

    layer: str
    noise_range: Number
    stability: Number
    background_share: Number
    foreign_share: Number
    resemblance: Number
    references: int
    stays_without_object: Number = math.nan
    """Share of right, confident predictions that stay the same with the object removed."""
