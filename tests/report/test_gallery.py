"""The wrong images of the page class by class, against a diagnosis by hand."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from conftest import make_diagnosis
from PIL import Image
from stored_results import with_pictures

from modeldoctor.report import make_report
from modeldoctor.report.gallery import confusions, images_of_classes
from modeldoctor.results.diagnosis import LayerDiagnosis, Samples
from modeldoctor.results.hdf5 import write_diagnosis
from modeldoctor.results.pictures import Pictures
from modeldoctor.results.verdicts import telling_of_classes


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


def test_confusions_of_so_many_classes_that_no_table_of_all_pairs_fits_into_memory() -> None:
    diagnosis = make_diagnosis(classes=tuple(map(str, range(300_000))))
    found = [(one.label, one.predicted, one.wrong, one.images) for one in confusions(diagnosis)]
    assert found == [("0", "1", 1, 3), ("0", "2", 1, 3), ("1", "0", 1, 2), ("2", "1", 1, 1)]


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


def test_every_class_with_a_wrong_image_has_its_picture_and_its_path_to_copy(tmp_path: Path) -> None:
    diagnosis = with_pictures(make_diagnosis())
    write_diagnosis(diagnosis, tmp_path / "d.h5")
    make_report(tmp_path / "d.h5")
    html = (tmp_path / "report.html").read_text().split("<h3>Class by class</h3>")[1].split("</section>")[0]
    assert html.count("<article") == html.count('<img class="thumb"') == html.count(' copy"><bdi>val/') == 4
    sizes = {Image.open(BytesIO(base64.b64decode(uri))).size for uri in re.findall(r'base64,([^"]+)"', html)}
    assert sizes == {(8, 10)}


def test_of_very_many_classes_each_has_a_picture_and_the_page_stays_small(tmp_path: Path) -> None:
    whole, rng = make_diagnosis(), np.random.default_rng(0)
    number, each = 1000, 10
    label = np.repeat(np.arange(number), each)
    rows = len(label)
    samples = Samples(
        path=np.array([f"val/class_{n:04d}/image_{i:05d}.jpeg".encode() for i, n in enumerate(label)], dtype=object),
        split=np.zeros(rows, np.int32), splits=("val",), label=label, predicted=(label + 1) % number,
        confidence=np.full(rows, 0.75, np.float32), used_in_diagnosis=np.zeros(rows, bool),
        noise_ranges=np.array([1.0]), stability=np.full((rows, 1), np.nan),
    )  # fmt: skip
    wrong = tuple(
        replace(whole.misdiagnosed[0], sample=i, label=int(n), predicted=int((n + 1) % number), resembles=-1)
        for i, n in enumerate(label)
    )
    chosen = telling_of_classes(wrong, 1000, 20)
    assert len({image.label for image in chosen}) == number
    pixels = rng.integers(0, 256, (number, 96, 96, 3)).astype(np.uint8)  # noise packs worst
    pictures = Pictures(sample=np.array(sorted(image.sample for image in chosen)), thumbnail=pixels)
    layers = {name: made_for(layer, number) for name, layer in whole.layers.items()}
    diagnosis = replace(
        whole, classes=tuple(f"class {n}" for n in range(number)), samples=samples, misdiagnosed=wrong, layers=layers,
        wrong_count=rows, pictures=pictures, findings=(),
    )  # fmt: skip
    write_diagnosis(diagnosis, tmp_path / "d.h5")
    make_report(tmp_path / "d.h5")
    page = tmp_path / "report.html"
    assert page.stat().st_size < 15_000_000
    html = page.read_text()
    assert html.count('<img class="thumb"') == number
    assert html.count("<bdi>d.wrong.csv</bdi>") == number


def made_for(layer: LayerDiagnosis, number: int) -> LayerDiagnosis:
    """The same layer with so many classes."""
    repeats = -(-number // len(layer.count))
    names = ("correlation", "variance", "count", "signed", "activation", "contribution")
    arrays = {name: np.concatenate([getattr(layer, name)] * repeats)[:number] for name in names}
    return replace(layer, **arrays)
