"""`treat`: the space and channel constraints that the configuration weighs, Eq. 5 to 7."""

from __future__ import annotations

from modeldoctor.treatment.remedies.remedy import NO_IMAGES, Remedy, RunContext


def make(run: RunContext) -> Remedy:
    """Annotated images fill a share of each batch; the penalty is added to the loss."""
    drawn = run.annotated if run.config.oversampled else NO_IMAGES
    penalty = run.make_penalty(lambda correlated: correlated)
    return Remedy(drawn=drawn, penalty=penalty, annotations=run.by_hand if len(drawn) else 0)
