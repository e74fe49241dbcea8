"""Images per class by a wanted precision: what is planned from a pilot, and what is used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES, Clinic
from test_scan import SCANNED, rows, usable

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.diagnosis import diagnose, samples
from modeldoctor.diagnosis.build import every_class_first
from modeldoctor.diagnosis.samples import images_needed
from modeldoctor.errors import InterruptedRunError
from modeldoctor.method.correlation import CorrelationState
from modeldoctor.zoo import Classifier, load_model

LAYER, PILOT, PRECISION = "layer3.0.conv3", 3, 0.02
PLANNED: dict[str, Any] = {**SCANNED, "samples_precision": PRECISION, "samples_per_class": 5}


@pytest.fixture(scope="module")
def network(clinic: Clinic) -> Classifier:
    return load_model(clinic.checkpoint)


@pytest.fixture(autouse=True)
def small_pilot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "PILOT", PILOT)
    monkeypatch.setattr("modeldoctor.diagnosis.build.PILOT", PILOT)


def test_images_needed_are_the_formulas() -> None:
    """Correlations of 4 images: class 0 of three kernels of which two count, class 1 without an image."""
    values = torch.tensor([[10.0, 4.0, 0.1], [12.0, 6.0, 0.1], [8.0, 5.0, 0.1], [10.0, 5.0, 0.1]], dtype=torch.float64)
    none = torch.zeros(2, 3, dtype=torch.float64)
    mean, squares = none.clone(), none.clone()
    mean[0], squares[0] = values.mean(0), ((values - values.mean(0)) ** 2).sum(0)
    state = CorrelationState(torch.tensor([4, 0]), mean, squares, none, none, none)
    needed = images_needed(state, threshold=0.2, precision=0.05)
    relative = [values[:, kernel].var().item() / values[:, kernel].mean().item() ** 2 for kernel in (0, 1)]
    assert needed[0] == pytest.approx(np.median(relative) / 0.05**2)
    assert np.isnan(needed[1])


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_each_class_gets_what_its_pilot_asks_for(clinic: Clinic, network: Classifier) -> None:
    pilot = diagnose(network, clinic.data, config=DiagnoseConfig(**{**SCANNED, "samples_per_class": PILOT}))[LAYER]
    good, labels = usable(clinic)
    expected = []
    for number in range(len(CLASSES)):
        counting = pilot.correlated(0.2)[number] & (pilot.correlation[number] > 0)
        relative = pilot.variance[number][counting] / pilot.correlation[number][counting] ** 2
        wanted = max(PILOT, int(np.ceil(np.median(relative) / PRECISION**2)))
        expected.append(min(wanted, int(good[labels == number].sum())))
    found = diagnose(network, clinic.data, config=DiagnoseConfig(**PLANNED))
    assert found[LAYER].count.tolist() == expected
    assert len(set(expected)) > 1, "the case must tell classes apart"


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_batches_and_interruptions_plan_nothing_else(clinic: Clinic, network: Classifier, tmp_path: Path) -> None:
    whole = diagnose(network, clinic.data, config=DiagnoseConfig(**PLANNED))
    config, output = DiagnoseConfig(**PLANNED, batch_size=2), tmp_path / "d.h5"
    for at in ("samples", "correlate"):

        def stop(stage: str, done: int, total: int | None, at: str = at) -> None:
            if stage == at and done >= 4:
                raise KeyboardInterrupt

        with pytest.raises((InterruptedRunError, KeyboardInterrupt)):
            diagnose(network, clinic.data, config=config, output=output, resume=True, progress=stop)
    resumed = diagnose(network, clinic.data, config=config, output=output, resume=True)
    assert rows(resumed) == rows(whole)
    assert resumed[LAYER].count.tolist() == whole[LAYER].count.tolist()
    np.testing.assert_allclose(resumed[LAYER].correlation, whole[LAYER].correlation, rtol=1e-5)


def test_of_too_many_wrong_images_every_class_has_one_explained() -> None:
    """By hand: of six images drawn in this order, 2, 0 and 3 are the first of their classes 7, 1 and 4."""
    drawn = np.array([2, 5, 0, 1, 3, 4])
    labels = np.array([7, 7, 1, 7, 4, 1])  # of those images, in that order
    assert every_class_first(labels, drawn).tolist() == [2, 0, 3, 5, 1, 4]
