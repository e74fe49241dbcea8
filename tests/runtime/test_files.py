"""Files appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest

from modeldoctor.errors import UsageError
from modeldoctor.runtime import files
from modeldoctor.runtime.files import check_writable, locked, remove_leftovers, written_aside


def test_a_file_appears_with_its_content(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "x.txt"
    with written_aside(target) as aside:
        assert aside.parent == target.parent
        aside.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")

    def fail() -> None:
        with written_aside(target) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    with written_aside(target) as one, written_aside(target) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one"  # the outer one ends last


def test_a_folder_in_the_way_is_said_by_both(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"), written_aside(tmp_path) as aside:
        aside.write_text("x")
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(tmp_path)
    assert not list(tmp_path.iterdir())
    assert not list(tmp_path.parent.glob(".*.tmp"))


def test_a_file_in_the_way_is_said_by_both(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot write"), written_aside(tmp_path / "file" / "x.txt"):
        pass
    with pytest.raises(UsageError, match="is no folder"):
        check_writable(tmp_path / "file" / "x.txt")


def test_a_folder_that_may_not_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(UsageError, match="cannot be written to"):
        check_writable(tmp_path / "deep" / "x.txt")


def test_checking_makes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "x.txt")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    writes = "import sys, os, pathlib; from modeldoctor.runtime.files import written_aside\n"
    writes += "with written_aside(pathlib.Path(sys.argv[1])) as aside: aside.write_text('half'); os._exit(9)"
    target = tmp_path / "[x].txt"
    subprocess.run([sys.executable, "-c", writes, str(target)], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with written_aside(target) as alive, written_aside(target) as aside:
        assert sorted(tmp_path.iterdir()) == sorted([alive, aside])
        aside.write_text("whole")
        alive.write_text("whole")
    assert list(tmp_path.iterdir()) == [target]


def test_what_other_machines_and_older_versions_left_goes_after_a_day_unless_somebody_holds_it(tmp_path: Path) -> None:
    target, day = tmp_path / "x.h5", 25 * 3600
    left = [".x.h5.00000000-1-0123abcd.tmp", ".x.h5.tmp", ".x.h5.41.old"]
    others = [".x.h5.notes.txt", "x.h5.tmp", ".y.h5.tmp", ".x.h5.my.copy.tmp"]
    for name in [*left, *others]:
        (tmp_path / name).write_text("half")
    (tmp_path / ".x.h5.0000ffff-1-0123abcd.tmp").mkdir()
    remove_leftovers(target)
    assert len(list(tmp_path.iterdir())) == 8  # somebody may be writing them
    for path in tmp_path.iterdir():
        os.utime(path, (time.time() - day,) * 2)
    held = tmp_path / left[0]
    with held.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        remove_leftovers(target)
        assert {path.name for path in tmp_path.iterdir()} == {left[0], *others}
    with written_aside(target) as aside:
        assert not held.exists()
        os.utime(aside, (time.time() - day,) * 2)
        renamed = aside.rename(tmp_path / left[0])  # as if another machine were writing it
        remove_leftovers(target)
        renamed.rename(aside)
    assert target.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    def fail() -> None:
        with written_aside(tmp_path / "x.txt"), Path("/dev/full").open("w") as file:
            file.write("x")

    with pytest.raises(UsageError, match="cannot write: No space left on device"):
        fail()
    assert not list(tmp_path.iterdir())


def test_hdf5_has_the_systems_number_in_its_words(tmp_path: Path) -> None:
    def fail(words: str) -> None:
        with written_aside(tmp_path / "x.h5"):
            raise OSError(words)

    with pytest.raises(UsageError, match="cannot write: File too large"):
        fail("Can't write data (file write failed: errno = 27, error message = 'File too large')")
    with pytest.raises(OSError, match="of something else"):
        fail("of something else")


def test_a_second_run_into_the_same_output_is_refused_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "out.h5"
    holds = "import sys, pathlib; from modeldoctor.runtime.files import locked\n"
    holds += "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", holds, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another run is writing this output"), locked(target):
            pass
        with locked(tmp_path / "other.h5"):
            pass
        other.kill()
    with locked(target), locked(None):
        pass
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # the killed one's folders stay


def test_a_lock_that_its_owner_removed_meanwhile_is_taken_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, lock, flock = tmp_path / "out.h5", tmp_path / ".out.h5.lock", fcntl.flock
    gone = []

    def after_the_owner(file: IO[bytes], how: int) -> None:
        flock(file, how)
        if not gone:  # the owner ends between our opening and our locking
            gone.append(lock.unlink())

    monkeypatch.setattr(fcntl, "flock", after_the_owner)
    with locked(target):
        assert lock.exists()  # so that a third run meets it
        with pytest.raises(UsageError, match="another run"), locked(target):
            pass
    assert not list(tmp_path.iterdir())


def test_a_folder_made_for_a_lock_stays_if_something_came_into_it(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "out.h5"):
        (tmp_path / "new" / "x").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x"]


@pytest.mark.parametrize("place", ["{long}.h5", "new/{long}/d.h5", "new/folder/{long}.h5"])
def test_a_name_that_is_too_long_is_said_before_any_work(tmp_path: Path, place: str) -> None:
    with pytest.raises(UsageError, match=r"a name of 2[56][0-9] bytes"):
        check_writable(tmp_path / place.format(long="é" * 128))  # two bytes each
    with pytest.raises(UsageError, match="too long"):
        check_writable(tmp_path / "/".join(["x" * 200] * 30))
    assert not list(tmp_path.iterdir())


def test_a_name_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    check_writable(path)
    with locked(path), written_aside(path) as aside:
        aside.write_text("held")
    assert path.read_text() == "held"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no file system that takes no files")
def test_a_file_system_that_takes_no_files_is_said_before_any_work() -> None:
    """Also where all permissions are there, as for root."""
    with pytest.raises(UsageError, match="cannot write: /proc"):
        check_writable(Path("/proc/diagnosis.h5"))


def test_a_full_disk_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "TemporaryFile", lambda **_: open("/dev/full", "wb"))  # noqa: PTH123, SIM115
    with pytest.raises(UsageError, match="No space left on device"):
        check_writable(tmp_path / "diagnosis.h5")


def test_asking_leaves_nothing_and_touches_nothing(tmp_path: Path) -> None:
    before = tmp_path.stat().st_mtime_ns
    check_writable(tmp_path / "new" / "diagnosis.h5")
    assert tmp_path.stat().st_mtime_ns == before
    assert not list(tmp_path.iterdir())
