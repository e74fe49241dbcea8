"""Trials whose outcome is known: misleading backgrounds must be cured, and meaningless masks must cure nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.demo import DemoPlan, DemoResult, run_demo
from modeldoctor.demo.drawing import ImageSetPlan
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.trial import Outcome, read_trial
from modeldoctor.treatment import treat
from modeldoctor.zoo import load_model

# The demo is small: not every class has 100 right, confident images.
pytestmark = pytest.mark.filterwarnings("ignore:.*images predicted right with confidence")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    plan = DemoPlan(images=ImageSetPlan(edge=48, train=160, val=60, test=80), input_edge=48)
    return run_demo(tmp_path_factory.mktemp("trial") / "demo", plan=plan)


def test_a_treatment_of_misleading_backgrounds_is_called_improved(demo: DemoResult) -> None:
    assert demo.trial.ruling.outcome is Outcome.IMPROVED
    assert demo.trial.handed_back == "treat"
    accuracy = {arm.arm: arm.metrics["accuracy"].value for arm in demo.trial.arms}
    assert all(accuracy["treat"] > accuracy[other] for other in ("hard-examples", "continue", "original"))
    assert read_trial(demo.folder / "trial.json") == demo.trial


def test_with_masks_in_random_places_it_is_not(demo: DemoResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = tmp_path / "masks"
    for file in sorted((demo.folder / "data-masks" / "train").rglob("*.png")):
        mask = np.asarray(Image.open(file).convert("L"))
        rolled = np.roll(mask, rng.integers(mask.shape[0], size=2).tolist(), (0, 1))
        there = masks / file.relative_to(demo.folder / "data-masks")
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rolled).save(there)
    config = load_treat_config(demo.folder / "config.yaml", data__masks=masks, output=tmp_path / "run")
    trial = treat(config, load_model(demo.checkpoint), read_diagnosis(demo.output))
    assert trial.ruling.outcome is not Outcome.IMPROVED
    assert trial.handed_back in ("original", "continue", "hard-examples")
