"""The run directory of a treatment: every file name in it, and the line that says which checkpoint it is of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

CONFIG = "config.yaml"
DIAGNOSIS = "diagnosis.h5"
HISTORY = "history.csv"
TRIAL = "trial.json"
MAPS = "maps.h5"
PROPAGATED = "propagated.png"
ARMS = "arms"
TREATED = "treated"
"""Without the suffix of the checkpoint."""

_IDENTITY = re.compile(r"# Of the checkpoint with SHA-256 ([0-9a-f]{64})")


def identity_line(checkpoint_sha256: str) -> str:
    """The first line of `config.yaml`: a comment, so that the file can be given to `treat --config` as it is."""
    return f"# Of the checkpoint with SHA-256 {checkpoint_sha256}\n"


def identity_in(config: str) -> str | None:
    """The SHA-256 of the checkpoint that a `config.yaml` is of; None if nobody wrote it there."""
    found = _IDENTITY.match(config)
    return found[1] if found else None


def network_line(construction: str) -> str:
    """The second line of `config.yaml`: a digest of the network's layers and of the code that makes them."""
    return f"# Of the network with construction={construction}\n"


def network_in(config: str) -> str | None:
    """The digest of the network's construction in a `config.yaml`; None if nobody wrote it there."""
    found = re.search(r"^# Of the network with construction=([0-9a-f]+)$", config, re.MULTILINE)
    return found[1] if found else None


def data_line(digests: Mapping[str, str]) -> str:
    """The third line of `config.yaml`: digests of the data, by what they are of."""
    return f"# Of the data with {' '.join(f'{name}={digest}' for name, digest in digests.items())}\n"


def data_in(config: str) -> dict[str, str]:
    """The digests of a `config.yaml`; none if nobody wrote them there."""
    found = re.search(r"^# Of the data with (.*)$", config, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in found[1].split() if "=" in pair) if found else {}


def written_files(folder: Path, suffix: str = ".pt") -> tuple[Path, ...]:
    """Every file that a treatment writes there, whatever its checkpoint's suffix."""
    names = (CONFIG, DIAGNOSIS, f"{DIAGNOSIS}.partial", HISTORY, TRIAL, MAPS, PROPAGATED, f"{TREATED}{suffix}")
    return tuple(folder / name for name in names)
