"""HDF5 files: a full disk, a limit on the size of files, or another program that has one open ends in a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from modeldoctor.errors import StoreError
from modeldoctor.results.checked import check_heaps
from modeldoctor.runtime.files import noted, regular, written_aside


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to fill; it gets its name when it is whole, and an old one stays until then.

    Raises:
        UsageError: it cannot be written.
    """
    with written_aside(path) as aside, noted(aside) as file, h5py.File(file, "w") as content:
        yield content


def open_hdf5(path: Path) -> h5py.File:
    """Open a file to read it.

    Raises:
        StoreError: another program has it open to write.
        OSError: it is not there, or is no HDF5 file.
        ValueError: it is damaged where the HDF5 library does not look.
    """
    try:
        file = h5py.File(regular(path), "r")
    except BlockingIOError as error:
        raise StoreError(
            "another program has this file open, and may be writing to it",
            where=str(path),
            expected="a file that nobody writes to",
            hint="close it there, such as an h5py.File of a notebook or a viewer, and run this again",
        ) from error
    try:
        check_heaps(path)
    except ValueError:
        file.close()
        raise
    return file
