"""What a diagnosis says, as plain frozen records over numpy arrays; no torch, no network.

Shapes: S samples, N classes, K channels, D noise ranges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.errors import counted, shortened
from modeldoctor.results.altered import Altered
from modeldoctor.results.pictures import Pictures, Shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]


class Verdict(StrEnum):
    """Why an image is wrong. `verdicts.py` says how each is reached."""

    DAMAGED = "damaged"
    """Its pixels are darker, blurrier, noisier ... than those of training images."""
    ISOLATED = "isolated"
    """Slight alterations turn it to its label, as they turn adversarial images (Discovery 2)."""
    BACKGROUND = "background"
    """The background, not the object, carries the prediction. Needs a mask."""
    FOREIGN_KERNELS = "foreign-kernels"
    """Without one kernel, which costs more images than it serves, it is right."""
    UNFAMILIAR = "unfamiliar"
    """It is like no training image."""
    MISLABELLED = "mislabelled"
    """It is as far from its label as right images of the predicted class are."""
    RESEMBLES_CLASS = "resembles-class"
    """Its activations resemble another class's more than its own class's."""
    UNCLEAR = "unclear"
    """Nothing measured sets it apart from right predictions."""


@dataclass(frozen=True, kw_only=True)
class LayerDiagnosis:
    """One layer's class correlation (Eq. 2-4). Arrays are float32, NaN where a class has no samples.

    Attributes:
        name, kind: the module's path, and the row of the layer table.
        channels, height, width: K, H, W.
        depth: 0 = input, 1 = output, in weighted operations.
        macs_after: multiply-accumulates for one image from here to the logits.
        delta: the noise range δ that was used, in units of the activation.
        draws: J of Eq. 4 that was used; -1 where a file does not say.
        variance_between_draws, variance_between_images: of one draw's correlation, summed over kernels: between noise
            draws of one image, and between images of one class; NaN where the draws were given.
        activation_std: standard deviation of the layer's activation over a sample of images.
        correlation: (N,K), A[n,k].
        variance: (N,K), over samples.
        count: (N,), samples of each class.
        signed: (N,K), mean of Σ_hw ∂y_n/∂m_k.
        activation: (N,K), mean of m_k.
        contribution: (N,K), mean of Σ_hw |∂y_n/∂m_k · m_k|.
    """

    name: str
    kind: str
    channels: int
    height: int
    width: int
    depth: float
    macs_after: int
    delta: float
    activation_std: float
    correlation: Floats
    variance: Floats
    count: Ints
    signed: Floats
    activation: Floats
    contribution: Floats
    draws: int = -1
    variance_between_draws: float = math.nan
    variance_between_images: float = math.nan

    @property
    def standard_error(self) -> Floats:
        """(N,K), of the class correlation: √(variance / count); NaN for fewer than two samples."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.sqrt(self.variance / self.count[:, None]), dtype=np.float32)

    @property
    def normalised(self) -> Floats:
        """(N,K), Â = (A - min_k A) / (max_k A - min_k A) per class; NaN for a class without samples or contrast."""
        return normalise(self.correlation)

    def correlated(self, threshold: float) -> Bools:
        """(N,K), whether Â[n,k] >= threshold; False where Â is NaN."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.normalised >= threshold)


def normalise(correlation: Floats) -> Floats:
    """Min-max over the last axis; NaN for rows that are NaN or constant."""
    low = correlation.min(axis=-1, keepdims=True)
    span = correlation.max(axis=-1, keepdims=True) - low
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((correlation - low) / np.where(span > 0, span, np.nan))


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Every image that was looked at; all arrays have S rows.

    Attributes:
        split: index into `splits`.
        splits: names of the splits.
        path: relative to the data's root.
        label, predicted: class indices in the network's order.
        confidence: softmax of the predicted class.
        used_in_diagnosis: whether the image went into the class correlation.
        stability: (S,D), share of noise draws that keep the prediction; NaN where it was not measured.
        noise_ranges: (D,), in units of each layer's activation standard deviation.
    """

    split: Ints
    splits: tuple[str, ...]
    path: NDArray[np.bytes_] | NDArray[np.object_]
    label: Ints
    predicted: Ints
    confidence: Floats
    used_in_diagnosis: Bools
    stability: Floats
    noise_ranges: Floats


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel that carries a wrong prediction.

    Attributes:
        channel: k.
        size: a_p,k of this image for the predicted class p (Eq. 4).
        normalised: the same, min-max over the image's kernels.
        own_class: A[n,k] of the true class n, and `own_class_normalised` its Â.
        predicted_class: A[p,k].
    """

    channel: int
    size: float
    normalised: float
    own_class: float
    own_class_normalised: float
    predicted_class: float


@dataclass(frozen=True, kw_only=True)
class Misdiagnosis:
    """Why one image is wrong. Shares are in [0,1]; NaN is 'not measured'.

    Attributes:
        sample: its row in `Samples`.
        label, predicted, confidence: as there.
        verdict: one of `Verdict`.
        strength: by how much the verdict's figure exceeds its limit, as a share of the room above it; 0 if unclear.
        stability: share of draws that keep the prediction at the reference noise range.
        fallback: share of draws that turn the prediction to the true class there.
        background_share: share of the contribution map outside the object.
        foreign_share: share of the prediction's correlation carried by foreign kernels.
        resembles: the other class whose mean activations the image's resemble most; -1 if there is none.
        resemblance: cosine similarity to those less that to its own class's.
        kernels: the largest foreign kernels, largest first.
        without_object: softmax of the predicted class with its object's pixels filled with its background's mean.
        stays_without_object: whether that prediction is still the same, 1 or 0; this and the next: NaN without a mask.
        other_backgrounds: share of other images' backgrounds, none of the predicted class, before which it is right.
        misleads_others: share of other images' objects, as well, that before its background are predicted as it is.
        own_backgrounds: share of backgrounds of right images of its own class before which it is right. These three are
            asked in turn until one settles that the background is to blame: NaN once the prediction stayed, too.
        damage: 1 less the share of training images that are at least as dark, noisy ...: of what it is most so.
        damage_kind: of what: a place in `verdicts.DAMAGES`; -1 if not measured.
        unfamiliarity: its distance from training images, where 99% of these are at most at 1 from the others.
        pull_to_label: standard deviations by which slight alterations turn it to its label (see `comparisons`).
        label_doubt: how much it is like right images of the predicted class (see `comparisons`).
        faulty_kernel: the kernel of the features without which it is right, one that costs more images than it
            serves; -1 if there is none.
        without_kernel: softmax of the true class without that kernel.
    """

    sample: int
    label: int
    predicted: int
    confidence: float
    verdict: Verdict
    strength: float
    stability: float
    fallback: float
    background_share: float
    foreign_share: float
    resembles: int
    resemblance: float
    kernels: tuple[Kernel, ...]
    without_object: float = math.nan
    stays_without_object: float = math.nan
    other_backgrounds: float = math.nan
    misleads_others: float = math.nan
    own_backgrounds: float = math.nan
    damage: float = math.nan
    damage_kind: int = -1
    unfamiliarity: float = math.nan
    pull_to_label: float = math.nan
    label_doubt: float = math.nan
    faulty_kernel: int = -1
    without_kernel: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What right, confident predictions show: 95% of them stay on the good side of each figure. NaN: not measured.

    `stays_without_object` is the share of those with a mask that stay the same without their object.
    """

    layer: str
    noise_range: float
    stability: float
    background_share: float
    foreign_share: float
    resemblance: float
    references: int
    stays_without_object: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Right, confident images whose prediction one step of FGSM turns; A of those attacked, D noise ranges.

    Attributes:
        epsilon: the step, for pixels in [0, 1].
        attacked: how many images were attacked.
        sample: (A,), rows in `Samples` of those that were turned.
        predicted: (A,), the class they were turned to.
        stability: (A,D), share of noise draws that keep that class.
        fallback: (A,D), share of noise draws that give the true class again.
    """

    epsilon: float
    attacked: int
    sample: Ints
    predicted: Ints
    stability: Floats
    fallback: Floats


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is the matter with the whole network or its data, and what to do.

    Attributes:
        name: such as `preprocessing`.
        sentence: what was found, with its figures.
        action: the next step.
        command: options or a command for that step; empty where there is none.
        wrong: how many wrong images of the examined split it accounts for, estimated where only some were explained.
        samples: rows in `Samples` of a few examples.
    """

    name: str
    sentence: str
    action: str
    wrong: int
    command: str = ""
    samples: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, repr=False)
