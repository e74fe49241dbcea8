"""What a CI service reads beside the exit code: JUnit's XML, and GitHub's annotations and step summary."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from modeldoctor.errors import one_line, printable
from modeldoctor.report.gates import outcome_of
from modeldoctor.report.markdown import render_markdown
from modeldoctor.report.model import GateResult, Report
from modeldoctor.runtime.files import written_aside

SUMMARY = "GITHUB_STEP_SUMMARY"
"""The environment variable that names the file to which GitHub's jobs add their summary, in Markdown."""


def write_junit(report: Report, path: Path) -> None:
    """Write the gates as JUnit's test cases, one each; without gates, one that passes: the report was made.

    Raises:
        UsageError: the file cannot be written.
    """
    cases = [_case(gate) for gate in report.gates] or [ElementTree.Element("testcase", _named("report"))]
    failures = sum(not gate.met for gate in report.gates)
    suite = ElementTree.Element("testsuite", name="modeldoctor", tests=str(len(cases)), failures=str(failures))
    suite.extend(cases)
    tree = ElementTree.ElementTree(suite)
    ElementTree.indent(tree)
    with written_aside(path) as aside:
        tree.write(aside, encoding="utf-8", xml_declaration=True)


def _case(gate: GateResult) -> ElementTree.Element:
    case = ElementTree.Element("testcase", _named(gate.gate))
    if not gate.met:
        ElementTree.SubElement(case, "failure", message=one_line(outcome_of(gate)))
    return case


def _named(name: str) -> dict[str, str]:
    return {"classname": "modeldoctor", "name": printable(name)}


def github_annotations(report: Report) -> Iterator[str]:
    """Lines that GitHub shows beside a job: an error for each gate not met, a warning for each of the report's."""
    for gate in report.gates:
        if not gate.met:
            yield f"::error title={_escaped(printable(gate.gate), ':,')}::{_escaped(one_line(outcome_of(gate)))}"
    for warning in report.diagnosis.warnings if report.diagnosis else ():
        yield f"::warning title=modeldoctor::{_escaped(printable(warning))}"


def add_to_summary(report: Report) -> None:
    """Add the report, in Markdown, to the summary of GitHub's job, where there is one."""
    if summary := os.environ.get(SUMMARY):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(render_markdown(report))


def _escaped(text: str, further: str = "") -> str:
    """As GitHub's commands want it: their own signs as %XX."""
    for sign in f"%\r\n{further}":
        text = text.replace(sign, f"%{ord(sign):02X}")
    return text
