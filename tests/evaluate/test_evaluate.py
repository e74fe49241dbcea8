from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy import stats
from simulated_trials import CLASSES, LABELS, arm, simulated

from modeldoctor.config.treat import Metric
from modeldoctor.errors import UsageError
from modeldoctor.evaluate import (
    HeldOut,
    build_trial,
    compare,
    evaluate_arm,
    mcnemar,
    sign_flip,
    verdict,
    wilson,
)
from modeldoctor.evaluate.metrics import RULES
from modeldoctor.evaluate.statistics import difference, estimate
from modeldoctor.results.trial import Comparison, Estimate, Outcome

GROUPS = np.array(["sea", "land"])[[0, 0, 0, 1, 1, 1, 1, 0, 1, 1]]
SHARES = {"land": 0.25, "sea": 0.75}


def held_out(**changes: Any) -> HeldOut:
    return replace(HeldOut(labels=LABELS, classes=CLASSES, groups=GROUPS, group_shares=SHARES), **changes)


# Two runs, by hand: the ants on land (image 3) are wrong in both, one sea bee (image 7) in the second.
RIGHT = np.array([[1, 1, 1, 0, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 1, 1, 1, 0, 0, 0]], dtype=bool)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("runs", [1, 2, 3])
def test_no_interval_leaves_its_value_outside(runs: int, seed: int) -> None:
    """An arm that answers as its baseline does: every difference is 0, and rounding must not say more."""
    rng = np.random.default_rng(seed)
    held = HeldOut(labels=np.arange(330) % 3, classes=CLASSES, groups=np.array(["a", "b", "c"])[np.arange(330) % 3])
    right = rng.random((runs, 330)) < rng.random()
    for rule in RULES.values():
        found = difference(right, right.copy(), rule, held, 200, seed)
        assert math.isnan(found.value) or found.low <= found.value <= found.high


def test_figures_by_hand() -> None:
    result = evaluate_arm(arm("treat", RIGHT), held_out())
    assert (result.arm, result.seeds, result.images) == ("treat", (0, 1), 10)
    hand = {
        Metric.ACCURACY: (0.8, 0.6),
        Metric.WORST_CLASS: (3 / 4, 3 / 6),
        Metric.WORST_GROUP: (4 / 6, 3 / 6),
        Metric.WORST_CLASS_GROUP: (0.0, 0.0),
        Metric.WEIGHTED: (0.25 * 4 / 6 + 0.75, 0.25 * 3 / 6 + 0.75 * 3 / 4),
    }
    for metric, values in hand.items():
        assert result.by_seed[metric] == pytest.approx(values)
        assert result.metrics[metric].value == pytest.approx(np.mean(values))
    assert [(c.label, c.images) for c in result.classes] == [("ant", 4), ("bee", 6), ("cat", 0)]
    assert [c.accuracy.value for c in result.classes[:2]] == pytest.approx([3 / 4, 4 / 6])
    assert [(c.group, c.images) for c in result.groups] == [("land", 6), ("sea", 4)]
    assert [c.accuracy.value for c in result.groups] == pytest.approx([3.5 / 6, 3.5 / 4])
    cells = {cell.name: cell for cell in result.class_groups}
    assert cells["ant, land"].accuracy.value == 0
    assert cells["bee, land"].accuracy.value == pytest.approx(3.5 / 5)
    assert cells["bee, sea"].images == 1
    assert result.worst_class is not None
    assert result.worst_group is not None
    assert (result.worst_class.name, result.worst_group.name) == ("bee", "land")


def test_what_has_no_images_is_nan_with_count_zero() -> None:
    result = evaluate_arm(arm("treat", RIGHT), held_out(group_shares={**SHARES, "air": 0.1}))
    empty = [c for c in (*result.classes, *result.groups, *result.class_groups) if not c.images]
    assert {c.name for c in empty} >= {"cat", "air", "cat, air", "ant, air"}
    assert all(math.isnan(x) for c in empty for x in (c.accuracy.value, c.accuracy.low, c.accuracy.high))
    nothing = HeldOut(labels=LABELS[:0], classes=CLASSES)
    result = evaluate_arm(arm("treat", RIGHT[:, :0], LABELS[:0]), nothing)
    found = result.metrics[Metric.ACCURACY]
    assert all(math.isnan(x) for x in (found.value, found.low, found.high))
    same = compare(arm("a", RIGHT[:, :0], LABELS[:0]), arm("b", RIGHT[:, :0], LABELS[:0]), nothing)
    assert math.isnan(same.difference.low)
    assert (same.p_value, same.better, same.worse) == (1.0, False, False)


