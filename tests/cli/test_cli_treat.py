"""The command `treat` through the console script: its trial, its gate, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Call, listing
from conftest import Clinic

from modeldoctor.errors import ExitCode

BRIEF = (
    "--set", "training.epochs=1", "--set", "seeds=[0]", "--set", "noise_draws=1",
    "--set", "space.layers=layer2.0.conv2",
    "--set", "training.batch_size=16", "--set", "device=cpu",
)  # fmt: skip


@pytest.fixture
def treatable(clinic: Clinic, tmp_path: Path) -> Path:
    """The clinic's images without the broken test split."""
    for split in ("train", "val"):
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / split).symlink_to(clinic.data / split)
    return tmp_path / "images"


@pytest.mark.filterwarnings("always::modeldoctor.errors.ModelDoctorWarning")
def test_a_treatment_without_a_config_shows_its_trial_and_writes_one(
    call: Call, clinic: Clinic, treatable: Path
) -> None:
    before = listing(clinic.checkpoint.parent)
    code, out, err = call("treat", clinic.checkpoint, "--data", treatable, "--masks", clinic.masks, "-o", "run", *BRIEF)
    assert code == 0, err
    for word in ("original", "treat", "continue", "the treated checkpoint holds"):
        assert word in out
    assert sorted(path.name for path in Path("run").iterdir()) == [
        "arms", "config.yaml", "diagnosis.h5", "history.csv", "maps.h5", "treated.pt", "trial.json"
    ]  # fmt: skip
    assert listing(clinic.checkpoint.parent) == before
    code, _, err = call("treat", "--config", "run/config.yaml")
    assert code == ExitCode.USAGE
    assert "--resume" in err


@pytest.mark.filterwarnings("always::modeldoctor.errors.ModelDoctorWarning")
def test_a_treatment_that_does_not_improve_fails_the_gate(call: Call, clinic: Clinic, treatable: Path) -> None:
    code, out, err = call(
        "treat", clinic.checkpoint, "--data", treatable, "--masks", clinic.masks, "-o", "run", *BRIEF,
        "--set", "training.learning_rate=1e-9", "--require-improvement",
    )  # fmt: skip
    assert code == ExitCode.GATE
    assert "no-benefit" in out
    assert "expected: improved" in err
    assert json.loads(Path("run/trial.json").read_text())["handed_back"] == "original"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "training.epoch=3"), "nearest: epochs"),
        (("--set", "training.optimizer=sdg"), "sdg"),
        (("--set", "training.epochs=zero"), "training.epochs"),
        (("--set", "metric=worst_group"), "data.groups"),
        (("--config", "absent.yaml"), "absent.yaml"),
        (("--groups", "absent.csv"), "absent.csv"),
    ],
)
def test_a_wrong_treatment_is_refused_and_nothing_is_written(
    call: Call, clinic: Clinic, treatable: Path, words: tuple[str, ...], said: str
) -> None:
    code, _, err = call(
        "treat", clinic.checkpoint, "--data", treatable, "--masks", clinic.masks, "-o", "run", *BRIEF, *words
    )
    assert code == ExitCode.INPUT
    assert said in err
    assert not list(Path.cwd().iterdir())
