#!/usr/bin/env python
"""Kill and interrupt diagnose, treat and report at random moments; each must go on to the result of an undisturbed run.

    scripts/chaos.py DEMO [--runs 30] [--seed 0]

DEMO is a folder of `modeldoctor demo`; it is read, and what is made lies in a temporary folder. A disturbed run gets
SIGKILL or SIGINT once, sometimes twice, at a random share of the time that an undisturbed one took, and is then run
to its end with --resume. One that ended before its signal came is begun anew with an earlier moment, so that every run
is hit. Figures, tensors and pages are compared bit for bit, without times and clock.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modeldoctor.results.hdf5 import read_diagnosis

ENDED = (0, 4)
"""Exit codes of a command that came to its end."""
_CLOCK = {"created", "seconds", "explaining_s", "started", "output", "command"}
OPTIONS = ("--layers", "last", "--samples-per-class", "20", "--max-explained", "40", "--batch-size", "8")


def command(name: str, demo: Path, out: Path) -> list[str]:
    """The arguments of one of the three commands, writing into `out`."""
    if name == "diagnose":
        return [name, str(demo / "checkpoint.pt"), "--data", str(demo / "data"), *OPTIONS, "-o", str(out / "d.h5")]
    if name == "treat":
        small = (
            "training.epochs=2",
            "pilot.epochs=1",
            "seeds=[0]",
            "arms=[treat, hard-examples, continue]",
            f"diagnosis={demo / 'diagnosis.h5'}",
        )
        changes = [word for change in small for word in ("--set", change)]
        return [name, "--config", str(demo / "config.yaml"), "-o", str(out / "run"), *changes]
    return [name, str(demo), "-o", str(out / "page")]


def run(arguments: list[str], *, disturb: tuple[float, signal.Signals] | None = None) -> tuple[int, float]:
    """Its exit code, a negative signal number if it was killed; and the seconds that it took."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "modeldoctor", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if disturb is not None:
        try:
            process.wait(timeout=disturb[0])
        except subprocess.TimeoutExpired:
            process.send_signal(disturb[1])
    said = process.communicate()[1]
    if "Traceback" in said:
        print(said)
    return process.returncode, time.monotonic() - begun


def outcome(name: str, out: Path) -> Any:
    """What a command made, as plain values that can be compared."""
    if name == "diagnose":
        return plain(read_diagnosis(out / "d.h5"))
    if name == "treat":
        treated = torch.load(out / "run" / "treated.pt", weights_only=True)["state_dict"]
        trial = plain(json.loads((out / "run" / "trial.json").read_text()))
        return {"trial": trial, "weights": {key: tensor.numpy().tobytes() for key, tensor in treated.items()}}
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


def disturbed(name: str, demo: Path, out: Path, took: float, choose: random.Random) -> tuple[str, int]:
    """Disturb a command, then let it end; the signals in words, and how many came before its end."""
    resume = ["--resume"] if name != "report" else []
    told: list[str] = []
    for attempt in range(choose.choice((1, 1, 2))):
        kind, left = choose.choice((signal.SIGKILL, signal.SIGINT)), took
        while True:
            moment = choose.uniform(0, left)
            code, seconds = run(command(name, demo, out) + (resume if attempt else []), disturb=(moment, kind))
            if code not in ENDED:
                told.append(f"{kind.name} at {moment:.1f} s ({code})")
                took = max(took - moment, 1.0)
                break
            if attempt:
                break  # resumed, it had ended first: there is nothing left to disturb
            shutil.rmtree(out)
            out.mkdir()
            left = min(left, seconds) * 0.8
    signals = len(told)
    code, _ = run(command(name, demo, out) + resume)
    if code not in ENDED:
        told.append(f"then {code}")
    return ", ".join(told), signals


def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="chaos-"))


def undisturbed(name: str, demo: Path) -> tuple[Any, float]:
    """What a command makes if nobody disturbs it, and the seconds that it takes."""
    out = _folder()
    code, seconds = run(command(name, demo, out))
    if code not in ENDED:
        sys.exit(f"{name} ended with {code} although nobody disturbed it")
    made = outcome(name, out)
    shutil.rmtree(out)
    return made, seconds


def trial(number: int, name: str, demo: Path, expected: tuple[Any, float], choose: random.Random) -> tuple[bool, int]:
    """One disturbed run: whether it went on to the expected result and left nothing, and how many signals hit it."""
    out = _folder()
    told, signals = disturbed(name, demo, out, expected[1], choose)
    same, left = outcome(name, out) == expected[0], strays(out)
    said = f"{told}; left: {', '.join(left)}" if left else told
    print(f"{number:3} {name:9}{'equal' if same else 'DIFFERS':8}{said}", flush=True)
    shutil.rmtree(out)
    return same and not left, signals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default="diagnose,diagnose,treat,report", help="chosen from at random")
    options = parser.parse_args()
    demo, choose, names = options.demo.resolve(), random.Random(options.seed), options.commands.split(",")
    expected = {name: undisturbed(name, demo) for name in dict.fromkeys(names)}
    print(", ".join(f"{name} {seconds:.0f} s" for name, (_, seconds) in expected.items()), flush=True)
    ended = []
    for number in range(1, options.runs + 1):
        name = choose.choice(names)
        ended.append(trial(number, name, demo, expected[name], choose))
    good, signals = sum(fine for fine, _ in ended), sum(hits for _, hits in ended)
    print(
        f"{good} of {options.runs} went on to the same result and left nothing behind; {signals} signals came in time"
    )
    return int(good < options.runs)


if __name__ == "__main__":
    sys.exit(main())
