"""Where no more can be written: PyTorch's and safetensors' files end in a message, too, and the old ones stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeldoctor.checkpoint.write import _folder_aside

KINDS = ("new.pt", "old.pt", "x.safetensors", "run.partial")
LIMITS = (0, 1000, 100_000)

# Each file under each limit, in one process: most of its time goes into importing torch.
_SAVE = """
import resource, sys
from pathlib import Path
import torch
from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.diagnosis.state import RunState
from modeldoctor.errors import UsageError
folder, kinds, limits = Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()
for kind in kinds:
    source, target = folder / kind, folder / "out" / kind
    read = read_checkpoint(source) if source.exists() else None
    for limit in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), -1))
        code = 0
        try:
            if read is None:
                state = RunState(fingerprint="x")
                state.evidence = [{"a": torch.zeros(30000)}]
                state.save(target)
            else:
                write_checkpoint(read, read.tensors, target)
        except UsageError as error:
            print(kind, limit, error.found, file=sys.stderr)
            code = int(error.exit_code)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        if not code:
            sys.exit(f"{kind} was written with {limit} bytes")
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_file_that_may_not_grow_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    tensors = {"fc.weight": torch.ones(100, 300), "fc.bias": torch.ones(100)}
    save_file(tensors, tmp_path / "x.safetensors")
    for kind in ("new.pt", "old.pt"):
        torch.save(tensors, tmp_path / kind, _use_new_zipfile_serialization=kind == "new.pt")
    target = tmp_path / "out"
    target.mkdir()
    for kind in KINDS:
        (target / kind).write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", _SAVE, str(tmp_path), " ".join(KINDS), " ".join(map(str, LIMITS))],
        capture_output=True, text=True, timeout=120, env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    refused = [f"{kind} {limit} cannot write: File too large" for kind in KINDS for limit in LIMITS]
    assert (done.returncode, done.stderr.splitlines()) == (2, refused)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == dict.fromkeys(KINDS, b"old")


def test_a_folder_that_a_killed_run_wrote_aside_is_removed(tmp_path: Path) -> None:
    kill = "import os, sys, pathlib; from modeldoctor.checkpoint.write import _folder_aside\n"
    kill += "with _folder_aside(pathlib.Path(sys.argv[1])) as aside: (aside / 'config.json').touch(); os._exit(9)"
    subprocess.run([sys.executable, "-c", kill, str(tmp_path / "treated")], check=False, timeout=120)
    assert len(list(tmp_path.iterdir())) == 1
    with _folder_aside(tmp_path / "treated") as aside:
        (aside / "config.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["treated"]
