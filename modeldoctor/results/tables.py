"""The wrong images as tables: for pandas, and as CSV beside a diagnosis."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modeldoctor.errors import in_table
from modeldoctor.results.diagnosis import Diagnosis, Verdict
from modeldoctor.results.summary import image_record, plain
from modeldoctor.results.verdicts import sentence_of
from modeldoctor.runtime.files import written_aside

_WRONG = (
    "path", "label", "predicted", "confidence", "verdict", "stability", "without_object", "other_backgrounds",
    "misleads_others", "own_backgrounds",
    "damage", "unfamiliarity",
    "pull_to_label", "label_doubt", "faulty_kernel", "resembles", "resemblance", "background_share", "foreign_share",
    "evidence",
)  # fmt: skip
_SUSPECTS = ("path", "label", "looks_like", "label_doubt", "evidence")


def wrong_images(diagnosis: Diagnosis) -> list[dict[str, Any]]:
    """A row for each wrong image that was explained; what was not measured is None.

    Grouped by verdict; mislabelled ones by doubt, most first, the others by confidence.
    """
    rows = [plain(image_record(diagnosis, image)) for image in diagnosis.misdiagnosed]
    doubted = str(Verdict.MISLABELLED)
    rows.sort(
        key=lambda row: (
            row["verdict"],
            -(row["label_doubt" if row["verdict"] == doubted else "confidence"] or 0.0),  # None: of a file of others
        )
    )
    limits = None if diagnosis.limits is None else vars(diagnosis.limits)
    return [{**{name: row.get(name) for name in _WRONG}, "evidence": sentence_of(row, limits)} for row in rows]


def tables_beside(output: Path) -> tuple[Path, Path]:
    """Where the tables of wrong images and of doubtful labels go: the endings `.wrong.csv` and `.suspects.csv`."""
    return output.with_suffix(".wrong.csv"), output.with_suffix(".suspects.csv")


def write_tables(diagnosis: Diagnosis, beside: Path) -> tuple[Path, Path]:
    """Write every explained wrong image, and those whose label is doubtful, as CSV beside a diagnosis."""
    paths, rows = tables_beside(beside), wrong_images(diagnosis)
    _write(paths[0], _WRONG, rows)
    suspects = [row | {"looks_like": row["predicted"]} for row in rows if row["verdict"] == Verdict.MISLABELLED]
    _write(paths[1], _SUSPECTS, suspects)
    return paths


def _write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows({name: in_table(value) for name, value in row.items()} for row in rows)
