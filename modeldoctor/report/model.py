"""What `report.json` holds, schema 1, as pydantic models: the one source of its JSON Schema and of the gates' names.

Numbers are NaN in Python and null in JSON where they are undefined or were not measured. Shares are in [0, 1].
"""

from __future__ import annotations

import json
import math
from typing import Any, Literal

from pydantic import Field, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.report.image_model import (
    FindingFigures,
    ImageFigures,
    LimitFigures,
    Model,
    Number,
)
from modeldoctor.results.trial import Trial

SCHEMA = 1


class KeyFigures(Model):
    """The figures that a gate may call by their bare names."""

    accuracy: Number = math.nan
    """Share of right images: of a trial the weights handed back on the test split; of a diagnosis the network on the
    examined split; of two diagnoses the later one. Not measured in an unfinished trial."""
    worst_class: Number = math.nan
    """The lowest accuracy of any class, of the same weights on the same images."""
    worst_group: Number = math.nan
    """The lowest accuracy of any group, in a trial with groups."""
    gain: Number = math.nan
    """Accuracy of the treatment less the original's; of two diagnoses the later less the earlier."""
    gain_over_control: Number = math.nan
    """Accuracy of the treatment less that of `continue`, plain continued training."""
    damaged: Number = math.nan
    isolated: Number = math.nan
    """Share of the explained wrong images with this verdict; likewise those below."""
    background: Number = math.nan
    mislabelled: Number = math.nan
    unfamiliar: Number = math.nan
    resembles_class: Number = math.nan
    foreign_kernels: Number = math.nan
    unclear: Number = math.nan
    broken: Number = math.nan
    """How many images could not be read."""
    classes_without_samples: Number = math.nan
    """How many classes had no right, confident image, so that nothing is known of their kernels."""


class GateResult(Model):
    """One gate that the caller asked for."""

    gate: str
    """As it was given."""
    figure: str
    """Path of the figure."""
    wanted: str
    """Such as `>= 0.9`."""
    found: Number
    met: bool
    """False for a figure that was not measured."""


class ClassFigures(Model):
    """One class on the examined split."""

    name: str
    images: int
    accuracy: Number
    low: Number
    """Of Wilson's 95% interval."""
    high: Number
    verdicts: dict[str, int]
    """How many of its wrong images have which verdict."""
    doubtful_labels: Number = math.nan
    """Estimated share of its images whose label is doubtful."""


class SplitFigures(Model):
    """One split that was read."""

    images: int
    unread: int | None = 0
    """Images that were not needed; null where a stream does not say how many it holds."""
    masks: int | None = None
    """Images of the split with a mask that can be used; null where no masks were given."""
    accuracy: Number
    """Not known of a split that was not read to the end."""


class LayerFigures(Model):
    """One layer."""

    name: str
    kind: str
    channels: int
    """Kernels."""
    height: int
    width: int
    depth: float
    """0 is the input, 1 the output."""
    correlated_share: Number
    """Share of the kernels that a class depends on, mean over classes."""
    sharing: Number
    """Mean Jaccard index of two classes' kernels."""
    classes_without_samples: int
    draws: int | None = None
    """Noise draws, J of Eq. 4."""
    relative_standard_error: Number = math.nan
    """Of the class correlations, median over the correlated kernels."""


class BrokenImage(Model):
    """An image that could not be read."""

    path: str
    reason: str


class PairFigures(Model):
    """Two classes."""

    one: str
    other: str
    sharing: Number
    """Jaccard index of the kernels that they depend on."""
    confusions: int
    """Images of the one taken for the other."""


class SharingFigures(Model):
    """Whether classes that share kernels get confused, at the deepest layer."""

    layer: str
    pairs: int
    """Of classes of which something is known."""
    confused: int
    """Pairs of which at least one image was confused."""
    sharing_confused: Number
    """Mean Jaccard index of confused pairs."""
    sharing_others: Number
    """Mean Jaccard index of the others."""
    rank_correlation: Number
    """Spearman's, between Jaccard index and number of confusions over all pairs."""
    closest: tuple[PairFigures, ...]
    """The pairs that share most."""
    most_confused: tuple[PairFigures, ...]


class CurveFigures(Model):
    """How some images bear noise on their features."""

    images: int
    stability: tuple[Number, ...]
    """Share of noisy copies that keep the prediction, for each noise range."""
    fallback: tuple[Number, ...] | None = None
    """Share that give the true class, of adversarial images."""


class StabilityFigures(Model):
    """Stability of normal, wrong and adversarial images against noise on their features (Discovery 2, Fig. 3)."""

    noise_ranges: tuple[float, ...]
    """In units of each layer's activation standard deviation."""
    right: CurveFigures
    """Right, confident images."""
    wrong: CurveFigures
    """The explained wrong images."""
    adversarial: CurveFigures | None
    """Right images turned by one step of FGSM."""
    epsilon: Number = math.nan
    """That step, for pixels in [0, 1]."""
    attacked: int = 0
    """How many images were attacked."""


class KernelFigures(Model):
    """How much a class depends on one kernel."""

    kernel: int
    correlation: Number
    """Â, with 0 for the class's least correlated kernel and 1 for its most correlated one."""
    low: Number
    """Of the 95% interval over the class's images."""
    high: Number


