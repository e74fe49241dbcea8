"""A small part of scripts/planted_faults.py: faults planted into drawn images get their verdicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Clinic, picture
from diagnosed import QUICK
from PIL import Image

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import open_data
from modeldoctor.diagnosis import diagnose
from modeldoctor.results.diagnosis import Verdict
from modeldoctor.zoo import load_model

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import planted_faults


def drawn(number: int, seed: int) -> planted_faults.Images:
    """Pictures of every class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(len(CLASSES)).repeat(number)
    return planted_faults.Images(np.stack([picture(int(label), rng) for label in labels]), labels)


@pytest.fixture(scope="module")
def result(clinic: Clinic) -> dict[str, Any]:
    config = DiagnoseConfig(
        layers="last", batch_size=64, shown=0, fgsm_epsilon=0, noise_draws=0, device="cpu", hooks=True
    )
    network = load_model(clinic.checkpoint)
    return planted_faults.exam_of_images(network, drawn(100, 1), drawn(150, 2), None, config, 0)


def test_planted_faults_get_their_verdicts(result: dict[str, Any]) -> None:
    found = result["verdicts"]
    assert found[Verdict.DAMAGED]["recall"] >= 0.9
    assert found[Verdict.MISLABELLED]["recall"] >= 0.75
    assert found[Verdict.MISLABELLED]["precision"] >= 0.75


def test_every_wrong_image_is_counted_once_under_its_cause(result: dict[str, Any]) -> None:
    """Of 30 swapped labels all are wrong; the network is right on nearly all of what is as it was."""
    table = result["table"]
    swapped = sum(sum(table[name].values()) for name in ("label at random", "label of an alike class"))
    assert 25 <= swapped <= 30
    assert sum(table.get("none", {}).values()) <= 6
    assert {finding[0] for finding in result["findings"]} >= {"damaged", "mislabelled"}


@pytest.mark.parametrize("planted", [True, False])
def test_two_classes_that_a_coin_labels_are_named(clinic: Clinic, planted: bool) -> None:
    config = DiagnoseConfig(
        layers="last", batch_size=64, shown=0, fgsm_epsilon=0, noise_draws=0, device="cpu", hooks=True
    )
    val = drawn(60, 3)
    if planted:
        val = planted_faults.coin_labels(val, 1, 3, np.random.default_rng(0))
    found = planted_faults.examine(load_model(clinic.checkpoint), drawn(100, 1), val, config)
    said = [finding.sentence for finding in found.findings if finding.name == "inseparable"]
    assert [sentence.split(" are ")[0] for sentence in said] == ([f"{CLASSES[1]} and {CLASSES[3]}"] if planted else [])


def test_an_object_that_is_cut_off_or_tiny_is_a_part_or_a_small_copy_of_its_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    change = planted_faults.off_centre(np.random.default_rng(1))
    cut = change["cut off"](image)
    assert cut.shape == image.shape
    assert any(np.array_equal(*pair) for pair in ((cut[:6], image[-6:]), (cut[-6:], image[:6])))
    tiny = change["tiny"](image)
    small = np.asarray(Image.fromarray(image).resize((6, 6), Image.Resampling.BOX))
    found = [tiny[row : row + 6, column : column + 6] for row in range(11) for column in range(11)]
    assert tiny.shape == image.shape
    assert any(np.array_equal(part, small) for part in found)


def test_misleading_backgrounds_are_counted_in_either_half(clinic: Clinic, tmp_path: Path) -> None:
    """By hand: images with an even number are said to be misled, and the verdicts are those of the diagnosis itself."""
    config = DiagnoseConfig(**QUICK | {"shown": 0, "fgsm_epsilon": 0})
    network = load_model(clinic.checkpoint)
    splits = open_data(clinic.data, preprocessing=network.preprocessing, masks=clinic.masks)
    paths = splits["val"].paths
    misled = {path for path in paths if int(Path(path).stem) % 2 == 0}
    groups = tmp_path / "groups.csv"
    of_group = {path: "conflicting" if path in misled else "aligned" for path in paths}
    # Each class has a background of its own in its aligned images; in all others there is amber's.
    behind = {path: "amber" if path in misled else path.split("/")[1] for path in paths}
    rows = "".join(f"{path},{path.split('/')[1]},{behind[path]},{of_group[path]}\n" for path in paths)
    groups.write_text(f"path,class,background,group\n{rows}")
    halves = planted_faults.exam_of_backgrounds(network, splits, "val", groups, {"conflicting"}, config, 0)
    found = diagnose(network, splits, config=config)
    of = [
        (found.samples.path[i.sample].decode() in misled, i.verdict is Verdict.BACKGROUND) for i in found.misdiagnosed
    ]
    parts = [halves[half] for half in planted_faults.Half if half in halves]
    assert sum(part["wrong"] for part in parts) == len(of)
    assert sum(part["misled"] for part in parts) == sum(meant for meant, _ in of)
    assert sum(part["said"] for part in parts) == sum(said for _, said in of) > 0
    right = sum(meant and said for meant, said in of)
    assert sum(part["precision"] * part["said"] for part in parts if part["said"]) == pytest.approx(right)
    assert sum(part["recall"] * part["misled"] for part in parts if part["misled"]) == pytest.approx(right)
    amber = [
        i.verdict is Verdict.BACKGROUND
        for i in found.misdiagnosed
        if found.samples.path[i.sample].decode() in misled and found.classes[i.predicted] == "amber"
    ]
    name = "taken for its background's class"
    assert sum(part.get(name, 0) for part in parts) == len(amber) > 0
    assert sum(part["recall of these"] * part[name] for part in parts if name in part) == pytest.approx(sum(amber))


def test_halves_and_the_unseen_images_are_all_images_once() -> None:
    """What limits are chosen on, and either figure, share no image; the halves do not depend on how many lie beyond."""
    found = {
        half: planted_faults.rows_of(half, 100, 60, np.random.default_rng(0)).tolist() for half in planted_faults.Half
    }
    assert sorted(row for rows in found.values() for row in rows) == list(range(100))
    assert len(found[planted_faults.Half.UNSEEN]) == 40
    assert all(rows == sorted(rows) for rows in found.values())
