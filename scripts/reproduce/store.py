"""What a piece found, as JSON with the command that makes it: `results/PIECE.json`."""

from __future__ import annotations

import json
import math
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from modeldoctor.runtime.files import written_aside
from modeldoctor.runtime.versions import used_versions

RESULTS = Path(__file__).parent / "results"


def keep(piece: str, figures: dict[str, Any], *, seconds: float, folder: Path = RESULTS) -> Path:
    """Write what a piece found, with where, when and how."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    content = {
        "piece": piece,
        "command": f"scripts/reproduce/run.py {piece} --data DATA",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": gpu or f"CPU ({platform.machine()}), {torch.get_num_threads()} threads",
        "minutes": round(seconds / 60, 1),
        "versions": used_versions(),
        "figures": _plain(figures),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{piece}.json"
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def kept(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """By piece, all that was found so far."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def _plain(value: Any) -> Any:
    """Floats to six digits; None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
