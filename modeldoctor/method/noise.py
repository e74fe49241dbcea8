"""The noise of Eq. 4: a function of what it belongs to, so that batching changes nothing.

A generator would have to be seeded anew for each image and draw. Here each value is a hash of its counter: the seed,
purpose and layer, the image's key, the draw, and the position. A few integer operations make a whole batch, on any
device to the same bits.

Shapes: R draws, B images, K channels, H x W positions.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Noise:
    """σ ~ U(-δ, δ) on a layer's maps, elementwise, independent for every layer, draw and image.

    What is drawn depends on the seed, the layer's name, the image's key and the draw alone, never on how images and
    draws are batched, nor on the device.

    Attributes:
        seed: of everything drawn.
        delta: δ for the layer in hand, in units of its activation.
        stream: tells apart purposes that must not share noise.
    """

    seed: int
    delta: float
    stream: str = "correlation"

    def draw(self, layer: str, keys: Sequence[int], draws: range, like: Tensor) -> Tensor:
        """Noise (R*B,K,H,W) for draws R and images B, copy-major, with the dtype and device of `like` (B,K,H,W).

        Position by position and there kernel by kernel, whatever the memory format of `like`; its own is channels_last.
        Values are multiples of δ / 2^24.
        """
        _, channels, height, width = like.shape
        words, size = self._words(layer, keys, draws), channels * height * width
        made = (
            _on_cpu(words, size) if like.device.type == "cpu" else hashed(torch.from_numpy(words).to(like.device), size)
        )
        noise = made.mul_(self.delta / 2**23).to(like.dtype)
        return noise.view(len(words), height, width, channels).permute(0, 3, 1, 2)

    def _words(self, layer: str, keys: Sequence[int], draws: range) -> NDArray[np.int32]:
        """(R*B,2), two words for each draw and image."""
        label = zlib.crc32(f"{self.stream}/{layer}".encode())
        (start,) = np.random.SeedSequence([self.seed, label]).generate_state(1, np.uint64)
        images = _mixed(np.asarray(keys, dtype=np.uint64) ^ start)
        copies = _mixed(np.arange(draws.start, draws.stop, dtype=np.uint64))
        return _mixed(copies[:, None] ^ images).reshape(-1, 1).view(np.int32)


_ODD = (0x7FEB352D, 0x846CA68B)
"""Factors of C. Wellons' 32-bit hash `lowbias32`; products wrap around."""
_BLOCK = 2**16
"""Values that stay in a processor's cache."""


def _on_cpu(words: NDArray[np.int32], size: int) -> Tensor:
    """As `hashed`, in numpy: PyTorch would share out each of these small operations among threads, which wait then."""
    first, second = (words.view(np.uint32)[:, [column]] for column in (0, 1))
    one, other = (np.uint32(factor) for factor in _ODD)
    positions: NDArray[Any] = np.arange(size, dtype=np.uint32) * one
    positions = (positions ^ (positions >> 15)) * other
    positions ^= positions >> 16
    made = np.empty((len(words), size), np.float32)
    rows = max(1, _BLOCK // max(1, size))
    for row in range(0, len(words), rows):
        for column in range(0, size, _BLOCK):
            here = slice(row, row + rows), slice(column, column + _BLOCK)
            values = positions[here[1]] ^ first[here[0]]
            values *= one
            values ^= values >> 15
            values += second[here[0]]
            values *= other
            made[here] = values.view(np.int32) >> 8
    made += 0.5
    return torch.from_numpy(made)


def hashed(words: Tensor, size: int) -> Tensor:
    """Uniform on the odd multiples of 1/2 between -2^23 and 2^23, which float32 holds each.

    Args:
        words: (R,2) int32, which tell rows apart.
        size: values of a row.

    Returns:
        (R,size) float32.
    """
    one, other = (factor - 2**32 if factor >= 2**31 else factor for factor in _ODD)
    positions = torch.arange(size, dtype=torch.int32, device=words.device)
    positions = _shifted(_shifted(positions.mul_(one), 15).mul_(other), 16)
    values = (positions ^ words[:, :1]).mul_(one)
    values = _shifted(values, 15).add_(words[:, 1:]).mul_(other)
    return values.bitwise_right_shift_(8).float().add_(0.5)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """values ^ (values >> bits) in place, where zeros are shifted in."""
    return values.bitwise_xor_((values >> bits).bitwise_and_((1 << (32 - bits)) - 1))


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014), which maps no two numbers to one."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