def test_without_groups_there_is_nothing_of_groups() -> None:
    result = evaluate_arm(arm("treat", RIGHT), held_out(groups=None, group_shares=None))
    assert set(result.metrics) == {Metric.ACCURACY, Metric.WORST_CLASS}
    assert (result.groups, result.class_groups, result.worst_group) == ((), (), None)
    assert Metric.WEIGHTED not in held_out(group_shares=None).metrics
    with pytest.raises(UsageError, match="group column"):
        compare(arm("a", RIGHT), arm("b", RIGHT), held_out(groups=None), metric=Metric.WORST_GROUP)


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds"):
        compare(arm("a", RIGHT), replace(arm("b", RIGHT), seeds=(5, 6)), held_out())
    with pytest.raises(ValueError, match="10 images"):
        evaluate_arm(arm("a", RIGHT[:, :9], LABELS[:9]), held_out())
    with pytest.raises(ValueError, match="without continue"):
        build_trial([arm("original", RIGHT[:1]), arm("treat", RIGHT)], held_out(), provenance={})


@pytest.mark.parametrize(("hits", "images"), [(0, 3), (3, 3), (7, 10), (95, 100), (499, 1000)])
def test_wilson_is_scipys(hits: int, images: int) -> None:
    theirs = stats.binomtest(hits, images).proportion_ci(0.95, method="wilson")
    ours = wilson(hits, images)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.value == hits / images


def test_an_interval_over_images_is_scipys_basic_bootstrap() -> None:
    right = np.random.default_rng(0).random(800) < 0.85
    held = HeldOut(labels=np.zeros(800, int), classes=("a",))
    ours = evaluate_arm(arm("a", right, held.labels), held, resamples=20_000).metrics[Metric.ACCURACY]
    theirs = stats.bootstrap(
        (right.astype(float),), np.mean, method="basic", n_resamples=20_000, batch=500, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.0015)


def test_an_interval_over_runs_alone_is_as_wide_as_students() -> None:
    """Every image of a run alike but for a block of known size, so that almost all spread is between the runs."""
    shares = np.linspace(0.5, 0.7, 12)
    right = np.arange(20_000) < (shares * 20_000)[:, None]
    held = HeldOut(labels=np.zeros(20_000, int), classes=("a",))
    found = compare(arm("a", right, held.labels), arm("b", ~right[:1] & False, held.labels), held).difference
    student = stats.t.interval(0.95, 11, loc=shares.mean(), scale=shares.std(ddof=1) / math.sqrt(12))
    assert (found.low, found.high) == pytest.approx(student, abs=0.006)


def test_all_right_has_wilsons_interval_and_not_none() -> None:
    found = evaluate_arm(arm("a", np.ones((2, 10), bool)), held_out()).metrics
    assert found[Metric.ACCURACY] == wilson(10, 10)
    assert found[Metric.WORST_CLASS] == wilson(4, 4)


@pytest.mark.parametrize("seed", range(6))
def test_alike_runs_have_the_interval_of_one(seed: int) -> None:
    """Which is scipy's basic bootstrap: nothing but the number of images decides how an interval is taken."""
    generator, labels = np.random.default_rng(seed), np.zeros(100 + 37 * seed, int)
    held = HeldOut(labels=labels, classes=("a",))
    better, worse = (generator.random((1, len(labels))) < share for share in (0.95, 0.9))
    one, three = (
        compare(arm("a", better.repeat(runs, 0), labels), arm("b", worse.repeat(runs, 0), labels), held).difference
        for runs in (1, 3)
    )
    assert (three.low, three.high) == pytest.approx((one.low, one.high), abs=1e-12)


def test_a_handful_of_pairs_has_the_interval_of_agresti_and_min() -> None:
    """n = 6, all of them for the arm: (6.5 - 0.5) / 8 and its standard error, not +100 to +100 points."""
    labels = np.zeros(6, int)
    held = HeldOut(labels=labels, classes=("a",))
    found = compare(arm("a", np.ones((1, 6), bool), labels), arm("b", np.zeros((1, 6), bool), labels), held).difference
    half = stats.norm.ppf(0.975) * math.sqrt((7 / 8 - 0.75**2) / 8)
    assert found.value == found.high == 1
    assert found.low == pytest.approx(0.75 - half, abs=0.03)


