"""Writing HDF5 so that a full disk, or a limit on the size of files, ends in a message.

HDF5 crashes the process when it cannot write what it holds while it closes a file. So it writes through Python, which
notes the first failure and lets HDF5 go on; what it wrote is then discarded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import h5py

from modeldoctor.runtime.files import written_aside


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to fill; it gets its name when it is whole, and an old one stays until then.

    Raises:
        UsageError: it cannot be written.
    """
    with written_aside(path) as aside, aside.open("r+b", buffering=0) as file:
        target = _Target(file)
        try:
            with h5py.File(target, "w") as content:
                yield content
        finally:
            if target.failure is not None:
                raise target.failure


class _Target:
    """A binary file for HDF5 to write to, which never says that it cannot.

    Attributes:
        failure: the first error of the system's, if there was one.
    """

    def __init__(self, file: FileIO):
        self._file = file
        self.failure: OSError | None = None

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int) -> bytes:
        """What is not there is zero."""
        return self._file.read(size).ljust(size, b"\0")

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.failure = self.failure or error
        return len(data)

    def truncate(self, size: int) -> int:
        try:
            self._file.truncate(size)
        except OSError as error:
            self.failure = self.failure or error
        return size

    def flush(self) -> None:
        """Nothing is held back."""
