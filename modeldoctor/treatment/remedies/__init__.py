"""What each arm does, one module each; `config.arms.ARMS` says what it needs and what it is compared with.

An arm is added by a row of that table, a module here with a function from `RunContext` to `Remedy`, and a row of
`MAKERS`.
"""

from __future__ import annotations

from collections.abc import Callable

from modeldoctor.treatment.remedies import (
    background_groups,
    balanced,
    continued,
    erase_channels,
    hard_examples,
    inferred_groups,
    last_layer,
    random_mask,
    shuffled_channels,
    space_and_swap,
    swap_background,
    treat,
)
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext

__all__ = ["MAKERS", "Remedy", "RunContext"]

MAKERS: dict[str, Callable[[RunContext], Remedy]] = {
    "treat": treat.make,
    "hard-examples": hard_examples.make,
    "swap-background": swap_background.make,
    "space-and-swap": space_and_swap.make,
    "balanced": balanced.make,
    "inferred-groups": inferred_groups.make,
    "background-groups": background_groups.make,
    "last-layer": last_layer.make,
    "erase-channels": erase_channels.make,
    "continue": continued.make,
    "shuffled-channels": shuffled_channels.make,
    "random-mask": random_mask.make,
}
