"""What a trial says, as plain frozen records, and the file `trial.json` that holds them; no torch.

`trial.json` (schema 2) MUST be one JSON object with the fields of `Trial` and `schema`; NaN ("not measured") is null.
A reader refuses another schema by its number and ignores nothing: unknown or missing fields are damage. Schema 1 is
read, too: it has no `cost` in its arms and no `against_own_control` in its ruling.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from modeldoctor.config.treat import Metric
from modeldoctor.errors import StoreError
from modeldoctor.results.remarks import provenance_remarks
from modeldoctor.results.run_directory import TRIAL
from modeldoctor.runtime.files import written_aside
from modeldoctor.runtime.reading import content

SCHEMA = 2

Measured = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]
"""A figure; NaN where it was not measured, which JSON writes as null."""


class Record:
    """What all records of the file share: unknown fields are damage, and no value is converted to fit."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", strict=True, ser_json_inf_nan="null", use_attribute_docstrings=True
    )


class Outcome(StrEnum):
    """What a trial found, by 95% statements against both the original and the control."""

    IMPROVED = "improved"
    """Better than both."""
    NO_BENEFIT = "no-benefit"
    """Neither better than both nor worse than either."""
    HARMED = "harmed"
    """Worse than one of them."""


@dataclass(frozen=True, kw_only=True)
class Estimate(Record):
    """A share, or a difference of shares, with its 95% interval; NaN where there are no images."""

    value: Measured
    low: Measured
    high: Measured


@dataclass(frozen=True, kw_only=True)
class Cell(Record):
    """The images of one class, one group, or one class within one group.

    Attributes:
        label, group: their names; None where the cell spans all.
        images: how many there are; 0 makes the accuracy NaN.
        accuracy: mean over the seeds, with Wilson's interval over the images.
    """

    label: str | None
    group: str | None
    images: int
    accuracy: Estimate

    @property
    def name(self) -> str:
        """Such as "gull", "on water" or "gull, on water"."""
        return ", ".join(part for part in (self.label, self.group) if part is not None)


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    """What one run of an arm took.

    Attributes:
        seconds: of training, mean over the seeds; NaN where it is not known.
        annotations: annotated images that it uses; None likewise.
    """

    seconds: Measured
    annotations: int | None


UNKNOWN_COST = Cost(seconds=math.nan, annotations=None)


@dataclass(frozen=True, kw_only=True)
class ArmResult(Record):
    """One arm on the held-out images.

    Attributes:
        arm: `original`, `treat`, `continue`, ...
        seeds: of its runs; one for the original.
        images: how many were held out.
        metrics: mean over the seeds, with the bootstrap interval over images and seeds.
        by_seed: each seed's own figure, in the order of `seeds`.
        classes, groups, class_groups: the cells; without a group column the last two are empty.
        cost: of a run.
    """

    arm: str
    seeds: tuple[int, ...]
    images: int
    metrics: dict[Metric, Estimate]
    by_seed: dict[Metric, tuple[Measured, ...]]
    classes: tuple[Cell, ...]
    groups: tuple[Cell, ...]
    class_groups: tuple[Cell, ...]
    cost: Cost

    @property
    def worst_class(self) -> Cell | None:
        """The class of the lowest mean accuracy over the seeds; None if no class has images."""
        return _worst(self.classes)

    @property
    def worst_group(self) -> Cell | None:
        """The group of the lowest mean accuracy over the seeds; None without groups."""
        return _worst(self.groups)


def _worst(cells: tuple[Cell, ...]) -> Cell | None:
    return min((cell for cell in cells if cell.images), key=lambda cell: cell.accuracy.value, default=None)


@dataclass(frozen=True, kw_only=True)
class McNemar(Record):
    """The paired exact test of one seed's run: discordant images, two-sided binomial p-value."""

    seed: int
    wins: int
    """Images that the arm has right and the baseline wrong."""
    losses: int
    p_value: Measured


@dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """One arm against another on the same images.

    Attributes:
        arm, baseline: their names.
        metric: what is compared.
        difference: arm less baseline, with the paired bootstrap interval over images and seeds.
        p_value: two-sided, all seeds pooled; of the paired sign-flip test over images, for other metrics than accuracy
            of the test that swaps the two arms' predictions image by image.
        mcnemar: of every seed, on right and wrong whatever the metric.
    """

    arm: str
    baseline: str
    metric: Metric
    difference: Estimate
    p_value: Measured
    mcnemar: tuple[McNemar, ...]

    @property
    def better(self) -> bool:
        """Whether interval and test both say so at 95%."""
        return self.difference.low > 0 and self.p_value < 0.05

    @property
    def worse(self) -> bool:
        """Whether interval and test both say so at 95%."""
        return self.worse_among(1)

    def worse_among(self, comparisons: int) -> bool:
        """The same at 95% for so many comparisons together (Bonferroni): the test's level is divided by their number,
        and the interval is wider by the ratio of the normal quantiles."""
        level = 0.05 / comparisons
        wider = NormalDist().inv_cdf(1 - level / 2) / NormalDist().inv_cdf(0.975)
        high = self.difference.value + wider * (self.difference.high - self.difference.value)
        return high < 0 and self.p_value < level


@dataclass(frozen=True, kw_only=True)
class Ruling(Record):
    """The verdict and the comparisons that it stands on."""

    outcome: Outcome
    metric: Metric
    against_original: Comparison
    against_control: Comparison
    """With `continue`."""
    against_own_control: Comparison | None
    """With the arm that shares all but what the treatment is about; None where that is `continue`."""
    reason: str
    """One sentence."""


