"""A diagnosis in a notebook: HTML, and figures by matplotlib where it is installed.

Shapes: N classes, K kernels.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modeldoctor.errors import DataError, UsageError, counted
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.summary import as_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_EDGE = 112  # pixels of a picture on a screen
MOST_NAMES = 60
"""Beyond as many classes, names would run into each other."""


def as_html(diagnosis: Diagnosis) -> str:
    """Layers, verdicts and the wrong images that maps were kept of."""
    threshold = diagnosis.config.threshold
    layers = [
        (
            layer.name,
            str(layer.channels),
            f"{layer.height}×{layer.width}",
            f"{layer.correlated(threshold)[layer.count > 0].mean() if (layer.count > 0).any() else math.nan:.1%}",
            str(int((layer.count == 0).sum())),
        )
        for layer in diagnosis.layers.values()
    ]
    verdicts = Counter(str(image.verdict) for image in diagnosis.misdiagnosed).most_common()
    pictures = "".join(
        f'<figure style="display:inline-block;margin:4px"><img src="{_picture(pixels)}" height="{_EDGE}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for pixels, caption in _shown(diagnosis)
    )
    return (
        f"<p><b>{escape(diagnosis.arch)}</b>: "
        f"{counted(len(diagnosis.classes), 'class', 'classes')}, accuracy {diagnosis.accuracy:.2%} on "
        f"{escape(diagnosis.examined)}, {diagnosis.wrong_count} wrong, {len(diagnosis.misdiagnosed)} explained</p>"
        + _table(("layer", "kernels", "map", "correlated", "classes without samples"), layers)
        + _table(("verdict", "wrong images"), [(name, str(number)) for name, number in verdicts])
        + f"<div>{pictures}</div>"
    )


def plot_kernels(diagnosis: Diagnosis, layer: str | None = None) -> Figure:
    """Normalised correlation Â (N,K) of a layer: rows are classes, columns kernels, those used by most classes first.

    Args:
        diagnosis: what was found.
        layer: its name; by default the last that was measured.

    Raises:
        KeyError: that layer was not measured.
        UsageError: matplotlib is missing.
    """
    found = diagnosis[layer or list(diagnosis.layers)[-1]]
    values = found.normalised
    order = np.argsort(-np.nan_to_num(values).sum(0), kind="stable")
    figure: Figure
    figure, axes = load_pyplot().subplots(figsize=(10, min(max(2.6, 0.25 * len(values)), 14.0)), layout="constrained")
    image = axes.imshow(values[:, order], aspect="auto", vmin=0, vmax=1, interpolation="nearest")
    axes.set(title=f"Which kernels each class uses, {found.name}", ylabel="class")
    axes.set_xlabel(f"{found.channels} kernels, those that most classes use first")
    if len(values) <= MOST_NAMES:
        axes.set_yticks(range(len(values)), [as_text(name) for name in diagnosis.classes])
    figure.colorbar(image, label="normalised correlation Â")
    return figure


def plot_wrong(diagnosis: Diagnosis, number: int = 12) -> Figure:
    """Wrong images that maps were kept of, with label, prediction and verdict.

    Args:
        diagnosis: what was found.
        number: of images, at most.

    Raises:
        DataError: no picture was kept.
        UsageError: matplotlib is missing.
    """
    shown = _shown(diagnosis)[:number]
    if not shown:
        raise DataError("no picture of a wrong image was kept", expected="a diagnosis made with shown > 0")
    columns = min(4, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure: Figure
    figure, grid = load_pyplot().subplots(
        rows, columns, figsize=(2.6 * columns, 2.9 * rows), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, (pixels, caption) in zip(grid.flat, shown, strict=False):
        axes.imshow(pixels, interpolation="nearest")
        axes.set_title(caption.replace(": ", ":\n"), fontsize=8)
    return figure


def load_pyplot() -> Any:
    """matplotlib's interface for figures.

    Raises:
        UsageError: it is not installed.
    """
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise UsageError("matplotlib is not installed", hint="pip install matplotlib") from error
    return pyplot


def _shown(diagnosis: Diagnosis) -> list[tuple[NDArray[np.uint8], str]]:
    """Pictures (h,w,3) and what is said of each."""
    if diagnosis.shown is None:
        return []
    images, names = {image.sample: image for image in diagnosis.misdiagnosed}, diagnosis.classes
    return [
        (pixels, f"{as_text(names[image.label])} taken for {as_text(names[image.predicted])}: {image.verdict}")
        for sample, pixels in zip(diagnosis.shown.sample.tolist(), diagnosis.shown.thumbnail, strict=True)
        if (image := images.get(sample)) is not None
    ]


def _picture(pixels: NDArray[np.uint8]) -> str:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
