"""Files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modeldoctor.errors import UsageError
from modeldoctor.runtime.files import check_writable, written_aside


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
