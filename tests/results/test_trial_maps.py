"""`maps.h5` there and back, and what is said of a damaged one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import h5py
import numpy as np
import pytest
from stored_results import make_maps

from modeldoctor.errors import StoreError
from modeldoctor.results.maps import read_maps, write_maps


def test_maps_come_back_as_they_were(tmp_path: Path) -> None:
    maps = make_maps()
    write_maps(maps, tmp_path / "maps.h5")
    again = read_maps(tmp_path / "maps.h5")
    for field in fields(maps):
        one, other = getattr(maps, field.name), getattr(again, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other, err_msg=field.name)
        else:
            assert one == other, field.name


def test_outlines_may_be_missing(tmp_path: Path) -> None:
    write_maps(make_maps(), tmp_path / "maps.h5")
    with h5py.File(tmp_path / "maps.h5", "r+") as file:
        del file["outline"]
    again = read_maps(tmp_path / "maps.h5")
    assert again.outline.shape == again.thumbnail.shape[:3]
    assert not again.outline.any()


def test_what_is_damaged_or_of_another_schema_is_said(tmp_path: Path) -> None:
    path = tmp_path / "maps.h5"
    with pytest.raises(StoreError, match="no readable maps"):
        read_maps(path)
    write_maps(make_maps(), path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 9
    with pytest.raises(StoreError, match="schema 9"):
        read_maps(path)