class Diagnosis:
    """A network's diagnosis.

    Attributes:
        arch: e.g. `timm/resnet18`.
        checkpoint_sha256: of the file the weights came from.
        classes: (N,) names in the network's order.
        layers: by name, in execution order.
        samples: every image looked at.
        findings: what was found of the whole network and its data, beyond single images.
        unread: splits that were not read to the end, and how many images were left (None: not known).
        masked: splits for which masks were given, and how many of their images have one that can be used.
        misdiagnosed: the wrong images that were explained.
        limits: what the verdicts are measured against; None if no image could serve as reference.
        wrong_count: number of wrong images in the examined split; `misdiagnosed` may hold fewer.
        examined: the split whose wrong images are explained.
        broken: paths and reasons of unreadable images.
        warnings: what the user was warned of.
        shown: a few of the wrong images with maps; None where none was wanted or explained.
        pictures: of wrong images of every class, small; None where none was wanted or explained, and in older files.
        altered: shown images after the interventions that their verdicts rest on; None where there was none.
        adversarial: how images turned by FGSM bear noise; None where it was not measured.
        explaining_s: what explaining took, interventions included; of a resumed run since it went on.
        seed, config, created, versions, device: how it was made.
        preprocessing: how images became the network's input, by the names of `Preprocessing`; empty in older files.
        assumed: what the checkpoint did not say of preprocessing and construction; None in older files.
        command: the command line that makes it again; empty if it was made from Python objects.
    """

    arch: str
    checkpoint_sha256: str
    classes: tuple[str, ...]
    layers: Mapping[str, LayerDiagnosis]
    samples: Samples
    misdiagnosed: tuple[Misdiagnosis, ...]
    limits: Limits | None
    wrong_count: int
    examined: str
    broken: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    seed: int
    config: DiagnoseConfig
    created: str
    device: str
    versions: dict[str, str] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] | None = None
    command: str = ""
    shown: Shown | None = None
    pictures: Pictures | None = None
    altered: Altered | None = None
    adversarial: Adversarial | None = None
    unread: Mapping[str, int | None] = field(default_factory=dict)
    masked: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    explaining_s: float = math.nan

    def __getitem__(self, layer: str) -> LayerDiagnosis:
        if layer not in self.layers:
            near = get_close_matches(layer, self.layers, n=3, cutoff=0.3)
            raise KeyError(f"no layer {layer!r} was measured; nearest: {', '.join(near or self.layers)}")
        return self.layers[layer]

    @property
    def accuracy(self) -> float:
        """Share of right images in the examined split; NaN if it has none."""
        rows = self.rows(self.examined)
        return float(np.mean(self.samples.label[rows] == self.samples.predicted[rows])) if rows.any() else float("nan")

    def rows(self, split: str) -> Bools:
        """(S,), which samples belong to a split."""
        return np.asarray(self.samples.split == self.samples.splits.index(split))

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """A row for each explained wrong image, as `pandas.DataFrame` takes it; see `tables.wrong_images`."""
        from modeldoctor.results.tables import wrong_images

        return wrong_images(self)

    def plot_kernels(self, layer: str | None = None) -> Figure:
        """Which kernels each class uses, by default at the last layer; see `display.plot_kernels`."""
        from modeldoctor.results.display import plot_kernels

        return plot_kernels(self, layer)

    def plot_wrong(self, number: int = 12) -> Figure:
        """Wrong images with their verdicts; see `display.plot_wrong`."""
        from modeldoctor.results.display import plot_wrong

        return plot_wrong(self, number)

    def __repr__(self) -> str:
        return (
            f"<Diagnosis of {self.arch}: {counted(len(self.classes), 'class', 'classes')}, "
            f"accuracy {self.accuracy:.2%} on {self.examined}, "
            f"{self.wrong_count} wrong ({len(self.misdiagnosed)} explained); layers: {shortened(list(self.layers))}>"
        )

    def _repr_html_(self) -> str:
        """Layers, verdicts and wrong images, for notebooks."""
        from modeldoctor.results.display import as_html

        return as_html(self)
