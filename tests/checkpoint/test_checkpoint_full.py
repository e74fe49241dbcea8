"""Where no more can be written: PyTorch's and safetensors' files end in a message, too, and the old ones stay."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from modeldoctor.checkpoint.write import _folder_aside

_SAVE = """
import resource, sys
from pathlib import Path
import torch
from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.checkpoint.write import write_checkpoint
from modeldoctor.diagnosis.state import RunState
from modeldoctor.errors import UsageError
source, target, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
read = read_checkpoint(source) if source.exists() else None
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
try:
    if read is None:
        state = RunState(fingerprint="x")
        state.evidence = [{"a": torch.zeros(30000)}]
        state.save(target)
    else:
        write_checkpoint(read, read.tensors, target)
except UsageError as error:
    print(error.found, file=sys.stderr)
    sys.exit(int(error.exit_code))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("kind", ["new.pt", "old.pt", "x.safetensors", "run.partial"])
def test_a_file_that_may_not_grow_is_refused_and_the_old_one_stays(tmp_path: Path, kind: str) -> None:
    tensors = {"fc.weight": torch.ones(100, 300), "fc.bias": torch.ones(100)}
    source, target = tmp_path / kind, tmp_path / "out" / kind
    if kind == "x.safetensors":
        save_file(tensors, source)
    elif kind.endswith(".pt"):
        torch.save(tensors, source, _use_new_zipfile_serialization=kind == "new.pt")
    target.parent.mkdir()
    target.write_bytes(b"old")
    for limit in (0, 1000, 100_000):
        done = subprocess.run(
            [sys.executable, "-c", _SAVE, str(source), str(target), str(limit)], capture_output=True, text=True,
            timeout=120, env={"PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        assert (done.returncode, done.stderr.strip()) == (2, "cannot write: File too large"), limit
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == [kind]


def test_a_folder_that_a_killed_run_wrote_aside_is_removed(tmp_path: Path) -> None:
    kill = "import os, sys, pathlib; from modeldoctor.checkpoint.write import _folder_aside\n"
    kill += "with _folder_aside(pathlib.Path(sys.argv[1])) as aside: (aside / 'config.json').touch(); os._exit(9)"
    subprocess.run([sys.executable, "-c", kill, str(tmp_path / "treated")], check=False, timeout=120)
    assert len(list(tmp_path.iterdir())) == 1
    with _folder_aside(tmp_path / "treated") as aside:
        (aside / "config.json").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["treated"]
