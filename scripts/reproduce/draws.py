#!/usr/bin/env python
"""`modeldoctor` with more arms: `treat` with other numbers of noise draws per step, compared with the same controls.

scripts/reproduce/draws.py treat NETWORK.pt ... --set arms=[treat,draws-0,draws-2,draws-10,hard-examples,continue]
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from modeldoctor.cli import main
from modeldoctor.config.arms import ARMS
from modeldoctor.treatment.remedies import MAKERS, Remedy, RunContext, treat

DRAWS = (0, 2, 10)
"""Beside the one of `noise_draws`, which `treat` has."""


def make(draws: int, run: RunContext) -> Remedy:
    """`treat` with this many noise draws per step."""
    remedy = treat.make(run)
    assert remedy.penalty is not None
    config = remedy.penalty.config.model_copy(update={"noise_draws": draws})
    return replace(remedy, penalty=replace(remedy.penalty, config=config))


def register() -> None:
    """Add the arms to the tables that name them."""
    for draws in DRAWS:
        name = f"draws-{draws}"
        ARMS[name] = replace(ARMS["treat"], meaning=f"treat with {draws} noise draws per step")
        MAKERS[name] = partial(make, draws)


if __name__ == "__main__":
    register()
    main()
