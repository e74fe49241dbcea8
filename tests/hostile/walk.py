"""Give hostile files to what reads them: each in a process of its own, with little memory and little time."""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

from modeldoctor.errors import ModelDoctorError

MEMORY = 2 << 30
"""Bytes of address space that a reader may take beside what the warm interpreter has."""
SECONDS = 20
"""Of work; a machine with more to do gives a reader its time later."""
_WAITING = 20
"""How many times as long may pass in all: who waits for a pipe does no work."""


class Ending(NamedTuple):
    """How a reader ended."""

    code: int
    """As the command would: 0, the error's own, 1 for an exception that nobody expects, -9 for one that was killed."""
    text: str


def ending_of(read: Callable[[], object]) -> Ending:
    """Run it in a fork of this process, within MEMORY and SECONDS."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_read(read, writing)
    os.close(writing)
    said = b""
    try:
        while _has_said(reading, child) and (part := os.read(reading, 1 << 16)):
            said += part
        finished = bool(select.select([reading], [], [], 0)[0])
    finally:
        os.close(reading)
    if not finished:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not finished:
        return Ending(-signal.SIGKILL, f"still at work after {SECONDS} s")
    return Ending(*pickle.loads(said)) if said else Ending(status, "it died without a word")


def _has_said(reading: int, child: int) -> bool:
    """Whether there is something to read, or the child has ended, within its time."""
    process = psutil.Process(child)
    for _ in range(SECONDS * _WAITING):
        if select.select([reading], [], [], 1)[0]:
            return True
        worked = process.cpu_times()
        if worked.user + worked.system > SECONDS:
            break
    return False


def _be_read(read: Callable[[], object], writing: int) -> None:
    """The child's whole life."""
    try:
        limit = psutil.Process().memory_info().vms + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ending = Ending(0, str(read()))
    except ModelDoctorError as error:
        ending = Ending(int(error.exit_code), str(error))
    except BaseException:
        ending = Ending(1, "".join(traceback.format_exception(*sys.exc_info(), limit=-6))[-3000:])
    data = memoryview(pickle.dumps(tuple(ending)))
    while data:
        data = data[os.write(writing, data) :]
    os._exit(0)


Make = Callable[[Path], object]
"""Makes a hostile file at the path, or returns the content for it."""


def made(name: str, make: Make, folder: Path) -> Path:
    """The file of a case, in a folder of its own; `name` is "what is wrong/file name"."""
    place = folder / "".join(letter if letter.isalnum() else "-" for letter in name.partition("/")[0])
    place.mkdir(parents=True)
    path = place / (name.partition("/")[2] or "file")
    content = make(path)
    if isinstance(content, str):
        content = content.encode()
    if isinstance(content, bytes):
        path.write_bytes(content)
    return path


def faults(
    cases: Mapping[str, Make],
    folder: Path,
    read: Callable[[Path], object],
    *,
    code: int = 3,
    accepted: str | tuple[str, ...] = "",
) -> dict[str, Ending]:
    """The cases that did not end as they should: with the code, a message that names the file, and memory to spare.

    Args:
        cases: what is wrong with a file → how it is made.
        folder: where the files are made.
        read: what is given each file.
        code: of the errors.
        accepted: how a text begins that a reader may return instead.
    """
    wrong = {}
    for name, make in cases.items():
        path = made(name, make, folder)
        ending = ending_of(lambda path=path: read(path))  # type: ignore[misc]
        named = path.name[:200] in ending.text or path.parent.name in ending.text
        fine = (ending.code == code and named) or (
            bool(accepted) and ending.code == 0 and ending.text.startswith(accepted)
        )
        if not fine or "MemoryError" in ending.text or "allocate" in ending.text:
            wrong[name] = ending
    return wrong


def loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def folder_instead(path: Path) -> None:
    """A folder of that name."""
    path.mkdir()


def sparse(size: int, beginning: bytes = b"") -> Make:
    """A file that is zero after its beginning, and takes no room on the disk."""

    def make(path: Path) -> None:
        path.write_bytes(beginning)
        os.truncate(path, size)

    return make


def cut(whole: bytes, parts: int) -> dict[str, Make]:
    """The content cut off at so many places."""
    return {
        f"cut off after {part} of {parts}": lambda path, part=part: whole[: len(whole) * part // parts]  # type: ignore[misc]
        for part in range(parts)
    }
