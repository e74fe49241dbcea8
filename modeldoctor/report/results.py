"""What lies at the path that a report is asked for: a diagnosis, or a run directory at any stage, opened lazily."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from modeldoctor.errors import StoreError
from modeldoctor.results import run_directory
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import open_diagnosis
from modeldoctor.results.maps import TrialMaps, read_maps
from modeldoctor.results.trial import Trial, read_trial
from modeldoctor.runtime.files import regular
from modeldoctor.runtime.reading import SETTINGS_MOST, lines, plain_yaml
from modeldoctor.runtime.reading import content as content_of

_TREATMENT = (run_directory.TRIAL, run_directory.CONFIG)


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """An epoch of one run: a row of `history.csv`, NaN where a figure is not in the arm."""

    arm: str
    seed: int
    epoch: int
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Results:
    """What is stored.

    Attributes:
        where: the path.
        diagnosis, diagnosis_path: open while the results are; None where there is none.
        config: of the treatment, as in `config.yaml`; None where none has begun.
        trial: None until it has ended.
        history: its epochs.
        maps: of a few images under every arm; None where the trial left none.
        notes: what the reader should know.
    """

    where: Path
    diagnosis: Diagnosis | None = None
    diagnosis_path: Path | None = None
    config: dict[str, Any] | None = None
    trial: Trial | None = None
    history: tuple[HistoryRow, ...] = ()
    maps: TrialMaps | None = None
    notes: tuple[str, ...] = ()


class _Training(BaseModel):
    epochs: int = 0


class _Settings(BaseModel):
    """What a report takes from a treatment's `config.yaml`; a file of any age may hold more."""

    diagnosis: str | None = None
    arms: list[str] = []
    seeds: list[int] = []
    training: _Training = _Training()


@contextmanager
def open_results(path: Path) -> Iterator[Results]:
    """Open a diagnosis or a run directory; layers are read when they are asked for, while this lasts.

    Args:
        path: a file such as `diagnosis.h5`, or a folder with a diagnosis, a treatment, or both; a treatment may also
            lie in a folder below.

    Raises:
        StoreError: there is nothing to report on, or it is damaged.
    """
    if not path.exists():
        raise StoreError(
            "there is no such file or folder",
            where=str(path),
            expected="a diagnosis such as diagnosis.h5, or a run directory of `modeldoctor treat`",
            hint="correct the path, or make a diagnosis with `modeldoctor diagnose`",
        )
    with ExitStack() as stack:
        if path.is_dir():
            yield _open_run(path, stack)
        else:
            yield Results(where=path, diagnosis=stack.enter_context(open_diagnosis(path)), diagnosis_path=path)


def _open_run(folder: Path, stack: ExitStack) -> Results:
    run = _treatment_in(folder)
    trial = read_trial(run / run_directory.TRIAL) if run and _lies(run / run_directory.TRIAL) else None
    config = _read_config(run, trial) if run else None
    notes: list[str] = []
    file = _find_diagnosis(folder, run, config)
    diagnosis = stack.enter_context(open_diagnosis(file)) if file else None
    treated = trial.provenance.get("checkpoint_sha256") if trial else (config or {}).get("checkpoint_sha256")
    if diagnosis and treated and diagnosis.checkpoint_sha256 != treated:
        notes.append(f"{file} is of another checkpoint than the trial and is left out.")
        diagnosis, file = None, None
    if run and not diagnosis:
        named = (config or {}).get("diagnosis") or run / run_directory.DIAGNOSIS
        notes.append(f"There is no diagnosis beside this trial (looked for {named}).")
    if not diagnosis and not run:
        raise _nothing_in(folder)
    return Results(
        where=run or folder,
        diagnosis=diagnosis,
        diagnosis_path=file,
        config=config,
        trial=trial,
        history=_read_history(run / run_directory.HISTORY) if run else (),
        maps=_read_maps(run / run_directory.MAPS, trial) if trial and run else None,
        notes=tuple(notes),
    )


def _read_maps(path: Path, trial: Trial) -> TrialMaps | None:
    return read_maps(path, len(trial.arms[0].classes)) if _lies(path) else None


def _lies(path: Path) -> bool:
    """Whether something has this name: if it is no file, it is not passed over in silence."""
    return os.path.lexists(path)


def _treatment_in(folder: Path) -> Path | None:
    """The folder itself, or the only one below it, that holds a treatment."""

    def holds(folder: Path) -> bool:
        return any(_lies(folder / name) for name in _TREATMENT)

    if holds(folder):
        return folder
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and holds(path)]
    return below[0] if len(below) == 1 else None


def _find_diagnosis(folder: Path, run: Path | None, config: dict[str, Any] | None) -> Path | None:
    named = (config or {}).get("diagnosis")
    candidates = [base / run_directory.DIAGNOSIS for base in (run, folder) if base]
    if named:
        # A relative path counts from the run; in older files from where `treat` was run, which is not known any more.
        bases = [*([run] if run else []), Path(), *(run.absolute().parents if run else [])]
        candidates = [base / named for base in bases] + candidates
    if len(files := sorted(folder.glob("*.h5"))) == 1 and run is None:
        candidates += files
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _nothing_in(folder: Path) -> StoreError:
    partial = sorted(folder.glob("*.partial"))
    if partial:
        return StoreError(
            "a diagnosis that was interrupted",
            where=str(partial[0]),
            expected="a finished diagnosis",
            hint="go on with it: the same `modeldoctor diagnose` command with --resume",
        )
    return StoreError(
        "neither a diagnosis nor a trial",
        where=str(folder),
        expected="diagnosis.h5, or a run directory of `modeldoctor treat`",
        hint="make one with `modeldoctor diagnose` or `modeldoctor treat`, or name the file",
    )


def _read_config(run: Path, trial: Trial | None) -> dict[str, Any]:
    path = run / run_directory.CONFIG
    if not _lies(path):
        return dict(trial.provenance.get("config", {})) if trial else {}
    try:
        text = content_of(path, SETTINGS_MOST).decode()
        content = plain_yaml(text)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        _Settings.model_validate(content)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"no readable configuration: {error}", where=str(path), expected="the file as `modeldoctor treat` wrote it"
        ) from error
    return content | {"checkpoint_sha256": run_directory.identity_in(text)}


def _read_history(path: Path) -> tuple[HistoryRow, ...]:
    if not _lies(path):
        return ()
    try:
        with regular(path).open(newline="", encoding="utf-8") as file:
            return tuple(_epoch(row) for row in csv.DictReader(lines(file)))
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise StoreError(
            f"no readable history ({type(error).__name__}: {error})",
            where=str(path),
            expected="the file as `modeldoctor treat` wrote it",
            hint="`modeldoctor treat --resume` writes it anew",
        ) from error


def _epoch(row: dict[str, str]) -> HistoryRow:
    arm, seed, epoch = row.pop("arm"), int(row.pop("seed")), int(row.pop("epoch"))
    figures = {name: _number(text) for name, text in row.items()}
    return HistoryRow(arm=arm, seed=seed, epoch=epoch, figures={k: v for k, v in figures.items() if v is not None})


_LARGEST = 1e100
"""Beyond it an axis would overflow; no loss is."""


def _number(text: str | None) -> float | None:
    """NaN for what no chart can show, None for what is no number: later versions may note words."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if abs(value) < _LARGEST else math.nan