@dataclass(frozen=True, kw_only=True)
class Trial(Record):
    """A treatment's trial.

    Attributes:
        ruling: the verdict.
        handed_back: the arm whose weights the treated checkpoint holds.
        arms: every arm's figures, the original first.
        comparisons: of the treatment against every other arm, for every metric; and for the verdict's metric of every
            other remedy and control against its own baselines.
        resamples, seed: of the bootstrap and the permutation test.
        provenance: plain values that say how the trial was made (architecture, checksum, config, versions, time).
    """

    ruling: Ruling
    handed_back: str
    arms: tuple[ArmResult, ...]
    comparisons: tuple[Comparison, ...]
    resamples: int
    seed: int
    provenance: dict[str, Any]

    def __getitem__(self, arm: str) -> ArmResult:
        return next(result for result in self.arms if result.arm == arm)

    @property
    def caution(self) -> str:
        """What so few seeds leave open; empty for three and more."""
        return {
            1: "One seed: the intervals are about the images alone, while another run would differ by luck, too."
            " Three seeds show both.",
            2: "Two seeds say little about the luck of a run, so that the intervals are wide. Three find more.",
        }.get(max(len(result.seeds) for result in self.arms), "")

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know beside the figures."""
        said = (self.caution, *provenance_remarks(self.provenance, self.ruling.metric.replace("_", " ")))
        return tuple(filter(None, said))

    def to_json(self) -> dict[str, Any]:
        """As plain dicts, lists, strings and finite numbers."""
        plain: dict[str, Any] = json.loads(_trials().dump_json(self))
        return {"schema": SCHEMA, **plain}

    @classmethod
    def from_json(cls, stored: object, *, where: str = "trial.json") -> Trial:
        """The record that `to_json` gave.

        Raises:
            StoreError: another schema, or damaged.
        """
        stored = _upgraded(stored)
        schema = stored.get("schema") if isinstance(stored, dict) else None
        if not isinstance(stored, dict) or schema != SCHEMA:
            raise StoreError(
                f"a trial of schema {schema}" if schema is not None else "no trial of modeldoctor",
                where=where,
                expected=f"schema {SCHEMA}",
                hint="read it with the version of modeldoctor that wrote it, or run the trial again",
            )
        try:
            trial = _trials().validate_json(json.dumps({name: stored[name] for name in stored if name != "schema"}))
        except (ValidationError, RecursionError) as error:
            said = _first(error) if isinstance(error, ValidationError) else "values within values without end"
            raise StoreError(f"a damaged trial ({said})", where=where, hint="run the trial again") from error
        if contradiction := next(_contradictions(trial), None):
            raise StoreError(f"a damaged trial ({contradiction})", where=where, hint="run the trial again")
        return trial


def _contradictions(trial: Trial) -> Iterator[str]:
    """What the parts of a trial say against each other."""
    names = [arm.arm for arm in trial.arms]
    if not names or names[0] != "original" or len(set(names)) < len(names):
        yield f"the arms are {', '.join(names) or 'none'}"
        return
    against = (trial.ruling.against_original, trial.ruling.against_control, trial.ruling.against_own_control)
    asked = [(pair.arm, pair.baseline) for pair in (*trial.comparisons, *against) if pair is not None]
    for name in (trial.handed_back, *(name for pair in asked for name in pair)):
        if name not in names:
            yield f"there is no arm {name}"
    first = trial.arms[0]
    for arm in trial.arms:
        if arm.images < 1 or arm.images != first.images:
            yield f"{arm.arm} was judged on {arm.images} images, the original on {first.images}"
        if trial.ruling.metric not in arm.metrics or arm.metrics.keys() != arm.by_seed.keys():
            yield f"{arm.arm} has no figure of {trial.ruling.metric}, or not of each seed"
        if not arm.seeds or any(len(figures) != len(arm.seeds) for figures in arm.by_seed.values()):
            yield f"{arm.arm} has not one figure per seed"
        for kind in ("classes", "groups", "class_groups"):
            cells, others = getattr(arm, kind), getattr(first, kind)
            if [(cell.label, cell.group, cell.images) for cell in cells] != [
                (cell.label, cell.group, cell.images) for cell in others
            ]:
                yield f"{arm.arm} has other {kind} than the original"
    provenance = trial.provenance
    if not isinstance(provenance.get("config", {}), dict):
        yield "provenance.config holds no settings"
    if not isinstance(provenance.get("checkpoint_sha256", ""), str):
        yield "provenance.checkpoint_sha256 is no text"


@cache
def _trials() -> TypeAdapter[Trial]:
    return TypeAdapter(Trial)


def _first(error: ValidationError) -> str:
    """Where the first fault is, and what it is."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'the whole'}: {fault['msg']}"


def write_trial(trial: Trial, path: Path) -> None:
    """Write `trial.json`; an interrupted write leaves the old file whole."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(trial.to_json(), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def read_trial(path: str | Path) -> Trial:
    """Read `trial.json`, by its own path or that of the run directory.

    >>> from modeldoctor import read_trial
    >>> trial = read_trial("treatment/trial.json")
    >>> [arm.arm for arm in trial.arms], trial.handed_back
    (['original', 'last-layer', 'continue'], 'original')

    Raises:
        StoreError: it cannot be read, is of another schema, or damaged.
    """
    path = Path(path)
    if path.is_dir():
        path /= TRIAL
    try:
        stored = json.loads(content(path).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"it cannot be read ({error})", where=str(path), hint="run the trial again") from error
    return Trial.from_json(stored, where=str(path))


def _upgraded(stored: object) -> object:
    """A stored trial of schema 1 as one of schema 2; anything else as it is."""
    if not isinstance(stored, dict) or stored.get("schema") != 1 or stored["schema"] is True:
        return stored
    arms, ruling = stored.get("arms"), stored.get("ruling")
    if not (isinstance(arms, list) and all(isinstance(arm, dict) for arm in arms) and isinstance(ruling, dict)):
        return {**stored, "schema": SCHEMA}  # which is then refused as damaged
    return {
        **stored,
        "schema": SCHEMA,
        "arms": [{**arm, "cost": {"seconds": None, "annotations": None}} for arm in arms],
        "ruling": {**ruling, "against_own_control": None},
    }
