"""Stored results from anybody: whatever is wrong with them is one error that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import make_diagnosis
from stored_results import with_pictures, write_run

from modeldoctor.errors import StoreError
from modeldoctor.report import make_report
from modeldoctor.results.hdf5 import read_diagnosis, write_diagnosis

Change = Callable[[h5py.File], object]


def replaced(name: str, data: object, **options: object) -> Change:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data, **options)

    return change


def huge(file: h5py.File) -> None:
    """10 GB declared, nothing stored."""
    del file["samples/confidence"]
    file.create_dataset("samples/confidence", shape=(2_500_000_000,), dtype="f4", chunks=(1 << 20,))


def bomb(file: h5py.File) -> None:
    del file["samples/stability"]
    data = file.create_dataset("samples/stability", shape=(1 << 30, 2), dtype="f4", chunks=(1 << 20, 2), compression=9)
    data[: 1 << 20] = 0


def linked(file: h5py.File) -> None:
    del file["samples/confidence"]
    file["samples/confidence"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft(file: h5py.File) -> None:
    del file["layers/stem.conv/variance"]
    file["layers/stem.conv/variance"] = h5py.SoftLink("/layers/stem.conv/correlation")


def endless(file: h5py.File) -> None:
    file["layers/stem.conv/again"] = file["layers"]


CHANGES: dict[str, Change] = {
    "huge": huge,
    "bomb": bomb,
    "external link": linked,
    "soft link": soft,
    "a group within itself": endless,
    "labels beyond the classes": replaced("samples/label", np.full(10, 7)),
    "negative labels": replaced("misdiagnosed/label", np.full(4, -1)),
    "samples beyond the rows": replaced("misdiagnosed/sample", np.full(4, 99)),
    "fewer confidences": replaced("samples/confidence", np.zeros(3, "f4")),
    "labels that are text": replaced("samples/label", np.array([b"cat"] * 10)),
    "another number of kernels": replaced("layers/stem.conv/correlation", np.zeros((3, 9), "f4")),
    "a scalar layer": replaced("layers/stem.conv/correlation", 3.0),
    "a verdict of nobody": replaced("misdiagnosed/verdict", ["bad luck"] * 4, dtype=h5py.string_dtype()),
    "no samples": lambda file: file.__delitem__("samples"),
    "a dataset in place of a group": replaced("misdiagnosed", np.zeros(3)),
    "configuration of text": lambda file: file.attrs.__setitem__("config", '"x"'),
    "configuration cut off": lambda file: file.attrs.__setitem__("config", "{"),
    "splits of numbers": lambda file: file.attrs.__setitem__("splits", "[]"),
    "limits of nobody": lambda file: file["misdiagnosed"].attrs.__setitem__("limits", '{"a": 1}'),
    "channels of text": lambda file: file["layers/stem.conv"].attrs.__setitem__("channels", "many"),
    "no order": lambda file: file["layers/stem.conv"].attrs.__delitem__("order"),
    "examined a split of nobody": lambda file: file.attrs.__setitem__("examined", "elsewhere"),
    "fewer wrong than none": lambda file: file.attrs.__setitem__("wrong", -5),
    "versions of a list": lambda file: file.attrs.__setitem__("versions", "[1]"),
    "masked of text": lambda file: file.attrs.__setitem__("masked", '{"val": "many"}'),
    "paths of numbers": replaced("samples/path", np.arange(10)),
    "strengths of text": replaced("misdiagnosed/strength", np.array([b"a"] * 4)),
    "pictures without pixels": replaced("shown/thumbnail", np.zeros((2, 0, 0, 3), "u1")),
    "a picture of nothing": replaced("shown/sample", np.array([44, 45])),
    "small pictures of fewer images": replaced("pictures/sample", np.array([5, 6])),
    "a small picture of nothing": replaced("pictures/sample", np.array([5, 6, 8, 44])),
    "small pictures in grey": replaced("pictures/thumbnail", np.zeros((4, 8, 8, 1), "u1")),
    "small pictures of floats": replaced("pictures/thumbnail", np.zeros((4, 8, 8, 3), "f4")),
    "altered in a way of nobody": replaced("altered/change", np.array([0, 99])),
    "altered into no class": replaced("altered/predicted", np.array([0, 3])),
    "fewer altered pictures": replaced("altered/picture", np.zeros((1, 20, 16, 3), "u1")),
    "fewer altered confidences": replaced("altered/confidence", np.zeros(1, "f4")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_diagnosis_that_is_not_what_it_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "d.h5"
    write_diagnosis(with_pictures(make_diagnosis()), path)
    with h5py.File(path, "a") as file:
        CHANGES[name](file)
    for read in (read_diagnosis, make_report):
        with pytest.raises(StoreError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 3


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_diagnosis_that_was_cut_off(tmp_path: Path, share: float) -> None:
    path = tmp_path / "d.h5"
    write_diagnosis(make_diagnosis(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StoreError):
        read_diagnosis(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trial.json", b""),
        ("trial.json", b"[" * 20_000),
        ("trial.json", b"null"),
        ("trial.json", b'{"arms": 3}'),
        ("trial.json", b"\xff\xfe"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("config.yaml", b"[" * 20_000),
        ("config.yaml", b"- a\n- b\n"),
        ("history.csv", b"arm,seed\ntreat\n"),
        ("history.csv", b"arm,seed,epoch\ntreat,x,y\n"),
        ("history.csv", b"\xff\xfe\x00"),
        ("maps.h5", b"no HDF5"),
    ],
    ids=str,
)
def test_a_run_directory_with_a_file_of_nonsense(tmp_path: Path, name: str, content: bytes) -> None:
    run = write_run(tmp_path / "run", gain=0.2)
    (run / name).write_bytes(content)
    with pytest.raises(StoreError) as caught:
        make_report(run)
    assert name in str(caught.value)


def edits(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a JSON value, the first of each list."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in edits(part, (*path, key)))]


def test_a_trial_with_any_field_of_another_kind_is_one_error_or_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", gain=0.2)
    whole = json.loads((run / "trial.json").read_text())
    places = [place for place in edits(whole) if place][::3]
    assert len(places) > 20
    for number, place in enumerate(places):
        content = json.loads(json.dumps(whole))
        at = content
        for key in place[:-1]:
            at = at[key]
        at[place[-1]] = ("x", -3, None, [[]], {})[number % 5]
        (run / "trial.json").write_text(json.dumps(content))
        try:
            make_report(run, formats=["json"])
        except StoreError as error:
            assert "trial.json" in str(error), place  # noqa: PT017
