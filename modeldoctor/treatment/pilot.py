"""`weight: auto`: a short run for each rung of a ladder, judged on validation; the space constraint first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from modeldoctor.config.treat import TreatConfig
from modeldoctor.treatment.arm_state import ArmState

Constraint = Literal["space", "channel"]
RunPilot = Callable[[str, TreatConfig], ArmState]
"""Runs the arm `treat` under a name with a configuration in which every weight is a number."""


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One pilot: what was tried, and the best score on validation that it reached."""

    constraint: Constraint
    weight: float
    val_score: float


def pick_weights(config: TreatConfig, run: RunPilot) -> tuple[TreatConfig, tuple[Rung, ...]]:
    """Replace every `auto` by the rung of `config.pilot.ladder` that does best on validation, the smaller of equals.

    Args:
        config: may hold `auto`.
        run: called once a rung; a constraint that is still to be picked has weight 0 in it.

    Returns:
        The configuration without `auto`, and what was tried.
    """
    open_ones = open_weights(config)
    settled = with_weights(config, dict.fromkeys(open_ones, 0.0))
    tried: list[Rung] = []
    for name in open_ones:
        rungs = []
        for weight in sorted(config.pilot.ladder):
            trial = with_weights(settled, {name: weight})
            short = trial.model_copy(
                update={"training": trial.training.model_copy(update={"epochs": config.pilot.epochs})}
            )
            done = run(f"pilot-{name}-{weight:g}", short)
            rungs.append(Rung(constraint=name, weight=weight, val_score=done.best_score))
        best = max(rungs, key=lambda rung: (rung.val_score, -rung.weight))
        settled = with_weights(settled, {name: best.weight})
        tried += rungs
    return settled, tuple(tried)


def open_weights(config: TreatConfig) -> list[Constraint]:
    """The constraints whose weight is still to be picked."""
    constraints: tuple[Constraint, ...] = ("space", "channel")
    return [name for name in constraints if getattr(config, name).weight == "auto"]


def with_weights(config: TreatConfig, weights: dict[Constraint, float]) -> TreatConfig:
    """The configuration with these weights of its constraints."""
    changed: dict[str, Any] = {
        name: getattr(config, name).model_copy(update={"weight": weight}) for name, weight in weights.items()
    }
    return config.model_copy(update=changed)
