"""Which weight is picked, against scores that are made up."""

from __future__ import annotations

from typing import Any

from modeldoctor.config.treat import TreatConfig
from modeldoctor.treatment.arm_state import ArmState
from modeldoctor.treatment.pilot import pick_weights


def config(**changes: Any) -> TreatConfig:
    usual = {"checkpoint": "a.pt", "data": {"path": "b", "masks": "c"}, "pilot": {"ladder": (3, 1, 0.5), "epochs": 2}}
    return TreatConfig(**(usual | changes))


class Pilots:
    """Notes what is run, and scores it by a rule."""

    def __init__(self, rule: Any):
        self.rule, self.seen = rule, list[tuple[str, float, float, int]]()

    def __call__(self, name: str, settings: TreatConfig) -> ArmState:
        space, channel = settings.space.weight, settings.channel.weight
        assert isinstance(space, float)
        assert isinstance(channel, float)
        self.seen.append((name, space, channel, settings.training.epochs))
        return ArmState(network={}, best_score=self.rule(space, channel))


def test_without_auto_nothing_is_run() -> None:
    pilots = Pilots(None)
    settings = config(space={"weight": 2.0})
    assert pick_weights(settings, pilots) == (settings, ())
    assert not pilots.seen


def test_the_best_rung_is_picked_and_the_smaller_of_equals() -> None:
    picked, rungs = pick_weights(config(space={"weight": "auto"}), Pilots(lambda space, channel: min(space, 1.0)))
    assert picked.space.weight == 1.0
    assert [(rung.constraint, rung.weight, rung.val_score) for rung in rungs] == [
        ("space", 0.5, 0.5), ("space", 1.0, 1.0), ("space", 3.0, 1.0),
    ]  # fmt: skip
    assert picked.training.epochs == config().training.epochs


def test_the_space_constraint_comes_first_and_the_channel_constraint_is_picked_beside_it() -> None:
    settings = config(space={"weight": "auto"}, channel={"weight": "auto"})
    pilots = Pilots(lambda space, channel: space - abs(channel - 1))
    picked, rungs = pick_weights(settings, pilots)
    assert (picked.space.weight, picked.channel.weight) == (3.0, 1.0)
    assert pilots.seen == [
        ("pilot-space-0.5", 0.5, 0.0, 2), ("pilot-space-1", 1.0, 0.0, 2), ("pilot-space-3", 3.0, 0.0, 2),
        ("pilot-channel-0.5", 3.0, 0.5, 2), ("pilot-channel-1", 3.0, 1.0, 2), ("pilot-channel-3", 3.0, 3.0, 2),
    ]  # fmt: skip
    assert len(rungs) == 6


def test_a_weight_that_is_given_stays_while_the_other_is_picked() -> None:
    pilots = Pilots(lambda space, channel: channel)
    picked, _ = pick_weights(config(space={"weight": 0.7}, channel={"weight": "auto"}), pilots)
    assert (picked.space.weight, picked.channel.weight) == (0.7, 3.0)
    assert {space for _, space, _, _ in pilots.seen} == {0.7}
