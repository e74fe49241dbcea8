"""The noise of Eq. 4: uniform, independent over every index, and a function of nothing but what it belongs to."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from modeldoctor.method.noise import Noise, hashed


def correlations(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each two rows (R,n), times the square root of n: standard normal where the rows are independent."""
    found = np.corrcoef(values) * np.sqrt(values.shape[1])
    return np.asarray(found[np.triu_indices(len(values), 1)])


def by_hand(seed: int, label: bytes, key: int, draw: int, position: int) -> float:
    """The hash in whole numbers, for δ = 1."""

    def mixed(number: int) -> int:
        number = (number + 0x9E3779B97F4A7C15) % 2**64
        number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
        return number ^ number >> 31

    start = int(np.random.SeedSequence([seed, zlib.crc32(label)]).generate_state(1, np.uint64)[0])
    word = mixed(mixed(draw) ^ mixed(key ^ start))
    number = position * 0x7FEB352D % 2**32
    number = (number ^ number >> 15) * 0x846CA68B % 2**32
    number = (number ^ number >> 16 ^ word % 2**32) * 0x7FEB352D % 2**32
    number = ((number ^ number >> 15) + (word >> 32)) * 0x846CA68B % 2**32
    signed = number - 2**32 if number >= 2**31 else number
    return ((signed >> 8) + 0.5) / 2**23


def test_values_are_those_of_the_hash() -> None:
    drawn = Noise(seed=3, delta=1.0, stream="s").draw("a.b", [0, 5, 10**9], range(2, 4), torch.empty(3, 7, 5, 6))
    for draw, image, channel, row, column in ((0, 0, 0, 0, 0), (1, 1, 6, 4, 5), (1, 2, 3, 2, 1), (0, 2, 1, 0, 5)):
        wanted = by_hand(3, b"s/a.b", [0, 5, 10**9][image], 2 + draw, (row * 6 + column) * 7 + channel)
        assert drawn.view(2, 3, 7, 5, 6)[draw, image, channel, row, column].item() == wanted


def test_a_gpu_makes_the_same_values() -> None:
    """With the operations that it runs, here on a CPU."""
    words = np.random.default_rng(0).integers(-(2**31), 2**31, (3, 2), dtype=np.int64).astype(np.int32)
    drawn = Noise(seed=0, delta=2.0**23)
    object.__setattr__(drawn, "_words", lambda *_: words)
    wanted = drawn.draw("a", [0], range(3), torch.empty(1, 7, 100, 130))
    assert torch.equal(hashed(torch.from_numpy(words), 7 * 100 * 130).view(3, 100, 130, 7).permute(0, 3, 1, 2), wanted)


def test_it_is_uniform_and_bounded() -> None:
    drawn = Noise(seed=1, delta=0.3).draw("layer", range(50), range(4), torch.empty(50, 8, 20, 20)).flatten().numpy()
    assert stats.kstest(drawn, stats.uniform(-0.3, 0.6).cdf).pvalue > 1e-3
    assert 0.2999 < abs(drawn).max() <= 0.3
    eighths = np.bincount(np.floor((drawn.astype(np.float64) / 0.6 + 0.5) * 2**16).astype(int) % 8, minlength=8)
    assert stats.chisquare(eighths).pvalue > 1e-3  # low bits, too


def test_it_is_independent_over_every_index() -> None:
    # 6: two million pairs exceed it once in 250 sets.
    images = Noise(seed=1, delta=1.0).draw("layer", range(1000), range(2), torch.empty(1000, 8, 8, 16)).double().numpy()
    for rows in (images[:1000].reshape(1000, -1), images[:1000].reshape(1000, -1).T, images.reshape(2, -1)):
        found = correlations(rows)
        assert np.abs(found).max() < 6
        assert len(found) == 1 or found.std() == pytest.approx(1, abs=0.01)
    flat = images.transpose(0, 2, 3, 1).reshape(2000, -1)  # as it lies in memory
    for lag in (1, 2, 8, 64, 256, 512):
        assert abs(3 * (flat[:, lag:] * flat[:, :-lag]).mean() * flat[:, lag:].size ** 0.5) < 5, lag


def test_it_depends_on_layer_image_draw_seed_and_purpose_and_on_nothing_else() -> None:
    like = torch.empty(3, 8, 16, 16)
    noise = Noise(seed=1, delta=1.0)
    whole = noise.draw("a", [10, 11, 12], range(5), like).view(5, 3, 8, 16, 16)
    alone = noise.draw("a", [12, 11], range(2, 4), like[:2]).view(2, 2, 8, 16, 16)
    assert torch.equal(whole[2:4, [2, 1]], alone)
    parts = [
        whole[0, 0],
        whole[1, 0],
        whole[0, 1],
        noise.draw("b", [10], range(1), like[:1])[0],
        Noise(seed=2, delta=1.0).draw("a", [10], range(1), like[:1])[0],
        Noise(seed=1, delta=1.0, stream="other").draw("a", [10], range(1), like[:1])[0],
    ]
    assert np.abs(correlations(np.stack([part.flatten().double().numpy() for part in parts]))).max() < 5


def test_it_is_the_same_in_every_precision_and_for_as_many_images_as_fit_into_a_block() -> None:
    noise, keys = Noise(seed=4, delta=0.5), range(40)
    single, double = (
        noise.draw("a", keys, range(3), torch.empty(40, 3, 60, 60, dtype=kind))
        for kind in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-7)
    half = noise.draw("a", keys, range(3), torch.empty(40, 3, 60, 60, dtype=torch.bfloat16))
    torch.testing.assert_close(half.float(), single, rtol=2**-7, atol=1e-7)
    for row, key in enumerate(keys):
        assert torch.equal(noise.draw("a", [key], range(1), torch.empty(1, 3, 60, 60)), single[row : row + 1])


def test_no_image_and_no_draw_give_nothing() -> None:
    noise = Noise(seed=0, delta=1.0)
    assert noise.draw("a", [], range(3), torch.empty(0, 2, 3, 4)).shape == (0, 2, 3, 4)
    assert noise.draw("a", [1], range(0), torch.empty(1, 2, 3, 4)).shape == (0, 2, 3, 4)
