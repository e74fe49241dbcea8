import os
import pickle

import pytest

from modeldoctor.data.content import NumberedPaths
from modeldoctor.data.paths import PathTable

PATHS = ["train/cat/1.jpg", "", "train/größe/猫.png", os.fsdecode(b"bad\xff.jpg"), "x"]


def test_holds_what_it_was_given():
    table = PathTable(PATHS)
    assert list(table) == PATHS
    assert table[-1] == "x"
    assert list(table[1:3]) == PATHS[1:3]
    assert "x" in table
    with pytest.raises(IndexError):
        table[5]


def test_empty_table():
    assert list(PathTable([])) == []


def test_is_compact_and_pickles():
    paths = [f"train/class_{number % 100}/{number:07d}.jpg" for number in range(20_000)]
    stored = pickle.dumps(PathTable(paths))
    assert len(stored) < sum(map(len, paths)) + 8 * len(paths) + 1000
    assert list(pickle.loads(stored)) == paths


def test_numbered_paths():
    paths = NumberedPaths("train", 100_001)
    assert paths[42] == "train/00042"
    assert paths[-1] == "train/100000"
    assert paths[1:3] == ["train/00001", "train/00002"]
    with pytest.raises(IndexError):
        paths[100_001]
