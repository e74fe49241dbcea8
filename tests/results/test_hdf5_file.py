"""Where no more can be written, HDF5's files end in a message and the old file stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_diagnosis

from modeldoctor.results.hdf5 import read_diagnosis, write_diagnosis

_WRITE = """
import resource, sys
from pathlib import Path
from conftest import make_diagnosis
from modeldoctor.errors import UsageError
from modeldoctor.results.hdf5 import write_diagnosis
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
try:
    write_diagnosis(make_diagnosis(arch="new"), Path(sys.argv[1]))
except UsageError as error:
    print(error.found, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
@pytest.mark.parametrize("limit", [0, 100, 2048, 20000])
def test_a_file_that_may_not_grow_is_refused_and_the_old_one_stays(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "d.h5"
    write_diagnosis(make_diagnosis(arch="old"), path)
    assert path.stat().st_size > limit
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(path), str(limit)], capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr.strip()) == (2, "cannot write: File too large")
    assert read_diagnosis(path).arch == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["d.h5"]


def test_a_failure_while_it_is_filled_is_that_failure(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        write_diagnosis(make_diagnosis(classes=("a", 3)), tmp_path / "d.h5")  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())
