"""Whose statistics BatchNorm takes in training, on a network whose running ones were made to disagree with its data."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from conftest import Clinic
from torch import Tensor

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TreatConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import ModelDoctorWarning
from modeldoctor.results.trial import Trial
from modeldoctor.treatment import treat
from modeldoctor.treatment.batch_statistics import _is_worse
from modeldoctor.zoo import load_model

Weights = dict[str, Tensor]


def disagreeing(state: Weights) -> Weights:
    """The same answers in evaluation: what a channel's running mean is raised by, its bias makes good again."""
    changed, shifts = dict(state), torch.Generator().manual_seed(0)
    for name in state:
        if name.endswith("running_mean"):
            layer = name.removesuffix("running_mean")
            shift = 3 * torch.randn(state[name].shape, generator=shifts)
            changed[name] = state[name] + shift * (state[f"{layer}running_var"] + 1e-5).sqrt()
            changed[f"{layer}bias"] = state[f"{layer}bias"] + shift * state[f"{layer}weight"]
    return changed


def trial_of(
    clinic: Clinic, folder: Path, *, disagree: bool, batch_norm: str = "auto"
) -> tuple[Trial, Weights, Weights]:
    """The trial, and the weights before and after one epoch of continued training."""
    checkpoint, data = folder / "ckpt.pt", folder / "images"
    data.mkdir()
    for split in ("train", "val"):
        (data / split).symlink_to(clinic.data / split)
    content = torch.load(clinic.checkpoint, weights_only=True)
    held = content.get("state_dict", content)
    held.update(disagreeing(held) if disagree else {})
    torch.save(content, checkpoint)
    network = load_model(checkpoint)
    config = TreatConfig(
        checkpoint=checkpoint, data={"path": str(data)}, output=folder / "run", arms=("balanced", "continue"),
        seeds=(0,), training={"epochs": 1, "batch_size": 16, "learning_rate": 0.001, "batch_norm": batch_norm},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        wanted = DiagnoseConfig(layers="last", max_explained=0, noise_draws=0, samples_per_class=5)
        trial = treat(config, network, diagnose(network, data, config=wanted))
    after = torch.load(folder / "run" / "arms" / "continue-0.pt", weights_only=True)["network"]
    return trial, network.module.state_dict(), after


def statistics(state: Weights) -> Weights:
    return {name: value for name, value in state.items() if "running_" in name}


@pytest.mark.parametrize("disagree", [True, False])
def test_running_statistics_stay_where_each_batchs_make_the_network_worse(
    clinic: Clinic, tmp_path: Path, disagree: bool
) -> None:
    trial, before, after = trial_of(clinic, tmp_path, disagree=disagree)
    stayed = [torch.equal(before[name], value) for name, value in statistics(after).items()]
    assert stayed
    assert stayed == [disagree] * len(stayed)
    assert not torch.equal(before["conv1.0.weight"], after["conv1.0.weight"])
    assert trial.provenance["config"]["training"]["batch_norm"] == ("running" if disagree else "batch")
    assert any("running statistics stayed" in remark for remark in trial.remarks) is disagree


def test_what_is_asked_for_is_done(clinic: Clinic, tmp_path: Path) -> None:
    trial, before, after = trial_of(clinic, tmp_path, disagree=False, batch_norm="running")
    assert all(torch.equal(before[name], value) for name, value in statistics(after).items())
    assert trial.provenance["batch_norm"] is None


@pytest.mark.parametrize(
    ("right", "by_batch", "turned", "worse"),
    [
        (1015, 975, 44, True),  # four points lost
        (1021, 1007, 16, True),  # little, but five times the errors
        (1024, 1004, 20, True),  # of none
        (960, 952, 60, False),  # less than three points, and than the errors that there are
        (800, 790, 100, False),  # chance
        (1024, 1021, 3, False),
        (900, 930, 60, False),  # better
    ],
)
def test_what_counts_as_worse(right: int, by_batch: int, turned: int, worse: bool) -> None:
    assert _is_worse(1024, right, by_batch, turned) is worse
