"""The HDF5 contract at the head of store.py, read with plain h5py and with xarray; damage; interrupted writes.

`fixtures/diagnosis-schema1.h5` is what `write_diagnosis(make_diagnosis(), path)` wrote when schema 1 was released. It
is never made anew: it stands for the files that users have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray
from stored_results import with_pictures

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.errors import ExitCode, StoreError, UsageError
from modeldoctor.results.diagnosis import Diagnosis, Finding, Kernel, Verdict
from modeldoctor.results.hdf5 import read_diagnosis, write_diagnosis

Make = Callable[..., Diagnosis]
FIXTURE = Path(__file__).parent.parent / "fixtures" / "diagnosis-schema1.h5"
NAMES = ["cat 🐈", "a \"b\" 'c'", "<i>naïve</i>"]


def assert_same(one: Any, other: Any, where: str = "diagnosis") -> None:
    """Equal field by field, NaN equal to NaN."""
    if is_dataclass(one):
        assert type(one) is type(other), where
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, tuple):
        assert isinstance(other, tuple), where
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(one, np.ndarray):
        assert one.shape == other.shape, where
        np.testing.assert_array_equal(one, other, where)
    else:
        assert one == other or (one != one and other != other), where


@pytest.fixture
def written(handmade: Make, tmp_path: Path) -> Path:
    write_diagnosis(handmade(), tmp_path / "diagnosis.h5")
    return tmp_path / "diagnosis.h5"


def test_what_is_written_is_read_again(handmade: Make, written: Path) -> None:
    assert_same(handmade(), read_diagnosis(written))


@pytest.mark.parametrize(
    "changes",
    [
        {"misdiagnosed": (), "limits": None, "wrong_count": 0},
        {"limits": None, "warnings": (), "broken": ()},
        {"layers": {}},
        {"classes": ("", "  ", "x" * 5000)},
        {"config": DiagnoseConfig(layers="é 🐈 \" '"), "arch": "module/É"},
        {
            "findings": (
                Finding(name="class-order", sentence="s", action="a", wrong=3),
                Finding(name="duplicates", sentence="s", action="a", wrong=0, samples=(0, 2)),
            )
        },
    ],
    ids=["nothing wrong", "no reference", "no layer", "odd names", "odd config", "a finding without images"],
)
def test_what_may_be_missing_or_odd_is_read_again(handmade: Make, tmp_path: Path, changes: dict[str, Any]) -> None:
    write_diagnosis(handmade(**changes), tmp_path / "d.h5")
    assert_same(handmade(**changes), read_diagnosis(tmp_path / "d.h5"))


def test_layers_come_back_in_execution_order(handmade: Make, tmp_path: Path) -> None:
    layers = handmade().layers
    backwards = dict(reversed(layers.items()))
    write_diagnosis(handmade(layers=backwards), tmp_path / "d.h5")
    assert list(read_diagnosis(tmp_path / "d.h5").layers) == ["body.1#2", "stem.conv"]


def test_names_that_utf8_cannot_hold_are_escaped(handmade: Make, tmp_path: Path) -> None:
    names = ("caf\udce9", "nul\0", "c")
    write_diagnosis(handmade(classes=names, warnings=("caf\udce9: odd",)), tmp_path / "d.h5")
    again = read_diagnosis(tmp_path / "d.h5")
    assert again.classes == ("caf\\udce9", "nul\\x00", "c")
    assert again.warnings == ("caf\\udce9: odd",)


def test_paths_may_be_text(handmade: Make, tmp_path: Path) -> None:
    write_diagnosis(handmade(), str(tmp_path / "d.h5"))
    assert read_diagnosis(str(tmp_path / "d.h5")).seed == 7


@pytest.mark.filterwarnings("ignore:The 'phony_dims' kwarg")
def test_xarray_reads_a_layer_labelled(written: Path) -> None:
    with xarray.open_dataset(written, engine="h5netcdf", group="layers/stem.conv") as layer:
        for name in ("correlation", "variance", "signed", "activation", "contribution"):
            assert layer[name].dims == ("class", "channel")
        assert layer["count"].dims == ("class",)
        assert layer["class"].values.tolist() == NAMES
        assert layer["channel"].values.tolist() == [0, 1, 2, 3]
        assert layer["correlation"].sel({"class": NAMES[0]}).values.tolist() == [1, 6, 11, 2]
        assert layer["correlation"].sel({"class": NAMES[2]}).isnull().all()


def test_root_holds_to_the_contract(written: Path) -> None:
    with h5py.File(written) as file:
        root = dict(file.attrs)
        assert root["schema"] == 1
        assert (root["seed"], root["num_classes"], root["wrong"]) == (7, 3, 4)
        assert root["created"] == "2025-01-02T03:04:05+00:00"
        assert (root["arch"], root["checkpoint_sha256"]) == ("timm/test_resnet", "ab" * 32)
        assert (root["modeldoctor"], root["torch"], root["device"]) == ("0.1.0", "2.9.0", "cpu")
        assert root["examined"] == "val"
        assert json.loads(root["splits"]) == ["train", "val"]
        assert json.loads(root["config"])["noise_ranges"] == [0.5, 1.0]
        assert json.loads(root["versions"]) == {"modeldoctor": "0.1.0", "torch": "2.9.0"}
        assert file["classes"].asstr()[()].tolist() == NAMES
        assert file["warnings"].asstr()[()].tolist() == ["1 of 3 classes has no images", "«val»: look out"]
        assert file["broken/path"][()].tolist() == [b"val/caf\xe9.png", b"val/x.png"]
        assert file["broken/reason"].asstr()[1] == "not a picture"


def test_layers_hold_to_the_contract(written: Path) -> None:
    with h5py.File(written) as file:
        assert set(file["layers"]) == {"stem.conv", "body.1#2"}
        layer = file["layers/stem.conv"]
        expected = {
            "kind": "conv", "channels": 4, "height": 4, "width": 2, "depth": 0.5, "macs_after": 1200, "delta": 0.25,
            "activation_std": 2.5, "order": 0,
        }  # fmt: skip
        assert dict(layer.attrs) == expected
        assert file["layers/body.1#2"].attrs["order"] == 1
        np.testing.assert_allclose(layer["standard_error"][0, 0], (1.5 / 2) ** 0.5)
        first = {"correlation": 1.0, "variance": 1.5, "signed": 0.0, "activation": 3.0, "contribution": 4.0}
        for name, value in first.items():
            data = layer[name]
            assert (data.dtype, data.shape, data[0, 0]) == (np.dtype("f4"), (3, 4), value)
            assert np.isnan(data[2]).all()
            assert [data.dims[axis].label or data.dims[axis][0].name for axis in (0, 1)] == [
                "/layers/stem.conv/class",
                "/layers/stem.conv/channel",
            ]
        assert layer["count"].dtype == np.dtype("i4")
        assert layer["count"][()].tolist() == [2, 1, 0]
        assert layer["count"].dims[0][0].asstr()[()].tolist() == NAMES


def test_samples_hold_to_the_contract(written: Path) -> None:
    """The handmade arrays are int64 and float64: the types are the file's, not the writer's caller's."""
    with h5py.File(written) as file:
        samples = file["samples"]
        assert samples["path"][0] == b"train/\xff0.png"
        kinds = {name: samples[name].dtype for name in samples if name != "path"}
        assert kinds == {
            "split": np.dtype("i4"), "label": np.dtype("i4"), "predicted": np.dtype("i4"),
            "confidence": np.dtype("f4"), "used_in_diagnosis": np.dtype(bool), "stability": np.dtype("f4"),
            "noise_range": np.dtype("f4"),
        }  # fmt: skip
        assert samples["split"][()].tolist() == [0] * 4 + [1] * 6
        assert samples["used_in_diagnosis"][()].sum() == 3
        assert samples["stability"].shape == (10, 2)
        assert np.isnan(samples["stability"][:5]).all()
        assert samples["noise_range"][()].tolist() == [0.5, 1.0]


