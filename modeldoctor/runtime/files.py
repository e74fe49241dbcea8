"""Writing files so that a crash leaves the old one whole."""

from __future__ import annotations

import errno
import glob
import os
import platform
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO, UnsupportedOperation
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any, BinaryIO

import psutil

from modeldoctor.errors import UsageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_HERE = f"{zlib.crc32(platform.node().encode()):08x}"
"""Stands for this machine: a process that another one runs on a shared disk is not known to have ended."""
_LONG = 200
"""Bytes of a name to which a process's own may be added; file systems end at 255."""
_LONGEST = 255
_LONG_AGO = 24 * 3600.0
"""Seconds in which whoever writes a file would have touched it."""
_ASIDE = re.compile(r"(\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}|(\.\w+)?)\.(tmp|old)")
"""What follows the name in one of `aside_of`, or of an older version."""
_PROBE = bytes(2**16)
_OF_WRITING = frozenset(
    (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR)
)


def regular(path: Path) -> Path:
    """The path, unless reading it would wait for somebody or never end: of a pipe, a device or a socket.

    What the shell has opened itself, as in `<(command)`, is read.

    Raises:
        OSError: it is such a thing.
    """
    if path.exists() and not (path.is_file() or path.is_dir() or path.as_posix().startswith("/dev/fd/")):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` on success, remove it on failure.

    What it held is on the disk before it has its name. What a killed run left is removed.

    Raises:
        UsageError: the folder cannot be written to, or the disk is full.
    """
    aside = aside_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        aside.touch()
    except OSError as error:
        raise UsageError(
            f"cannot write: {error.strerror}", where=str(path), hint="choose another place for the output"
        ) from error
    try:
        with _in_use(aside):
            yield aside
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    except OSError as error:
        reason = _reason(error)
        if not reason:
            raise
        raise UsageError(
            f"cannot write: {reason}", where=str(path), hint="make room or choose another place for the output"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def noted(path: Path) -> Iterator[BinaryIO]:
    """Yield a file for C code to fill, which crashes or says anything where it cannot write: HDF5, PyTorch.

    It writes through Python, which notes the first failure and lets it go on; what it wrote is then to be discarded.

    Raises:
        OSError: the first failure, whatever else the code raised.
    """
    with _NotedFile(path, "wb+") as file:
        try:
            yield file
        finally:
            if file.failure is not None:
                raise file.failure


class _NotedFile(FileIO):
    """Never says that it cannot be written to; `failure` is the first error of the system's, if there was one."""

    failure: OSError | None = None

    def fileno(self) -> int:
        """None: C code that had it would write past this."""
        raise UnsupportedOperation("fileno")

    def write(self, data: Buffer) -> int:
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.failure = self.failure or error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0

    def readinto(self, buffer: Any) -> int:
        """What was not written is zero."""
        found = super().readinto(buffer) or 0
        memoryview(buffer).cast("B")[found:] = bytes(len(buffer) - found)
        return len(buffer)


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; some file systems cannot say so of a folder."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    """Why nothing more can be written, in the system's words; empty where the error is of something else.

    HDF5 has the system's number in its text alone.
    """
    said = re.search(r"errno = (\d+)", str(error))
    number = int(said[1]) if said else error.errno
    return os.strerror(number) if number in _OF_WRITING else ""


def aside_of(path: Path) -> Path:
    """A new hidden name beside a file or folder, which says which process of which machine gave it."""
    return path.with_name(f".{_short(path.name)}.{_HERE}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _short(name: str) -> str:
    """The name, or its beginning with a digest of it, so that what is added to it does not make it too long."""
    return name if len(os.fsencode(name)) <= _LONG else f"{name[: _LONG // 4]}-{zlib.crc32(os.fsencode(name)):08x}"


def remove_leftovers(path: Path) -> None:
    """Remove what runs that have ended wrote aside for this file or folder.

    A process of this machine that is gone has ended. What another machine, a container or an older version wrote says
    nothing of its process: it goes when nobody has it locked and nobody has touched it for a day.
    """
    name = _short(path.name)
    for left in path.parent.glob(f".{glob.escape(name)}.*"):
        named = _ASIDE.fullmatch(left.name.removeprefix(f".{name}"))
        if named is None or not (_ended(named) or _abandoned(left)):
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _ended(named: re.Match[str]) -> bool:
    return named["machine"] == _HERE and not psutil.pid_exists(int(named["process"]))


def _abandoned(left: Path) -> bool:
    try:
        if time.time() - left.lstat().st_mtime < _LONG_AGO:
            return False
        with _in_use(left):
            return True
    except OSError:  # locked, gone, or not ours
        return False


@contextmanager
def _in_use(aside: Path) -> Iterator[None]:
    """Hold the system's lock on what is written aside, which ends with the process; nothing where there are no locks.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    handle = os.open(aside, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if isinstance(error, BlockingIOError):
                    raise
        yield
    finally:
        if handle is not None:
            os.close(handle)


@contextmanager
def locked(path: Path | None) -> Iterator[None]:
    """Keep other runs out of an output until this one ends, however it ends; None is no output.

    The lock is the system's, on a hidden file beside the output; folders that are made for it go again if nothing else
    came into them. Where the file system has no locks, nothing is kept out.

    Raises:
        UsageError: another run holds it.
    """
    if path is None or fcntl is None:
        yield
        return
    parent = path.absolute().parent
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    lock = parent / f".{_short(path.name)}.lock"
    try:
        parent.mkdir(parents=True, exist_ok=True)
        file = _held(lock)
    except BlockingIOError as error:
        raise UsageError(
            "another run is writing this output",
            where=str(path),
            hint="wait until it has ended, or choose another place for the output",
        ) from error
    except OSError:
        file = None  # who cannot write here is told so by what writes
    try:
        yield
    finally:
        if file is not None:
            with file:
                lock.unlink(missing_ok=True)
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()


def _held(lock: Path) -> IO[bytes]:
    """The lock file, locked: opened again where the run that held it removed it in between."""
    while True:
        file = lock.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        except FileNotFoundError:
            pass  # removed between the two questions
        except OSError as error:
            if isinstance(error, BlockingIOError) or error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                file.close()
                raise
            return file  # no locks on this file system
        file.close()


def check_name(path: Path) -> None:
    """Refuse a name that no file can have.

    Raises:
        UsageError: it, or a part of it, is too long.
    """
    longest = max(len(os.fsencode(part)) for part in (*path.parts, ""))
    if longest > _LONGEST:
        raise UsageError(
            f"cannot write: a name of {longest} bytes",
            where=str(path),
            expected=f"at most {_LONGEST}; what is written beside it has the same name with another ending",
            hint="choose a shorter name for the output",
        )


def check_writable(path: Path) -> None:
    """Say before a long computation that its result could not be written; nothing is left there.

    Raises:
        UsageError: it is no file, its name is too long, the nearest folder that exists cannot be written to, or its
            disk is full.
    """
    check_name(path)
    try:
        there = next(folder for folder in path.absolute().parents if folder.exists())
        problems = {
            "it is a folder": path.is_dir(),
            "it is no regular file": path.exists() and not path.is_file() and not path.is_dir(),
            f"{there} is no folder": not there.is_dir(),
            f"{there} cannot be written to": there.is_dir() and not os.access(there, os.W_OK | os.X_OK),
        }
        problem = next((problem for problem, holds in problems.items() if holds), "") or _not_taken(there)
    except OSError as error:  # a name, or the whole path, is too long, or a link leads nowhere
        problem = error.strerror or str(error)
    if problem:
        raise UsageError(f"cannot write: {problem}", where=str(path), hint="choose another place for the output")


def _not_taken(folder: Path) -> str:
    """Why a folder takes no file with something in it, in the system's words; empty if it does."""
    try:
        with TemporaryFile(dir=folder, prefix=".modeldoctor-") as probe:  # without a name, where the system can do that
            probe.write(_PROBE)
            probe.flush()
    except OSError as error:
        return f"{folder}: {error.strerror or error}"
    return ""
