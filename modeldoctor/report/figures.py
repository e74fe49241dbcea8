"""The figures of a report as files, SVG for print and PNG for slides; drawn by matplotlib where it is installed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modeldoctor.errors import UsageError
from modeldoctor.report.results import Results
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.display import MOST_NAMES, load_pyplot, plot_kernels, plot_wrong
from modeldoctor.results.summary import as_text, confusion, images_by_class
from modeldoctor.results.trial import Trial
from modeldoctor.runtime.files import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
_DPI = 150


def write_figures(results: Results, folder: Path) -> tuple[Path, ...]:
    """Write every figure that there is as `NAME.svg` and `NAME.png`.

    Args:
        results: a diagnosis, or a trial at any stage.
        folder: where to; new, or one of an earlier report of the same names.

    Raises:
        UsageError: matplotlib is missing, or the folder holds other files.
    """
    pyplot, figures = load_pyplot(), dict(_figures(results))
    paths = [folder / f"{name}.{ending}" for name in figures for ending in FORMATS]
    foreign = (
        sorted({path.name for path in folder.iterdir()} - {path.name for path in paths}) if folder.exists() else []
    )
    if foreign:
        raise UsageError(
            f"there is {foreign[0]}, which is no figure of this report", where=f"--figures {folder}",
            expected="a new folder, or that of an earlier report on the same layers",
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in figures.items():
        figure = draw()
        try:
            for ending in FORMATS:
                with written_aside(folder / f"{name}.{ending}") as aside:
                    figure.savefig(aside, format=ending, dpi=_DPI)
        finally:
            pyplot.close(figure)
    return tuple(paths)


def _figures(results: Results) -> Iterator[tuple[str, Callable[[], Figure]]]:
    """Names, and how each is drawn: one figure of each layer is open at a time."""
    diagnosis = results.diagnosis
    if diagnosis is not None:
        yield "accuracy", partial(_plot_classes, diagnosis)
        yield "confusion", partial(_plot_confusion, diagnosis)
        for layer in diagnosis.layers:
            name = re.sub(r"[^\w.-]", "_", layer)
            yield f"kernels-{name}", partial(plot_kernels, diagnosis, layer)
        if diagnosis.shown is not None and len(diagnosis.shown.sample):
            yield "wrong", partial(plot_wrong, diagnosis)
    if results.trial is not None:
        yield "trial", partial(_plot_trial, results.trial)


def _plot_classes(diagnosis: Diagnosis) -> Figure:
    """The accuracy of classes on the examined split, lowest first."""
    images, right = images_by_class(diagnosis, diagnosis.rows(diagnosis.examined))
    share = right / np.maximum(images, 1)
    order = [n for n in np.argsort(share, kind="stable") if images[n]][:MOST_NAMES]
    figure, axes = _axes(len(order))
    axes.barh([f"{as_text(diagnosis.classes[n])} ({images[n]})" for n in order], share[order])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="accuracy", title=f"Accuracy by class on {as_text(diagnosis.examined)} (images)")
    return figure


def _plot_confusion(diagnosis: Diagnosis) -> Figure:
    """How many images of each class (rows) are taken for which (columns)."""
    number = len(diagnosis.classes)
    counts = confusion(diagnosis, diagnosis.rows(diagnosis.examined))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    names = [as_text(name) for name in diagnosis.classes]
    figure, axes = _axes(number)
    image = axes.imshow(shares, vmin=0, vmax=1, interpolation="nearest")
    axes.set(xlabel="taken for", ylabel="class", title=f"Confusion on {as_text(diagnosis.examined)}")
    if number <= MOST_NAMES:
        axes.set_xticks(range(number), names, rotation=90)
        axes.set_yticks(range(number), names)
    figure.colorbar(image, label="share of the class's images")
    return figure


def _plot_trial(trial: Trial) -> Figure:
    """Every arm's accuracies with their 95% intervals, a row of points for each metric."""
    figure, axes = _axes(2 * len(trial.arms))
    metrics = list(trial.arms[0].metrics)
    for place, metric in enumerate(metrics):
        found = [arm.metrics[metric] for arm in trial.arms]
        values = np.array([one.value for one in found])
        reach = np.abs(np.array([[one.low for one in found], [one.high for one in found]]) - values)
        height = np.arange(len(found)) + (place - (len(metrics) - 1) / 2) * 0.7 / len(metrics)
        axes.errorbar(values, height, xerr=reach, fmt="o", label=metric.replace("_", " "))
    axes.set_yticks(range(len(trial.arms)), [arm.arm for arm in trial.arms])
    axes.invert_yaxis()
    axes.set(xlabel="share of test images", title="Test split, 95% intervals")
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return figure


def _axes(rows: int) -> tuple[Figure, Any]:
    height = min(max(3.0, 0.3 * rows + 1.5), 14.0)
    figure, axes = load_pyplot().subplots(figsize=(7, height), layout="constrained")
    return figure, axes
