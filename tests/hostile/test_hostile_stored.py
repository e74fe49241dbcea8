"""HDF5 results from anybody: each is read, or refused with a message that names the file; within memory and time."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
from conftest import make_diagnosis
from stored_files import changes, damaged
from stored_results import make_maps, with_pictures
from walk import ending_of

from modeldoctor.errors import StoreError
from modeldoctor.report.views import before_after
from modeldoctor.results.hdf5 import read_diagnosis, write_diagnosis
from modeldoctor.results.maps import read_maps, write_maps


def write_good(path: Path) -> None:
    write_diagnosis(with_pictures(make_diagnosis()), path)


def show_maps(path: Path) -> None:
    """As the report does."""
    before_after(read_maps(path, 3), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("write", "read", "every"),
    [(write_good, read_diagnosis, 41), (lambda path: write_maps(make_maps(), path), show_maps, 4)],
    ids=["diagnosis", "maps"],
)
def test_stored_results(
    tmp_path: Path, write: Callable[[Path], None], read: Callable[[Path], object], every: int
) -> None:
    """In one process of bounded memory: one in so many of the changes, and every text that is there a million times.

    The HDF5 library goes round for ever in the maps whose bytes were flipped for the 43rd time.
    """
    good, bad = tmp_path / "good.h5", tmp_path / "bad.h5"
    write(good)
    cases = [*changes(good)]
    chosen = [case for n, case in enumerate(cases) if n % every == 0 or "million" in case[0]]

    broken = [case for n, case in enumerate(damaged(good.read_bytes())) if n % 4 == 3 or "43: flipped" in case[0]]

    def read_all() -> str:
        refused = 0
        for name, change in chosen:
            shutil.copy(good, bad)
            with h5py.File(bad, "a") as file:
                change(file)
            refused += _refused(name, bad, read)
        for name, content in broken:
            bad.write_bytes(content)
            refused += _refused(name, bad, read)
        return f"refused {refused / (len(chosen) + len(broken)) > 0.5}"

    assert ending_of(read_all) == (0, "refused True")


def _refused(name: str, path: Path, read: Callable[[Path], object]) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path)
    except StoreError as error:
        if str(path) not in str(error) or "memory" in str(error):
            raise AssertionError(f"{name}: {error}") from error
        return True
    except Exception as error:
        raise AssertionError(name) from error
    return False


@pytest.mark.parametrize("value", [float("inf"), -0.5, 1.5])
@pytest.mark.parametrize("place", ["samples/confidence", "misdiagnosed/confidence"])
def test_a_confidence_that_is_no_share_is_refused(tmp_path: Path, place: str, value: float) -> None:
    write_good(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file[place][0] = value
    with pytest.raises(StoreError, match=rf"/{place} holds .* in place of shares"):
        read_diagnosis(tmp_path / "d.h5")


@pytest.mark.parametrize("name", ["arch", "checkpoint_sha256", "created", "device"])
def test_an_attribute_that_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    write_good(tmp_path / "d.h5")
    with h5py.File(tmp_path / "d.h5", "a") as file:
        file.attrs[name] = [1.5, 2.5]
    with pytest.raises(StoreError, match=f"{name} is .* in place of text"):
        read_diagnosis(tmp_path / "d.h5")
