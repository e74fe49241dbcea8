"""A trial within a budget: rounds of successive halving, planned from measured times before anything is trained.

Only the plan depends on the clock. It is written into the run's configuration, so that whoever repeats or resumes the
trial trains the same arms for as long, and which arms go on is decided by validation alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from modeldoctor.config.arms import ARMS, PLAIN
from modeldoctor.config.treat import RoundConfig, TreatConfig
from modeldoctor.errors import UsageError, counted, duration
from modeldoctor.treatment.pilot import open_weights

RESERVE = 0.1
"""Of the time that is left, for files, maps and a clock that later runs slower."""


@dataclass(frozen=True, kw_only=True)
class Times:
    """Measured seconds, of the slowest process.

    Attributes:
        epoch: by arm, of one epoch with its validation.
        test: of one run's answers on the test split.
    """

    epoch: Mapping[str, float]
    test: float


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """A remedy that a round left behind.

    Attributes:
        arm: its name.
        epochs: that it was trained for, under the first seed.
        score: its best on validation, by the metric that chooses.
        least: that of the last remedy that went on.
    """

    arm: str
    epochs: int
    score: float
    least: float


def arms_with(remedies: Sequence[str], config: TreatConfig) -> tuple[str, ...]:
    """The arms that these remedies need: themselves, their controls, and plain continued training.

    Args:
        remedies: some of `config.controls`.
        config: of the whole trial.
    """
    needed = {*remedies, PLAIN, *(config.controls[name] for name in remedies)}
    if any(ARMS[name].constrained for name in remedies):
        needed |= {name for name in config.arms if ARMS[name].constrained and ARMS[name].control is None}
    return tuple(name for name in config.arms if name in needed)


def most_seconds(config: TreatConfig, rounds: Sequence[RoundConfig], times: Times) -> float:
    """What a trial takes at most: in every round, and to the end, the dearest remedies that can go on.

    Rounds train remedies under the first seed; who goes on continues from there, so that nothing is trained twice.
    """
    remedies, before, total = sorted(config.controls, key=lambda name: -times.epoch[name]), 0, 0.0
    for this in rounds:
        total += (this.epochs - before) * sum(times.epoch[name] for name in remedies)
        remedies, before = remedies[: this.remedies], this.epochs
    runs, epochs = len(config.seeds), config.training.epochs

    def rest(kept: Sequence[str]) -> float:
        arms = arms_with(kept, config)
        trained = sum(times.epoch[name] for name in arms) * runs * epochs
        return trained - before * sum(times.epoch[name] for name in kept) + (1 + len(arms) * runs) * times.test

    return _pilots(config, times) + total + max(map(rest, combinations(config.controls, len(remedies))))


def _pilots(config: TreatConfig, times: Times) -> float:
    """Seconds of the runs that pick each `weight: auto`."""
    rungs = len(open_weights(config)) * len(config.pilot.ladder)
    return rungs * config.pilot.epochs * max(times.epoch.values())


def _plans(config: TreatConfig) -> Iterator[tuple[RoundConfig, ...]]:
    """Every plan, best first: few rounds before many, long ones before short ones. A round has twice the epochs of the
    one before it and leaves half of its remedies, rounded up."""
    kept = [len(config.controls)]
    while kept[-1] > 1:
        kept.append(-(-kept[-1] // 2))
    for number in range(len(kept)):
        longest = (config.training.epochs - 1) // 2 ** (number - 1) if number else 1
        for first in range(longest, 0, -1):
            yield tuple(RoundConfig(epochs=first * 2**place, remedies=kept[place + 1]) for place in range(number))


def plan_rounds(config: TreatConfig, times: Times, *, spent: float = 0.0) -> tuple[RoundConfig, ...]:
    """The best plan that `config.budget` has time for; no rounds where every arm can be trained to the end.

    Args:
        config: resolved, with a budget.
        times: measured.
        spent: seconds of the budget that are gone.

    Raises:
        UsageError: there is time for none.
    """
    assert config.budget is not None
    least = float("inf")
    for rounds in _plans(config):
        needed = spent + most_seconds(config, rounds, times) / (1 - RESERVE)
        if needed <= config.budget:
            return rounds
        least = min(least, needed)
    raise UsageError(
        f"a budget of {duration(config.budget)}",
        where="budget",
        expected=f"at least {duration(least)}, by an epoch's time as measured just now: at the end one of "
        f"{counted(len(config.controls), 'remedy', 'remedies')} with its controls, "
        f"{counted(len(config.seeds), 'seed')}, {counted(config.training.epochs, 'epoch')}",
        hint="the same command with --resume and a larger budget; or fewer seeds, epochs or arms in another output",
    )
