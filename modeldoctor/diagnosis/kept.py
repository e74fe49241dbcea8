"""Reading the state of an interrupted diagnosis: whatever is in the file, it is what such a run can have kept.

Shapes: S samples, N classes, K channels, D noise ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from torch import Tensor

from modeldoctor.checkpoint.container import read_kept
from modeldoctor.data.identity import changed
from modeldoctor.diagnosis.explain import Evidence
from modeldoctor.diagnosis.state import FORMAT, Draws, KeptChunks, Looks, Predictions, RunState
from modeldoctor.errors import CheckpointError, StoreError
from modeldoctor.method.correlation import CorrelationState
from modeldoctor.results.diagnosis import Kernel

_ANEW = "run without --resume to start anew"
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the run that goes on knows of itself.

    Attributes:
        fingerprint: of checkpoint and what is measured.
        data: digests of the data, by what they are of.
        splits: images of each split that is read; None of a stream.
        classes: N.
        channels: K of each layer.
        ranges: D.
    """

    fingerprint: str
    data: dict[str, str]
    splits: Mapping[str, int | None]
    classes: int
    channels: Mapping[str, int]
    ranges: int


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


def _plain(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.requires_grad:
        raise ValueError("a tensor of another kind")
    return tensor


_Plain = Annotated[Tensor, AfterValidator(_plain)]


# Kept as a list; what is in it is as strict as the rest.
_Attacked = Annotated[tuple[NonNegativeInt, NonNegativeInt, list[float], list[float]], Field(strict=False)]


class _Predictions(_Strict):
    next: NonNegativeInt
    rows: _Plain
    broken: list[tuple[str, str]]


class _Content(_Strict):
    """The file, as `RunState.save` writes it."""

    format: Literal[FORMAT]  # type: ignore[valid-type]
    fingerprint: str
    data: dict[str, str]
    predictions: dict[str, _Predictions]
    scanned: dict[str, NonNegativeInt | None]
    scales: dict[str, float]
    wanted: list[NonNegativeInt] | None
    draws: dict[str, tuple[NonNegativeInt, float, float]]
    positions: dict[str, NonNegativeInt]
    correlations: dict[str, list[_Plain]]
    evidence: list[dict[str, Any]]
    attacked: NonNegativeInt
    adversarial: list[_Attacked]
    looks: dict[str, list[_Plain]]
    alternatives: dict[str, tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]]
    chunks: tuple[PositiveInt, PositiveInt | None, PositiveInt, dict[str, PositiveInt]] | None


_EVIDENCE = TypeAdapter(list[Evidence], config=ConfigDict(strict=True))
_KERNELS = TypeAdapter(list[Kernel])


def load_state(path: Path, expected: Expected) -> RunState:
    """Read the state of an interrupted run; nothing in it is executed.

    Raises:
        StoreError: it is damaged, or belongs to another checkpoint, data set or configuration.
    """
    try:
        content = _Content.model_validate(read_kept(path))
    except CheckpointError as error:
        _refuse(path, error.found, error)
    except (ValidationError, RecursionError) as error:
        _refuse(path, _said(error), error)
    differing = changed(content.data, expected.data) if content.data.keys() <= expected.data.keys() else "its data"
    if content.fingerprint != expected.fingerprint or differing:
        raise StoreError(
            f"the data has changed since the run was interrupted: {differing}"
            if differing
            else "the interrupted run had another checkpoint or other settings",
            where=str(path),
            expected="the same command and data as before, with --resume added",
            hint=_ANEW,
        )
    try:
        evidence = _checked(content, expected)
    except (ValueError, TypeError, RecursionError) as error:  # ValidationError is a ValueError
        _refuse(path, _said(error), error)
    return RunState(
        fingerprint=content.fingerprint,
        data=content.data,
        predictions={
            split: Predictions(kept.next, [kept.rows.numpy()], kept.broken)
            for split, kept in content.predictions.items()
        },
        scanned=content.scanned,
        scales=content.scales,
        wanted=content.wanted,
        draws={layer: Draws(*values) for layer, values in content.draws.items()},
        positions=content.positions,
        correlations={name: CorrelationState(*parts) for name, parts in content.correlations.items()},
        evidence=evidence,
        attacked=content.attacked,
        adversarial=[list(row) for row in content.adversarial],
        looks={stage: [Looks(*(column.numpy() for column in parts))] for stage, parts in content.looks.items()},
        alternatives=content.alternatives,
        chunks=None if content.chunks is None else KeptChunks(*content.chunks),
    )


