"""The wrong images of the page class by class, against a diagnosis by hand."""

from __future__ import annotations

from pathlib import Path

from conftest import make_diagnosis

from modeldoctor.report import make_report
from modeldoctor.report.gallery import confusions, images_of_classes
from modeldoctor.results.hdf5 import write_diagnosis


def test_confusions_keep_their_direction_and_count_all_wrong_images() -> None:
    cat, quoted, naive = make_diagnosis().classes
    found = [(one.label, one.predicted, one.wrong, one.images, one.verdict) for one in confusions(make_diagnosis())]
    assert found == [
        (cat, quoted, 1, 3, "isolated (1)"),
        (cat, naive, 1, 3, "foreign-kernels (1)"),
        (quoted, cat, 1, 2, "isolated (1)"),
        (naive, quoted, 1, 1, "unclear (1)"),
    ]
    unexplained = confusions(make_diagnosis(misdiagnosed=(), limits=None))
    assert [(one.wrong, one.verdict) for one in unexplained] == [(1, "")] * 4


def test_every_class_with_a_wrong_image_has_them_with_their_evidence() -> None:
    cat, quoted, naive = make_diagnosis().classes
    found = images_of_classes(make_diagnosis())
    assert [(part.name, part.explained) for part in found] == [(cat, 2), (quoted, 1), (naive, 1)]
    first, second = found[0].shown
    assert (first.path, first.predicted, first.confidence) == ("val/2.png", naive, 0.5)
    assert first.sentence.startswith("Without kernel 3 of the features it is right")
    assert second.path == "val/1.png"


def test_of_many_images_of_a_class_the_page_shows_twenty_and_says_where_the_rest_is(tmp_path: Path) -> None:
    whole = make_diagnosis()
    part = images_of_classes(make_diagnosis(misdiagnosed=whole.misdiagnosed * 15))[0]
    assert (part.explained, len(part.shown)) == (30, 20)
    write_diagnosis(whole, tmp_path / "few.h5")
    make_report(tmp_path / "few.h5")
    html = (tmp_path / "report.html").read_text()
    assert html.count("<bdi>val/5.png</bdi>") == 2  # as a telling image, and with its class
    assert ".wrong.csv" not in html
