"""Polygons and run lengths against rules on pixel centres, and against COCO's own coder."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline

from modeldoctor.data.canvas import AnnotationError, Canvas, decode_runs

WIDTH, HEIGHT = 31, 22
SIZE = (WIDTH, HEIGHT)


def inside(points):
    """Pixels whose centres lie in a polygon."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    outline = Outline([*points, points[0]], closed=True)
    return outline.contains_points(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(HEIGHT, WIDTH)


@pytest.mark.parametrize("seed", range(8))
def test_polygons_against_a_point_in_polygon_rule(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    points = np.stack([14 + 25 * np.cos(angles), 11 + 9 * np.sin(angles)], axis=1)
    canvas = Canvas(SIZE)
    canvas.polygon(points[:: rng.choice([1, -1])])
    assert np.array_equal(canvas.finished(), inside(points.tolist()))


def test_a_polygon_that_crosses_itself_follows_the_even_odd_rule():
    angles = np.pi / 2 + np.arange(5) * 4 * np.pi / 5
    canvas = Canvas(SIZE)
    canvas.polygon(np.stack([15 + 10 * np.cos(angles), 11 - 10 * np.sin(angles)], axis=1))
    assert canvas.mask[4, 14:16].all()
    assert not canvas.mask[11, 15]


def test_neighbours_share_no_pixel_and_leave_none():
    canvas, other = Canvas(SIZE), Canvas(SIZE)
    canvas.box(0, 0, 7.5, HEIGHT)
    other.box(7.5, 0, WIDTH, HEIGHT)
    assert (canvas.mask ^ other.mask).all()


def test_run_lengths_against_cocos_own_coder():
    coding = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        mask = np.repeat(rng.random((300, 40)) < share, 9, axis=0)
        encoded = coding.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        canvas = Canvas((40, 2700))
        canvas.runs(decode_runs(encoded))
        assert np.array_equal(canvas.finished(), mask)


@pytest.mark.parametrize("text", ["o", "ooooooooooooooooooooo", "!", "\u4e00", "12\x7f\x7f"])
def test_broken_run_lengths(text):
    with pytest.raises(AnnotationError, match="run lengths"):
        decode_runs(text)


def test_a_zigzag_over_all_rows_is_refused_before_it_takes_memory() -> None:
    canvas = Canvas((4000, 12000))
    points = np.array([(x, (-1e6, 1e6)[x % 2]) for x in range(30_000)], dtype=float)
    with pytest.raises(AnnotationError, match="jagged"):
        canvas.attempt(lambda: canvas.polygon(points))


def test_crossings_taken_in_portions_are_the_same_polygon(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(20, 15, (12, 2))
    whole, portions = Canvas((40, 30)), Canvas((40, 30))
    whole.polygon(points)
    monkeypatch.setattr("modeldoctor.data.canvas._CROSSINGS_AT_ONCE", 3)
    portions.polygon(points)
    assert whole.mask.any()
    assert np.array_equal(whole.mask, portions.mask)
