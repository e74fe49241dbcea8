"""What a reader of a trial must know beside its figures, from how it was made; a file's values are not trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from modeldoctor.errors import counted, duration

if TYPE_CHECKING:
    from modeldoctor.results.trial import Comparison


def provenance_remarks(provenance: Mapping[str, Any], metric: str) -> tuple[str, ...]:
    """A sentence or two on each matter; empty where there is nothing to say.

    Args:
        provenance: of a trial.
        metric: what validation chose by, in words.
    """
    parts = provenance.get("split_off")
    seen = seen_images(parts) if isinstance(parts, list) and parts else ""
    return (
        seen, _found_masks(provenance.get("propagation")), _kept_statistics(provenance.get("batch_norm")),
        _stopped(provenance.get("halving"), metric),
    )  # fmt: skip


def seen_images(parts: Sequence[str]) -> str:
    """What it means that these parts of a trial were split off the training images."""
    what = {"val": "Validation", "test": "test"}
    names = " and ".join(what.get(str(part), str(part)) for part in parts)
    return (
        f"{names[0].upper()}{names[1:]} images are some of the training images, held back here: if the checkpoint was "
        "trained on them, the original and what hardly changes it look better than they are on new images."
    )


def _numbers(row: object, names: Sequence[str]) -> list[float] | None:
    found = [row.get(name) for name in names] if isinstance(row, dict) else [None]
    numbers = [value for value in found if isinstance(value, int | float) and isfinite(value)]
    return numbers if len(numbers) == len(found) else None


def _found_masks(propagation: object) -> str:
    """How many images had a mask found from the annotated ones, and how good these are."""
    if (found := _numbers(propagation, ("images", "iou", "iou_by_place"))) is None:
        return ""
    images, iou, by_place = found
    measured = (
        f"on annotated images that were held out, found masks overlap with the annotated ones by {iou:.2f} "
        f"(intersection over union; the usual place of the objects alone: {by_place:.2f})"
    )
    if not images:
        return f"No mask was found well enough for further images: {measured}."
    weighed = ", and each counts by that overlap" if _numbers(propagation, ("weight",)) else ""
    return f"{images} further training images had a mask that was found from the annotated ones; {measured}{weighed}."


def _kept_statistics(agreement: object) -> str:
    """Why BatchNorm's running statistics stayed as they were, where a trial chose that."""
    found = _numbers(agreement, ("images", "running", "by_batch"))
    if found is None or not isinstance(agreement, dict) or agreement.get("worse") is not True:
        return ""
    images, running, by_batch = found
    return (
        "BatchNorm's running statistics stayed as they were in every arm: with each batch's own the untouched network "
        f"was right on {by_batch:.1%} of {int(images)} training images in place of {running:.1%}."
    )


def _stopped(halving: object, metric: str) -> str:
    """Which remedies a budget stopped before the test, and why."""
    rows = halving.get("stopped") if isinstance(halving, dict) else None
    if not isinstance(halving, dict) or not isinstance(rows, list):
        return ""
    said = []
    for row in rows:
        if (found := _numbers(row, ("epochs", "score", "least"))) is None:
            return ""
        epochs, score, least = found
        trained = counted(int(epochs), "epoch")
        said.append(f"{row.get('arm')} after {trained} ({score:.1%}; the last that went on: {least:.1%})")
    if not said:
        return ""
    budget = _numbers(halving, ("budget",))
    given = f" of {duration(budget[0])}" if budget else ""
    return (
        f"To keep within its budget{given} the trial stopped, by {metric} on validation under the first seed: "
        f"{', '.join(said)}. They were not tested."
    )


def whose_harm(against_control: Comparison, control: Comparison | None) -> str:
    """What follows from a treatment that is worse than the original, by how plain further training did.

    Args:
        against_control: the treatment against that.
        control: that against the original; None where it was not compared.
    """
    name = against_control.baseline
    gentler = "try a smaller training.learning_rate or weaker training.augmentation"
    if control is not None and control.worse:
        whose = "and the treatment costs more" if against_control.worse else "not the treatment alone"
        return f"{name} is worse than the original, too, so further training itself costs, {whose}: {gentler}"
    if against_control.worse:
        return f"{name} did better: it is the treatment that costs"
    return (
        f"{name} is proven neither better than the treatment nor worse than the original, so whether the treatment or "
        f"further training itself costs is open: {gentler}, or more seeds"
    )
