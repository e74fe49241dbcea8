"""`arms: auto` once the diagnosis is known: which remedies its findings prescribe."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import UsageError
from modeldoctor.results.diagnosis import Diagnosis, Finding, Limits
from modeldoctor.treatment.prescription import prescribed

ALWAYS = ("inferred-groups", "last-layer")
BACKGROUNDS = ("treat", "space-and-swap")


def _config(masks: str | None = "masks", **changes: Any) -> TreatConfig:
    return TreatConfig(checkpoint="a.pt", data={"path": "b", "masks": masks}, **{"arms": "auto", **changes})


def _finding(name: str) -> Finding:
    return Finding(name=name, sentence="", action="", wrong=1)


@pytest.mark.parametrize(
    ("masks", "removed", "findings", "remedies"),
    [
        (None, False, (), ALWAYS),
        (None, False, ("rare",), (*ALWAYS, "balanced")),
        # last-layer is then the control of erase-channels.
        (None, False, ("rare", "foreign-kernels"), ("inferred-groups", "balanced", "erase-channels")),
        ("masks", False, (), (*BACKGROUNDS, *ALWAYS)),  # only training images have masks: nobody has looked
        # inferred-groups is then the control of background-groups.
        ("masks", True, ("background",), (*BACKGROUNDS, "last-layer", "background-groups")),
        (None, True, ("background",), ALWAYS),  # the masks were given to the diagnosis alone
        ("masks", True, ("mislabelled",), ALWAYS),
    ],
)
def test_the_findings_choose_the_remedies(
    handmade: Callable[..., Diagnosis],
    masks: str | None,
    removed: bool,
    findings: tuple[str, ...],
    remedies: tuple[str, ...],
) -> None:
    made = handmade(findings=tuple(map(_finding, findings)), limits=_limits(handmade, 0.2 if removed else math.nan))
    config, said = prescribed(_config(masks), made)
    assert tuple(config.controls) == remedies
    assert {"continue", *config.controls.values(), *ALWAYS} <= set(config.arms)
    assert all(arm in said for arm in remedies)
    assert ("no reliance on backgrounds" in said) == (removed and "background" not in findings)
    assert prescribed(config, made) == (config, "")


def test_objects_removed_from_wrong_images_alone_count_as_looked_for(handmade: Callable[..., Diagnosis]) -> None:
    (image, *_) = handmade().misdiagnosed
    made = handmade(limits=None, misdiagnosed=(replace(image, without_object=0.25),))
    assert tuple(prescribed(_config(), made)[0].controls) == ALWAYS


def test_named_arms_stay(handmade: Callable[..., Diagnosis]) -> None:
    config = _config(None, arms=("last-layer", "continue"))
    assert prescribed(config, handmade(findings=(_finding("rare"),))) == (config, "")


def test_rounds_that_do_not_fit_are_refused(handmade: Callable[..., Diagnosis]) -> None:
    rounds = [{"epochs": 1, "remedies": 3}, {"epochs": 2, "remedies": 2}]
    config = _config("masks", rounds=rounds, training={"epochs": 5})
    with pytest.raises(UsageError, match="inferred-groups, last-layer"):
        prescribed(config, handmade(limits=_limits(handmade, 0.2)))


def _limits(handmade: Callable[..., Diagnosis], stays: float) -> Limits:
    limits = handmade().limits
    assert limits is not None
    return replace(limits, stays_without_object=stays)
