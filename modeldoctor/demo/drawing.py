"""Simple shapes on textured backgrounds, drawn under a seed; in training most of a class has its own background.

Shapes: P pixels on each edge. Coordinates (P,P) run from 0 to 1 over the image, an object's from -1 to 1 over it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeldoctor.runtime.files import written_aside

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Group = Literal["aligned", "conflicting"]

_NOISE = 8.0
"""Standard deviation of the pixel noise, of 255."""


def _inside(corners: int, inner: float) -> Callable[[Floats, Floats], Bools]:
    """A star with that many corners on the unit circle; its edges run through radius `inner` halfway between them."""

    def contains(u: Floats, v: Floats) -> Bools:
        sector = np.pi / corners
        turn = np.abs((np.arctan2(v, u) + sector) % (2 * sector) - sector)
        along, across = np.hypot(u, v) * np.cos(turn), np.hypot(u, v) * np.sin(turn)
        x, y = inner * np.cos(sector), inner * np.sin(sector)
        return np.asarray(along * y + across * (1 - x) < y)

    return contains


SHAPES: Mapping[str, Callable[[Floats, Floats], Bools]] = {
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.95),
    "disc": lambda u, v: np.hypot(u, v) < 0.9,
    "ring": lambda u, v: (np.hypot(u, v) < 1) & (np.hypot(u, v) > 0.55),
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.7,
    "star": _inside(5, 0.4),
    "triangle": _inside(3, 0.5),
}
"""Class → whether object coordinates (u,v) lie inside."""


def _stripes(x: Floats, y: Floats, size: float) -> Floats:
    return np.where(np.sin(2 * np.pi * x / size) > 0, 1.0, 0.0)


def _checks(x: Floats, y: Floats, size: float) -> Floats:
    return np.where(np.sin(2 * np.pi * x / size) * np.sin(2 * np.pi * y / size) > 0, 1.0, 0.0)


def _dots(x: Floats, y: Floats, size: float) -> Floats:
    return np.where(np.hypot(x % size - size / 2, y % size - size / 2) < 0.3 * size, 1.0, 0.0)


def _waves(x: Floats, y: Floats, size: float) -> Floats:
    return 0.5 + 0.5 * np.sin(2 * np.pi * (x / size + 0.35 * np.sin(np.pi * y / size)))


def _gradient(x: Floats, y: Floats, size: float) -> Floats:
    return np.asarray((x - x.min()) / np.ptp(x))


def _blobs(x: Floats, y: Floats, size: float) -> Floats:
    waves = [np.sin(2 * np.pi * (x * np.cos(a) + y * np.sin(a)) / (size * (1 + 0.3 * a))) for a in (0.2, 1.4, 2.3)]
    return np.asarray(1 / (1 + np.exp(-2 * np.sum(waves, axis=0))))


TEXTURES: Mapping[str, Callable[[Floats, Floats, float], Floats]] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "waves": _waves,
    "gradient": _gradient,
    "blobs": _blobs,
}
"""Background → brightness in [0,1] at turned and shifted coordinates, with a pattern of that size."""

BACKGROUND_OF: Mapping[str, str] = dict(zip(SHAPES, TEXTURES, strict=True))
"""Class → the background that most of its training images have."""


@dataclass(frozen=True, kw_only=True)
class ImageSetPlan:
    """How many images are drawn, and how misleading they are."""

    edge: int = 64
    """P."""
    train: int = 240
    """Images a class."""
    val: int = 100
    test: int = 60
    aligned: float = 0.9
    """Share of a class's images in train and val on the class's own background; in test all are as frequent."""

    @property
    def per_class(self) -> dict[str, int]:
        """Images of a class, by split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def total(self) -> int:
        """Images of all splits and classes."""
        return len(SHAPES) * sum(self.per_class.values())


