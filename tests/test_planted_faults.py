"""A small part of scripts/planted_faults.py: faults planted into drawn images get their verdicts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLASSES, Clinic, picture

from modeldoctor.config.diagnose import DiagnoseConfig
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
