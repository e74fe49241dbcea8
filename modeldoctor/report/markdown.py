"""The report as Markdown: a pull-request comment or a job's summary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from modeldoctor.errors import counted, printable
from modeldoctor.report.model import DiagnosisFigures, Report
from modeldoctor.report.steps import trial_steps
from modeldoctor.report.wording import (
    TRUST,
    VERDICTS,
    cost_words,
    doubt_sentence,
    handed_back,
    image_sentence,
    percent,
    title,
)
from modeldoctor.results.trial import Estimate, Trial

_ROWS = 10
_STEPS = 5
_LONGEST = 80
_SPECIAL = {ord(sign): f"&#{ord(sign)};" for sign in "&<>|*_[]`~@#\\$"}


def render_markdown(report: Report) -> str:
    """Verdict first, then the tables; at most ten rows each, so that it fits the 65,536 characters of a comment."""
    return "\n".join([*_lines(report), ""])


def _lines(report: Report) -> Iterator[str]:
    yield f"## modeldoctor: {title(report).lower()}"
    yield ""
    yield text(report.headline, most=600)
    if report.trial:
        yield ""
        yield text(handed_back(report.trial), most=300)
    if doubt := doubt_sentence(report):
        yield ""
        yield text(doubt, most=800)
    for warning in report.diagnosis.warnings[:_ROWS] if report.diagnosis else ():
        yield from ("", f"> **Warning**: {text(warning, most=400)}")
    if report.gates:
        yield from _table("Gates", ["gate", "found", "wanted", ""], [
            [text(gate.figure), "not measured" if math.isnan(gate.found) else f"{gate.found:.4g}", text(gate.wanted),
             "met" if gate.met else "**not met**"]
            for gate in report.gates
        ])  # fmt: skip
    if report.trial:
        yield from _trial(report, report.trial)
    if report.comparison:
        yield from _comparison(report)
    elif report.diagnosis:
        yield from _diagnosis(report.diagnosis)
    for note in report.notes:
        yield from ("", f"Note: {text(note, most=300)}")


def _trial(report: Report, trial: Trial) -> Iterator[str]:
    metrics = list(trial.arms[0].metrics)
    heads = ["arm", "seeds", *(metric.replace("_", " ") for metric in metrics), "seconds", "annotated images"]
    rows = [
        [
            text(arm.arm),
            str(len(arm.seeds)),
            *(_interval(arm.metrics[metric]) for metric in metrics),
            *cost_words(arm.cost),
        ]
        for arm in trial.arms
    ]
    yield from _table(f"Test split, {counted(trial.arms[0].images, 'image')}, 95% intervals", heads, rows)
    for said in trial.remarks:
        yield from ("", said)
    yield from _table("What to do", ["", "step", "why"], [
        [str(number), text(step.action, most=300) + (f": {text(step.command)}" if step.command else ""),
         text(step.why, most=400)]
        for number, step in enumerate(trial_steps(report), 1)
    ])  # fmt: skip


def _comparison(report: Report) -> Iterator[str]:
    change, before, after = report.comparison, report.before, report.diagnosis
    assert change
    assert before
    assert after
    yield from _table("Before and after", ["", "before", "after"], [
        ["accuracy", percent(before.accuracy), percent(after.accuracy)],
        ["wrong images", str(before.wrong), str(after.wrong)],
        *([name, str(before.verdicts[name]), str(after.verdicts[name])] for name in VERDICTS
          if before.verdicts[name] or after.verdicts[name]),
    ])  # fmt: skip
    yield ""
    images = change.images
    yield (
        f"Of {counted(images.common, 'image')} in both, {images.turned_right} turned right and "
        f"{images.turned_wrong} turned wrong (McNemar's exact test: p = {images.p_value:.2g})."
    )
    worse = sorted((row for row in change.classes if row.after < row.before), key=lambda row: row.after - row.before)
    yield from _table("Classes that lost most", ["class", "before", "after"], [
        [text(row.name), percent(row.before), percent(row.after)] for row in worse[:_ROWS]
    ])  # fmt: skip


def _diagnosis(found: DiagnosisFigures) -> Iterator[str]:
    known = sorted((row for row in found.classes if row.images), key=lambda row: row.accuracy)
    yield from _table(f"Worst classes on {text(found.examined)}", ["class", "images", "accuracy", "95% interval"], [
        [text(row.name), str(row.images), percent(row.accuracy), f"{percent(row.low)} to {percent(row.high)}"]
        for row in known[:_ROWS]
    ])  # fmt: skip
    yield from _table(f"Why are images wrong? ({found.explained} explained)", ["verdict", "images", "meaning"], [
        [name, str(found.verdicts[name]), f"{meaning} {TRUST[name]}".strip()]
        for name, meaning in sorted(VERDICTS.items(), key=lambda item: -found.verdicts[item[0]])
        if found.verdicts[name]
    ])  # fmt: skip
    if found.findings:
        yield from _table("What to do", ["", "step", "why", "wrong images"], [
            [str(number), text(finding.action, most=300), text(finding.sentence, most=400), str(finding.wrong or "")]
            for number, finding in enumerate(found.findings[:_STEPS], 1)
        ])  # fmt: skip
    if found.telling:
        yield from ("", "<details><summary>The most telling wrong images</summary>")
        yield from _table("", ["image", "label", "taken for", "why"], [
            [text(image.path), text(image.label), f"{text(image.predicted)} ({percent(image.confidence)})",
             text(image_sentence(image, found.limits), most=400)]
            for image in found.telling[:_ROWS]
        ])  # fmt: skip
        yield from ("", "</details>")


def _interval(estimate: Estimate) -> str:
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield ""
        if title:
            yield from (f"**{title}**", "")
        yield f"| {' | '.join(heads)} |"
        yield f"|{' --- |' * len(heads)}"
        yield from (f"| {' | '.join(row)} |" for row in rows)


def text(words: str, most: int = _LONGEST) -> str:
    """Words that Markdown takes as they are, on one line, cut off where they are very long."""
    line = printable(" ".join(words.split()))
    return (line if len(line) <= most else line[: most - 1] + "…").translate(_SPECIAL)
