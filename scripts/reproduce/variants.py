#!/usr/bin/env python
"""`modeldoctor` with more arms: variants of `treat` that differ from it in one thing, compared with the same controls.

scripts/reproduce/variants.py treat NETWORK.pt ... --set arms=[treat,draws-0,draws-2,draws-10,hard-examples,continue]

Shapes: N classes, K channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from modeldoctor.cli import main
from modeldoctor.config.arms import ARMS, PLAIN
from modeldoctor.results.diagnosis import normalise
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.run_directory import DIAGNOSIS
from modeldoctor.treatment.remedies import MAKERS, Remedy, RunContext, treat

DRAWS = (0, 2, 10)
"""Beside the one of `noise_draws`, which `treat` has."""


def with_draws(draws: int, run: RunContext) -> Remedy:
    """`treat` with this many noise draws per step."""
    remedy = treat.make(run)
    assert remedy.penalty is not None
    config = remedy.penalty.config.model_copy(update={"noise_draws": draws})
    return replace(remedy, penalty=replace(remedy.penalty, config=config))


def second_term(run: RunContext) -> Remedy:
    """Eq. 5's second term alone, which quietens the runner-up: the label may use every kernel."""
    return replace(treat.make(run), penalty=run.make_penalty(torch.ones_like))


def also_active(run: RunContext) -> Remedy:
    """Allowed are the correlated kernels whose mean activation on the class, normalised as Â, exceeds the threshold."""
    diagnosis = read_diagnosis(run.config.diagnosis or run.config.output / DIAGNOSIS)
    (layer,) = diagnosis.layers.values()
    active = torch.from_numpy(normalise(layer.activation) >= diagnosis.config.threshold)

    def both(correlated: Tensor) -> Tensor:
        return correlated & active

    return replace(treat.make(run), penalty=run.make_penalty(both))


def register() -> None:
    """Add the arms to the tables that name them."""
    variants: dict[str, tuple[str, str, Callable[[RunContext], Remedy]]] = {
        f"draws-{draws}": (f"treat with {draws} noise draws per step", "hard-examples", partial(with_draws, draws))
        for draws in DRAWS
    }
    variants["second-term"] = ("Eq. 5's second term alone", PLAIN, second_term)
    variants["also-active"] = ("treat whose allowed kernels are active, too", "shuffled-channels", also_active)
    for name, (meaning, control, make) in variants.items():
        ARMS[name] = replace(ARMS["treat"], meaning=meaning, control=control)
        MAKERS[name] = make


if __name__ == "__main__":
    register()
    main()
