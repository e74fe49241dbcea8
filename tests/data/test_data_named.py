"""The files are written byte by byte as the originals are laid out; only their checksums are other."""

import gzip
import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.io
from torchvision import datasets

from modeldoctor.data import named
from modeldoctor.data.named import open_named
from modeldoctor.errors import DataError, UsageError

RNG = np.random.default_rng(0)


def md5(file):
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_idx(folder, count=7, train_count=11):
    folder.mkdir(parents=True)
    truth = {}
    for split, prefix, size in (("train", "train", train_count), ("test", "t10k", count)):
        pixels = RNG.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = RNG.integers(0, 10, size, dtype=np.uint8)
        header = struct.pack(">IIII", 0x00000803, size, 28, 28)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x00000801, size) + labels.tobytes())
        truth[split] = pixels, labels
    return truth


def check(contents, truth, mode):
    assert list(contents) == ["train", "test"]
    for split, (pixels, labels) in truth.items():
        content = contents[split]
        assert content.labels.dtype == np.int64
        assert content.labels.tolist() == labels.tolist()
        assert content.paths[3] == f"{split}/00003"
        for index in (0, len(labels) - 1):
            assert np.array_equal(np.asarray(content.pictures.read(index, mode)), pixels[index])


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_idx_files(tmp_path, name):
    truth = write_idx(tmp_path / name / "raw")
    contents = open_named(name, tmp_path, download=False)
    check(contents, truth, "L")
    assert contents["test"].class_names == tuple(getattr(datasets, name).classes)


def test_packed_idx_files_are_not_unpacked_unasked(tmp_path):
    raw = tmp_path / "MNIST/raw"
    write_idx(raw)
    for file in list(raw.iterdir()):
        (raw / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    before = sorted(raw.iterdir())
    with pytest.raises(DataError, match="missing: MNIST/raw/train-images-idx3-ubyte, ") as caught:
        open_named("mnist", tmp_path, download=False)
    assert "gunzip -k MNIST/raw/train-images-idx3-ubyte.gz" in caught.value.hint
    assert "--download" in caught.value.hint
    assert sorted(raw.iterdir()) == before


@pytest.mark.parametrize("kept", [0, 10, 3000])
def test_damaged_idx_file(tmp_path, kept):
    raw = tmp_path / "MNIST/raw"
    write_idx(raw)
    file = raw / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="MNIST's test split cannot be read"):
        open_named("MNIST", tmp_path, download=False)


def write_cifar(root, monkeypatch, kind, names, label_key, meta_key):
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    truth = {}
    for split, attribute in (("train", "train_list"), ("test", "test_list")):
        listed, images, targets = [], [], []
        for name, _ in getattr(kind, attribute):
            pixels = RNG.integers(0, 256, (4, 3072), dtype=np.uint8)
            labels = RNG.integers(0, len(names), 4).tolist()
            (folder / name).write_bytes(pickle.dumps({"data": pixels, label_key: labels}, protocol=2))
            listed.append([name, md5(folder / name)])
            images.append(pixels.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1))
            targets += labels
        monkeypatch.setattr(kind, attribute, listed)
        truth[split] = np.concatenate(images), np.array(targets)
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({meta_key: names}, protocol=2))
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})
    return truth


CIFARS = [
    (datasets.CIFAR10, "labels", "label_names", 10),
    (datasets.CIFAR100, "fine_labels", "fine_label_names", 100),
]


@pytest.mark.parametrize(("kind", "label_key", "meta_key", "count"), CIFARS)
def test_cifar_files(tmp_path, monkeypatch, kind, label_key, meta_key, count):
    names = [f"class{number}" for number in range(count)]
    truth = write_cifar(tmp_path, monkeypatch, kind, names, label_key, meta_key)
    contents = open_named(kind.__name__, tmp_path, download=False)
    check(contents, truth, "RGB")
    assert contents["train"].class_names == tuple(names)


def test_damaged_cifar_file_is_named(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, datasets.CIFAR10, ["a"] * 10, "labels", "label_names")
    file = tmp_path / "cifar-10-batches-py/data_batch_3"
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "cifar-10-batches-py/test_batch").unlink()
    with pytest.raises(DataError) as caught:
        open_named("cifar-10", tmp_path, download=False)
    assert caught.value.found == (
        "missing: cifar-10-batches-py/test_batch; "
        "damaged (its MD5 differs from the original's): cifar-10-batches-py/data_batch_3"
    )
    assert "--download" in caught.value.hint


def test_svhn_files(tmp_path, monkeypatch):
    truth, listed = {}, dict(datasets.SVHN.split_list)
    for split in ("train", "test"):
        pixels = RNG.integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
        labels = np.array([[10], [1], [9], [10], [5]], dtype=np.uint8)
        file = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(file, {"X": pixels, "y": labels})
        listed[split] = ["", file.name, md5(file)]
        truth[split] = pixels.transpose(3, 0, 1, 2), labels[:, 0] % 10
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    contents = open_named("svhn", tmp_path, download=False)
    check(contents, truth, "RGB")
    assert contents["train"].class_names == tuple("0123456789")


@pytest.mark.parametrize("with_names", [True, False])
def test_stl10_files_without_the_unlabelled_images(tmp_path, monkeypatch, with_names):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    truth = {}
    for split in ("train", "test"):
        pixels = RNG.integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
        labels = np.array([1, 10, 3, 2], dtype=np.uint8)
        # The original is column-major: channel, then column, then row.
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes(labels.tobytes())
        listed = [[f"{split}_{part}.bin", md5(folder / f"{split}_{part}.bin")] for part in "Xy"]
        monkeypatch.setattr(named._LabelledSTL10, f"{split}_list", listed)
        truth[split] = pixels, labels - 1
    names = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
    if with_names:
        (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    contents = open_named("STL10", tmp_path, download=False)
    check(contents, truth, "RGB")
    assert contents["train"].class_names == names


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10", "CIFAR100", "SVHN", "STL10"])
def test_missing_files_are_listed_and_nothing_is_fetched(tmp_path, name, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("network"))
    with pytest.raises(DataError, match="missing: ") as caught:
        open_named(name, tmp_path, download=False)
    assert caught.value.where == str(tmp_path)
    assert "--download" in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_download_is_tried_only_when_asked_and_its_failure_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(DataError, match=r"cannot be downloaded or read: .*no route to host"):
        open_named("CIFAR10", tmp_path, download=True)


def test_unknown_name_and_missing_root(tmp_path):
    with pytest.raises(UsageError, match="did you mean torchvision:CIFAR100"):
        open_named("cifar-1000", tmp_path, download=False)
    with pytest.raises(UsageError, match="no folder to look"):
        open_named("MNIST", None, download=False)
