"""Where no more can be written, or another program has it open, HDF5 ends in a message and the old file stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from conftest import make_diagnosis

from modeldoctor.errors import StoreError, UsageError
from modeldoctor.results.hdf5 import read_diagnosis, write_diagnosis
from modeldoctor.results.hdf5_file import open_hdf5
from modeldoctor.results.maps import read_maps
from modeldoctor.results.outputs import check_outputs

# Under each limit, in one process: most of its time goes into importing.
_WRITE = """
import resource, sys
from pathlib import Path
from conftest import make_diagnosis
from modeldoctor.errors import UsageError
from modeldoctor.results.hdf5 import write_diagnosis
for limit in sys.argv[2:]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), -1))
    try:
        write_diagnosis(make_diagnosis(arch="new"), Path(sys.argv[1]))
    except UsageError as error:
        print(limit, error.found, file=sys.stderr)
        code = error.exit_code
    else:
        sys.exit(f"written with {limit} bytes")
sys.exit(code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files")
def test_a_file_that_may_not_grow_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    path, limits = tmp_path / "d.h5", (0, 100, 2048, 20000)
    write_diagnosis(make_diagnosis(arch="old"), path)
    assert path.stat().st_size > max(limits)
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(path), *map(str, limits)], capture_output=True, text=True, timeout=120,
        env={"PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert (done.returncode, done.stderr.splitlines()) == (
        2, [f"{limit} cannot write: File too large" for limit in limits],
    )  # fmt: skip
    assert read_diagnosis(path).arch == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["d.h5"]


def test_a_failure_while_it_is_filled_is_that_failure(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        write_diagnosis(make_diagnosis(classes=("a", 3)), tmp_path / "d.h5")  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())


HOLDER = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """An HDF5 file that another process has open to write."""
    with h5py.File(tmp_path / "held.h5", "w") as file:
        file.attrs["schema"] = 1
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "held.h5")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield tmp_path / "held.h5"
        process.communicate()


def test_a_file_that_another_program_has_open_is_named_as_such(held: Path) -> None:
    for read in (open_hdf5, read_diagnosis, read_maps):
        with pytest.raises(StoreError, match="another program has this file open") as caught:
            read(held)
        assert "close it there" in str(caught.value.hint)
    with pytest.raises(UsageError, match="another program has this file open"):
        check_outputs([held], [])
