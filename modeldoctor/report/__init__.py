"""What was measured, made readable: one HTML page for people, JSON and Markdown for CI jobs, gates for exit codes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from modeldoctor.errors import StoreError, UsageError
from modeldoctor.report.ci import add_to_summary, github_annotations, write_junit
from modeldoctor.report.collect import collect
from modeldoctor.report.compare import compare
from modeldoctor.report.figures import write_figures
from modeldoctor.report.gates import check_gates, parse_gates, require
from modeldoctor.report.markdown import render_markdown
from modeldoctor.report.model import GateResult, Report, json_schema
from modeldoctor.report.page import render_page
from modeldoctor.report.results import Results, open_results
from modeldoctor.results.outputs import check_folder, check_ours, check_outputs
from modeldoctor.runtime.files import locked, written_aside

__all__ = [
    "FORMATS",
    "GateResult",
    "Made",
    "Report",
    "add_to_summary",
    "github_annotations",
    "json_schema",
    "make_report",
    "require",
]

FORMATS = ("html", "json", "md")


@dataclass(frozen=True)
class Made:
    """A report, and the files that hold it."""

    report: Report
    files: tuple[Path, ...]


def make_report(
    path: str | Path,
    later: str | Path | None = None,
    *,
    output: str | Path | None = None,
    formats: Sequence[str] = FORMATS,
    fail_under: Sequence[str] = (),
    fail_on: Sequence[str] = (),
    junit: str | Path | None = None,
    figures: str | Path | None = None,
) -> Made:
    """Report on a diagnosis, on a trial at any stage, or on what changed between two diagnoses.

    >>> from modeldoctor import make_report
    >>> made = make_report("diagnosis.h5", output="report", formats=["html", "json"])
    >>> [file.name for file in made.files]
    ['report.html', 'report.json']

    Args:
        path: a diagnosis, or a run directory.
        later: a second diagnosis, with which the first is compared.
        output: the folder for report.html, report.json and report.md; by default the run directory, or the folder in
            which the (later) diagnosis lies.
        formats: which of them.
        fail_under, fail_on: gates such as `accuracy=0.9` and `isolated>0.05`; `require` raises for those not met.
        junit: a file for the gates as JUnit's test cases.
        figures: a folder for the figures as SVG and PNG; needs matplotlib.

    Raises:
        UsageError: an unknown format, a gate on a figure that the report does not have, or no place to write to,
            or another report is being written there.
        StoreError: there is nothing to report on, or it is damaged.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        raise UsageError(f"format {', '.join(unknown) or 'none'}", where="--format", expected=", ".join(FORMATS))
    gates = parse_gates(fail_under, fail_on)
    path, later = Path(path), None if later is None else Path(later)
    folder = _beside(later or path) if output is None else Path(output)
    files = {name: folder / f"report.{name}" for name in formats}
    also = [Path(junit)] if junit is not None else []
    read = [file for place in (path, later) if place is not None for file in _files(place)]
    check_outputs(files.values(), (path if path.is_file() else None, later))
    check_outputs(also, [*files.values(), *read])
    for file in also:
        check_ours(file, ".xml")  # whatever its suffix: it may be a checkpoint
    if figures is not None:
        check_folder(Path(figures))
    with ExitStack() as stack:
        # Not the run directory: a trial that is being run may be reported on.
        for written in (folder / "report", *also, *([Path(figures)] if figures is not None else [])):
            stack.enter_context(locked(written))
        results = stack.enter_context(open_results(path))
        if later is None:
            report = collect(results)
        else:
            earlier, results = results, stack.enter_context(open_results(later))
            report = compare(_with_diagnosis(earlier), _with_diagnosis(results))
        report = report.model_copy(update={"gates": check_gates(gates, report.plain())})
        content = {
            "html": lambda: render_page(report, results),
            "json": lambda: json.dumps(report.plain(), indent=1, ensure_ascii=False) + "\n",
            "md": lambda: render_markdown(report),
        }
        texts = {file: content[name]() for name, file in files.items()}
        drawn = () if figures is None else write_figures(results, Path(figures))
        for file, text in texts.items():
            with written_aside(file) as aside:
                aside.write_text(text, encoding="utf-8", errors="replace")
        for file in also:
            write_junit(report, file)
    return Made(report, (*files.values(), *also, *drawn))


def _with_diagnosis(results: Results) -> Results:
    if results.diagnosis is None:
        raise StoreError("a trial without a diagnosis", where=str(results.where), expected="two diagnoses to compare")
    # Only the diagnoses are compared: what else lies beside one belongs to a report of its own.
    return Results(where=results.where, diagnosis=results.diagnosis, diagnosis_path=results.diagnosis_path)


def _files(place: Path) -> list[Path]:
    """What is read of a diagnosis or of a run directory."""
    return [file for file in place.iterdir() if file.is_file()] if place.is_dir() else [place]


def _beside(path: Path) -> Path:
    return path if path.is_dir() else path.parent
