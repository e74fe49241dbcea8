"""`space-and-swap`: the constraints of `treat` and the interventions of `swap-background` together."""

from __future__ import annotations

from dataclasses import replace

from modeldoctor.treatment.remedies import swap_background, treat
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext


def make(run: RunContext) -> Remedy:
    """The constraints hold on an annotated image and on its version before another background."""
    return replace(swap_background.make(run), penalty=treat.make(run).penalty)
