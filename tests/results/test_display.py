"""What a notebook shows of the diagnosis of conftest.py, by hand; and its tables."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from modeldoctor.errors import DataError
from modeldoctor.results.diagnosis import Diagnosis, Verdict
from modeldoctor.results.pictures import Shown
from modeldoctor.results.summary import summarise
from modeldoctor.results.tables import write_tables

mpl.use("Agg")

Make = Callable[..., Diagnosis]


def with_pictures(diagnosis: Diagnosis) -> Diagnosis:
    maps = np.zeros((2, 4, 2), np.float32)
    pixels = np.stack([np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 200, np.uint8)])
    shown = Shown(
        layer="stem.conv", sample=np.array([6, 9]), thumbnail=pixels, derivative=maps, contribution=maps, grad_cam=maps
    )
    return dataclasses.replace(diagnosis, shown=shown)


def test_a_repr_is_a_sentence(handmade: Make) -> None:
    assert repr(handmade()) == (
        "<Diagnosis of timm/test_resnet: 3 classes, accuracy 33.33% on val, 4 wrong (4 explained); "
        "layers: stem.conv, body.1#2>"
    )


def test_an_unknown_layer_names_the_nearest(handmade: Make) -> None:
    with pytest.raises(KeyError, match=r"no layer 'stem' was measured; nearest: stem.conv"):
        handmade()["stem"]


def test_html_has_verdicts_and_pictures(handmade: Make) -> None:
    html = with_pictures(handmade())._repr_html_()
    assert "<td>isolated</td><td>2</td>" in html
    assert html.count("<img ") == 2
    assert "&lt;i&gt;naïve&lt;/i&gt; taken for a &quot;b&quot; &#x27;c&#x27;: unclear" in html


def test_kernels_are_drawn_with_those_of_most_classes_first(handmade: Make) -> None:
    image = handmade().plot_kernels("stem.conv").axes[0].images[0].get_array()
    # Â = [0,.5,1,.1], [0,.25,1,1] without samples of the third: column sums 0, .75, 2, 1.1.
    np.testing.assert_allclose(np.asarray(image)[:2], [[1, 0.1, 0.5, 0], [1, 1, 0.25, 0]], rtol=1e-6)
    assert handmade().plot_kernels().axes[0].get_title().endswith("body.1#2")


def test_wrong_images_are_drawn_with_what_is_said_of_them(handmade: Make) -> None:
    axes = [axes for axes in with_pictures(handmade()).plot_wrong().axes if axes.images]
    assert [axes.get_title().split(":\n")[1] for axes in axes] == ["foreign-kernels", "unclear"]
    assert np.asarray(axes[1].images[0].get_array()).mean() == 200
    assert len(with_pictures(handmade()).plot_wrong(1).axes) == 1
    with pytest.raises(DataError, match="no picture"):
        handmade().plot_wrong()


def doubted(diagnosis: Diagnosis) -> Diagnosis:
    """The first and the third wrong image look mislabelled, the third more."""
    first, second, third, fourth = diagnosis.misdiagnosed
    changed = [
        dataclasses.replace(image, verdict=Verdict.MISLABELLED, label_doubt=doubt)
        for image, doubt in ((first, 0.25), (third, 0.75))
    ]
    return dataclasses.replace(diagnosis, misdiagnosed=(changed[0], second, changed[1], fourth))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_hold_every_wrong_image_and_the_suspects(handmade: Make, tmp_path: Path) -> None:
    wrong, suspects = write_tables(doubted(handmade()), tmp_path / "d.h5")
    assert [row["path"] for row in rows(suspects)] == ["val/4.png", "val/1.png"]
    assert [(row["label"], row["looks_like"]) for row in rows(suspects)][1] == ("cat 🐈", "a \"b\" 'c'")
    assert [row["verdict"] for row in rows(wrong)] == ["foreign-kernels", "mislabelled", "mislabelled", "unclear"]
    assert rows(wrong)[0]["without_object"] == ""
    write_tables(handmade(), tmp_path / "d.h5")
    assert rows(suspects) == []  # of another diagnosis


def test_no_cell_of_a_table_is_a_formula(handmade: Make, tmp_path: Path) -> None:
    names = ("=cmd|' /C calc'!A1", "-1", "@SUM(A1)")
    wrong, _ = write_tables(handmade(classes=names), tmp_path / "d.h5")
    found = {row[column] for row in rows(wrong) for column in ("label", "predicted")}
    assert found == {"'=cmd|' /C calc'!A1", "-1", "'@SUM(A1)"}
    assert all(float(row["confidence"]) <= 1 for row in rows(wrong))


def test_rows_are_for_a_data_frame(handmade: Make) -> None:
    table = doubted(handmade()).wrong
    assert {tuple(row) for row in table} == {tuple(table[0])}
    assert table[1]["label_doubt"] == 0.75
    assert table[0]["background_share"] is None


def test_doubtful_labels_are_estimated_from_what_was_explained(handmade: Make) -> None:
    diagnosis = doubted(handmade())
    assert [row["doubtful_labels"] for row in summarise(diagnosis)["classes"]] == [1 / 2 * 2 / 3, 1 / 2, 0.0]
    one = dataclasses.replace(diagnosis, misdiagnosed=diagnosis.misdiagnosed[:1])
    # Of the first class one of two wrong images was explained, of the others none.
    assert [row["doubtful_labels"] for row in summarise(one)["classes"]] == [2 / 3, None, None]