def test_misdiagnosed_hold_to_the_contract(written: Path) -> None:
    with h5py.File(written) as file:
        images = file["misdiagnosed"]
        for name in ("sample", "label", "predicted", "resembles"):
            assert images[name].dtype == np.dtype("i4"), name
        for name in ("confidence", "strength", "stability", "fallback", "background_share", "foreign_share"):
            assert images[name].dtype == np.dtype("f4"), name
        assert images["resemblance"].dtype == np.dtype("f4")
        assert images["sample"][()].tolist() == [5, 6, 8, 9]
        assert images["resembles"][()].tolist() == [1, -1, -1, -1]
        assert images["verdict"].asstr()[()].tolist() == ["isolated", "foreign-kernels", "isolated", "unclear"]
        assert set(images["kernels"]) == {field.name for field in fields(Kernel)}
        assert images["kernels/channel"][()].tolist() == [[-1, -1], [3, 0], [2, -1], [-1, -1]]
        assert images["kernels/size"][1].tolist() == [8.0, 2.0]
        assert json.loads(images.attrs["limits"])["references"] == 2


def test_a_reader_ignores_what_it_does_not_know(handmade: Make, written: Path) -> None:
    with h5py.File(written, "a") as file:
        file.attrs["later"] = "x"
        file["layers/stem.conv/later"] = np.zeros(3)
        file["later/thing"] = 1
    assert_same(handmade(), read_diagnosis(written))


@pytest.mark.parametrize("schema", [2, 0, "one"])
def test_another_schema_is_refused_by_number(written: Path, schema: object) -> None:
    with h5py.File(written, "a") as file:
        file.attrs["schema"] = schema
    with pytest.raises(StoreError, match=f"schema {schema}") as caught:
        read_diagnosis(written)
    assert caught.value.expected == "a diagnosis of schema 1"
    assert caught.value.exit_code == ExitCode.INPUT == 3


def test_an_hdf5_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(StoreError, match="without a schema number"):
        read_diagnosis(tmp_path / "other.h5")


@pytest.mark.parametrize("content", [b"", b"no HDF5 at all\n" * 50, None], ids=["empty", "text", "missing"])
def test_a_file_that_is_no_diagnosis_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "d.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError) as caught:
        read_diagnosis(path)
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)


