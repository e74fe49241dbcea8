"""Why one image is wrong: the kernels that carry the prediction, whose profile it resembles, isolation, background.

The verdict is the first row of `results.verdicts.VERDICTS` whose figure exceeds its limit; `unclear` if none does.
`background` and `foreign-kernels` are interventions: the object, or a kernel, is removed. `isolated` and
`resembles-class` compare a figure with that of right, confident predictions ("references"): beyond what 95% of these
show it is abnormal. The others compare the image with right images and training images (`comparisons.py`).

Two figures are not taken from |∂y/∂m|, because behind BatchNorm-ReLU-pooling-linear that says little about the image.
Resemblance compares mean activations, which the predicted class does not enter: with a_p the nearest profile was that
of the predicted class for 100% of wrong images, whatever they showed. Background uses |∂y/∂m · m|: less the share of
background, it told wrong from right images with an area under the curve of 0.60, |∂y/∂m| with 0.53 (ResNet-10t on
Menagerie, 114 wrong images of the validation split).

Shapes: B images, K channels, H x W positions, N classes, D noise ranges, J noise draws, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from modeldoctor.diagnosis.interventions import Backgrounds, intervene
from modeldoctor.graph import Cut, Layer, LayeredNetwork
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.maps import background_share
from modeldoctor.method.noise import Noise
from modeldoctor.results.diagnosis import Floats, Kernel, LayerDiagnosis, Limits, Misdiagnosis, Verdict, normalise
from modeldoctor.results.verdicts import VERDICTS
from modeldoctor.runtime.memory import BatchLimit

KERNELS_KEPT = 8
"""How many foreign kernels are kept for each image."""
STEADY = 0.95
"""References must keep this share of predictions at the noise range that isolation is judged at."""
MAJORITY = 0.5
"""A prediction that most noisy copies keep is not isolated, however steady the references are."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """How images are examined.

    Attributes:
        layers: noise is put on each of these in turn; the last one's kernels are examined.
        scales: activation standard deviation by layer.
        profile: the examined layer's class correlation.
        threshold: v of the correlated kernels.
        noise_ranges: (D,) in units of the standard deviation.
        draws: J for Eq. 4, and for each noise range.
        delta: δ of Eq. 4 on the examined layer.
        seed: of all noise.
        rows: how many copies may run at once, by layer.
    """

    layers: tuple[Layer, ...]
    scales: Mapping[str, float]
    profile: LayerDiagnosis
    threshold: float
    noise_ranges: tuple[float, ...]
    draws: int
    delta: float
    seed: int
    rows: Mapping[str, BatchLimit]


class Evidence(NamedTuple):
    """What was measured on one image; NaN where it was not. See `results.diagnosis.Misdiagnosis` for the terms.

    `stability` and `fallback` have D values.
    """

    sample: int
    label: int
    predicted: int
    confidence: float
    stability: list[float]
    fallback: list[float]
    background_share: float
    foreign_share: float
    resembles: int
    resemblance: float
    kernels: list[dict[str, Any]]
    without_object: float
    stays_without_object: float
    other_backgrounds: float
    misleads_others: float
    own_backgrounds: float


def gather_evidence(
    network: LayeredNetwork,
    probe: Probe,
    images: Tensor,
    masks: Sequence[Tensor | None] | None,
    labels: Tensor,
    predicted: Tensor,
    confidence: Sequence[float],
    samples: Sequence[int],
    keys: Sequence[int],
    backgrounds: Backgrounds | None = None,
) -> list[Evidence]:
    """Examine a batch of images.

    Args:
        network: cut at `probe.layers`.
        images: (B,C,H,W).
        masks: for each image (H,W) bool, True on the object, or None.
        labels, predicted: (B,) true and predicted classes.
        confidence, samples: softmax of the prediction, and row among the samples, for the record.
        keys: what each image's noise depends on.
        backgrounds: that objects are put before.
    """
    tally = _Tally.empty(probe, len(images))
    carried: list[dict[str, Any]] = []
    for cut in network.cuts(images, probe.layers):
        tally.add(cut, probe, labels, predicted, keys)
        if cut.layer.name == probe.profile.name:
            carried = _carried(cut, probe, masks, labels, predicted, keys)
    stability, fallback = tally.shares(probe)
    turned = intervene(network, backgrounds, images, masks, labels, predicted)
    return [
        Evidence(
            sample=samples[i],
            label=int(labels[i]),
            predicted=int(predicted[i]),
            confidence=confidence[i],
            stability=stability[i],
            fallback=fallback[i],
            **carried[i],
            **turned[i],
        )
        for i in range(len(images))
    ]


def measure_stability(
    network: LayeredNetwork, probe: Probe, images: Tensor, labels: Tensor, predicted: Tensor, keys: Sequence[int]
) -> tuple[list[list[float]], list[list[float]]]:
    """For each image and noise range, the shares of noisy copies that keep the prediction, and that give the label.

    Args: as in `gather_evidence`.
    """
    tally = _Tally.empty(probe, len(images))
    for cut in network.cuts(images, probe.layers):
        tally.add(cut, probe, labels, predicted, keys)
    return tally.shares(probe)


class _Tally(NamedTuple):
    """How many noisy copies kept the prediction, and how many fell back to the true class, each (D,B)."""

    kept: Tensor
    fell: Tensor
    plan: dict[str, list[int]]

    @classmethod
    def empty(cls, probe: Probe, images: int) -> _Tally:
        kept, fell = torch.zeros(2, len(probe.noise_ranges), images)
        return cls(kept, fell, _noise_plan(probe))

    def add(self, cut: Cut, probe: Probe, labels: Tensor, predicted: Tensor, keys: Sequence[int]) -> None:
        if draws := self.plan[cut.layer.name]:
            predictions = _noisy_predictions(cut, probe, draws, keys)
            self.kept.add_((predictions == predicted).sum(1).cpu())
            self.fell.add_(((predictions == labels) & (labels != predicted)).sum(1).cpu())

    def shares(self, probe: Probe) -> tuple[list[list[float]], list[list[float]]]:
        """Of all draws; NaN without any."""
        kept, fell = ((values / (probe.draws or torch.nan)).T.tolist() for values in (self.kept, self.fell))
        return kept, fell


def _noise_plan(probe: Probe) -> dict[str, list[int]]:
    """For each layer, which draws are made there: a layer at random for each, as in Fig. 3."""
    where = np.random.default_rng(probe.seed).integers(len(probe.layers), size=probe.draws)
    return {layer.name: np.flatnonzero(where == number).tolist() for number, layer in enumerate(probe.layers)}


def _noisy_predictions(cut: Cut, probe: Probe, draws: Sequence[int], keys: Sequence[int]) -> Tensor:
    """(D,draws,B) predicted classes; noise differs between ranges by its size alone, so that these compare well."""
    noise = Noise(seed=probe.seed, delta=probe.scales[cut.layer.name], stream="stability")

    def predict(chunk: Sequence[int]) -> Tensor:
        drawn = torch.cat([noise.draw(cut.layer.name, keys, range(draw, draw + 1), cut.maps) for draw in chunk])
        drawn = drawn.unflatten(0, (len(chunk), -1))
        with torch.no_grad():
            noisy = (drawn.mul(size).add_(cut.maps).flatten(0, 1) for size in probe.noise_ranges)
            answers = [cut.head(maps).argmax(1) for maps in noisy]
        return torch.stack(answers).view(len(answers), len(chunk), -1)

    return torch.cat(list(probe.rows[cut.layer.name].each(draws, len(keys), predict)), dim=1)


def _carried(
    cut: Cut,
    probe: Probe,
    masks: Sequence[Tensor | None] | None,
    labels: Tensor,
    predicted: Tensor,
    keys: Sequence[int],
) -> list[dict[str, Any]]:
    """Kernels, resemblance and background share of each image."""
    noise = Noise(seed=probe.seed, delta=probe.delta)
    result = correlate_samples(cut, predicted, keys, noise=noise, draws=probe.draws, rows=probe.rows[cut.layer.name])
    sizes, activation = (part.cpu().double().numpy() for part in (result.correlation, cut.maps.mean((2, 3))))
    maps = result.contribution_map.cpu()
    return [
        {
            **_foreign(sizes[i], probe, int(labels[i]), int(predicted[i])),
            **_resemblance(activation[i], probe.profile.activation, int(labels[i])),
            "background_share": background_share(maps[i], masks[i] if masks else None),
        }
        for i in range(len(labels))
    ]


def _foreign(sizes: Floats, probe: Probe, label: int, predicted: int) -> dict[str, Any]:
    """The share of the prediction's correlation (K) that lies on kernels which the true class does not use."""
    profile = probe.profile
    if not profile.count[label]:
        return {"foreign_share": float("nan"), "kernels": []}
    own, image = normalise(profile.correlation[label]), normalise(sizes)
    foreign = np.flatnonzero((image >= probe.threshold) & (own < probe.threshold))
    foreign = foreign[np.argsort(-sizes[foreign], kind="stable")]
    kernels = [
        Kernel(
            channel=int(k),
            size=float(sizes[k]),
            normalised=float(image[k]),
            own_class=float(profile.correlation[label, k]),
            own_class_normalised=float(own[k]),
            predicted_class=float(profile.correlation[predicted, k]),
        )
        for k in foreign[:KERNELS_KEPT]
    ]
    total = sizes.sum()
    share = float(sizes[foreign].sum() / total) if total > 0 else float("nan")
    return {"foreign_share": share, "kernels": [asdict(kernel) for kernel in kernels]}


