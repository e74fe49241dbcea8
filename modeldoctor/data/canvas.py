"""From outlines to pixels: every annotation format draws on the same canvas, so that all agree.

Coordinates are pixels with (0,0) at the image's top left corner and (W,H) at its bottom right one: pixel (row, column)
has its centre at (column + 0.5, row + 0.5). A pixel belongs to a shape if its centre does.

Shape letters: H and W, an image's height and width; V vertices; R runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data.frames import STORED, stored, upright_size

_FARTHEST = 1e7
_MOST_WORK = 1 << 32
"""Pixels that the shapes of one image may visit together: a picture of 12 megapixels covered 350 times."""
_CROSSING = 256
"""What an edge's crossing of a row costs, in pixels."""
_CROSSINGS_AT_ONCE = 1 << 20


class AnnotationError(Exception):
    """An annotation cannot be used; the text says why.

    Args:
        found: what is wrong.
        hint: what to do about it.
    """

    def __init__(self, found: str, hint: str = "export it again, or remove it: the image then counts as not annotated"):
        super().__init__(found)
        self.hint = hint


class EndlessError(AnnotationError):
    """Drawing all shapes would take minutes: no person and no tool made them."""


class Canvas:
    """The union of what is drawn on it; parts outside the image are cut off.

    Annotations are drawn on the upright picture, as viewers show it; where only the stored picture has the size that an
    annotation names, on that one.

    Args:
        size: (width, height) of the stored image in pixels.
        orientation: EXIF's, 1 to 8.
    """

    def __init__(self, size: tuple[int, int], orientation: int = STORED):
        self._stored_size, self._orientation = size, orientation
        self.width, self.height = upright_size(size, orientation)
        self.mask = np.zeros((self.height, self.width), dtype=np.bool_)
        """(H,W) bool, True on the object."""
        self.shapes = 0
        """How many shapes were drawn."""
        self._work = 0
        self.ignored: Counter[str] = Counter()
        """Shapes that enclose no area or cannot be read, by kind."""
        self.frame_is_known = orientation == STORED
        """Whether the annotation said on which of the two pictures it was drawn, or they are one."""

    def check_size(self, width: Any, height: Any) -> None:
        """Compare the size that the annotation names with the image's, before anything is drawn.

        Numbers may be texts; 0, or none, says nothing.

        Raises:
            AnnotationError: they differ.
        """
        width, height = _side(width), _side(height)
        if width in (None, 0) or height in (None, 0):
            return
        self.frame_is_known |= self._stored_size != upright_size(self._stored_size, self._orientation)
        if (width, height) == (self.width, self.height):
            return
        if (width, height) == self._stored_size and not self.shapes:
            self._orientation = STORED
            self.width, self.height = self._stored_size
            self.mask = np.zeros((self.height, self.width), dtype=np.bool_)
            return
        turned = " as viewers show it" if self._orientation != STORED else ""
        raise AnnotationError(
            f"the mask is {width}×{height} pixels, its image {self.width}×{self.height}{turned}",
            "make it again on an image of this size, or scale the mask to it (nearest neighbour)",
        )

    def attempt(self, draw: Callable[[], None]) -> None:
        """Draw one shape; one that cannot be drawn is left out and counted."""
        try:
            draw()
        except EndlessError:
            raise
        except AnnotationError as error:
            self.ignored[str(error)] += 1

    def polygon(self, points: NDArray[np.float64]) -> None:
        """Draw a closed polygon (V,2) of x and y, by the even-odd rule.

        Raises:
            AnnotationError: fewer than three vertices.
        """
        if len(points) < 3:
            raise AnnotationError(f"a polygon of {len(points)} points")
        x, y = points.T
        dx, dy = (np.roll(points, -1, axis=0) - points).T
        # Rows whose centres lie in the half-open span of each edge: no vertex is counted twice.
        first = np.ceil(np.minimum(y, y + dy) - 0.5).clip(0, self.height).astype(np.int64)
        last = np.ceil(np.maximum(y, y + dy) - 0.5).clip(0, self.height).astype(np.int64)
        spans = last - first
        crossed = spans > 0
        top, bottom = (int(first[crossed].min()), int(last[crossed].max())) if crossed.any() else (0, 0)
        left, right = np.ceil((x.min() - 1.5, x.max() + 0.5)).clip(0, self.width).astype(int).tolist()
        self._spend((bottom - top) * (right - left) + _CROSSING * int(spans.sum()))
        flips = np.zeros((bottom - top, right - left + 1), dtype=np.bool_)
        for some in _portions(spans):
            edge = np.repeat(np.arange(some.start, some.stop), spans[some])
            row = np.arange(len(edge)) - np.repeat(np.cumsum(spans[some]) - spans[some] - first[some], spans[some])
            crossing = x[edge] + (row + 0.5 - y[edge]) / dy[edge] * dx[edge]
            column = np.ceil(crossing - 0.5).clip(left, right).astype(np.int64)
            np.logical_xor.at(flips, (row - top, column - left), True)
        self.mask[top:bottom, left:right] |= np.logical_xor.accumulate(flips, axis=1)[:, : right - left]
        self.shapes += 1

    def box(self, left: float, top: float, right: float, bottom: float) -> None:
        """Draw a rectangle; its corners may be given in any order."""
        self.polygon(np.array([(left, top), (right, top), (right, bottom), (left, bottom)], dtype=np.float64))

    def circle(self, x: float, y: float, radius: float) -> None:
        """Draw a disc."""
        top, bottom = (int(min(max(side, 0), self.height)) for side in (y - radius, y + radius + 1))
        left, right = (int(min(max(side, 0), self.width)) for side in (x - radius, x + radius + 1))
        self._spend(8 * (bottom - top) * (right - left))
        rows, columns = np.ogrid[top:bottom, left:right]
        self.mask[top:bottom, left:right] |= (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2
        self.shapes += 1

    def _spend(self, work: int) -> None:
        """Count what drawing takes.

        Raises:
            EndlessError: together it is too much.
        """
        self._work += work
        if self._work > _MOST_WORK:
            raise EndlessError("more shapes, or larger and more jagged ones, than can be drawn in a few seconds")

    def paste(self, pixels: NDArray[np.bool_], left: int, top: int) -> None:
        """Draw pixels whose top left one falls on (row `top`, column `left`) of the image."""
        self._spend(pixels.size)
        height, width = pixels.shape
        rows = slice(max(top, 0), max(min(top + height, self.height), 0))
        columns = slice(max(left, 0), max(min(left + width, self.width), 0))
        self.mask[rows, columns] |= pixels[
            rows.start - top : max(rows.stop - top, 0), columns.start - left : max(columns.stop - left, 0)
        ]
        self.shapes += 1

    def runs(self, counts: Sequence[int]) -> None:
        """Draw COCO's run lengths: background and object in turn, column after column.

        Raises:
            AnnotationError: they do not add up to the image's pixels.
        """
        if min(counts, default=0) < 0 or sum(counts) != self.mask.size:
            raise AnnotationError(f"its runs cover {sum(counts)} pixels of {self.mask.size}")
        self._spend(self.mask.size)
        flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
        self.paste(flat.reshape(self.width, self.height).T, 0, 0)

    def finished(self) -> NDArray[np.bool_]:
        """The mask (H,W) bool, in the stored frame.

        Raises:
            AnnotationError: no pixel belongs to an object.
        """
        if not self.mask.any():
            raise AnnotationError(*self._nothing())
        return stored(self.mask, self._orientation)

    def _nothing(self) -> tuple[str, str]:
        if self.shapes:
            hint = "check that its coordinates are this image's, or annotate the object"
            return "its shapes cover no pixel of the image", hint
        hint = "draw a polygon or a box around the object, or remove the file"
        if self.ignored:
            return f"no shape that encloses an area ({describe(self.ignored)} left out)", hint
        return "no shape", hint


def _portions(spans: NDArray[np.int64]) -> Iterator[slice]:
    """Edges whose crossings are not too many to be held at once."""
    ends, start = np.cumsum(spans), 0
    while start < len(spans):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _CROSSINGS_AT_ONCE, side="right")))
        yield slice(start, stop)
        start = stop