class ClassKernels(Model):
    """The kernels that a class depends on most."""

    name: str
    images: int
    """That the figures are means over."""
    kernels: tuple[KernelFigures, ...]


class StrongestFigures(Model):
    """For each class that was measured the kernels that it depends on most, at one layer."""

    layer: str
    classes: tuple[ClassKernels, ...]


class DiagnosisFigures(Model):
    """A diagnosis in figures."""

    file: str
    arch: str
    checkpoint_sha256: str
    created: str
    seed: int
    config: DiagnoseConfig
    preprocessing: dict[str, Any]
    """How images became the network's input; empty in older files."""
    assumed: tuple[str, ...] | None = None
    """What the checkpoint did not say of preprocessing and construction; None in older files."""
    versions: dict[str, str]
    device: str
    warnings: tuple[str, ...]
    examined: str
    """The split of the figures below."""
    images: int
    wrong: int
    accuracy: Number
    low: Number
    """Of Wilson's 95% interval."""
    high: Number
    classes: tuple[ClassFigures, ...]
    """In the network's order."""
    splits: dict[str, SplitFigures]
    layers: tuple[LayerFigures, ...]
    """In execution order."""
    explained: int
    explaining_s: Number = math.nan
    """Seconds that explaining took, interventions included."""
    verdicts: dict[str, int]
    findings: tuple[FindingFigures, ...] = ()
    """The first step first."""
    telling: tuple[ImageFigures, ...]
    """The wrong images with the clearest verdicts."""
    limits: LimitFigures | None
    strongest: StrongestFigures | None = None
    """None where no class was measured."""
    sharing: SharingFigures | None
    """None where fewer than two classes were measured."""
    stability: StabilityFigures | None
    """None where no noise was drawn."""
    broken: tuple[BrokenImage, ...]


class ArmProgress(Model):
    """How far one run of an arm has come."""

    arm: str
    seed: int
    epochs: int
    val_accuracy: Number
    """The best so far, on validation."""


class ProgressFigures(Model):
    """How far a trial has come."""

    epochs: int
    """Planned for every run."""
    planned: int
    """Runs: arms times seeds."""
    runs: tuple[ArmProgress, ...]
    """Those that have begun."""


class ClassChange(Model):
    """One class in two diagnoses."""

    name: str
    images: int
    before: Number
    after: Number


class LayerChange(Model):
    """One layer in two diagnoses."""

    name: str
    before: Number
    """Share of the kernels that a class depends on."""
    after: Number
    kept: Number
    """Mean Jaccard index of a class's kernels before and after."""


class Turned(Model):
    """An image that one network has right and the other wrong."""

    path: str
    label: str
    before: str
    """What it was taken for."""
    after: str


class ImageChanges(Model):
    """The images that are in both diagnoses' examined split under the same path and label."""

    common: int
    turned_right: int
    turned_wrong: int
    p_value: Number
    """McNemar's exact test."""
    examples: tuple[Turned, ...]


class ComparisonFigures(Model):
    """What changed between two diagnoses."""

    same_checkpoint: bool
    same_preprocessing: bool
    """Whether images became the networks' input in the same way; true where a file is too old to say."""
    same_settings: bool
    """Whether both measured in the same way."""
    images: ImageChanges
    classes: tuple[ClassChange, ...]
    """Those that both have."""
    classes_lost: tuple[str, ...]
    """Only in the earlier."""
    classes_new: tuple[str, ...]
    layers: tuple[LayerChange, ...]
    """Those that both have, with the same number of kernels."""


class Report(Model):
    """The whole of `report.json`."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    modeldoctor: str
    """The version that made this report."""
    kind: Literal["diagnosis", "trial", "comparison"]
    state: Literal["complete", "interrupted"]
    verdict: str
    """`improved`, `no-benefit` or `harmed` of a trial (also of a comparison); `interrupted`; else `diagnosed`."""
    headline: str
    """The verdict in a sentence."""
    figures: KeyFigures
    gates: tuple[GateResult, ...] = ()
    trial: Trial | None = None
    """As in `trial.json`."""
    progress: ProgressFigures | None = None
    """Of a trial."""
    diagnosis: DiagnosisFigures | None = None
    """Of the original; of two diagnoses the later."""
    before: DiagnosisFigures | None = None
    """Of two diagnoses the earlier."""
    comparison: ComparisonFigures | None = None
    notes: tuple[str, ...] = ()
    """What the reader should know of this report."""

    def plain(self) -> dict[str, Any]:
        """As `report.json`: dicts, lists, strings, numbers; null for what was not measured."""
        content: dict[str, Any] = json.loads(self.model_dump_json(by_alias=True))
        return content


class _Schema(GenerateJsonSchema):
    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        """NaN is null in JSON."""
        return {"type": ["number", "null"]}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of `report.json`; the package holds it as `report/report.schema.json`."""
    made = TypeAdapter(Report).json_schema(by_alias=True, mode="serialization", schema_generator=_Schema)
    finite = json.loads(json.dumps(made), parse_constant=lambda _: None)  # defaults, too
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **finite}