def _resemblance(activation: Floats, profiles: Floats, label: int) -> dict[str, Any]:
    """The class whose mean activation (N,K) is most like the image's (K), and by how much more than its own class's."""
    norms = np.linalg.norm(profiles, axis=1) * np.linalg.norm(activation)
    with np.errstate(invalid="ignore", divide="ignore"):
        similarity = np.where(norms > 0, profiles @ activation / norms, np.nan)
    others = similarity.copy()
    others[label] = np.nan
    if np.isnan(others).all() or np.isnan(similarity[label]):
        return {"resembles": -1, "resemblance": float("nan")}
    nearest = int(np.nanargmax(others))
    return {"resembles": nearest, "resemblance": float(others[nearest] - similarity[label])}


def find_limits(references: Sequence[Evidence], probe: Probe) -> Limits | None:
    """What 95% of right, confident predictions stay within; None without references."""
    if not references:
        return None
    stability = np.array([reference.stability for reference in references])
    steady = [row for row, mean in enumerate(stability.mean(0)) if mean >= STEADY]
    row = steady[-1] if steady else 0

    def quantile(values: Sequence[float], share: float) -> float:
        known = np.array(values)[~np.isnan(values)]
        return float(np.quantile(known, share)) if len(known) else float("nan")

    def mean(values: Sequence[float]) -> float:
        known = np.array(values)[~np.isnan(values)]
        return float(known.mean()) if len(known) else float("nan")

    return Limits(
        layer=probe.profile.name,
        noise_range=probe.noise_ranges[row],
        stability=min(quantile(stability[:, row].tolist(), 0.05), MAJORITY),
        background_share=quantile([reference.background_share for reference in references], 0.95),
        foreign_share=quantile([reference.foreign_share for reference in references], 0.95),
        resemblance=quantile([reference.resemblance for reference in references], 0.95),
        references=len(references),
        stays_without_object=mean([reference.stays_without_object for reference in references]),
    )


def judge(evidence: Evidence, limits: Limits | None, probe: Probe, compared: Mapping[str, Any]) -> Misdiagnosis:
    """The verdict on one wrong image.

    Args:
        evidence: what was measured on it.
        limits: what right, confident predictions show.
        probe: how it was examined.
        compared: further fields of `Misdiagnosis`, from comparisons with other images.
    """
    row = probe.noise_ranges.index(limits.noise_range) if limits else 0
    figures = evidence._asdict() | dict(compared)
    figures |= {"stability": evidence.stability[row], "fallback": evidence.fallback[row]}
    figures["kernels"] = tuple(Kernel(**kernel) for kernel in evidence.kernels)
    unjudged = Misdiagnosis(**figures, verdict=Verdict.UNCLEAR, strength=0.0)
    for candidate in VERDICTS:
        limit, value = candidate.limit(limits), candidate.value(unjudged)
        if value > limit:  # False for NaN
            return replace(unjudged, verdict=candidate.verdict, strength=(value - limit) / (1 - limit))
    return unjudged
