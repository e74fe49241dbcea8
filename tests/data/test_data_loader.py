import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.imageset import Broken
from modeldoctor.data.loader import _start_worker, make_loader
from modeldoctor.data.sources import open_data
from modeldoctor.errors import MaskError, UsageError

PREPROCESSING = Preprocessing(input_size=(3, 8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
BROKEN = {3: b"", 10: b"text"}


@pytest.fixture
def images(tmp_path):
    """20 images of one grey value each (10 a class), two of them broken; every other one has a mask."""
    for number in range(20):
        name = f"{'ab'[number // 10]}/{number:02d}"
        for file in (tmp_path / f"images/{name}.png", tmp_path / f"masks/{name}.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number * 10).save(tmp_path / f"images/{name}.png")
        if number in BROKEN:
            (tmp_path / f"images/{name}.png").write_bytes(BROKEN[number])
        if number % 2:
            mask = np.zeros((8, 8), dtype=np.uint8)
            mask[:number] = 1
            Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
    return tmp_path


def opened(root, masks=True):
    return open_data(root / "images", preprocessing=PREPROCESSING, masks=root / "masks" if masks else None)["all"]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_same_content_for_any_workers_and_batch_size(images, workers, batch_size):
    order = np.random.default_rng(0).permutation(20)
    batches = list(make_loader(opened(images), order, batch_size=batch_size, workers=workers))
    whole = [number for number in order.tolist() if number not in BROKEN]
    assert len(batches) == -(-20 // batch_size)
    assert torch.cat([batch.indices for batch in batches]).tolist() == whole
    assert torch.cat([batch.labels for batch in batches]).tolist() == [number // 10 for number in whole]
    pixels = torch.cat([batch.images for batch in batches])
    assert pixels.dtype == torch.float32
    values = torch.tensor(whole, dtype=torch.float32) * 10 / 255
    torch.testing.assert_close(pixels, values[:, None, None, None].expand(-1, 3, 8, 8), rtol=0, atol=1e-6)
    rows = [None if mask is None else int(mask.sum()) // 8 for batch in batches for mask in batch.masks]
    assert rows == [min(number, 8) if number % 2 else None for number in whole]
    broken = [each for batch in batches for each in batch.broken]
    assert [each.index for each in broken] == [number for number in order.tolist() if number in BROKEN]
    assert all(isinstance(each, Broken) and each.reason for each in broken)


def test_a_batch_of_broken_images_only(images):
    (batch,) = make_loader(opened(images, masks=False), [3, 10], batch_size=2)
    assert batch.images.shape == (0, 3, 8, 8)
    assert batch.labels.shape == batch.indices.shape == (0,)
    assert batch.labels.dtype == torch.int64
    assert batch.masks is None
    assert [each.reason for each in batch.broken] == ["the file is empty (0 bytes)", "not a picture in a known format"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_mask_stops_with_its_own_message(images, workers):
    Image.new("L", (9, 9)).save(images / "masks/b/15.png")
    with pytest.raises(MaskError) as caught:
        list(make_loader(opened(images), batch_size=4, workers=workers))
    assert caught.value.found == "the mask is 9×9 pixels, its image 8×8"
    assert "Traceback" not in str(caught.value)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_random_state_is_untouched_and_passes_repeat(images, workers):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    loader = make_loader(opened(images), batch_size=6, workers=workers)
    first, second = ([batch.indices.tolist() for batch in loader] for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("collected", [True, False])
def test_no_worker_outlives_its_pass(images, monkeypatch, collected):
    if not collected:  # as under Python 3.12, where something keeps PyTorch's iterator
        usual, kept = DataLoader.__iter__, []
        monkeypatch.setattr(DataLoader, "__iter__", lambda self: kept.append(usual(self)) or kept[-1])
    loader = make_loader(opened(images), batch_size=2, workers=2)
    batches = iter(loader)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    batches.close()
    assert not multiprocessing.active_children()
    assert len(list(loader)) == 10
    assert not multiprocessing.active_children()


def test_ctrl_c_is_the_parents_alone(images):
    """An interrupt sent to a worker leaves it at work."""
    batches = iter(make_loader(opened(images), batch_size=1, workers=1))
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
    assert len(list(batches)) == 19


def test_workers_use_one_thread():
    with multiprocessing.get_context("fork").Pool(1, _start_worker, (0,)) as pool:
        assert pool.apply(torch.get_num_threads) == 1


def test_indices_out_of_range(images):
    for indices in ([0, 20], [-1]):
        with pytest.raises(UsageError, match="indices from"):
            make_loader(opened(images), indices, batch_size=4)


def test_no_indices_no_batches(images):
    assert list(make_loader(opened(images), [], batch_size=4)) == []