def _refuse(path: Path, why: str, error: Exception) -> NoReturn:
    raise StoreError(
        f"the interrupted run cannot be read: {why}",
        where=str(path),
        expected="the file as `modeldoctor diagnose` wrote it",
        hint=_ANEW,
    ) from error


def _said(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error) or type(error).__name__
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])[:80]
    return f"{place or 'the whole'}: {first['msg']}"


def _checked(content: _Content, expected: Expected) -> list[dict[str, Any]]:
    """Refuse what no run with these images, classes and layers has kept.

    Returns:
        The evidence.

    Raises:
        ValueError: the first of these.
    """
    total = 0
    for split, kept in content.predictions.items():
        _known(split, expected.splits, "split")
        _check_rows(kept, expected.splits[split], expected.classes)
        total += kept.rows.shape[1]
    for split in content.scanned:
        _known(split, expected.splits, "split")
    if content.wanted is not None:
        _demand(len(content.wanted) == expected.classes, "samples wanted of other classes")
    rows = {} if content.chunks is None else content.chunks[3]
    for layer in (*content.scales, *content.draws, *content.correlations):
        _known(layer, expected.channels, "layer")
    _demand(not rows or rows.keys() >= expected.channels.keys(), "chunks of other layers")
    for layer, parts in content.correlations.items():
        _check_sums(layer, parts, (expected.classes, expected.channels[layer]))
    for stage, columns in content.looks.items():
        _check_looks(stage, columns, expected.classes)
    evidence = _EVIDENCE.validate_python([_row(entry) for entry in content.evidence])
    for seen in evidence:
        _KERNELS.validate_python(seen.kernels)
        classes = (seen.label, seen.predicted, max(seen.resembles, 0))
        lengths = {len(seen.stability), len(seen.fallback)}
        good = 0 <= min(classes) <= max(classes) < expected.classes and 0 <= seen.sample < total
        _demand(good and lengths <= {0, expected.ranges}, "evidence on other images")
    for sample, predicted, stability, fallback in content.adversarial:
        good = sample < total and predicted < expected.classes
        _demand(good and len(stability) == len(fallback) == expected.ranges, "attacks on other images")
    return [seen._asdict() for seen in evidence]


def _row(entry: dict[str, Any]) -> tuple[Any, ...]:
    _demand(entry.keys() == set(Evidence._fields), "evidence of another kind")
    return tuple(entry[name] for name in Evidence._fields)


def _check_rows(kept: _Predictions, images: int | None, classes: int) -> None:
    rows = kept.rows
    _demand(rows.dtype == torch.float64 and rows.ndim == 2 and len(rows) == 4, "a table of predictions of another kind")
    index, label, predicted, confidence = rows
    whole = bool(torch.equal(rows[:3], rows[:3].round()))
    limits = (
        (index, float("inf") if images is None else images),
        (label, classes),
        (predicted, classes),
        (confidence, 1 + 1e-6),
    )
    # A confidence that is NaN is one that the network gave.
    good = whole and not any(bool(((column < 0) | (column >= limit)).any()) for column, limit in limits)
    _demand(good and (images is None or kept.next <= images), "predictions of other images")
    _demand(len(index.unique()) == len(index), "images that are predicted twice")


def _check_sums(layer: str, parts: list[Tensor], shape: tuple[int, int]) -> None:
    good = (
        len(parts) == len(CorrelationState._fields)
        and (tuple(parts[0].shape), parts[0].dtype) == (shape[:1], torch.int64)
        and bool((parts[0] >= 0).all())
        and all((tuple(part.shape), part.dtype) == (shape, torch.float64) for part in parts[1:])
    )
    _demand(good, f"correlations of another {layer}")


def _check_looks(stage: str, columns: list[Tensor], classes: int) -> None:
    good = len(columns) == len(Looks._fields) and len({len(c) if c.ndim else -1 for c in columns}) == 1
    good = good and all((c.ndim, c.dtype) == (1, torch.int64) for c in columns[:2])
    good = good and all((c.ndim, c.dtype) == (2, torch.float32) for c in columns[2:])
    of_copies = classes if stage.startswith("compare ") else 0
    good = good and [c.shape[1] for c in columns[2:4]] == [classes, of_copies]
    _demand(good and all(bool((c >= 0).all()) for c in columns[:2]), f"{stage}: looks at other images")


def _known(name: str, known: Mapping[str, object], kind: str) -> None:
    _demand(name in known, f"the {kind} {name!r}, which this run does not read")


def _demand(holds: bool, found: str) -> None:
    if not holds:
        raise ValueError(found)