def test_weights_on_a_group_of_a_few_images_leave_an_interval() -> None:
    """The training images are all of a group that has 2 of 400 test images: many resamples hold none of it."""
    generator, groups = np.random.default_rng(0), np.where(np.arange(400) < 2, "rare", "common")
    held = HeldOut(labels=np.arange(400) % 3, classes=CLASSES, groups=groups, group_shares={"rare": 1.0})
    better, worse = generator.random((3, 400)) < 0.9, generator.random((3, 400)) < 0.5
    found = compare(arm("a", better, held.labels), arm("b", worse, held.labels), held, metric=Metric.WEIGHTED)
    assert -1 <= found.difference.low < found.difference.value <= found.difference.high <= 1
    assert found.difference.high - found.difference.low > 0.5  # of two images nothing is known for sure


@pytest.mark.parametrize("runs", [2, 3])
def test_of_several_comparisons_one_is_rarely_worse_by_chance(runs: int) -> None:
    generator, found = np.random.default_rng(runs), []
    for trial in range(200):
        held, rights = simulated(generator, (0.8, 0.8, 0.8), runs=runs, images=200, spread=0.05)
        o, t, c = (arm(n, r, held.labels) for n, r in zip(("original", "treat", "continue"), rights, strict=True))
        found.append(verdict(*(compare(t, base, held, resamples=200, seed=trial) for base in (o, c))).outcome)
    assert found.count(Outcome.HARMED) <= 200 * 0.025 + 5  # three standard errors
    assert found.count(Outcome.IMPROVED) <= 200 * 0.01 + 4


def test_worse_among_several_is_bonferronis() -> None:
    def comparison(high: float, p: float) -> Comparison:
        found = Estimate(value=-0.10, low=-0.2 - high, high=high)
        return Comparison(arm="a", baseline="b", metric=Metric.ACCURACY, difference=found, p_value=p, mcnemar=())

    ratio = stats.norm.ppf(1 - 0.0125) / stats.norm.ppf(0.975)
    edge = -0.10 + 0.10 / ratio  # where the wider interval ends at 0
    assert comparison(edge - 1e-6, 0.02).worse_among(2)
    assert not comparison(edge + 1e-6, 0.02).worse_among(2)
    assert not comparison(edge - 1e-6, 0.03).worse_among(2)
    assert comparison(-0.001, 0.04).worse


def test_results_depend_on_the_seed_alone() -> None:
    first = evaluate_arm(arm("a", RIGHT), held_out())
    compare(arm("a", RIGHT), arm("b", ~RIGHT), held_out(), metric=Metric.WORST_GROUP)
    np.random.default_rng().random(5)
    assert evaluate_arm(arm("a", RIGHT), held_out()) == first
    one_run = arm("a", RIGHT[:1])  # two of ten images each say nothing: their interval is all of [0, 1]
    assert evaluate_arm(one_run, held_out(), seed=1) != evaluate_arm(one_run, held_out())
    order = np.random.default_rng(0).permutation(10)
    shuffled = held_out(labels=LABELS[order], groups=GROUPS[order])
    assert evaluate_arm(arm("a", RIGHT[:, order], LABELS[order]), shuffled) == first


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_with_one_run_is_mcnemars_exact_test(seed: int) -> None:
    a, b = np.random.default_rng(seed).random((2, 60)) < [[0.8], [0.6]]
    wins, losses = int((a & ~b).sum()), int((b & ~a).sum())
    expected = stats.binomtest(wins, wins + losses).pvalue
    assert sign_flip(a[None], b[None]) == pytest.approx(expected, rel=1e-9)
    found = mcnemar(7, a, b)
    assert (found.seed, found.wins, found.losses) == (7, wins, losses)
    assert found.p_value == expected


@pytest.mark.parametrize("seed", range(5))
def test_sign_flip_against_every_assignment_of_signs(seed: int) -> None:
    a, b = np.random.default_rng(seed).random((2, 3, 11)) < [[[0.8]], [[0.5]]]
    difference = a.sum(axis=0) - b.sum(axis=0)
    totals = [abs(sum(s * d for s, d in zip(signs, difference, strict=True))) for signs in product((1, -1), repeat=11)]
    assert sign_flip(a, b) == pytest.approx(np.mean(np.array(totals) >= abs(difference.sum())), rel=1e-9)


