"""scripts/ci_example.sh from end to end on drawn images, as a CI job would run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from modeldoctor.demo import DemoPlan, prepare_demo
from modeldoctor.demo.drawing import ImageSetPlan

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "ci_example.sh"


def test_a_job_ends_with_a_report_and_the_exit_code_of_its_gates(tmp_path: Path) -> None:
    plan = DemoPlan(images=ImageSetPlan(edge=48, train=12, val=4, test=4), input_edge=64, epochs=2)
    prepare_demo(tmp_path / "demo", plan=plan)
    summary = tmp_path / "summary.md"
    environment = os.environ | {
        "MODELDOCTOR": f"{sys.executable} -m modeldoctor",
        "PYTHONPATH": str(SCRIPT.parent.parent),
        "TREAT": "--set=training.epochs=1 --set=seeds=[0] --set=noise_draws=1 --set=training.batch_size=16",
        "GITHUB_STEP_SUMMARY": str(summary),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [SCRIPT, "checkpoint.pt", "data", "data-masks", "ci", "--fail-under", "accuracy=1.01", "--fail-on", "broken>0"],
        cwd=tmp_path / "demo", env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    content = json.loads((tmp_path / "demo" / "ci" / "run" / "report.json").read_text())
    assert content["kind"] == "trial"
    assert [one["met"] for one in content["gates"]] == [False, True]
    assert f"figures.accuracy is {content['figures']['accuracy']:.6g}, wanted >= 1.01" in done.stderr
    assert "broken" not in done.stderr.split("error")[-1]
    assert "**not met**" in summary.read_text()
    assert (tmp_path / "demo" / "ci" / "run" / "maps.h5").exists()


def test_a_job_without_masks_tells_both_commands_of_the_preprocessing_in_one_place(tmp_path: Path) -> None:
    said = tmp_path / "said.txt"
    command = tmp_path / "command"
    command.write_text(f'#!/bin/sh\necho "$@" >>{said}\n')
    command.chmod(0o755)
    environment = os.environ | {"MODELDOCTOR": str(command), "PREPROCESSING": "--mean=0.5 --crop-pct=1.0"}
    environment.pop("GITHUB_STEP_SUMMARY", None)
    for masks in ("", "my masks"):
        arguments = [SCRIPT, "net.pt", "data", masks, "ci", "--fail-under", "accuracy=0.9"]
        subprocess.run(arguments, cwd=tmp_path, env=environment, check=True, timeout=60)
        settings = yaml.safe_load((tmp_path / "ci" / "treat.yaml").read_text())
        assert settings["data"] == {"path": "data", "masks": masks or None}
    assert said.read_text().splitlines() == [
        line
        for masks in ("", "--masks my masks ")
        for line in (
            f"diagnose net.pt --data data {masks}--layers last,features --mean=0.5 --crop-pct=1.0 "
            "-o ci/diagnosis.h5 --json",
            "treat --config ci/treat.yaml --mean=0.5 --crop-pct=1.0",
            "report ci/run --fail-under accuracy=0.9",
        )
    ]


def test_a_job_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPT, "nothing.pt", "data", "masks", "ci"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env=os.environ | {"MODELDOCTOR": f"{sys.executable} -m modeldoctor", "PYTHONPATH": str(SCRIPT.parent.parent)},
    )  # fmt: skip
    assert done.returncode == 3
    assert not list(tmp_path.rglob("report.*"))
