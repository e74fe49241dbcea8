"""`diagnose --config`, and how much is said: -q and -v."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import Call
from conftest import Clinic

from modeldoctor.cli.terminal import Volume, volume
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.results.hdf5 import read_diagnosis

pytestmark = pytest.mark.filterwarnings("ignore:.*images predicted right with confidence")
LAYER = "layer3.0.conv3"


@pytest.fixture(autouse=True)
def usual_volume() -> Iterator[None]:
    yield
    volume.quiet, volume.verbose = Volume().quiet, Volume().verbose


def written(folder: Path, **values: object) -> Path:
    path = folder / "diagnose.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_files_values_are_defaults_that_options_go_before(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    path = written(
        tmp_path, checkpoint=str(clinic.checkpoint), data=str(clinic.data), layers=LAYER, noise_draws=1, hooks=True,
        samples_per_class=3, seed=5, noise_ranges=[0.5, 1.0], mean=[0.5, 0.5, 0.5], device="cpu",
    )  # fmt: skip
    code, _, err = call("diagnose", "--config", path, "--seed", 7)
    assert code == 0, err
    config = read_diagnosis(Path("diagnosis.h5")).config
    assert (config.layers, config.noise_draws, config.samples_per_class, config.hooks) == (LAYER, 1, 3, True)
    assert (config.seed, config.noise_ranges) == (7, (0.5, 1.0))


def test_inputs_are_looked_for_beside_the_file(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "photos").symlink_to(clinic.data)
    path = written(tmp_path / "there", data="photos", masks="nowhere", layers=LAYER, hooks=True)
    code, _, err = call("diagnose", clinic.checkpoint, "--config", path, "--masks", clinic.masks, "--noise-draws", 0)
    assert code == 0, err


def test_what_the_command_prints_is_what_it_takes(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    code, out, _ = call("config", "diagnose")
    assert code == 0
    assert yaml.safe_load(out).keys() == DiagnoseConfig.model_fields.keys()
    (tmp_path / "all.yaml").write_text(out.replace("layers: last:3", f"layers: {LAYER}"), encoding="utf-8")
    code, _, err = call("diagnose", clinic.checkpoint, "--config", tmp_path / "all.yaml", "--data", clinic.data)
    assert code == 0, err
    made = read_diagnosis(Path("diagnosis.h5")).config
    assert made == DiagnoseConfig(layers=LAYER)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sede: 3", "there is no option 'sede' (nearest: seed)"),
        ("data: ???", "data is not filled in"),
        ("- seed", "a list"),
        ("seed: [", "no readable YAML"),
        ("seed: three", "--seed"),
    ],
)
def test_a_wrong_file_is_said(call: Call, clinic: Clinic, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "wrong.yaml").write_text(content, encoding="utf-8")
    code, _, err = call("diagnose", clinic.checkpoint, "--config", tmp_path / "wrong.yaml")
    assert code in (2, 3)
    assert said in err
    assert not list(Path.cwd().iterdir())


def test_quiet_leaves_warnings_and_errors(call: Call, clinic: Clinic) -> None:
    options = ("--data", clinic.data, "--layers", LAYER, "--hooks", "--noise-draws", 0, "--device", "cpu")
    code, _, loud = call("diagnose", clinic.checkpoint, *options)
    assert code == 0
    assert "predict" in loud
    code, out, err = call("diagnose", clinic.checkpoint, *options, "-q")
    assert code == 0
    assert "accuracy" in out
    assert [line for line in err.splitlines() if not line.startswith("warning:")] == []
    code, _, err = call("diagnose", clinic.checkpoint, "--data", "nowhere", "-q")
    assert (code, "error" in err) == (3, True)


def test_verbose_shows_where_an_error_comes_from(call: Call, clinic: Clinic) -> None:
    assert "Traceback" not in call("diagnose", clinic.checkpoint, "--data", "nowhere")[2]
    code, _, err = call("diagnose", clinic.checkpoint, "--data", "nowhere", "-v")
    assert code == 3
    assert "Traceback" in err
    assert "DataError" in err


def test_names_that_yaml_takes_for_truth_values_are_refused(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("class_order: [no, yes]\n", encoding="utf-8")
    code, _, err = call("diagnose", clinic.checkpoint, "--config", path, "--data", clinic.data)
    assert code == 3
    assert "False among the values of class_order" in err
    assert 'put them in quotes: "no"' in err


@pytest.mark.parametrize("held", [{"output_stride": 16}, "output_stride=16", ["output_stride=16"]])
def test_model_options_of_a_file(call: Call, clinic: Clinic, tmp_path: Path, held: object) -> None:
    path = written(tmp_path, model_options=held, layers=LAYER)
    code, out, err = call("diagnose", clinic.checkpoint, "--config", path, "--list-layers")
    assert code == 0, err
    _, plain, _ = call("diagnose", clinic.checkpoint, "--layers", LAYER, "--list-layers")
    assert out != plain
