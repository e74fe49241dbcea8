"""NumPy's arrays in checkpoints: beside the weights they are read, in their place they are called what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import timm_network

from modeldoctor.checkpoint import read_checkpoint
from modeldoctor.errors import CheckpointError


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_of_one_dimension_are_read_as_what_they_hold(tmp_path: Path, protocol: int, dtype: type) -> None:
    stored = {"state_dict": {"a": torch.ones(2)}, "classes": np.array(["cat", "épinard", "狗"])}
    stored |= {"mean": np.array([0.5, 0.25, 0.125], dtype=dtype), "std": np.array([0.5, 1, 2], dtype=object)}
    torch.save(stored, tmp_path / "arrays.pt", pickle_protocol=protocol)
    metadata = read_checkpoint(tmp_path / "arrays.pt").metadata
    assert metadata.class_names == ("cat", "épinard", "狗")
    assert (metadata.mean, metadata.std) == ((0.5, 0.25, 0.125), (0.5, 1.0, 2.0))


@pytest.mark.parametrize(
    "array", [np.ones((2, 2)), np.array([]), np.array([None, {}]), np.array([1j]), np.array([b"cat"]), np.array(3.0)]
)
def test_arrays_of_anything_else_say_nothing(tmp_path: Path, array: np.ndarray) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "classes": array, "mean": array}, tmp_path / "arrays.pt")
    checkpoint = read_checkpoint(tmp_path / "arrays.pt")
    assert (checkpoint.metadata.class_names, checkpoint.metadata.mean) == (None, None)


@pytest.mark.parametrize("key", [None, "state_dict"])
def test_weights_as_numpy_arrays_are_called_what_they_are(tmp_path: Path, key: str | None) -> None:
    arrays = {name: tensor.numpy() for name, tensor in timm_network("test_resnet").state_dict().items()}
    torch.save(arrays if key is None else {key: arrays, "epoch": 1}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match="weights as numpy arrays") as caught:
        read_checkpoint(tmp_path / "ckpt.pt")
    assert "torch.from_numpy(array)" in (caught.value.hint or "")
