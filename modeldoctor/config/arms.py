"""The arms that a trial may have, as one table: what each needs, and what proves that it is the remedy that helps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Need = Literal["masks"]
PLAIN = "continue"
"""Continued training and nothing else: what every remedy is compared with."""


@dataclass(frozen=True, kw_only=True)
class ArmFacts:
    """What is known of an arm before anything runs.

    Attributes:
        meaning: what it does, in a phrase.
        needs: what the data must hold beside images and labels.
        control: of a remedy, the arm that shares all but what the remedy is about; None for an arm that only serves
            others as a control.
        constrained: whether it carries the configuration's constraints.
        chooses_images: whether it chooses training images by the original's predictions.
    """

    meaning: str
    needs: frozenset[Need] = frozenset()
    control: str | None = None
    constrained: bool = False
    chooses_images: bool = False


_MASKS = frozenset[Need]({"masks"})
ARMS: dict[str, ArmFacts] = {
    "treat": ArmFacts(
        meaning="the space and channel constraints of this configuration", control="hard-examples", constrained=True
    ),
    "hard-examples": ArmFacts(
        meaning="a share of each batch from the annotated images, else from wrong and uncertain ones",
        control=PLAIN,
        chooses_images=True,
    ),
    "swap-background": ArmFacts(
        meaning="annotated objects before other backgrounds; a background without its object must say nothing",
        needs=_MASKS,
        control="hard-examples",
    ),
    "space-and-swap": ArmFacts(
        meaning="treat and swap-background together", needs=_MASKS, control="hard-examples", constrained=True
    ),
    "balanced": ArmFacts(meaning="classes come equally often", control=PLAIN),
    "inferred-groups": ArmFacts(
        meaning="of every class, images that the original gets right and wrong come equally often",
        control=PLAIN,
        chooses_images=True,
    ),
    "background-groups": ArmFacts(
        meaning="of every class, images that their background misled and all others come equally often",
        needs=_MASKS,
        control="inferred-groups",
        chooses_images=True,
    ),
    "last-layer": ArmFacts(
        meaning="the head alone, refitted on balanced classes and unsure images", control=PLAIN, chooses_images=True
    ),
    "erase-channels": ArmFacts(
        meaning="last-layer with the channels silenced that are more active on wrong images",
        control="last-layer",
        chooses_images=True,
    ),
    PLAIN: ArmFacts(meaning="continued training and nothing else"),
    "shuffled-channels": ArmFacts(meaning="treat with each class's kernels drawn at random", constrained=True),
    "random-mask": ArmFacts(meaning="treat with masks in random places", needs=_MASKS, constrained=True),
}
"""In the order of the guide; `modeldoctor/treatment/remedies` holds what each does."""

AUTOMATIC = ("inferred-groups", "last-layer")
"""What `arms: auto` takes without masks: remedies that have raised a worst group somewhere."""
FOR_BACKGROUNDS = ("treat", "space-and-swap")
"""What it takes first where there are masks, unless a diagnosis has looked for a reliance on backgrounds in vain."""
PRESCRIBED = {"background": "background-groups", "rare": "balanced", "foreign-kernels": "erase-channels"}
"""Findings of a diagnosis, and the remedy that `auto` takes for each."""


def own_control(arm: str, *, oversampled: bool) -> str | None:
    """The control that shares all of an arm but what it is about; None for an arm that is no remedy.

    Args:
        arm: its name.
        oversampled: whether the configuration's constraints draw a share of each batch from annotated images.
    """
    control = ARMS[arm].control
    return PLAIN if arm == "treat" and not oversampled else control
