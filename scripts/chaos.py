#!/usr/bin/env python
"""Kill and interrupt diagnose, treat and report at random moments; each must go on to the result of an undisturbed run.

    scripts/chaos.py DEMO [--runs 30] [--seed 0] [--every 10] [--jobs 2]

DEMO is a folder of `modeldoctor demo`; it is read, and what is made lies in temporary folders. Reports are of the whole
demo, diagnoses and treatments of every tenth of its images, so that thirty runs take minutes. A disturbed run gets
SIGKILL or SIGINT once, sometimes twice, at a random share of the processor time that an undisturbed one took (the share
is printed; on a busy machine it tells how far a run is better than a clock does), and is then run to its end with
--resume. One that ended before its signal came is begun anew with an earlier moment, so that every run is hit.
Figures, tensors and pages are compared bit for bit, without times and clock. As many run at once as there are cores;
a seed chooses the same commands, signals and shares however many that are.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from modeldoctor.results.hdf5 import read_diagnosis

ENDED = (0, 4)
"""Exit codes of a command that came to its end."""
_CLOCK = {"created", "seconds", "explaining_s", "started", "output", "command"}
OPTIONS = (
    *("--layers", "last", "--samples-per-class", "5", "--max-explained", "8", "--batch-size", "8"),
    *("--noise-draws", "2", "--noise-ranges", "0.5,1.0", "--shown", "3"),
)
_POLL_S = 0.02
_FIFTHS = 5


class Hit(NamedTuple):
    """A signal that came before the end of a run."""

    kind: str
    share: float
    """Of the processor time that was before it: of the whole run, or of what the signal before had left."""
    code: int
    """The run's exit code, or minus the signal's number."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.share:.0%} ({self.code})"


class Disturbed(NamedTuple):
    """How a disturbed run ended."""

    line: str
    fine: bool
    hits: list[Hit]


def linked(demo: Path, folder: Path, every: int) -> Path:
    """A demo of every nth image of each class, as links to the demo's own files."""
    images = [
        path
        for kind in sorted((demo / "data").glob("*/*"))
        for number, path in enumerate(sorted(kind.iterdir()))
        if number % every == 0
    ]
    masks = (demo / "data-masks" / path.relative_to(demo / "data") for path in images)
    rest = (demo / name for name in ("checkpoint.pt", "config.yaml", "metadata.csv", "diagnosis.h5"))
    for path in (*images, *masks, *rest):
        link = folder / path.relative_to(demo)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return folder


def command(name: str, demo: Path, out: Path) -> list[str]:
    """The arguments of one of the three commands, writing into `out`."""
    if name == "diagnose":
        return [name, str(demo / "checkpoint.pt"), "--data", str(demo / "data"), *OPTIONS, "-o", str(out / "d.h5")]
    if name == "treat":
        small = (
            "training.epochs=2",
            "seeds=[0]",
            "arms=[treat, hard-examples, continue]",
            f"diagnosis={demo / 'diagnosis.h5'}",
        )
        changes = [word for change in small for word in ("--set", change)]
        return [name, "--config", str(demo / "config.yaml"), "-o", str(out / "run"), *changes]
    return [name, str(demo), "-o", str(out / "page")]


def run(arguments: list[str], *, disturb: tuple[float, signal.Signals] | None = None) -> tuple[int, float]:
    """Run to the end, or to a signal after so many seconds of processor time.

    Returns:
        The exit code, a negative signal number if it was killed; and the seconds of processor time that it took.
    """
    spent, sent = 0.0, disturb is None
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "modeldoctor", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                times = watched.cpu_times()
            except psutil.NoSuchProcess:
                continue
            spent = max(spent, times.user + times.system)
            if disturb is not None and not sent and spent >= disturb[0]:
                process.send_signal(disturb[1])
                sent = True
            time.sleep(_POLL_S)
        errors.seek(0)
        if "Traceback" in (said := errors.read()):
            print(said)
    return process.returncode, spent


def outcome(name: str, out: Path) -> Any:
    """What a command made, as plain values that can be compared."""
    if name == "diagnose":
        return plain(read_diagnosis(out / "d.h5"))
    if name == "treat":
        treated = torch.load(out / "run" / "treated.pt", weights_only=True)["state_dict"]
        trial = plain(json.loads((out / "run" / "trial.json").read_text()))
        history = list(csv.reader((out / "run" / "history.csv").open(newline="")))
        weights = {key: tensor.numpy().tobytes() for key, tensor in treated.items()}
        return {"trial": trial, "history": history, "weights": weights}
    return plain(json.loads((out / "page" / "report.json").read_text()))


