"""Every arm by what it does to batches, loss and head."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modeldoctor.config.arms import ARMS
from modeldoctor.config.treat import TreatConfig
from modeldoctor.treatment.batches import epoch_order
from modeldoctor.treatment.final_test import best_on_validation
from modeldoctor.treatment.remedies import MAKERS, RunContext
from modeldoctor.treatment.remedies.erase_channels import misleading_channels
from modeldoctor.treatment.remedies.inferred_groups import bounded
from modeldoctor.treatment.subsets import Predicted


def config(masks: bool = True, **changes: Any) -> TreatConfig:
    data = {"path": "b", "masks": "c"} if masks else {"path": "b"}
    return TreatConfig(**({"checkpoint": "a.pt", "data": data} | changes))


LABELS = np.array([0] * 6 + [1] * 3)
PREDICTED = Predicted(np.array([0, 0, 1, 0, 0, -1, 1, 0, 1]), np.array([0.9, 0.4, 0.8, 0.7, 0.95, 0, 0.6, 0.5, 0.99]))


def run_context(annotated: list[int], settings: TreatConfig) -> RunContext:
    images = SimpleNamespace(labels=LABELS, class_names=("a", "b"), __len__=None)
    images = type("Images", (), {**vars(images), "__len__": lambda self: len(LABELS)})()
    train = SimpleNamespace(images=images, indices=np.arange(9), labels=LABELS)
    return RunContext(
        config=settings, seed=0, train=train, annotated=np.array(annotated, dtype=np.int64),  # type: ignore[arg-type]
        by_hand=len(annotated),
        predicted=PREDICTED, network=None, trainable=None, make_penalty=lambda change: None,  # type: ignore[arg-type, return-value]
    )  # fmt: skip


def test_every_arm_of_the_table_has_its_module() -> None:
    assert set(MAKERS) == set(ARMS)
    assert {facts.control for facts in ARMS.values()} - {None} <= set(ARMS)


def test_continue_is_plain_training_even_where_images_are_annotated() -> None:
    remedy = MAKERS["continue"](run_context([1, 2], config()))
    assert not len(remedy.drawn)
    assert (remedy.chances, remedy.penalty, remedy.change, remedy.annotations) == (None, None, None, 0)


def test_hard_examples_share_the_batches_of_treat_and_nothing_else() -> None:
    hard, treat = (MAKERS[name](run_context([1, 2], config())) for name in ("hard-examples", "treat"))
    assert hard.drawn.tolist() == treat.drawn.tolist() == [1, 2]
    assert (hard.annotations, treat.annotations) == (0, 2)


def test_without_masks_hard_examples_are_the_wrong_and_the_uncertain_images() -> None:
    settings = config(masks=False, space={"annotated_per_class": 2, "weight": 0})
    # Wrong: 2 of class 0, 7 of class 1; then the least confident right one of each; 5 was not seen.
    assert MAKERS["hard-examples"](run_context([], settings)).drawn.tolist() == [1, 2, 6, 7]


def test_chances_say_how_often_each_image_comes() -> None:
    indices, chances = np.arange(100, 106), np.array([4.0, 2, 2, 1, 1, 0])
    drawn = Counter(
        epoch_order(
            indices, indices[:0], batch_size=2, share=0, seed=0, epoch=epoch, chances=chances
        ).tolist()[place]
        for epoch in range(500) for place in range(6)
    )  # fmt: skip
    for index, chance in zip(indices.tolist(), chances.tolist(), strict=True):
        assert drawn[index] == pytest.approx(3000 * chance / 10, abs=40)


def test_the_usual_arms_hold_the_own_control() -> None:
    assert config().arms == ("treat", "hard-examples", "continue")
    assert config(masks=False).arms == ("treat", "continue")
    assert config().controls == {"treat": "hard-examples"}
    assert config(masks=False, arms=("treat", "hard-examples", "continue")).controls == {
        "treat": "continue", "hard-examples": "continue",
    }  # fmt: skip


@pytest.mark.parametrize("arms", ["auto", ["auto"]])
def test_automatic_arms_are_what_the_data_allow_with_their_controls(arms: Any) -> None:
    assert config(masks=False, arms=arms).arms == ("inferred-groups", "last-layer", "continue")
    given = config(arms=arms)
    assert given.arms == (
        "treat", "space-and-swap", "inferred-groups", "last-layer", "hard-examples", "continue",
    )  # fmt: skip
    assert given.controls == {
        "treat": "hard-examples", "space-and-swap": "hard-examples", "inferred-groups": "continue",
        "last-layer": "continue",
    }  # fmt: skip
    without = config(arms=arms, space={"weight": 0})
    assert without.arms[:1] == ("swap-background",)
    assert not {"treat", "space-and-swap"} & set(without.arms)
    assert given.automatic
    again = TreatConfig(**given.model_dump())
    assert again.model_dump() == given.model_dump()
    assert not again.automatic


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        (("treat", "continue"), "must hold hard-examples"),
        (("treat", "hard-examples"), "must hold continue"),
        (("continue",), "must hold a remedy"),
        (("treat", "hard-exmples", "continue"), "nearest: hard-examples"),
    ],
)
def test_a_trial_without_its_controls_is_refused(arms: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config(arms=arms)


def test_an_arm_that_needs_masks_says_so() -> None:
    with pytest.raises(ValueError, match=r"random-mask needs data\.masks"):
        config(masks=False, arms=("treat", "continue", "random-mask"))


def test_the_verdict_is_about_the_remedy_that_validation_prefers() -> None:
    settings = config(masks=False, arms=("treat", "hard-examples", "continue"))
    scores = {"treat": (0.5, 0.7), "hard-examples": (0.65, 0.6), "continue": (0.9, 0.9)}
    runs: Any = {name: [SimpleNamespace(best_score=one) for one in of_arm] for name, of_arm in scores.items()}
    assert best_on_validation(settings, runs) == "hard-examples"
    runs["treat"][0].best_score = 0.55
    assert best_on_validation(settings, runs) == "treat"  # the first of equals


def test_balanced_draws_every_class_equally_often() -> None:
    chances = MAKERS["balanced"](run_context([], config(masks=False))).chances
    assert chances is not None
    assert chances[LABELS == 0].sum() == pytest.approx(chances[LABELS == 1].sum())
    assert len(set(chances[LABELS == 0])) == 1


def test_inferred_groups_are_right_and_wrong_images_of_each_class_equally_often() -> None:
    """Of class 0 (six images) 2 is wrong, of class 1 (three) image 7; 5, which was not seen, is nobody's fault."""
    settings = config(masks=False, space={"annotated_per_class": 1, "weight": 0})
    chances = MAKERS["inferred-groups"](run_context([], settings)).chances
    assert chances is not None
    sums = [chances[rows].sum() for rows in ([0, 1, 3, 4, 5], [2], [6, 8], [7])]
    assert sums == pytest.approx([sums[0]] * 4)


