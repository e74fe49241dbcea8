"""What to do after a trial: true of its figures, and there without a diagnosis beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_diagnosis
from report_files import Page
from stored_results import make_trial, write_run

from modeldoctor.evaluate import HeldOut, Predictions, build_trial
from modeldoctor.report import make_report
from modeldoctor.report.wording import handed_back
from modeldoctor.results.trial import Cost, Trial, write_trial


def words_of_page(path: Path) -> str:
    return " ".join(" ".join(Page(path.read_text(encoding="utf-8")).text).split())


def trial_of(treat: float, control: float, images: int = 400) -> Trial:
    """The original is right on 60%, the arms on these shares, all under three seeds alike."""
    labels, shares = np.arange(images) % 2, np.linspace(0, 1, images, endpoint=False)

    def arm(name: str, right: float, seeds: tuple[int, ...]) -> Predictions:
        return Predictions(
            arm=name, seeds=seeds, predicted=np.stack([np.where(shares < right, labels, 1 - labels)] * len(seeds))
        )

    arms = [arm("original", 0.6, (0,)), arm("treat", treat, (0, 1, 2)), arm("continue", control, (0, 1, 2))]
    return build_trial(
        arms, HeldOut(labels=labels, classes=("a", "b")), resamples=200, provenance={"config": {}},
        costs={"treat": Cost(seconds=1.0, annotations=0)},
    )  # fmt: skip


def test_the_control_is_called_better_than_the_treatment_only_where_that_is_proven() -> None:
    said = handed_back(trial_of(0.8, 0.8))
    assert said.endswith("which is better than the original; treat is not proven better than it.")
    assert handed_back(trial_of(0.65, 0.8)).endswith("treat is worse than it.")
    assert handed_back(trial_of(0.6, 0.6)) == "The original weights are handed back unchanged."
    assert handed_back(trial_of(0.9, 0.6)) == "The treated checkpoint holds the weights of treat."


@pytest.mark.parametrize(
    ("treat", "control", "said"),
    [
        (0.9, 0.6, ["Use the treated checkpoint"]),
        (0.3, 0.6, ["Do not use the weights of treat", "continue did better: it is the treatment that costs"]),
        (0.3, 0.3, ["Do not use", "Continue is worse than the original, too", "Try a smaller training.learning_rate"]),
        (0.6, 0.6, ["Keep the original", "Give object masks", "Try the other remedies"]),
        (0.8, 0.8, ["those of continue", "treat is not proven better"]),
    ],
)
def test_a_trial_without_a_diagnosis_says_what_to_do(
    tmp_path: Path, treat: float, control: float, said: list[str]
) -> None:
    folder = write_run(tmp_path / "run", gain=0.3, diagnosis=make_diagnosis(classes=("a", "b", "c")))
    (folder / "diagnosis.h5").unlink()
    (folder / "maps.h5").unlink()
    write_trial(trial_of(treat, control), folder / "trial.json")
    make_report(folder)
    page, markdown = words_of_page(folder / "report.html"), (folder / "report.md").read_text()
    steps = page.split("What to do")[2]  # the first is the link
    for words in said:
        assert words.lower() in steps.lower()
        assert words.lower() in markdown.replace("&#95;", "_").lower()
    assert page.index("The trial") < page.index("Do not use" if "Do not" in said[0] else said[0])


@pytest.mark.parametrize(("rare", "said"), [(0.2, True), (0.6, False), (0.9, False)])
def test_a_gain_that_the_worst_class_pays_for_is_told(tmp_path: Path, rare: float, said: bool) -> None:
    """The original is right on 60% of both classes; the treatment on 95% of the frequent one."""
    labels, shares = np.arange(500) % 5 // 4, np.linspace(0, 1, 500, endpoint=False)

    def arm(name: str, frequent: float, rare: float) -> Predictions:
        right = shares < np.where(labels == 0, frequent, rare)
        seeds = (0,) if name == "original" else (0, 1, 2)
        return Predictions(
            arm=name, seeds=seeds, predicted=np.stack([np.where(right, labels, 1 - labels)] * len(seeds))
        )

    trial = build_trial(
        [arm("original", 0.6, 0.6), arm("treat", 0.95, rare), arm("continue", 0.6, 0.6)],
        HeldOut(labels=labels, classes=("a", "b")), resamples=200, provenance={"config": {}},
        costs={"treat": Cost(seconds=1.0, annotations=0)},
    )  # fmt: skip
    folder = write_run(tmp_path / "run", gain=0.3, diagnosis=make_diagnosis(classes=("a", "b", "c")))
    (folder / "diagnosis.h5").unlink()
    (folder / "maps.h5").unlink()
    write_trial(trial, folder / "trial.json")
    make_report(folder)
    page = words_of_page(folder / "report.html")
    assert ("Look at the worst class first" in page) == said
    assert ("the original is better by 40.0 points" in page) == said


def test_a_diagnosis_beside_a_trial_keeps_its_steps(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", gain=0.3)
    make_report(folder)
    page = words_of_page(folder / "report.html")
    assert "What the diagnosis before the treatment says" in page
    assert "Repeat it with three seeds" in page  # there are two
    interrupted = write_run(tmp_path / "other", gain=None)
    make_report(interrupted)
    assert "Go on with the trial" in words_of_page(interrupted / "report.html")


def test_a_trial_of_older_versions_without_the_controls_comparison_is_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", gain=0.3)
    trial = make_trial(make_diagnosis().classes, -0.3)
    write_trial(replace(trial, comparisons=trial.comparisons[:1]), folder / "trial.json")
    make_report(folder)
    assert "Do not use the weights of treat" in words_of_page(folder / "report.html")
