"""Pipes, devices and sockets in the place of files: an error at once, never a wait."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Clinic

from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.data import open_data
from modeldoctor.errors import InputError, UsageError
from modeldoctor.report import make_report
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.maps import read_maps
from modeldoctor.results.outputs import check_outputs
from modeldoctor.results.trial import read_trial
from modeldoctor.runtime.files import check_writable
from modeldoctor.treatment.groups import read_groups
from modeldoctor.zoo import load_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names")

READERS: dict[str, Callable[[Path], object]] = {
    "x.yaml": load_treat_config,
    "x.h5": read_diagnosis,
    "maps.h5": read_maps,
    "trial.json": read_trial,
    "run.h5": make_report,
    "groups.csv": lambda path: read_groups(path, "group"),
    "x.pt": load_model,
}


@pytest.fixture(autouse=True)
def _no_wait() -> Iterator[None]:
    """A wait ends in a failure instead of a test that hangs."""

    def fail(*_: object) -> None:
        raise TimeoutError("it waits for the pipe")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_no_input(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="not a regular file"):
        READERS[name](tmp_path / name)


def test_a_device_without_end_is_no_input() -> None:
    for read in READERS.values():
        with pytest.raises(InputError):
            read(Path("/dev/zero"))


def test_a_pipe_is_no_list_of_images(clinic: Clinic, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.csv")
    with pytest.raises(InputError, match="not a regular file"):
        open_data(str(tmp_path / "x.csv"), preprocessing=load_model(clinic.checkpoint).preprocessing)


def test_what_the_shell_has_opened_is_read(tmp_path: Path) -> None:
    """As in `--config <(make_config)`."""
    ends = os.pipe()
    os.write(ends[1], b"checkpoint: a.pt\ndata: {path: photos}\noutput: run\nspace: {weight: 0}\n")
    os.close(ends[1])
    assert load_treat_config(Path(f"/dev/fd/{ends[0]}")).data.path == "photos"
    os.close(ends[0])


def test_no_output_takes_the_place_of_a_pipe_or_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.h5")
    for path in (tmp_path / "x.h5", Path("/dev/null")):
        with pytest.raises(UsageError, match="no regular file"):
            check_writable(path)
        with pytest.raises(UsageError, match="no regular file"):
            check_outputs([path], [])
