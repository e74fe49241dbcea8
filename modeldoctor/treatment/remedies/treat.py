"""`treat`: the space and channel constraints that the configuration weighs, Eq. 5 to 7."""

from __future__ import annotations

from modeldoctor.treatment.remedies.remedy import NO_IMAGES, Remedy, Setting


def make(setting: Setting) -> Remedy:
    """Annotated images fill a share of each batch; the penalty is added to the loss."""
    drawn = setting.annotated if setting.config.oversampled else NO_IMAGES
    penalty = setting.make_penalty(lambda correlated: correlated)
    return Remedy(drawn=drawn, penalty=penalty, annotations=setting.by_hand if len(drawn) else 0)
