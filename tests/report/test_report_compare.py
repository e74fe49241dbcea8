"""Two diagnoses side by side: what is an improvement, and what cannot be one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_diagnosis
from report_files import made

from modeldoctor.report import make_report
from modeldoctor.results.hdf5 import write_diagnosis


def test_a_class_without_images_before_is_in_no_list_of_losses_and_disturbs_none(tmp_path: Path) -> None:
    """Before, class 0 is right on 2 of 3 images and class 2 on its one, class 1 has none; after, all are wrong."""
    samples = make_diagnosis().samples
    label = samples.label.copy()
    label[[7, 8]] = 2
    early = replace(samples, label=label, predicted=np.where(np.arange(10) == 4, 1, label))
    late = replace(samples, predicted=(samples.label + 1) % 3)
    for name, part, sha in (("before", early, "ab"), ("after", late, "cd")):
        wrong = int((part.label != part.predicted)[4:].sum())
        diagnosis = make_diagnosis(samples=part, misdiagnosed=(), wrong_count=wrong, checkpoint_sha256=sha * 32)
        write_diagnosis(diagnosis, tmp_path / f"{name}.h5")
    html, _, markdown = made(tmp_path / "before.h5", tmp_path / "after.h5", output=tmp_path / "page")
    rows = [line.split(" | ")[1:] for line in markdown.partition("Classes that lost most")[2].splitlines()[4:6]]
    assert rows == [["100.0%", "0.0% |"], ["66.7%", "0.0% |"]]
    names = re.findall(
        r'<tr><td class="name"><bdi[^>]*>(.*?)</bdi>', html.partition('table class="sortable classes"')[2]
    )
    assert [name[0] for name in names[:3]] == ["c", "&", "a"]  # 66.7%, 100%, not measured; the third name is escaped


@pytest.mark.parametrize(
    ("changes", "same"),
    [({"workers": 3, "device": "cpu", "batch_size": 99, "memory": 2**30, "expect_accuracy": 0.5}, True),
     ({"threshold": 0.4}, False), ({"seed": 9}, False)],
)  # fmt: skip
def test_only_settings_that_change_a_figure_are_said_to_differ(
    tmp_path: Path, changes: dict[str, Any], same: bool
) -> None:
    before = make_diagnosis()
    write_diagnosis(before, tmp_path / "before.h5")
    write_diagnosis(make_diagnosis(config=before.config.model_copy(update=changes)), tmp_path / "after.h5")
    report = make_report(tmp_path / "before.h5", tmp_path / "after.h5", output=tmp_path / "page").report
    assert report.comparison is not None
    assert report.comparison.same_settings is same
    assert any("different settings" in note for note in report.notes) is not same


OTHER = {"input_size": [3, 32, 32], "mean": [0.4, 0.5, 0.5], "resize_mode": "squash"}


@pytest.mark.parametrize(
    ("changes", "verdict", "said"),
    [
        ({"checkpoint_sha256": "cd" * 32}, "improved", "Better: accuracy was 0.0%"),
        ({}, "no-benefit", "The same checkpoint: accuracy was 0.0%"),
        (
            {"checkpoint_sha256": "cd" * 32, "preprocessing": OTHER},
            "no-benefit",
            "Not comparable, images were prepared in different ways: accuracy was 0.0%",
        ),
        # A file that is too old to say.
        ({"checkpoint_sha256": "cd" * 32, "preprocessing": {}}, "improved", "Better: accuracy was 0.0%"),
    ],
)
def test_six_images_turned_right(tmp_path: Path, changes: dict[str, Any], verdict: str, said: str) -> None:
    """All six were wrong and are right, p = 2 / 64: an improvement, if it is one of another network, fed alike."""
    before = make_diagnosis()
    samples = before.samples
    for name, change, label in (("before", {}, (samples.label + 1) % 3), ("after", changes, samples.label)):
        diagnosis = make_diagnosis(samples=replace(samples, predicted=label), misdiagnosed=(), wrong_count=6, **change)
        write_diagnosis(diagnosis, tmp_path / f"{name}.h5")
    report = make_report(tmp_path / "before.h5", tmp_path / "after.h5", output=tmp_path / "page").report
    assert report.comparison is not None
    assert report.comparison.images.turned_right == 6
    assert (report.verdict, report.headline[: len(said)]) == (verdict, said)
    titles = {
        "B": "The later network is better",
        "T": "Both are of the same checkpoint",
        "N": "The two cannot be compared",
    }
    page = (tmp_path / "page" / "report.html").read_text()
    assert f"<h1>{titles[said[0]]}</h1>" in page
    assert "<td>damaged</td>" not in page  # none before, none after
