"""The exception tree. Every message says what was found, where, what was expected and what to do next.

Only `modeldoctor.cli.main` turns an exception into text and an exit code; library code raises and never exits.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import IntEnum
from itertools import islice

_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"[=+\-@]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_LINE_END = re.compile(r"[ \t]*[\r\n]+[ \t]*")


class ExitCode(IntEnum):
    """What a shell script can branch on."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    INPUT = 3
    GATE = 4
    INTERRUPTED = 130


def printable(text: str) -> str:
    r"""Text from files without signs that a terminal or page would obey: they are shown as escapes.

    Control characters, ends of lines, and what turns the direction of writing.

    >>> printable("a\x1b[31mb\nc")
    'a\\x1b[31mb\\nc'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_page(text: str) -> str:
    """As `printable`, of a text of several lines."""
    return re.sub(r"[^\n]+", lambda line: printable(line[0].replace("\t", " ")), text)


def one_line(text: str) -> str:
    """A message in one line, so that no name in it looks like a message of its own."""
    return printable(_LINE_END.sub(" ", text.strip()))


def storable(text: str) -> str:
    r"""Text as UTF-8 and HDF5 can hold it: stray bytes of file names and NUL are shown as escapes.

    >>> storable("caf\udce9")
    'caf\\udce9'
    """
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def in_table(value: object) -> object:
    """A cell of a CSV: a text that a spreadsheet would run as a formula gets the sign that keeps it a text.

    >>> in_table("=1+1"), in_table("-1"), in_table("cat"), in_table(-0.5)
    ("'=1+1", '-1', 'cat', -0.5)
    """
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1440, "image"), counted(0, "class", "classes")
    ('1 image', '1,440 images', '0 classes')
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def duration(seconds: float) -> str:
    """A time as options take it, rounded up.

    >>> duration(0.2), duration(90), duration(7200), duration(5401)
    ('1s', '90s', '2h', '1h31m')
    """
    whole = -int(-seconds // 1)
    if whole < 100:
        return f"{whole}s"
    hours, minutes = divmod(-(-whole // 60), 60)
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")


def classes_have(number: int, classes: int) -> str:
    """The beginning of a sentence: "1 of 4 classes has", "2 of 4 classes have"."""
    return f"{number} of {counted(classes, 'class', 'classes')} {'has' if number == 1 else 'have'}"


def shortened(names: Collection[str], limit: int = 5) -> str:
    """A list for a sentence, such as "a, b and 7 more".

    >>> shortened(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, islice(names, limit))) + more


class ModelDoctorError(Exception):
    """A failure that a person can act on.

    Args:
        found: what is wrong, as a sentence without its full stop.
        where: the file, key or option in which it was found.
        expected: what would have been right.
        hint: what to do next.
    """

    exit_code: ExitCode = ExitCode.FAULT
    said = False
    """Whether another process of the same job has told the user of a failure."""

    def __init__(self, found: str, *, where: str | None = None, expected: str | None = None, hint: str | None = None):
        self.found, self.where, self.expected, self.hint = found, where, expected, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [("found", self.found), ("where", self.where), ("expected", self.expected), ("next", self.hint)]
        return "\n".join(f"{name}: {one_line(text)}" for name, text in parts if text)


class UsageError(ModelDoctorError):
    """The command line or call is wrong: an unknown option value, options that exclude each other."""

    exit_code = ExitCode.USAGE


class InputError(ModelDoctorError):
    """A file that the user gave cannot be used. Nothing was written."""

    exit_code = ExitCode.INPUT


class CheckpointError(InputError):
    """The checkpoint cannot be read, or its tensors do not fit the network."""


class ArchitectureError(InputError):
    """The network's architecture is unknown or cannot be built."""


class DataError(InputError):
    """The images, labels or the data set's name cannot be used."""


class ConfigError(InputError):
    """A config file or a value in it is wrong."""


class MaskError(InputError):
    """An annotation cannot be used."""


class StoreError(InputError):
    """A stored result is of another schema, damaged, or belongs to another run."""


class GateError(ModelDoctorError):
    """The result is not what the caller asked for; everything was written."""

    exit_code = ExitCode.GATE


class MemoryLimitError(ModelDoctorError):
    """Not even the smallest part of the work fits the memory."""

    exit_code = ExitCode.USAGE


class JobError(ModelDoctorError):
    """Another process of the job ended before its time."""


class GraphError(ModelDoctorError):
    """A network could not be captured or cut; callers fall back to hooks."""


class InterruptedRunError(ModelDoctorError):
    """The user pressed Ctrl-C, or the job was told to end; what was done is kept and can be resumed."""

    exit_code = ExitCode.INTERRUPTED


class ModelDoctorWarning(UserWarning):
    """Something the user should know that does not stop the run."""
