"""Writing HDF5 so that a full disk, or a limit on the size of files, ends in a message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from modeldoctor.runtime.files import noted, written_aside


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file to fill; it gets its name when it is whole, and an old one stays until then.

    Raises:
        UsageError: it cannot be written.
    """
    with written_aside(path) as aside, noted(aside) as file, h5py.File(file, "w") as content:
        yield content
