"""Where a piece of the evidence finds its data and leaves its files, and the networks that several pieces treat."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.trial import Trial, read_trial
from modeldoctor.runtime.files import written_aside

SCRIPTS = Path(__file__).parent.parent
FASHION = "torchvision:FashionMNIST"


@dataclass(frozen=True)
class Place:
    """Where a piece finds its data and leaves its files; what is there already is not made again."""

    data: Path
    work: Path

    def command(self, *words: object, made: Path) -> Path:
        """Run `modeldoctor` with these words, unless what it makes is there."""
        return self._run([sys.executable, "-m", "modeldoctor", *map(str, words)], made)

    def script(self, name: str, *words: object, made: Path) -> Path:
        """Run a script, named from this folder's parent on, unless what it makes is there."""
        return self._run([sys.executable, str(SCRIPTS / name), *map(str, words)], made)

    def _run(self, words: list[str], made: Path) -> Path:
        if not made.exists():
            subprocess.run(words, check=True)
        return made

    def once(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A part of a piece, kept as JSON, so that an interrupted piece goes on behind it."""
        path = self.work / f"{name}.json"
        if not path.exists():
            with written_aside(path) as aside:
                aside.write_text(json.dumps(measure()), encoding="utf-8")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def diagnosis(self, name: str, checkpoint: Path, data: str, *words: object) -> Diagnosis:
        """A diagnosis of every layer, on the split `test`."""
        output = self.work / f"{name}.h5"
        given = ("--data", self.data / data, "--examine", "test", "--layers", "all", "--batch-size", 64)
        self.command("diagnose", checkpoint, *given, *words, "-o", output, made=output)
        return read_diagnosis(output)

    def trial(self, name: str, *words: object, script: str | None = None) -> Trial:
        """A treatment, resumed where it was interrupted; by `modeldoctor`, or by a script that gives it more arms."""
        run = self.work / name
        resume = ("--resume",) if run.exists() else ()
        started = self.command if script is None else partial(self.script, script)
        started("treat", *words, "-o", run, *resume, made=run / "trial.json")
        return read_trial(run / "trial.json")


def menagerie_network(place: Place) -> Path:
    """A small network that relies on backgrounds."""
    return place.script(
        "train_classifier.py", "--data", place.data / "menagerie", "--arch", "test_resnet", "--output-stride", 16,
        "--epochs", 20, "--batch-size", 64, "--learning-rate", 0.05, "--workers", 0,
        "--out", place.work / "menagerie.pt", made=place.work / "menagerie.pt",
    )  # fmt: skip


def fashion_network(place: Place) -> Path:
    """The same network, of grey images."""
    return place.script(
        "train_classifier.py", "--data", FASHION, "--root", place.data / "fashion-mnist", "--arch", "test_resnet",
        "--channels", 1, "--input-size", 32, "--epochs", 3, "--workers", 0, "--out", place.work / "fashion.pt",
        made=place.work / "fashion.pt",
    )  # fmt: skip
