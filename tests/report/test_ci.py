"""What CI services read: JUnit's XML, GitHub's annotations and step summary; and messages of gates."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from command_line import Call
from conftest import make_diagnosis

from modeldoctor.errors import UsageError
from modeldoctor.report import make_report
from modeldoctor.results.hdf5 import write_diagnosis


@pytest.fixture
def diagnosis(tmp_path: Path) -> Path:
    """Accuracy 2 of 6; two warnings."""
    write_diagnosis(make_diagnosis(warnings=("first: 50%\nof it", "second")), tmp_path / "d.h5")
    return tmp_path / "d.h5"


def test_each_gate_is_a_test_case(diagnosis: Path, call: Call) -> None:
    words = ("--fail-under", "accuracy=0.99", "--fail-on", "broken>5", "--fail-under", "worst_group=0.1")
    code, _, _ = call("report", diagnosis, *words, "--junit", "out/gates.xml")
    assert code == 4
    suite = ElementTree.parse("out/gates.xml").getroot()
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "3", "2")
    failures = {case.get("name"): [failure.get("message") for failure in case] for case in suite.iter("testcase")}
    assert failures == {
        "accuracy=0.99": ["figures.accuracy is 0.333333, wanted >= 0.99"],
        "worst_group=0.1": ["figures.worst_group is not measured, wanted >= 0.1"],
        "broken>5": [],
    }


def test_without_gates_the_report_is_the_test_case(diagnosis: Path, call: Call) -> None:
    assert call("report", diagnosis, "--junit", "gates.xml")[0] == 0
    suite = ElementTree.parse("gates.xml").getroot()
    assert [(case.get("name"), len(case)) for case in suite] == [("report", 0)]


def test_the_gates_file_takes_no_input_s_place(diagnosis: Path) -> None:
    before = diagnosis.read_bytes()
    with pytest.raises(UsageError):
        make_report(diagnosis, junit=diagnosis)
    assert diagnosis.read_bytes() == before


def test_github_gets_annotations_and_a_summary(diagnosis: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = diagnosis.parent / "summary.md"
    summary.write_text("# before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    code, out, _ = call("report", diagnosis, "--fail-under", "accuracy=0.99", "--github")
    assert code == 4
    assert out.splitlines()[-3:] == [
        "::error title=accuracy=0.99::figures.accuracy is 0.333333, wanted >= 0.99",
        "::warning title=modeldoctor::first: 50%25\\nof it",
        "::warning title=modeldoctor::second",
    ]
    assert summary.read_text() == "# before\n" + (diagnosis.parent / "report.md").read_text()


def test_one_gate_is_one_gate(diagnosis: Path, call: Call) -> None:
    _, _, err = call("report", diagnosis, "--fail-under", "accuracy=0.99")
    assert "expected: the gate met" in err


@pytest.mark.parametrize("gate", ["accuracy=75", "worst_class=90", "isolated=5"])
def test_a_percentage_as_the_bound_of_a_share_is_said(diagnosis: Path, gate: str) -> None:
    figure, bound = gate.split("=")
    with pytest.raises(
        UsageError, match=rf"(?s){bound} as a bound of {figure}.*for {bound}% write {int(bound) / 100:g}"
    ):
        make_report(diagnosis, fail_under=[gate])
    assert not (diagnosis.parent / "report.html").exists()
    make_report(diagnosis, fail_under=["broken=75"], formats=["md"])  # a count


@pytest.mark.parametrize("path", ["nowhere", "nowhere/d.h5", "nowhere.h5"])
def test_a_report_of_nothing_says_so_in_words(call: Call, path: str) -> None:
    code, _, err = call("report", path)
    assert code == 3
    assert "there is no such file or folder" in err
    assert "rrno" not in err
