"""Trials whose outcome is known: misleading backgrounds must be cured, and meaningless masks must cure nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.demo import DemoPlan, prepare_demo
from modeldoctor.demo.drawing import ImageSetPlan
from modeldoctor.diagnosis import diagnose
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import Outcome, read_trial
from modeldoctor.treatment import treat
from modeldoctor.zoo import Classifier, load_model

# The demo is small: not every class has 100 right, confident images.
pytestmark = pytest.mark.filterwarnings("ignore:.*images predicted right with confidence")


@dataclass(frozen=True)
class Demo:
    """The demo's images, network and diagnosis; single images are not explained, since no treatment reads that."""

    folder: Path
    network: Classifier
    diagnosis: Diagnosis

    def config(self, output: Path, masks: Path) -> TreatConfig:
        data = {"path": str(self.folder / "data"), "masks": masks, "groups": self.folder / "metadata.csv"}
        return TreatConfig(
            checkpoint=self.folder / "checkpoint.pt", data=data, output=output, training={"epochs": 4}, seeds=(0,),
            metric="worst_group",
        )  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("trial") / "demo"
    plan = DemoPlan(images=ImageSetPlan(edge=48, train=160, val=24, test=60), input_edge=48)
    network = load_model(prepare_demo(folder, plan=plan))
    config = DiagnoseConfig(layers="last:3,features", scan="all", samples_per_class=40, max_explained=0, shown=0)
    return Demo(folder, network, diagnose(network, folder / "data", config=config, masks=folder / "data-masks"))


def test_a_treatment_of_misleading_backgrounds_is_called_improved(demo: Demo, tmp_path: Path) -> None:
    trial = treat(demo.config(tmp_path / "run", demo.folder / "data-masks"), demo.network, demo.diagnosis)
    assert trial.ruling.outcome is Outcome.IMPROVED
    assert trial.handed_back == "treat"
    accuracy = {arm.arm: arm.metrics["accuracy"].value for arm in trial.arms}
    assert all(accuracy["treat"] > accuracy[other] for other in ("hard-examples", "continue", "original"))
    assert read_trial(tmp_path / "run" / "trial.json") == trial


def test_with_masks_in_random_places_it_is_not(demo: Demo, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks = tmp_path / "masks"
    for file in sorted((demo.folder / "data-masks" / "train").rglob("*.png")):
        mask = np.asarray(Image.open(file).convert("L"))
        rolled = np.roll(mask, rng.integers(mask.shape[0], size=2).tolist(), (0, 1))
        there = masks / file.relative_to(demo.folder / "data-masks")
        there.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rolled).save(there)
    trial = treat(demo.config(tmp_path / "run", masks), demo.network, demo.diagnosis)
    assert trial.ruling.outcome is not Outcome.IMPROVED
    assert trial.handed_back in ("original", "continue", "hard-examples")
