"""The services that are told of a trial's epochs, read back with their own tools."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Call
from conftest import Clinic

from modeldoctor.config.treat import TreatConfig
from modeldoctor.treatment import loggers
from modeldoctor.treatment.arm_state import Epoch
from modeldoctor.treatment.history import History

NAN = float("nan")


def epochs(arm: str, number: int) -> list[Epoch]:
    return [
        Epoch(arm=arm, seed=0, epoch=n, learning_rate=0.5, loss=1 / n, channel=NAN, space=2.0, val_accuracy=0.25 * n,
              val_score=0.125 * n)
        for n in range(1, number + 1)
    ]  # fmt: skip


def told(output: Path, log: str) -> None:
    """Two runs of two epochs each; a run that was over before is only ended."""
    content = {"checkpoint": "a.pt", "data": {"path": "b"}, "log": log, "output": output}
    history = History(TreatConfig.model_validate(content))
    for arm in ("treat", "continue"):
        run = epochs(arm, 2)
        history.grown(run[:1])
        history.grown(run)
        history.ended(run)
    history.ended(epochs("earlier", 1))


def test_mlflow_has_every_figure_in_its_file_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    told(tmp_path / "run", "mlflow")
    client = tracking.MlflowClient()
    (experiment,) = [one for one in client.search_experiments() if one.name == "modeldoctor"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"run/treat-0", "run/continue-0"}
    run = runs["run/treat-0"]
    assert run.info.status == "FINISHED"
    assert "channel" not in run.data.metrics
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(one.step, one.value) for one in history] == [(1, 0.25), (2, 0.5)]


def test_wandb_has_every_figure_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    told(tmp_path / "run", "wandb")
    files = sorted((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    found = []
    for data in _logged(files[0].read_bytes()):
        record = records.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            found.append((row["_step"], row["val_accuracy"], "channel" in row))
    assert found == [(1, 0.25, False), (2, 0.5, False)]


def _logged(content: bytes) -> Iterator[bytes]:
    """Records of a log in LevelDB's format behind W&B's seven bytes: blocks of 32 KiB, records in parts."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # no room for a head: the rest of the block is empty
            place += 32768 - place % 32768
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_tensorboard_has_every_figure(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    told(tmp_path / "run", "tensorboard")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard" / "treat-0"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("val_accuracy")] == [(1, 0.25), (2, 0.5)]
    assert "channel" not in events.Tags()["scalars"]


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_missing_package_is_said_before_any_work(
    call: Call, clinic: Clinic, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(loggers, "find_spec", lambda package: None if package == name else there(package))
    code, _, err = call("treat", clinic.checkpoint, "--data", clinic.data, "-o", "run", "--log", name)
    assert code == 3
    assert f"pip install 'modeldoctor-vision[{name}]'" in err
    assert not Path("run").exists()


def test_an_unknown_service_is_refused(call: Call, clinic: Clinic) -> None:
    code, _, err = call("treat", clinic.checkpoint, "--data", clinic.data, "-o", "run", "--log", "diary")
    assert code == 3
    assert "tensorboard" in err