def test_where_few_are_wrong_the_least_sure_images_join_them() -> None:
    settings = config(masks=False, space={"annotated_per_class": 2, "weight": 0})
    chances = MAKERS["inferred-groups"](run_context([], settings)).chances
    assert chances is not None
    # 1 is right with 0.4, the least of class 0; 6 with 0.6, the least of class 1.
    sums = [chances[rows].sum() for rows in ([0, 3, 4, 5], [1, 2], [8], [6, 7])]
    assert sums == pytest.approx([sums[0]] * 4)


@pytest.mark.parametrize("most", [1, 3, 50])
def test_no_chance_lets_an_image_come_more_often_than_it_may(most: int) -> None:
    chances = np.array([1.0] * 2 + [0.01] * 98)
    got = bounded(chances, most)
    often = 100 * got / got.sum()
    assert often.max() <= 1.02 * most
    assert got[2:] == pytest.approx(got[2])
    assert got[0] >= got[2]
    if most == 50:  # twice 33.6 of a hundred places: nothing to lower
        assert got.tolist() == chances.tolist()
    if most == 3:
        assert often[:2] == pytest.approx([3, 3], rel=0.02)


def test_last_layer_weighs_images_by_the_probability_of_their_label() -> None:
    """w_i = exp(-4 p_i), each class's sum alike; with two classes a wrong prediction of 0.8 leaves the label 0.2."""
    remedy = MAKERS["last-layer"](run_context([], config(masks=False)))
    chances = remedy.chances
    assert remedy.head_only
    assert chances is not None
    assert chances[0] / chances[2] == pytest.approx(np.exp(-4 * 0.9) / np.exp(-4 * 0.2))
    assert chances[LABELS == 0].sum() == pytest.approx(chances[LABELS == 1].sum())


def test_a_channel_that_is_more_active_where_a_class_is_wrong_is_misleading_for_it() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 20)
    predicted = labels.copy()
    predicted[:8] = 1  # of class 0
    predicted[40:43] = 0  # of class 2: too few to say
    features = rng.normal(0, 0.1, (60, 3)).astype(np.float32) + np.array([0, 5, 0], dtype=np.float32)
    features[:8, 0] += 1
    features[:8, 1] -= 1
    features[8:20, 2] += 1
    features[40:43] += 10
    found = misleading_channels(features, labels, predicted, 3)
    assert found.tolist() == [[True, False, False], [False] * 3, [False] * 3]