def describe(kinds: Counter[str]) -> str:
    """Say how many of which: `2 × line, 1 × point`; the commonest five."""
    more = ", ..." if len(kinds) > 5 else ""
    return (
        ", ".join(f"{count} × {kind}" for kind, count in sorted(kinds.items(), key=lambda entry: -entry[1])[:5]) + more
    )


def _side(value: Any) -> Any:
    """A number, also from a text; what is none as it came."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value
    return int(number) if number.is_integer() else number


def numbers(values: Any, columns: int | None = None) -> NDArray[np.float64]:
    """Read coordinates: (V,) or, where columns are given, (V,columns).

    Raises:
        AnnotationError: not numbers of that shape, not finite, or far from any image.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
        array = array.reshape(-1, columns) if columns and array.size else array
        if array.ndim != (2 if columns else 1) or not (np.abs(array) < _FARTHEST).all():
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        shown = repr(values)
        shown = f"{shown[:60]} ..." if len(shown) > 60 else shown
        raise AnnotationError(f"{shown} are no coordinates") from error
    return array


def decode_runs(text: str) -> list[int]:
    """COCO's compressed run lengths: groups of five bits from character 48 on, each from the third on a difference.

    Raises:
        AnnotationError: other characters, or the text ends within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise AnnotationError(f"no compressed run lengths: {text[:20]!r}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits & 16) >> 4 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise AnnotationError("compressed run lengths that end within a number")
    return counts
