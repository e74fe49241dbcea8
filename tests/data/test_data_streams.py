import io
import logging
import tarfile
import types

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import streams
from modeldoctor.data.classes import match_classes
from modeldoctor.data.loader import make_loader
from modeldoctor.data.sources import open_data
from modeldoctor.data.streams import open_indexed, open_streams
from modeldoctor.errors import DataError, MaskError, ModelDoctorWarning, UsageError

PREPROCESSING = Preprocessing(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3)


def png(number):
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write_shard(file, numbers, broken=()):
    with tarfile.open(file, "w") as archive:
        for number in numbers:
            image = b"broken" if number in broken else png(number)
            for name, body in ((f"{number:04d}.png", image), (f"{number:04d}.cls", str(number % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                archive.addfile(member, io.BytesIO(body))


def expected(number):
    oracle = create_transform((3, 16, 16), interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=1.0)
    return oracle(Image.open(io.BytesIO(png(number))))


@pytest.fixture
def shards(tmp_path):
    write_shard(tmp_path / "train-0000.tar", range(5))
    write_shard(tmp_path / "train-0001.tar", range(5, 8))
    write_shard(tmp_path / "validation-0000.tar", range(2))
    return tmp_path


def test_shards_are_streamed_in_order(shards):
    sets = open_data("wds/mine", root=shards, preprocessing=PREPROCESSING)
    assert list(sets) == ["train", "val"]
    stream = sets["train"]
    assert len(stream) == 8
    assert stream.labels is None
    assert stream.paths[7] == "train/00007"
    for _ in range(2):
        samples = list(stream.iterate())
        assert [sample.index for sample in samples] == list(range(8))
        assert [sample.label for sample in samples] == [number % 3 for number in range(8)]
    for number in (0, 7):
        torch.testing.assert_close(samples[number].image, expected(number), rtol=0, atol=1e-5)


def test_chosen_indices(shards):
    stream = open_streams("wds/mine", shards, preprocessing=PREPROCESSING, download=False)["train"]
    assert [sample.index for sample in stream.iterate([1, 6])] == [1, 6]
    assert list(stream.iterate([])) == []
    with pytest.raises(UsageError, match="not ascending"):
        list(stream.iterate([6, 1]))
    with pytest.raises(DataError, match="ends before image 8"):
        list(stream.iterate([6, 8]))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_loader_takes_streams(shards, batch_size):
    stream = open_streams("wds/mine", shards, preprocessing=PREPROCESSING, download=False)["train"]
    relabelled = stream.with_classes(match_classes(("c", "b", "a"), ("a", "b", "c"), 3))
    batches = list(make_loader(relabelled, batch_size=batch_size, workers=2))
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(8))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [2 - number % 3 for number in range(8)]
    assert max(len(batch.labels) for batch in batches) == min(batch_size, 8)


def test_broken_samples_are_counted_in_one_warning_not_logged(tmp_path, caplog):
    write_shard(tmp_path / "0.tar", range(5), broken=(1, 3))
    stream = open_streams("wds/mine", tmp_path, preprocessing=PREPROCESSING, download=False)["all"]
    with pytest.warns(ModelDoctorWarning, match="all: 2 samples could not be read"):
        assert [sample.label for sample in stream.iterate()] == [0, 2, 1]
    assert not caplog.records


def test_streams_read_in_turn_leave_no_setting_behind(shards):
    sets = open_streams("wds/mine", shards, preprocessing=PREPROCESSING, download=False)
    pairs = list(zip(sets["val"].iterate(), sets["train"].iterate(), strict=False))
    assert [(one.index, two.index) for one, two in pairs] == [(0, 0), (1, 1)]
    assert logging.getLogger("timm.data.readers").propagate
    assert not logging.getLogger("timm.data.readers").handlers
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_shards_described_by_timms_info_file(shards):
    (shards / "_info.json").write_text(
        '{"splits": {"train": {"name": "train", "num_samples": 5, "filenames": ["train-0000.tar"],'
        ' "shard_lengths": [5]}}}'
    )
    stream = open_streams("wds/mine", shards, preprocessing=PREPROCESSING, download=False)["train"]
    assert len(stream) == 5 == len(list(stream.iterate()))
    (shards / "_info.json").write_text("{")
    with pytest.raises(DataError, match="description cannot be read"):
        open_streams("wds/mine", shards, preprocessing=PREPROCESSING, download=False)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no shards"):
        open_streams("wds/mine", tmp_path, preprocessing=PREPROCESSING, download=False)
    with pytest.raises(UsageError, match="no folder"):
        open_streams("wds/mine", None, preprocessing=PREPROCESSING, download=False)
    with pytest.raises(MaskError, match="masks for a stream"):
        open_data("wds/mine", root=tmp_path, preprocessing=PREPROCESSING, masks=tmp_path)
    monkeypatch.setattr(streams, "find_spec", lambda name: None)
    for name, package in (("hfds/x/y", "datasets"), ("tfds/x", "tensorflow-datasets"), ("wds/x", "webdataset")):
        with pytest.raises(DataError, match=f"pip install {package}"):
            open_data(name, root=tmp_path, preprocessing=PREPROCESSING)


def test_hugging_face_sets_by_index(monkeypatch):
    """The package is not needed: timm's reader is stood in for, and the switch to the network is watched."""
    seen = []

    class Reader:
        def __init__(self):
            self.class_to_idx = {"dog": 1, "cat": 0}

        def __len__(self):
            return 3

        def iter_targets(self):
            return iter([1, 0, 1])

        def __getitem__(self, index):
            return io.BytesIO(png(index) if index else b"broken"), 0

    def create(name, *, split, root):
        seen.append((name, split, huggingface_hub.constants.HF_HUB_OFFLINE))
        if split not in ("train", "validation"):
            raise ValueError(f'Unknown split "{split}"')
        return types.SimpleNamespace(reader=Reader())

    monkeypatch.setattr(streams, "_require", lambda name: "hfds")
    monkeypatch.setattr(streams, "create_dataset", create)
    contents = open_indexed("hfds/me/pets", None, download=False)
    assert list(contents) == ["train", "val"]
    assert contents["train"].class_names == ("cat", "dog")
    assert contents["train"].labels.tolist() == [1, 0, 1]
    assert contents["val"].pictures.read(2, "RGB").size == (24, 20)
    assert all(offline for *_, offline in seen)
    seen.clear()
    open_indexed("hfds/me/pets", None, download=True)
    assert not any(offline for *_, offline in seen)


@pytest.mark.parametrize("label", ["-1", "3"])
def test_a_label_that_counts_no_class_is_refused(tmp_path, label):
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, body in (("0.png", png(0)), ("0.cls", label.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    stream = open_streams("wds/mine", tmp_path, preprocessing=PREPROCESSING, download=False)["all"]
    with pytest.raises(DataError, match=f"the label {label} of image 0"):
        list(stream.with_classes(match_classes(("c", "b", "a"), ("a", "b", "c"), 3)).iterate())


def test_pictures_of_many_bits_are_scaled_not_cut(tmp_path):
    """Twelve bits in sixteen, as of a microscope: Pillow's own conversion makes nearly all of it white."""
    pixels = np.linspace(0, 4095, 16 * 16).astype(np.uint16).reshape(16, 16)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for name, body in (("0.png", stream.getvalue()), ("0.cls", b"0")):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    found = open_streams("wds/mine", tmp_path, preprocessing=PREPROCESSING, download=False)["all"]
    with pytest.warns(ModelDoctorWarning, match="all: images have more than 8 bits .* as 12 bits"):
        (sample,) = found.iterate()
    wanted = ((pixels // 16).astype(np.float32) / 255 - 0.5) / 0.25
    np.testing.assert_allclose(sample.image.numpy(), np.stack([wanted] * 3), atol=1e-6)


def test_a_split_whose_labels_are_kept_back_is_left_out(monkeypatch):
    """The hub marks them with -1, which would count from the end: every image would be of the last class."""

    class Reader(list):
        class_to_idx = {"dog": 1, "cat": 0}  # noqa: RUF012

        def iter_targets(self):
            return iter(self)

    kept = {"train": Reader([1, 0]), "test": Reader([-1, -1, -1])}
    monkeypatch.setattr(streams, "_require", lambda name: "hfds")
    monkeypatch.setattr(
        streams, "create_dataset", lambda name, *, split, root: types.SimpleNamespace(reader=kept[split])
    )
    with pytest.warns(ModelDoctorWarning, match=r"test: 3 of 3 images have no label \(-1\): the split is left out"):
        contents = open_indexed("hfds/me/pets", None, download=False)
    assert list(contents) == ["train"]


def test_a_split_that_cannot_be_read_is_named(monkeypatch):
    """Otherwise the class correlation would be of another split than the user thinks."""

    class Reader(list):
        class_to_idx = {"dog": 1, "cat": 0}  # noqa: RUF012

        def iter_targets(self):
            return iter(self)

    def create(name, *, split, root):
        if split == "validation":
            raise ValueError("Unknown split validation")
        return types.SimpleNamespace(reader=Reader([1, None] if split == "train" else [1, 0]))

    monkeypatch.setattr(streams, "_require", lambda name: "hfds")
    monkeypatch.setattr(streams, "create_dataset", create)
    with pytest.warns(ModelDoctorWarning, match="the split train cannot be read and is left out: int") as caught:
        assert list(open_indexed("hfds/me/pets", None, download=False)) == ["val", "test"]
    assert len(caught) == 1
