"""The whole report on results written by hand: its JSON against the schema, its page in Chromium, its words."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import jsonschema
import numpy as np
import pytest
from conftest import make_diagnosis
from report_files import SCHEMA, Page, made
from stored_results import hostile_diagnosis, large_diagnosis, with_pictures, write_run

import modeldoctor.report
from modeldoctor.errors import ExitCode, ModelDoctorError, StoreError, UsageError
from modeldoctor.report import json_schema, make_report
from modeldoctor.report.model import KeyFigures
from modeldoctor.results.diagnosis import LayerDiagnosis
from modeldoctor.results.hdf5 import open_diagnosis, read_diagnosis, write_diagnosis
from modeldoctor.results.trial import read_trial
from modeldoctor.runtime.files import locked

OLD = Path(__file__).parent.parent / "fixtures" / "diagnosis-schema1.h5"


def words(html: str) -> str:
    return " ".join(" ".join(Page(html).text).split())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", gain=0.3, groups=True)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    path = tmp_path / "alone" / "some.h5"
    path.parent.mkdir()
    write_diagnosis(with_pictures(make_diagnosis()), path)
    return path


# --- what kind of report it is ------------------------------------------------------------------------------------


def test_a_diagnosis_alone_says_so_and_has_its_figures(alone: Path) -> None:
    html, content, markdown = made(alone)
    assert (content["kind"], content["verdict"], content["state"]) == ("diagnosis", "diagnosed", "complete")
    assert content["figures"]["accuracy"] == 2 / 6
    assert content["figures"]["worst_class"] == 0.0
    assert content["figures"]["isolated"] == 2 / 4
    assert content["figures"]["gain"] is None
    assert content["diagnosis"]["stability"]["right"]["images"] == 1
    assert content["diagnosis"]["stability"]["adversarial"]["stability"] == pytest.approx([0.5, 0.25])
    assert content["diagnosis"]["sharing"]["layer"] == "body.1#2"
    assert "Nothing has been treated" in words(html)
    assert "33.3%" in markdown
    assert "modeldoctor diagnose 'a b.pt'" in words(html)
    assert {path.name for path in alone.parent.iterdir()} == {"some.h5", "report.html", "report.json", "report.md"}


def test_a_treatment_that_helped_says_so_with_its_arms(run: Path) -> None:
    html, content, markdown = made(run)
    trial = read_trial(run / "trial.json")
    assert content["verdict"] == "improved"
    assert content["figures"]["accuracy"] == pytest.approx(0.9)
    assert content["figures"]["gain"] == pytest.approx(trial.ruling.against_original.difference.value)
    assert content["figures"]["gain_over_control"] == pytest.approx(trial.ruling.against_control.difference.value)
    assert content["trial"]["arms"][1]["metrics"]["accuracy"]["value"] == pytest.approx(0.9)
    text = words(html)
    assert "The treatment helped" in text
    assert "on <b>water</b>" in text
    assert "The same images before and after" in text
    assert "outside 25%" in text
    assert "Accuracy on validation" in text
    assert "pilot 0.3" in text
    assert not [word for word in ("best_so_far", "best so far", "metric that chooses") if word in text]
    assert "treatment helped" in markdown


def test_a_treatment_that_harmed_says_so_and_what_was_handed_back(tmp_path: Path) -> None:
    html, content, markdown = made(write_run(tmp_path / "run", gain=-0.3))
    assert content["verdict"] == "harmed"
    assert content["figures"]["accuracy"] == pytest.approx(0.6)  # of the original, which is handed back
    assert content["figures"]["gain"] == pytest.approx(-0.3)
    for text in (words(html), markdown):
        assert "did harm" in text
        assert "original weights are handed back unchanged" in text
        assert "Do not use the weights of treat" in text
        assert "By accuracy it is worse than original and continue" in text
        assert "it is the treatment that costs" in text


def test_an_interrupted_trial_says_how_far_it_came_and_claims_nothing(tmp_path: Path) -> None:
    html, content, markdown = made(write_run(tmp_path / "run", gain=None))
    assert (content["state"], content["verdict"], content["trial"]) == ("interrupted", "interrupted", None)
    assert content["figures"]["accuracy"] is None
    assert [(one["arm"], one["epochs"]) for one in content["progress"]["runs"]] == [("treat", 2), ("continue", 1)]
    for text in (words(html), markdown):
        assert "has not ended" in text
        assert "1 of 4 runs and 3 of 8 epochs are done" in text
        assert "--resume" in text


@pytest.mark.parametrize("figure", ["inf", "-1e999", "1e308,-1e308"])
def test_a_figure_that_no_axis_can_show_leaves_a_gap(tmp_path: Path, figure: str) -> None:
    folder = write_run(tmp_path / "run", gain=None)
    rows = [f"treat,0,{epoch},{loss},0.5" for epoch, loss in enumerate((*figure.split(","), "0.25"), start=1)]
    (folder / "history.csv").write_text("\n".join(["arm,seed,epoch,loss,val_accuracy", *rows, ""]))
    html, content, _ = made(folder)
    assert content["progress"]["runs"][0]["epochs"] == len(rows)
    assert "treat, seed 0: 0.25" in html
    assert "inf" not in [word for word in words(html).split() if word.strip("-,") == "inf"]


def test_a_trial_that_has_not_finished_an_epoch_or_its_diagnosis_is_reported(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", gain=None)
    (folder / "history.csv").unlink()
    assert "Not one epoch has ended" in words(made(folder)[0])
    (folder / "diagnosis.h5").rename(folder / "diagnosis.h5.partial")
    html, content, _ = made(folder)
    assert content["diagnosis"] is None
    assert "There is no diagnosis beside this trial" in words(html)


def test_a_folder_that_holds_a_diagnosis_and_a_run_below_is_reported_whole(tmp_path: Path) -> None:
    write_diagnosis(make_diagnosis(), tmp_path / "diagnosis.h5")
    run = write_run(tmp_path / "treatment", gain=0.3)
    (run / "diagnosis.h5").unlink()
    _, content, _ = made(tmp_path)
    assert (content["kind"], content["verdict"]) == ("trial", "improved")
    assert content["diagnosis"]["file"] == str(tmp_path / "diagnosis.h5")
    assert (tmp_path / "report.html").exists()


def test_a_diagnosis_of_another_checkpoint_is_left_out_and_said(run: Path) -> None:
    write_diagnosis(make_diagnosis(checkpoint_sha256="00" * 32), run / "diagnosis.h5")
    html, content, _ = made(run)
    assert content["diagnosis"] is None
    assert "is of another checkpoint" in words(html)


def test_the_path_of_a_diagnosis_counts_from_the_run_and_not_from_where_the_report_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "mine" / "run", gain=0.3)
    (run / "diagnosis.h5").rename(run.parent / "named.h5")
    config = (run / "config.yaml").read_text().replace("diagnosis: null", "diagnosis: ../named.h5")
    (run / "config.yaml").write_text(config)
    elsewhere = tmp_path / "other" / "here"
    elsewhere.mkdir(parents=True)
    write_diagnosis(make_diagnosis(checkpoint_sha256="00" * 32), elsewhere.parent / "named.h5")
    monkeypatch.chdir(elsewhere)
    _, content, _ = made(run)
    assert Path(content["diagnosis"]["file"]).resolve() == (run.parent / "named.h5").resolve()


def test_a_diagnosis_of_an_older_version_is_reported_without_pictures(tmp_path: Path) -> None:
    html, content, _ = made(OLD, output=tmp_path)
    assert content["kind"] == "diagnosis"
    assert content["diagnosis"]["stability"] is None or content["diagnosis"]["stability"]["adversarial"] is None
    assert "holds no pictures" in words(html) or not content["diagnosis"]["explained"]


# --- two diagnoses ------------------------------------------------------------------------------------------------


def test_two_diagnoses_are_compared_image_by_image_and_kernel_by_kernel(tmp_path: Path) -> None:
    before = make_diagnosis()
    samples = before.samples
    predicted = samples.predicted.copy()
    predicted[[5, 6, 8, 9]] = samples.label[[5, 6, 8, 9]]  # all wrong ones right
    predicted[4] = 2  # a right one wrong
    layer = before.layers["stem.conv"]
    turned = layer.correlation.copy()
    turned[0] = [11, 6, 1, 2]  # kernels {1,2} of class 0 become {0,1}
    new = LayerDiagnosis(**{**vars(before.layers["body.1#2"]), "name": "new"})
    after = make_diagnosis(
        checkpoint_sha256="cd" * 32,
        samples=type(samples)(**{**vars(samples), "predicted": predicted}),
        layers={
            "stem.conv": type(layer)(**{**vars(layer), "correlation": turned}),
            "new": new,
        },
    )
    for name, one in (("before", before), ("after", after)):
        write_diagnosis(one, tmp_path / f"{name}.h5")
    html, content, markdown = made(tmp_path / "before.h5", tmp_path / "after.h5")
    change = content["comparison"]
    assert (change["images"]["turned_right"], change["images"]["turned_wrong"]) == (4, 1)
    assert change["images"]["common"] == 6
    assert change["images"]["p_value"] == pytest.approx(2 * 6 / 32)  # 5 discordant, one of them a loss
    assert content["verdict"] == "no-benefit"
    assert content["figures"]["gain"] == pytest.approx(5 / 6 - 2 / 6)
    (kept,) = change["layers"]
    assert kept["name"] == "stem.conv"
    assert kept["kept"] == pytest.approx((1 / 3 + 1) / 2)
    assert (kept["before"], kept["after"]) == (5 / 8, 5 / 8)
    assert not change["same_checkpoint"]
    assert [one for one in change["classes"] if one["before"] == 0.0 and one["after"] == 1.0]
    assert "No proven change" in words(html)
    assert "4 turned right and 1 turned wrong" in markdown


def test_a_clear_change_is_called_better_or_worse(tmp_path: Path) -> None:
    one = large_diagnosis(10, 1, 8)
    all_right = type(one.samples)(**{**vars(one.samples), "predicted": one.samples.label})
    write_diagnosis(one, tmp_path / "a.h5")
    changes = {"samples": all_right, "misdiagnosed": (), "wrong_count": 0, "checkpoint_sha256": "cd" * 32}
    write_diagnosis(make_diagnosis(**{**vars(one), **changes}), tmp_path / "b.h5")
    assert made(tmp_path / "a.h5", tmp_path / "b.h5")[1]["verdict"] == "improved"
    assert made(tmp_path / "b.h5", tmp_path / "a.h5")[1]["verdict"] == "harmed"
    html, content, _ = made(tmp_path / "a.h5", tmp_path / "a.h5")
    assert content["verdict"] == "no-benefit"
    assert "of the same checkpoint" in words(html)


# --- the schema, gates, errors ------------------------------------------------------------------------------------


def test_the_shipped_schema_is_that_of_the_models() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema(), "write json_schema() into report.schema.json"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": 1}, json_schema())


def test_every_short_name_is_described() -> None:
    figures = json_schema()["$defs"]["KeyFigures"]["properties"]
    assert set(figures) == set(KeyFigures.model_fields)


def test_gates_are_in_every_format_and_do_not_keep_the_files_from_being_written(run: Path) -> None:
    html, content, markdown = made(run, fail_under=["accuracy=0.99"], fail_on=["trial.arms.treat.images<1"])
    assert [(one["figure"], one["met"]) for one in content["gates"]] == [
        ("figures.accuracy", False), ("trial.arms.treat.images", True)
    ]  # fmt: skip
    assert "not met" in words(html)
    assert "**not met**" in markdown


def test_an_unknown_gate_or_format_writes_nothing(alone: Path) -> None:
    for options in ({"fail_under": ["acuracy=1"]}, {"formats": ["pdf"]}, {"formats": []}, {"fail_on": ["accuracy"]}):
        with pytest.raises(UsageError):
            make_report(alone, **options)
    assert [path.name for path in alone.parent.iterdir()] == ["some.h5"]


def test_only_the_formats_asked_for_are_written(alone: Path, tmp_path: Path) -> None:
    make_report(str(alone), output=str(tmp_path / "new"), formats=["md"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.md"]


def _damage(path: Path, content: bytes) -> None:
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run: _damage(run / "trial.json", b"{}"),
        lambda run: _damage(run / "trial.json", b'{"schema": 99}'),
        lambda run: _damage(run / "config.yaml", b"- a\n- b"),
        lambda run: _damage(run / "config.yaml", b"a: [\xff"),
        lambda run: _damage(run / "history.csv", b"arm,seed\ntreat,0\n"),
        lambda run: _damage(run / "history.csv", b"arm,seed,epoch\ntreat,zero,1\n"),
        lambda run: _damage(run / "maps.h5", b"no HDF5"),
        lambda run: _damage(run / "diagnosis.h5", b"no HDF5"),
        lambda run: [path.unlink() for path in run.iterdir()],
    ],
)
def test_damaged_or_missing_files_are_named_and_nothing_is_written(run: Path, damage: Any) -> None:
    damage(run)
    with pytest.raises(StoreError) as caught:
        make_report(run)
    assert caught.value.exit_code == ExitCode.INPUT
    assert str(run) in str(caught.value)
    assert not list(run.glob("report.*"))


def test_a_path_that_is_not_there_and_an_interrupted_diagnosis_are_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        make_report(tmp_path / "nowhere.h5")
    (tmp_path / "d.h5.partial").write_bytes(b"")
    with pytest.raises(StoreError, match="interrupted") as caught:
        make_report(tmp_path)
    assert "--resume" in str(caught.value)


def test_a_damaged_layer_is_a_store_error_and_not_a_fault(alone: Path) -> None:
    with h5py.File(alone, "r+") as file:
        del file["layers/stem.conv/correlation"]
    with pytest.raises(ModelDoctorError, match="no readable diagnosis"):
        make_report(alone)


# --- size ---------------------------------------------------------------------------------------------------------


def test_layers_are_read_one_by_one_when_asked_for(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = modeldoctor.results.hdf5._read_layer
    monkeypatch.setattr(
        "modeldoctor.results.hdf5._read_layer", lambda name, group: (read.append(name), original(name, group))[1]
    )
    with open_diagnosis(alone) as lazy:
        assert list(lazy.layers) == ["stem.conv", "body.1#2"]
        assert read == []
        one = lazy.layers["stem.conv"]
        assert read == ["stem.conv"]
        assert "nothing" not in lazy.layers
    np.testing.assert_array_equal(one.correlation, read_diagnosis(alone).layers["stem.conv"].correlation)


def test_the_page_of_many_classes_and_layers_stays_small(tmp_path: Path) -> None:
    write_diagnosis(large_diagnosis(400, 12, 300), tmp_path / "large.h5")
    html, content, markdown = made(tmp_path / "large.h5")
    # Heat maps grow with the square of neither: 50 layers of 1,000 classes were measured at about 8 MB.
    assert len(html) < 4_500_000
    assert len(markdown) < 65_536
    assert len(content["diagnosis"]["classes"]) == 400
    assert html.count('class="heat"') == 12
    assert "each cell is the mean of" in words(html)


# --- hostile names ------------------------------------------------------------------------------------------------


# --- the page in a browser ----------------------------------------------------------------------------------------


def test_reporting_loads_no_torch(alone: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modeldoctor.report import make_report;"
        f"make_report(Path({str(alone)!r})); print(sorted({{'torch', 'timm', 'matplotlib'}} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.strip() == "[]"


def test_the_pages_policy_names_its_own_script_alone(tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    write_diagnosis(hostile_diagnosis(), path)
    page = make_report(path, formats=["html"]).files[0].read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "script-src 'unsafe-inline'" not in page


def test_a_second_report_into_a_folder_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", gain=0.2)
    for output in ("report", "gates.xml", "figures"):
        with locked(tmp_path / "out" / output):
            with pytest.raises(UsageError, match="another run is writing"):
                make_report(
                    run, output=tmp_path / "out", junit=tmp_path / "out" / "gates.xml", figures=tmp_path / "out/figures"
                )
            assert not (tmp_path / "out" / "report.html").exists()
    with locked(run):  # a treatment at work may be reported on
        made = make_report(run, output=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in made.files}