def test_a_truncated_file_is_refused_wherever_it_ends(written: Path, tmp_path: Path) -> None:
    whole = written.read_bytes()
    for length in range(1, len(whole), len(whole) // 60):
        (tmp_path / "cut.h5").write_bytes(whole[:length])
        with pytest.raises(StoreError):
            read_diagnosis(tmp_path / "cut.h5")


@pytest.mark.parametrize("gone", ["classes", "samples/label", "misdiagnosed", "layers/stem.conv/count", "broken"])
def test_a_file_with_a_part_missing_is_refused(written: Path, gone: str) -> None:
    with h5py.File(written, "a") as file:
        del file[gone]
    with pytest.raises(StoreError):
        read_diagnosis(written)


def test_an_interrupted_write_leaves_the_old_file_whole(
    handmade: Make, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("modeldoctor.results.hdf5._write_misdiagnosed", fail)
    with pytest.raises(KeyboardInterrupt):
        write_diagnosis(handmade(seed=8), written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_a_new_file_replaces_the_old_one(handmade: Make, written: Path) -> None:
    write_diagnosis(handmade(seed=8), written)
    assert read_diagnosis(written).seed == 8
    assert list(written.parent.iterdir()) == [written]


def test_a_place_that_cannot_be_written_is_said(handmade: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "file" / "d.h5", tmp_path / "folder"):
        with pytest.raises(UsageError, match="cannot write"):
            write_diagnosis(handmade(), place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_file_of_the_first_release_is_still_read() -> None:
    old = read_diagnosis(FIXTURE)
    assert (old.arch, old.seed, old.wrong_count, old.examined, old.device) == ("timm/test_resnet", 7, 4, "val", "cpu")
    assert list(old.classes) == NAMES
    assert list(old.layers) == ["stem.conv", "body.1#2"]
    stem = old["stem.conv"]
    assert (stem.kind, stem.channels, stem.height, stem.width, stem.macs_after) == ("conv", 4, 4, 2, 1200)
    assert (stem.depth, stem.delta, stem.activation_std) == (0.5, 0.25, 2.5)
    assert stem.correlation[:2].tolist() == [[1, 6, 11, 2], [0, 1, 4, 4]]
    assert stem.variance[0].tolist() == [1.5, 6.5, 11.5, 2.5]
    assert stem.signed[0].tolist() == [0, 5, 10, 1]
    assert stem.activation[0].tolist() == [3, 8, 13, 4]
    assert stem.contribution[0].tolist() == [4, 9, 14, 5]
    assert stem.count.tolist() == [2, 1, 0]
    assert np.isnan(stem.correlation[2]).all()
    samples = old.samples
    assert samples.splits == ("train", "val")
    assert samples.path[3] == b"train/\xff3.png"
    assert samples.label.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 2]
    assert samples.predicted.tolist() == [0, 0, 1, 0, 0, 1, 2, 1, 0, 1]
    assert samples.confidence.tolist() == [1.0, 0.9375, 1.0, 0.5, 1.0, 0.75, 0.5, 1.0, 0.5, 0.25]
    assert samples.stability[9].tolist() == [1.0, 0.5]
    assert [image.verdict for image in old.misdiagnosed][:2] == [Verdict.ISOLATED, Verdict.FOREIGN_KERNELS]
    assert [kernel.channel for kernel in old.misdiagnosed[1].kernels] == [3, 0]
    assert old.misdiagnosed[1].kernels[0].size == 8.0
    assert old.limits is not None
    assert (old.limits.stability, old.limits.resemblance) == (0.75, -0.5)
    assert np.isnan(old.limits.background_share)
    assert old.broken[0] == ("val/caf\udce9.png", "the file is empty (0 bytes)")
    assert old.warnings[0] == "1 of 3 classes has no images"
    assert old.config.threshold == 0.2
    assert old.created == "2025-01-02T03:04:05+00:00"


def test_maps_and_adversarial_images_come_back_and_may_be_missing(handmade: Make, tmp_path: Path) -> None:
    path = tmp_path / "d.h5"
    written = with_pictures(handmade())
    write_diagnosis(written, path)
    again = read_diagnosis(path)
    assert (again.command, again.explaining_s) == (written.command, 41.5)
    for kind in ("shown", "pictures", "altered", "adversarial"):
        one, other = getattr(written, kind), getattr(again, kind)
        for field in fields(one):
            value, read = getattr(one, field.name), getattr(other, field.name)
            if isinstance(value, str):
                assert read == value
            else:
                np.testing.assert_allclose(read, value, rtol=1e-6)
    with h5py.File(path, "r+") as file:
        for name in ("shown", "pictures", "altered", "adversarial"):
            del file[name]
        del file.attrs["command"], file.attrs["explaining_s"]
    older = read_diagnosis(path)
    assert (older.shown, older.pictures, older.altered, older.adversarial) == (None, None, None, None)
    assert older.command == ""
    assert np.isnan(older.explaining_s)
    assert older.wrong_count == written.wrong_count
