"""Figures by hand for the diagnosis of conftest.py, and Jaccard indices with Python sets."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.results.diagnosis import Diagnosis, Misdiagnosis
from modeldoctor.results.summary import class_sharing, summarise, write_summary
from modeldoctor.results.verdicts import most_telling

Make = Callable[..., Diagnosis]


def test_accuracy_is_of_the_examined_split(handmade: Make) -> None:
    summary = summarise(handmade())
    assert (summary["examined"], summary["images"], summary["wrong"]) == ("val", 6, 4)
    assert summary["accuracy"] == 2 / 6
    assert summary["splits"] == {
        "train": {"images": 4, "unread": 0, "masks": None, "accuracy": 0.75},
        "val": {"images": 6, "unread": 0, "masks": 5, "accuracy": 2 / 6},
    }


def test_each_class_has_its_images_accuracy_and_verdicts(handmade: Make) -> None:
    first, second, third = summarise(handmade())["classes"]
    assert [(one["images"], one["accuracy"]) for one in (first, second, third)] == [(3, 1 / 3), (2, 0.5), (1, 0.0)]
    none = dict.fromkeys(
        (
            "damaged",
            "isolated",
            "background",
            "foreign-kernels",
            "unfamiliar",
            "mislabelled",
            "resembles-class",
            "unclear",
        ),
        0,
    )
    assert first["verdicts"] == {**none, "isolated": 1, "foreign-kernels": 1}
    assert second["verdicts"] == {**none, "isolated": 1}
    assert third["verdicts"] == {**none, "unclear": 1}
    assert first["name"] == "cat 🐈"


def test_worst_classes_come_first_and_classes_without_images_not_at_all(handmade: Make) -> None:
    assert summarise(handmade())["worst_classes"] == ["<i>naïve</i>", "cat 🐈", "a \"b\" 'c'"]
    summary = summarise(handmade(examined="train"))
    assert summary["worst_classes"] == ["a \"b\" 'c'", "cat 🐈"]
    assert summary["classes"][2]["accuracy"] is None


def test_layers_have_their_share_and_sharing(handmade: Make) -> None:
    stem, body = summarise(handmade())["layers"]
    # Kernels {1,2} and {1,2,3} of 4: shares 2/4 and 3/4, in common 2 of 3. Kernels {1} and {0} of 2: nothing.
    assert (stem["correlated_share"], stem["sharing"]) == (0.625, pytest.approx(2 / 3))
    assert (body["correlated_share"], body["sharing"]) == (0.5, 0.0)
    assert (stem["name"], stem["channels"], stem["height"], stem["width"], stem["depth"]) == ("stem.conv", 4, 4, 2, 0.5)
    assert stem["classes_without_samples"] == body["classes_without_samples"] == 1


def test_the_threshold_decides_what_is_correlated(handmade: Make) -> None:
    stem, _ = summarise(handmade(config=DiagnoseConfig(threshold=0.5)))["layers"]
    assert stem["correlated_share"] == 0.5  # {1,2} and {2,3}
    assert stem["sharing"] == pytest.approx(1 / 3)


def test_verdicts_are_counted(handmade: Make) -> None:
    summary = summarise(handmade())
    assert summary["explained"] == 4
    assert {name: count for name, count in summary["verdicts"].items() if count} == {
        "isolated": 2, "foreign-kernels": 1, "unclear": 1
    }  # fmt: skip


def test_the_clearest_and_surest_verdicts_are_told_first(handmade: Make) -> None:
    # Strength x confidence: 0.375, 0.5, 0.125, 0.
    telling = summarise(handmade())["telling"]
    assert [one["path"] for one in telling] == ["val/2.png", "val/1.png", "val/4.png", "val/5.png"]
    assert [kernel["channel"] for kernel in telling[0]["kernels"]] == [3, 0]
    assert telling[1]["resembles"] == "a \"b\" 'c'"
    assert telling[0]["resembles"] is None
    assert (telling[1]["label"], telling[1]["predicted"]) == ("cat 🐈", "a \"b\" 'c'")


def test_telling_images_are_limited_and_unclear_ones_sorted_by_confidence(handmade: Make) -> None:
    images = handmade().misdiagnosed
    assert [image.sample for image in most_telling(images, 2)] == [6, 5]
    unclear = tuple(
        Misdiagnosis(**{**vars(images[3]), "confidence": confidence, "sample": number})
        for number, confidence in enumerate((0.3, 0.9, 0.6))
    )
    assert [image.sample for image in most_telling(unclear, 10)] == [1, 2, 0]


def test_every_verdict_has_its_turn_before_any_a_second_time(handmade: Make) -> None:
    isolated, foreign, weaker, unclear = handmade().misdiagnosed  # 5: 0.375, 6: 0.5, 8: 0.125, 9: unclear
    strongest = dataclasses.replace(isolated, sample=7, strength=1.0)
    told = most_telling((unclear, weaker, isolated, foreign, strongest), 5)
    assert [image.sample for image in told] == [7, 6, 5, 8, 9]


def jaccard(sets: list[set[int]]) -> float:
    pairs = [(a, b) for a, b in itertools.combinations(sets, 2) if a | b]
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_sharing_is_the_mean_jaccard_index(seed: int) -> None:
    correlated = np.random.default_rng(seed).random((6, 9)) < 0.1 + 0.15 * seed
    correlated[0] = correlated[1] = False
    assert class_sharing(correlated) == pytest.approx(
        jaccard([set(np.flatnonzero(row).tolist()) for row in correlated])
    )


@pytest.mark.parametrize("correlated", [np.ones((1, 3), bool), np.ones((0, 3), bool), np.zeros((2, 3), bool)])
def test_sharing_is_nan_where_no_two_classes_have_kernels(correlated: np.ndarray) -> None:
    assert math.isnan(class_sharing(correlated))


def test_the_summary_is_strict_json(handmade: Make) -> None:
    for diagnosis in (handmade(), handmade(misdiagnosed=(), limits=None), handmade(classes=("caf\udce9", "b", "c"))):
        text = json.dumps(summarise(diagnosis), allow_nan=False, ensure_ascii=False)
        assert json.loads(text.encode()) == summarise(diagnosis)


def test_undefined_figures_are_null(handmade: Make) -> None:
    summary = summarise(handmade())
    assert summary["telling"][0]["background_share"] is None
    assert summary["limits"]["background_share"] is None
    assert summarise(handmade(limits=None))["limits"] is None


def test_how_it_was_made_is_in_the_summary(handmade: Make) -> None:
    summary = summarise(handmade())
    assert (summary["schema"], summary["arch"], summary["seed"]) == (1, "timm/test_resnet", 7)
    assert summary["checkpoint_sha256"] == "ab" * 32
    assert summary["broken"][0] == {"path": "val/caf\ufffd.png", "reason": "the file is empty (0 bytes)"}
    assert summary["warnings"] == ["1 of 3 classes has no images", "«val»: look out"]


def test_the_summary_is_written_beside_the_diagnosis(handmade: Make, tmp_path: Path) -> None:
    summary = summarise(handmade(classes=("caf\udce9", "b", "c")))
    path = write_summary(summary, tmp_path / "run.h5")
    assert path == tmp_path / "run.json"
    assert json.loads(path.read_text(encoding="utf-8")) == summary
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_of_images_without_confidence_can_be_made(handmade: Make) -> None:
    """As in a file of somebody else's, or of a version that kept images without an answer."""
    images = [dataclasses.replace(image, confidence=math.nan) for image in handmade().misdiagnosed]
    found = handmade(misdiagnosed=tuple(images)).wrong
    assert [row["confidence"] for row in found] == [None] * 4
