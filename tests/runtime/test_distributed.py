"""Two processes against one: the same diagnosis, the same gradients; and what is left when one of them dies."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import distributed_job
import numpy as np
import pytest
import torch
from conftest import Clinic

from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import JobError
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.runtime.distributed import Team
from modeldoctor.zoo import load_model

ROOT = Path(__file__).parent.parent.parent


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def two(clinic: Clinic, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that two processes have filled."""
    folder = tmp_path_factory.mktemp("two")
    done = torchrun(distributed_job.__file__, folder, clinic.checkpoint, clinic.data, clinic.masks)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_diagnosis_is_that_of_one_process(clinic: Clinic, two: Path) -> None:
    one = diagnose(load_model(clinic.checkpoint), clinic.data, config=distributed_job.DIAGNOSIS, masks=clinic.masks)
    found = read_diagnosis(two / "d.h5")
    for name in one.layers:
        for array in ("correlation", "variance", "signed", "activation", "contribution"):
            wanted = getattr(one[name], array)
            np.testing.assert_allclose(getattr(found[name], array), wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
        assert found[name].count.tolist() == one[name].count.tolist()
        assert found[name].activation_std == pytest.approx(one[name].activation_std, rel=1e-6)
    assert found.samples.path.tolist() == one.samples.path.tolist()
    assert found.samples.predicted.tolist() == one.samples.predicted.tolist()
    np.testing.assert_array_equal(found.samples.stability, one.samples.stability)
    assert [(image.sample, image.verdict) for image in found.misdiagnosed] == [
        (image.sample, image.verdict) for image in one.misdiagnosed
    ]
    assert [(two / f"wrong-{rank}.txt").read_text() for rank in (0, 1)] == [str(one.wrong_count)] * 2
    assert sorted(path.name for path in two.glob("*.h5*")) == ["d.h5"]


def test_a_training_step_is_that_of_one_process(two: Path) -> None:
    wanted = distributed_job.gradients(Team())
    assert wanted["space/conv2"] > 0
    for rank in (0, 1):
        found = torch.load(two / f"gradients-{rank}.pt", weights_only=True)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value.detach(), rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("case", distributed_job.BATCHES)
def test_parts_of_training_batches_are_the_batches_of_one_process(clinic: Clinic, two: Path, case: str) -> None:
    wanted = distributed_job.batches(Team(), clinic.data, clinic.masks, case)
    parts = [torch.load(two / f"batches-{case}-{rank}.pt", weights_only=True) for rank in (0, 1)]
    mixup, _ = distributed_job.BATCHES[case]
    sizes = {"plain": [5, 5], "mixed": [5, 5], "broken": [3, 5], "too broken": [1, 4]}[case]
    assert [len(whole["keys"]) for whole in wanted] == sizes
    # One image for two processes is none.
    for whole, first, second in zip([one for one in wanted if one["whole"] > 1], *parts, strict=True):
        number = len(whole["keys"])
        assert len(first["keys"]) == number // 2
        assert (whole["share"] < 1).any() == (mixup > 0)
        assert whole["annotated"].any()
        for name, value in whole.items():
            offset = len(first["keys"]) if name == "origin" else 0  # rows of each process's own part
            together = first[name] if name == "whole" else torch.cat([first[name], second[name] + offset])
            assert torch.equal(together, value), name


def test_shares_are_all_rows_once() -> None:
    for number, size in ((5, 2), (7, 3), (2, 4), (0, 2)):
        rows = [row for rank in range(size) for row in range(number)[Team(rank, size).shard(number)]]
        assert rows == list(range(number))


def test_what_several_processes_cannot_do_is_refused_once(tmp_path: Path) -> None:
    done = torchrun("-m", "modeldoctor", "demo", "-o", tmp_path / "demo")
    assert done.returncode != 0
    assert done.stderr.count("2 processes for demo") == 1
    assert not (tmp_path / "demo").exists()


def test_an_error_is_said_once(clinic: Clinic, tmp_path: Path) -> None:
    done = torchrun("-m", "modeldoctor", "diagnose", clinic.checkpoint, "--data", tmp_path / "nowhere")
    assert done.returncode != 0
    assert done.stderr.count("found: ") == 1


def test_a_dead_process_ends_the_job_with_a_message_and_the_rest_can_be_resumed(
    clinic: Clinic, two: Path, tmp_path: Path
) -> None:
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, sys, distributed_job as job\n"
        "from modeldoctor import cli\n"
        "from modeldoctor.diagnosis import passes\n"
        "passes._SAVE_EVERY_S = 0.0\n"
        "after = passes.Run.after_batch\n"
        "def die(run, stage, done, total):\n"
        "    after(run, stage, done, total)\n"
        "    if stage == 'correlate' and done >= 28 and run.team.rank == 1: os.kill(os.getpid(), 9)\n"
        "passes.Run.after_batch = die\n"
        "cli.main()\n"
    )
    options = (
        "diagnose", clinic.checkpoint, "--data", clinic.data, "--masks", clinic.masks, "-o", tmp_path / "d.h5",
        "--layers", distributed_job.DIAGNOSIS.layers, "--noise-draws", 2, "--batch-size", 7, "--samples-per-class", 10,
        "--device", "cpu",
    )  # fmt: skip
    done = torchrun(script, *options)
    assert done.returncode != 0
    assert "another process of this job has ended" in done.stderr
    assert not (tmp_path / "d.h5").exists()
    stages: list[str] = []
    diagnose(
        load_model(clinic.checkpoint), clinic.data, config=distributed_job.DIAGNOSIS, masks=clinic.masks,
        output=tmp_path / "d.h5", resume=True, progress=lambda stage, *_: stages.append(stage),
    )  # fmt: skip
    assert {"correlate", "explain"} <= set(stages)
    assert not [stage for stage in stages if stage.startswith(("predict", "scale"))]
    one, other = read_diagnosis(tmp_path / "d.h5"), read_diagnosis(two / "d.h5")
    for name in one.layers:
        np.testing.assert_allclose(one[name].correlation, other[name].correlation, rtol=1e-5)


def test_a_launcher_that_ends_a_failed_job_does_not_silence_its_message(tmp_path: Path) -> None:
    """It sends SIGTERM as soon as one process has failed, here while another one leaves the job with its error."""
    script = tmp_path / "late.py"
    script.write_text(
        "import contextlib, os, signal\n"
        "from modeldoctor import cli\n"
        "from modeldoctor.cli import entry\n"
        "from modeldoctor.errors import JobError\n"
        "from modeldoctor.runtime import distributed\n"
        "@contextlib.contextmanager\n"
        "def job():\n"
        "    try:\n"
        "        yield distributed.Team()\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "def app(obj):\n"
        "    raise JobError('another process of this job has ended')\n"
        "distributed.job, entry.app = job, app\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "WORLD_SIZE": "2"}, capture_output=True, text=True, check=False
    )
    assert "another process of this job has ended" in done.stderr
    assert done.returncode == JobError.exit_code
