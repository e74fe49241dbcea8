"""`treat`: the space and channel constraints that the configuration weighs, Eq. 5 to 7."""

from __future__ import annotations

from modeldoctor.treatment.remedies.remedy import Remedy, Setting


def make(setting: Setting) -> Remedy:
    """Annotated images fill a share of each batch; the penalty is added to the loss."""
    return Remedy(
        drawn=setting.annotated,
        penalty=setting.make_penalty(lambda correlated: correlated),
        annotations=len(setting.annotated),
    )