def draw_image(shape: str, background: str, *, edge: int, seed: tuple[int, ...]) -> tuple[Pixels, Bools]:
    """Draw one object on one background.

    Args:
        shape: one of `SHAPES`.
        background: one of `TEXTURES`.
        edge: P.
        seed: of place, size, turn and colour of the object, of the background, and of the pixel noise, each drawn on
            its own: another background leaves the object as it was.

    Returns:
        The image (P,P,3), and the mask (P,P), True on the object: hard-edged, so the mask is exact.
    """
    objects, backgrounds, noises = (np.random.default_rng([*seed, stream]) for stream in range(3))
    mask = _draw_object(shape, edge, objects)
    image = np.where(mask[:, :, None], objects.uniform(120, 255, 3), _draw_background(background, edge, backgrounds))
    image += noises.normal(0, _NOISE, image.shape)
    return image.clip(0, 255).round().astype(np.uint8), mask


def draw_image_set(
    folder: Path, plan: ImageSetPlan, *, seed: int, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Write `data/SPLIT/CLASS/*.png`, the masks of `data-masks/SPLIT/CLASS/*.png` and `metadata.csv` into a folder;
    its paths are relative to `data`.

    Args:
        folder: exists, and holds none of these.
        plan: how many, and how misleading.
        seed: the same one gives the same files, byte for byte.
        progress: told ("draw", images done, images in all).
    """
    rows: list[tuple[str, str, str, Group]] = []
    for split_number, (split, count) in enumerate(plan.per_class.items()):
        for class_number, name in enumerate(SHAPES):
            data, masks = (folder / tree / split / name for tree in ("data", "data-masks"))
            data.mkdir(parents=True)
            masks.mkdir(parents=True)
            share = None if split == "test" else plan.aligned
            for number, background in enumerate(choose_backgrounds(name, count, share)):
                image, mask = draw_image(
                    name, background, edge=plan.edge, seed=(seed, split_number, class_number, number)
                )
                file = f"{name}_{number:04d}.png"
                Image.fromarray(image).save(data / file)
                Image.fromarray(mask).save(masks / file)
                group: Group = "aligned" if background == BACKGROUND_OF[name] else "conflicting"
                rows.append((f"{split}/{name}/{file}", name, background, group))
                if progress:
                    progress("draw", len(rows), plan.total)
    with written_aside(folder / "metadata.csv") as aside, aside.open("w", newline="", encoding="utf-8") as file_:
        csv.writer(file_, lineterminator="\n").writerows([("path", "class", "background", "group"), *rows])


def choose_backgrounds(shape: str, count: int, aligned: float | None) -> Iterator[str]:
    """Yield `count` backgrounds: the class's own for a share of them, the others in turn; None: all in turn."""
    own = BACKGROUND_OF[shape]
    if aligned is None:
        yield from islice(cycle(TEXTURES), count)
        return
    own_count = round(aligned * count)
    yield from [own] * own_count
    yield from islice(cycle([name for name in TEXTURES if name != own]), count - own_count)


def _draw_object(shape: str, edge: int, rng: np.random.Generator) -> Bools:
    """(P,P); the whole object lies in the image."""
    radius = rng.uniform(0.2, 0.36)
    x, y = _turned(edge, centre=rng.uniform(radius, 1 - radius, 2), angle=rng.uniform(0, 2 * np.pi))
    return SHAPES[shape](x / radius, y / radius)


def _draw_background(background: str, edge: int, rng: np.random.Generator) -> Floats:
    """(P,P,3), from 0 to 255: two random colours, mixed by the texture."""
    x, y = _turned(edge, centre=rng.uniform(0, 1, 2), angle=rng.uniform(0, 2 * np.pi))
    mixed = TEXTURES[background](x, y, rng.uniform(0.15, 0.25))[:, :, None]
    middle, contrast = rng.uniform(40, 110, 3), rng.uniform(15, 35, 3) * rng.choice([-1, 1], 3)
    return np.asarray(middle + contrast * (2 * mixed - 1))


def _turned(edge: int, *, centre: Floats, angle: float) -> tuple[Floats, Floats]:
    """Coordinates (P,P) of the pixels' middles, about a centre, turned by an angle."""
    middles = (np.arange(edge) + 0.5) / edge
    x, y = middles[None, :] - centre[0], middles[:, None] - centre[1]
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
