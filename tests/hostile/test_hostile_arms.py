"""States of interrupted runs (`arms/*.pt`) that are damaged or hostile: one message, and nothing is executed."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Call
from conftest import Clinic
from kept_states import EXECUTED, Hostile, changed

from modeldoctor.config.treat import TreatConfig
from modeldoctor.errors import ModelDoctorWarning, StoreError
from modeldoctor.treatment.arm_state import load_state
from modeldoctor.treatment.pipeline import load_and_treat

HINT = "delete it: with --resume this run is trained anew"


def epochs(**values: Any) -> Callable[[Path], None]:
    return changed(lambda content: content["history"][0].update(values))


def first_tensor(content: dict[str, Any], name: str, to: Callable[[torch.Tensor], Any]) -> None:
    key = next(iter(content[name]))
    content[name] = {**content[name], key: to(content[name][key])}


def flipped(path: Path) -> None:
    """One byte of the largest tensor is another."""
    whole, weights = bytearray(path.read_bytes()), torch.load(path, weights_only=True)["network"]
    largest = max(weights.values(), key=lambda tensor: tensor.numel())
    whole[whole.index(largest.numpy().tobytes()[:64]) + 30] ^= 0x10
    path.write_bytes(whole)


FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("state"),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "without its end": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a byte that flipped": flipped,
    "code": changed(lambda content: content.update(seconds=Hostile())),
    "a list": lambda path: torch.save([1, 2], path),
    "a checkpoint": lambda path: torch.save({"state_dict": {"weight": torch.zeros(3)}}, path),
    "without weights": changed(lambda content: content.pop("network")),
    "with more": changed(lambda content: content.update(more=1)),
    "weights of text": changed(lambda content: content.update(network="none")),
    "a weight less": changed(lambda content: content["network"].popitem()),
    "another shape": changed(lambda content: first_tensor(content, "network", lambda tensor: tensor[:1])),
    "another type": changed(lambda content: first_tensor(content, "best", lambda tensor: tensor.double())),
    "a weight of text": changed(lambda content: first_tensor(content, "best", str)),
    "no best": changed(lambda content: content.update(best=None)),
    "a history of numbers": changed(lambda content: content.update(history=[1, 2])),
    "an epoch of text": epochs(loss="low"),
    "no seconds": changed(lambda content: content.update(seconds=None)),
    "a start of numbers": changed(lambda content: content.update(start=[3])),
    "no dict of an optimizer": changed(lambda content: content.update(optimisation=[3])),
}
"""What shows when a file is read."""
OTHERS: dict[str, Callable[[Path], object]] = {
    "an endless history": changed(lambda content: content.update(history=content["history"] * 10)),
    "another arm's": epochs(arm="continue"),
    "an optimizer without parts": changed(lambda content: content.update(optimisation={})),
    "momentum of another shape": changed(
        lambda content: content["optimisation"]["optimizer"]["state"][0].update(momentum_buffer=torch.zeros(2))
    ),
}
"""What shows when the run goes on."""


@pytest.fixture(scope="module")
def finished(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> TreatConfig:
    """A trial of two runs, of which all but the states of the runs is as if it had been interrupted."""
    folder = tmp_path_factory.mktemp("arms")
    for split in ("train", "val"):
        shutil.copytree(clinic.data / split, folder / "photos" / split)
    config = TreatConfig(
        checkpoint=clinic.checkpoint, data={"path": str(folder / "photos")}, output=folder / "run", seeds=(0,),
        channel={"weight": 0.1, "layers": "layer2.0.conv2"}, noise_draws=1,
        training={"epochs": 1, "batch_size": 16, "learning_rate": 0.01},
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)
        load_and_treat(config)
    return config


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_cannot_be_read_is_refused(name: str, finished: TreatConfig, tmp_path: Path) -> None:
    whole, state = finished.output / "arms" / "treat-0.pt", tmp_path / "treat-0.pt"
    original = torch.load(whole, weights_only=True)["network"]
    shutil.copy(whole, state)
    assert load_state(state, original)
    FILES[name](state)
    with pytest.raises(StoreError, match="the state of an interrupted run cannot be used") as caught:
        load_state(state, original)
    assert (caught.value.where, caught.value.hint) == (str(state), HINT)
    assert not EXECUTED


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
@pytest.mark.parametrize("name", OTHERS)
def test_the_state_of_another_run_is_refused(name: str, finished: TreatConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.output, run)
    state = run / "arms" / "treat-0.pt"
    OTHERS[name](state)
    before = state.read_bytes()
    with pytest.raises(StoreError, match="the state of an interrupted run cannot be used") as caught:
        load_and_treat(finished.model_copy(update={"output": run}), resume=True)
    assert (caught.value.where, caught.value.hint) == (str(state), HINT)
    assert state.read_bytes() == before


@pytest.mark.filterwarnings("ignore::modeldoctor.errors.ModelDoctorWarning")
def test_without_it_the_run_is_trained_anew_to_the_same_weights(
    finished: TreatConfig, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.output, run)
    state = run / "arms" / "treat-0.pt"
    kept = torch.load(state, weights_only=True)
    state.write_bytes(b"")
    words = ("treat", "--config", run / "config.yaml", "-o", run, "--resume")
    code, _, err = call(*words)
    assert code == 3, err
    assert HINT in " ".join(err.split())
    state.unlink()
    assert call(*words)[0] == 0
    again = load_state(state, kept["network"])
    assert all(torch.equal(again.network[name], weight) for name, weight in kept["network"].items())
    assert again.history[0].loss == kept["history"][0]["loss"]


def test_what_is_read_is_what_was_written(finished: TreatConfig) -> None:
    path = finished.output / "arms" / "treat-0.pt"
    content = torch.load(path, weights_only=True)
    found = load_state(path, deepcopy(content["network"]))
    assert found.start == content["start"]
    assert repr([vars(epoch) for epoch in found.history]) == repr(content["history"])  # NaN prints the same
    assert found.optimisation is not None
    assert found.optimisation.keys() == content["optimisation"].keys()