def plain(value: Any) -> Any:
    """Without what a clock says; arrays as their bytes."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.name not in _CLOCK}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in _CLOCK}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes() if value.dtype != object else value.tolist()
    return repr(value)


def strays(out: Path) -> list[str]:
    """What a finished command should not leave."""
    return [path.name for path in out.rglob("*") if path.name.endswith((".tmp", ".lock", ".partial", ".old"))]


def disturbed(name: str, demo: Path, out: Path, took: float, choose: random.Random) -> tuple[list[Hit], int]:
    """Disturb a command, then let it end; the signals that came before its end, and its last exit code."""
    resume = ["--resume"] if name != "report" else []
    hits: list[Hit] = []
    for attempt in range(choose.choice((1, 1, 2))):
        kind, share = choose.choice((signal.SIGKILL, signal.SIGINT)), choose.random()
        while True:
            arguments = command(name, demo, out) + (resume if attempt else [])
            code, _ = run(arguments, disturb=(share * took, kind))
            if code not in ENDED:
                hits.append(Hit(kind.name, share, code))
                took *= 1 - share
                break
            if attempt:
                break  # resumed, it had ended first: there is nothing left to disturb
            shutil.rmtree(out)
            out.mkdir()
            share *= 0.8
    return hits, run(command(name, demo, out) + resume)[0]


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="chaos-"))


def undisturbed(name: str, demo: Path) -> tuple[Any, float]:
    """What a command makes if nobody disturbs it, and the seconds of processor time that it takes."""
    out = _folder()
    code, seconds = run(command(name, demo, out))
    if code not in ENDED:
        sys.exit(f"{name} ended with {code} although nobody disturbed it")
    made = outcome(name, out)
    shutil.rmtree(out)
    return made, seconds


def trial(name: str, demo: Path, expected: tuple[Any, float], choose: random.Random) -> Disturbed:
    """One disturbed run: whether it went on to the expected result and left nothing behind."""
    out = _folder()
    hits, code = disturbed(name, demo, out, expected[1], choose)
    said = ", ".join(map(str, hits))
    if code not in ENDED:
        return Disturbed(f"{name:9}ENDED WITH {code} after {said}; {out} is kept", False, hits)
    same, left = outcome(name, out) == expected[0], strays(out)
    said += f"; LEFT {', '.join(left)}" if left else ""
    if same and not left:
        shutil.rmtree(out)
    else:
        said += f"; {out} is kept"
    return Disturbed(f"{name:9}{'equal' if same else 'DIFFERS':8}{said}", same and not left, hits)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="diagnose,diagnose,treat,report", help="chosen from at random")
    parser.add_argument("--every", type=int, default=10, help="diagnose and treat every nth image of each class")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once")
    options = parser.parse_args()
    begun, demo, names = time.monotonic(), options.demo.resolve(), options.commands.split(",")
    share = linked(demo, _folder(), options.every)
    demos = {name: demo if name == "report" else share for name in set(names)}
    with ThreadPoolExecutor(options.jobs) as pool:
        made = {name: pool.submit(undisturbed, name, demos[name]) for name in dict.fromkeys(names)}
        expected = {name: future.result() for name, future in made.items()}
        print("undisturbed:", ", ".join(f"{name} {took:.0f} s" for name, (_, took) in expected.items()), flush=True)
        chances = [random.Random(f"{options.seed}/{number}") for number in range(options.runs)]
        chosen = [(choose.choice(names), choose) for choose in chances]
        futures = [pool.submit(trial, name, demos[name], expected[name], choose) for name, choose in chosen]
        ended = []
        for number, future in enumerate(futures, start=1):
            ended.append(future.result())
            print(f"{number:3} {ended[-1].line}", flush=True)
    shutil.rmtree(share)
    return _summary(ended, time.monotonic() - begun)


def _summary(ended: list[Disturbed], seconds: float) -> int:
    """Print how many were fine and when their signals came; the exit code."""
    good, hits = sum(run.fine for run in ended), [hit for run in ended for hit in run.hits]
    fifths = Counter(int(hit.share * _FIFTHS) for hit in hits)
    times = os.times()
    processor = (times.children_user + times.children_system) / 60
    print(f"{good} of {len(ended)} went on to the same result and left nothing behind;")
    print(f"{seconds / 60:.1f} minutes, {processor:.1f} of processor time;")
    print(f"{len(hits)} signals came, by fifths of a run: {', '.join(str(fifths[fifth]) for fifth in range(_FIFTHS))}")
    return int(good < len(ended))


if __name__ == "__main__":
    sys.exit(main())