def test_the_same_images_in_more_runs_are_no_more_evidence() -> None:
    a, b = np.random.default_rng(0).random((2, 200)) < [[0.80], [0.72]]
    assert sign_flip(np.tile(a, (5, 1)), np.tile(b, (5, 1))) == pytest.approx(sign_flip(a[None], b[None]))
    assert sign_flip(a[None], a[None]) == 1.0


def test_the_permutation_of_arms_against_every_swap() -> None:
    """Worst class of two classes with four discordant images each: 2^8 swaps."""
    labels = np.repeat([0, 1], 6)
    a = np.array([1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1], dtype=bool)
    b = np.array([0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    mixed = np.flatnonzero(a != b)

    def worst(right: Any) -> Any:
        return min(right[:6].mean(), right[6:].mean())

    observed, extreme = worst(a) - worst(b), []
    for swaps in product((False, True), repeat=len(mixed)):
        x, y, swapped = a.copy(), b.copy(), mixed[np.array(swaps)]
        x[swapped], y[swapped] = b[swapped], a[swapped]
        extreme.append(abs(worst(x) - worst(y)) >= abs(observed) - 1e-12)
    held = HeldOut(labels=labels, classes=("x", "y"))
    found = compare(arm("a", a, labels), arm("b", b, labels), held, metric=Metric.WORST_CLASS, resamples=20_000)
    assert found.difference.value == pytest.approx(observed)
    assert found.p_value == pytest.approx(np.mean(extreme), abs=0.015)


@pytest.mark.parametrize("runs", [1, 3, 5])
def test_coverage_of_accuracies_and_differences(runs: int) -> None:
    generator, covered = np.random.default_rng(runs), np.zeros(2)
    spread = 0.0 if runs == 1 else 0.02
    for trial in range(300):
        held, (_, a, b) = simulated(generator, (0.8, 0.85, 0.82), runs=runs, spread=spread)
        single = estimate(a, RULES[Metric.ACCURACY], held, 500, trial)
        paired = compare(arm("a", a, held.labels), arm("b", b, held.labels), held, resamples=500, seed=trial).difference
        covered += [single.low <= 0.85 <= single.high, paired.low <= 0.03 <= paired.high]
    # 95% within three standard errors of 300 simulations, with room on the wide side for the interaction.
    assert (covered / 300 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)).all()
    assert (covered / 300 <= 0.995).all()


def test_coverage_of_a_worst_class_that_stands_apart() -> None:
    generator, covered, labels = np.random.default_rng(0), 0, np.repeat([0, 1, 2], 300)
    held = HeldOut(labels=labels, classes=CLASSES)
    for trial in range(300):
        right = generator.random((1, 900)) < np.array([0.9, 0.7, 0.95])[labels]
        found = estimate(right, RULES[Metric.WORST_CLASS], held, 500, trial)
        covered += found.low <= 0.7 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def outcomes(shares: tuple[float, float, float], trials: int, metric: Metric = Metric.ACCURACY) -> list[Outcome]:
    generator, found = np.random.default_rng(1), []
    for trial in range(trials):
        held, rights = simulated(generator, shares)
        o, t, c = (arm(n, r, held.labels) for n, r in zip(("original", "treat", "continue"), rights, strict=True))
        both = [compare(t, base, held, metric=metric, resamples=400, seed=trial) for base in (o, c)]
        found.append(verdict(*both).outcome)
    return found


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.WORST_CLASS])
def test_without_an_effect_improved_is_rare(metric: Metric) -> None:
    found = outcomes((0.8, 0.8, 0.8), 150, metric)
    assert found.count(Outcome.IMPROVED) <= 150 * 0.025 + 3
    assert found.count(Outcome.HARMED) <= 150 * 0.05 + 5


def test_better_than_the_original_but_not_than_the_control_is_no_benefit() -> None:
    found = outcomes((0.75, 0.82, 0.82), 60)
    assert found.count(Outcome.IMPROVED) <= 4
    assert found.count(Outcome.NO_BENEFIT) >= 52


def test_real_effects_are_found() -> None:
    assert outcomes((0.78, 0.85, 0.80), 40).count(Outcome.IMPROVED) >= 36
    assert outcomes((0.85, 0.78, 0.85), 40).count(Outcome.HARMED) >= 36
