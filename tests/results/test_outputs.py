"""No output replaces an input, an image, or a file of somebody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest
from conftest import Clinic, make_diagnosis

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import UsageError
from modeldoctor.report import make_report
from modeldoctor.results.hdf5 import write_diagnosis
from modeldoctor.results.outputs import check_outputs
from modeldoctor.results.run_directory import identity_in, identity_line
from modeldoctor.treatment.preparation import check_new
from modeldoctor.zoo import load_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders, a list, a checkpoint and annotations."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "1.png").write_bytes(b"image")
    for name in ("net.pt", "list.csv", "instances.json"):
        (tmp_path / name).write_text("given")
    return tmp_path


@pytest.mark.parametrize("name", ["net.pt", "list.csv", "instances.json", "photos/cat/1.png", "photos/cat/new.h5"])
def test_inputs_and_images_are_not_replaced(folder: Path, name: str) -> None:
    inputs = [folder / given for given in ("net.pt", "list.csv", "instances.json", "photos")]
    with pytest.raises(UsageError, match=r"the output (is an input|lies among)") as caught:
        check_outputs([folder / name], inputs, inside=True)
    assert caught.value.exit_code == 2
    assert str(folder / name) in str(caught.value)


def test_links_are_seen_through(folder: Path) -> None:
    (folder / "soft.pt").symlink_to(folder / "net.pt")
    (folder / "hard.pt").hardlink_to(folder / "net.pt")
    (folder / "elsewhere").symlink_to(folder / "photos")
    for name in ("soft.pt", "hard.pt", "elsewhere/dog/d.h5"):
        with pytest.raises(UsageError):
            check_outputs([folder / name], [folder / "net.pt", folder / "photos"])


def test_beside_splits_there_is_room_and_in_a_folder_of_classes_for_files_alone(folder: Path) -> None:
    check_outputs([folder / "photos" / "d.h5"], [folder / "photos"], inside=True)
    with pytest.raises(UsageError, match="lies among"):
        check_outputs([folder / "photos" / "run" / "trial.json"], [folder / "photos"])
    (folder / "photos").rename(folder / "train")
    check_outputs([folder / "run" / "trial.json"], [folder])
    for split in ("test", "Valid"):
        with pytest.raises(UsageError, match="lies among"):
            check_outputs([folder / split / "trial.json"], [folder])
    with pytest.raises(UsageError, match="lies among"):
        check_outputs([folder / "train" / "cat" / "trial.json"], [folder])


def test_files_of_others_stay_and_our_own_may_be_replaced(folder: Path) -> None:
    with h5py.File(folder / "theirs.h5", "w") as file:
        file["data"] = [1]
    (folder / "theirs.json").write_text(json.dumps({"images": []}))
    for name, content in (
        ("outline", {"imagePath": "../modeldoctor/1.jpg"}),
        ("patients", {"outcome": 1, "schema": 1}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content, indent=1))
    (folder / "broken.h5").write_text("no HDF5")
    for name in ("theirs.h5", "theirs.json", "outline.json", "patients.json", "broken.h5"):
        with pytest.raises(UsageError, match="did not make"):
            check_outputs([folder / name], ())
    write_diagnosis(make_diagnosis(), folder / "ours.h5")
    made = make_report(folder / "ours.h5")
    check_outputs([folder / "ours.h5", *made.files], ())


def test_a_diagnosis_refuses_before_any_work(clinic: Clinic, folder: Path) -> None:
    """Its summary would replace the annotations."""
    network, config = load_model(clinic.checkpoint), DiagnoseConfig(device="cpu")
    annotations = folder / "instances.json"
    with pytest.raises(UsageError, match="the output is an input"):
        diagnose(network, clinic.data, config=config, masks=annotations, output=folder / "instances.h5")
    assert annotations.read_text() == "given"
    copy = folder / "copy.pt"
    shutil.copy(clinic.checkpoint, copy)
    with pytest.raises(UsageError, match="the output is an input"):
        diagnose(load_model(copy), clinic.data, config=config, output=copy)


@pytest.mark.parametrize("name", ["names.txt", "make.py", "names.JSON", "noted"])
def test_a_diagnosis_replaces_no_file_of_others_under_any_ending(clinic: Clinic, folder: Path, name: str) -> None:
    """It may be the user's code, or the names of the classes."""
    (folder / name).write_text("given")
    with pytest.raises(UsageError, match="did not make"):
        diagnose(load_model(clinic.checkpoint), clinic.data, output=folder / name)
    assert (folder / name).read_text() == "given"


def test_the_gates_file_replaces_nothing_of_a_run_nor_of_others(folder: Path) -> None:
    (folder / "run").mkdir()
    write_diagnosis(make_diagnosis(), folder / "run" / "diagnosis.h5")
    (folder / "run" / "kept.txt").write_text("given")
    (folder / "theirs.xml").write_text("<annotation/>")
    for junit in (folder / "run" / "kept.txt", folder / "run" / "diagnosis.h5", folder / "theirs.xml"):
        before = junit.read_bytes()
        with pytest.raises(UsageError, match=r"is an input|did not make"):
            make_report(folder / "run", junit=junit, fail_under=["accuracy=0.1"])
        assert junit.read_bytes() == before


def test_a_treatment_keeps_what_lies_in_its_folder(clinic: Clinic, folder: Path) -> None:
    run = folder / "run"
    run.mkdir()
    # A checkpoint called model.pth.tar, or one of safetensors by any name, is treated into a file of that ending.
    for name in ("treated.pt", "maps.h5", "treated.pth.tar", "treated.safetensors", "treated"):
        (run / name).write_text("theirs")
        config = load_treat_config(None, [], checkpoint=clinic.checkpoint, data__path=str(clinic.data), output=run)
        with pytest.raises(UsageError):
            check_new(config, resume=False)
        (run / name).unlink()
    treated = run / "treated.pt"
    shutil.copy(clinic.checkpoint, treated)
    config = load_treat_config(None, [], checkpoint=treated, data__path=str(clinic.data), output=run)
    with pytest.raises(UsageError, match="the output is an input"):
        check_new(config, resume=False)


def test_a_configuration_says_which_checkpoint_it_is_of() -> None:
    assert identity_in(identity_line("ab" * 32) + "checkpoint: x.pt\n") == "ab" * 32
    assert identity_in("checkpoint: x.pt\n") is None


@pytest.mark.parametrize("output", ["-", "-/treated.pt"])
def test_a_minus_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="would be a file of this name"):
        check_outputs([Path(output)], [])
    assert not list(tmp_path.iterdir())


def test_gates_and_figures_replace_no_file_of_others(folder: Path) -> None:
    write_diagnosis(make_diagnosis(), folder / "ours.h5")
    with pytest.raises(UsageError, match="did not make"):
        make_report(folder / "ours.h5", junit=folder / "net.pt")
    for place in ("net.pt", "net.pt/figures"):
        with pytest.raises(UsageError, match="no folder"):
            make_report(folder / "ours.h5", figures=folder / place)
    assert (folder / "net.pt").read_text() == "given"
    assert not (folder / "report.html").exists()
