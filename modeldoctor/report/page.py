"""The report as one HTML file: everything inlined, nothing fetched, legible without its script."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import jinja2
import numpy as np
import scipy
import yaml
from markupsafe import Markup

from modeldoctor.errors import counted, printable_page
from modeldoctor.report.charts import Line, line_chart, spread_ticks
from modeldoctor.report.gallery import confusions, images_of_classes
from modeldoctor.report.model import ClassFigures, DiagnosisFigures, Report
from modeldoctor.report.pictures import heat_map, shrink
from modeldoctor.report.results import HistoryRow, Results
from modeldoctor.report.sharing import class_pairs, deepest
from modeldoctor.report.steps import trial_steps
from modeldoctor.report.views import before_after, shown_images
from modeldoctor.report.wording import (
    TRUST,
    VERDICTS,
    cost_words,
    doubt_sentence,
    firmness_sentence,
    handed_back,
    image_sentence,
    percent,
    title,
    unbroken,
)
from modeldoctor.results.diagnosis import Diagnosis, Floats, Ints, LayerDiagnosis
from modeldoctor.results.summary import confusion
from modeldoctor.results.trial import Estimate, Trial

_CELLS = 4_000_000
"""Cells of all heat maps together; a PNG of one takes at most a byte per cell."""
_ROWS, _COLUMNS = 300, 900
_NAMED_ROWS = 40
"""Up to so many classes, a map's rows bear their names."""
_MAPS_UNASKED = 6
_MOST_CLUSTERED = 2000
_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("modeldoctor.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"percent": percent, "counted": counted, "unbroken": unbroken}
_ARM_STYLES = ("original", "treat", "continue", "shuffled-channels", "random-mask")


def render_page(report: Report, results: Results) -> str:
    """The whole page.

    Args:
        report: its figures.
        results: what they were taken from, open; layers are read one after the other.
    """
    diagnosis, rows = results.diagnosis, _class_rows(report)
    context: dict[str, Any] = {
        "report": report,
        "title": title(report),
        "trust": TRUST,
        "verdicts": VERDICTS,
        "handed_back": handed_back,
        "doubt": doubt_sentence(report),
        "steps": trial_steps(report),
        "cost_words": cost_words,
        "sentence": image_sentence,
        "arm_style": arm_style,
        "class_rows": rows,
        "class_marks": max((row.marks for row in rows), key=len, default=()),
        "settings": _settings(results),
        "commands": _commands(results),
        "loss_charts": history_charts(results.history),
        "maps": before_after(results.maps, class_names(report)) if results.maps else None,
        "depth_chart": None, "heat_maps": (), "pairs": None, "stability_chart": None, "shown": {}, "seen_at": None,
        "row_names": [], "confusions": [], "of_classes": [], "small": {},
    }  # fmt: skip
    if diagnosis is not None and report.diagnosis is not None:
        order = class_order(diagnosis)
        context |= {
            "depth_chart": _depth_chart(report.diagnosis),
            "heat_maps": _heat_maps(diagnosis, order),
            "row_names": [diagnosis.classes[n] for n in order] if len(order) <= _NAMED_ROWS else [],
            "pairs": _pair_maps(diagnosis, order),
            "stability_chart": _stability_chart(report.diagnosis),
            "firmness": firmness_sentence(report.diagnosis.stability) if report.diagnosis.stability else "",
            "shown": shown_images(diagnosis),
            "confusions": confusions(diagnosis),
            "of_classes": (of_classes := images_of_classes(diagnosis)),
            "small": {image.path: image.picture for part in of_classes for image in part.shown if image.picture},
            "seen_at": _seen_at(diagnosis),
        }
    # The page's policy lets this one script run and no other, whatever names and paths hold.
    script = _ENVIRONMENT.get_template("script.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _ENVIRONMENT.get_template("page.html").render(context, script=Markup(script), script_hash=digest)
    return printable_page(page)


def _seen_at(diagnosis: Diagnosis) -> tuple[str, int, int] | None:
    """Layer, height and width of the maps that lie over the wrong images."""
    shown = diagnosis.shown
    return None if shown is None else (shown.layer, *shown.contribution.shape[-2:])


def class_names(report: Report) -> list[str]:
    """(N,) in the network's order."""
    if report.trial:
        return [str(cell.label) for cell in report.trial.arms[0].classes]
    return [row.name for row in report.diagnosis.classes] if report.diagnosis else []


def _settings(results: Results) -> str:
    """The treatment's configuration as YAML that `modeldoctor treat` takes."""
    config = {key: value for key, value in (results.config or {}).items() if key != "checkpoint_sha256"}
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else ""


def _commands(results: Results) -> list[str]:
    """What to type to get the same again."""
    diagnosed = [results.diagnosis.command] if results.diagnosis and results.diagnosis.command else []
    treated = ["modeldoctor treat --config treat.yaml  # with the settings above"] if results.config else []
    return diagnosed + treated


def arm_style(arm: str) -> str:
    """The CSS class of an arm's colour."""
    return f"arm-{_ARM_STYLES.index(arm)}" if arm in _ARM_STYLES else "arm-5"


@dataclass(frozen=True)
class ClassRow:
    """A class in the table: its images, and an accuracy with interval for each network."""

    name: str
    images: int
    marks: tuple[tuple[str, str, Estimate], ...]
    """(network, CSS class, accuracy)."""
    verdict: str

    @property
    def change(self) -> float:
        """Of the second network less the first."""
        return self.marks[1][2].value - self.marks[0][2].value if len(self.marks) > 1 else float("nan")


def _class_rows(report: Report) -> list[ClassRow]:
    """Of the trial if there is one, else of the diagnosis or of both; the lowest accuracy first."""
    verdicts = {row.name: _most(row) for row in report.diagnosis.classes} if report.diagnosis else {}
    rows = []
    if report.trial:
        rows = _trial_rows(report.trial, verdicts)
    elif report.diagnosis:
        earlier = {row.name: row for row in report.before.classes} if report.before else {}
        for row in report.diagnosis.classes:
            marks = [("before", "arm-0", _estimate(earlier[row.name]))] if row.name in earlier else []
            name = "after" if report.before else report.diagnosis.examined
            rows.append(ClassRow(row.name, row.images, (*marks, (name, "arm-1", _estimate(row))), verdicts[row.name]))
    return sorted(rows, key=_lowest_first)


def _lowest_first(row: ClassRow) -> tuple[bool, bool, float, str]:
    """The place of a class in the table; what the first network was not measured on comes last."""
    value = row.marks[0][2].value
    return row.images == 0, math.isnan(value), 0.0 if math.isnan(value) else value, row.name


def _trial_rows(trial: Trial, verdicts: dict[str, str]) -> list[ClassRow]:
    # The original and the remedy that the outcome is about come first: the change is of the one to the other.
    first = ("original", trial.ruling.against_original.arm)
    arms = sorted(trial.arms, key=lambda arm: first.index(arm.arm) if arm.arm in first else len(first))
    return [
        ClassRow(
            str(cells[0].label),
            cells[0].images,
            tuple((arm.arm, arm_style(arm.arm), cell.accuracy) for arm, cell in zip(arms, cells, strict=True)),
            verdicts.get(str(cells[0].label), ""),
        )
        for cells in zip(*(arm.classes for arm in arms), strict=True)
    ]


def _estimate(row: ClassFigures) -> Estimate:
    return Estimate(value=row.accuracy, low=row.low, high=row.high)


def _most(row: ClassFigures) -> str:
    verdict, count = max(row.verdicts.items(), key=lambda item: item[1])
    return f"{verdict} ({count})" if count else ""


def class_order(diagnosis: Diagnosis) -> Ints:
    """(N,) classes such that those that depend on similar kernels stand together, by average-linkage clustering."""
    number = len(diagnosis.classes)
    if not diagnosis.layers or not 2 < number <= _MOST_CLUSTERED:
        return np.arange(number)
    profiles = np.nan_to_num(deepest(diagnosis).normalised.astype(np.float64))
    return np.asarray(scipy.cluster.hierarchy.leaves_list(scipy.cluster.hierarchy.linkage(profiles, "average")))


@dataclass(frozen=True)
class HeatMap:
    """A layer's class × kernel map."""

    layer: LayerDiagnosis
    uri: str
    share: float
    """Of the kernels that a class depends on."""
    classes_a_row: float
    kernels_a_column: float
    first: bool
    """Whether the page shows it unasked."""


def _heat_maps(diagnosis: Diagnosis, order: Ints) -> list[HeatMap]:
    """Of every layer; of many, some spread over the depth are shown unasked, the last among them."""
    number = len(diagnosis.layers)
    step = 1 if number <= _MAPS_UNASKED + 2 else -(-number // _MAPS_UNASKED)
    layers = enumerate(diagnosis.layers.values())
    return [_heat_map(layer, diagnosis, order, (number - 1 - place) % step == 0) for place, layer in layers]


def _heat_map(layer: LayerDiagnosis, diagnosis: Diagnosis, order: Ints, first: bool) -> HeatMap:
    values = layer.normalised[order]
    known = np.nan_to_num(values, nan=-1.0)
    columns = np.lexsort((-known.max(axis=0), known.argmax(axis=0)))
    most = _CELLS / max(1, len(diagnosis.layers))
    wide = min(_COLUMNS, layer.channels, max(16, int((2 * most) ** 0.5)))
    high = min(_ROWS, len(order), max(16, int(most / wide)))
    share = layer.correlated(diagnosis.config.threshold)[layer.count > 0]
    return HeatMap(
        # Only what the page says of it: the arrays of all layers must not stay in memory.
        layer=_without_arrays(layer),
        uri=heat_map(shrink(values[:, columns], high, wide)),
        share=float(share.mean()) if len(share) else float("nan"),
        classes_a_row=len(order) / high,
        kernels_a_column=layer.channels / wide,
        first=first,
    )


def _without_arrays(layer: LayerDiagnosis) -> LayerDiagnosis:
    empty: Floats = np.empty((0, 0), dtype=np.float32)
    arrays = ("correlation", "variance", "count", "signed", "activation", "contribution")
    return LayerDiagnosis(**{**vars(layer), **dict.fromkeys(arrays, empty)})


def _depth_chart(found: DiagnosisFigures) -> Markup | None:
    layers = sorted(found.layers, key=lambda layer: layer.depth)
    if len({layer.depth for layer in layers}) < 3:
        return None
    points = [(layer.depth, layer.correlated_share) for layer in layers]
    shared = [(layer.depth, layer.sharing) for layer in layers]
    sharing = [f"{layer.name}: {percent(layer.sharing)}" for layer in layers]
    titles = [f"{layer.name}: {percent(layer.correlated_share)} of {layer.channels}" for layer in layers]
    return line_chart(
        [
            Line(style="arm-0", points=shared, titles=sharing, joined=False),
            Line(style="arm-1", points=points, titles=titles, joined=False),
        ],
        ticks=[(0.0, "input"), (0.25, "¼"), (0.5, "½"), (0.75, "¾"), (1.0, "output")],
        x_range=(0.0, 1.0),
        x_label="depth of the layer",
        label="Share of kernels that a class depends on, and share that two classes have in common, by depth",
    )


@dataclass(frozen=True)
class PairMaps:
    """Two maps of all pairs of classes, in the same order.

    Attributes:
        sharing: the same above and below the diagonal.
        confusions: rows are true classes, columns what they are taken for.
        most: images in the fullest cell of the confusions.
    """

    sharing: str
    confusions: str
    most: int


def _pair_maps(diagnosis: Diagnosis, order: Ints) -> PairMaps | None:
    pairs = class_pairs(diagnosis)
    if pairs is None:
        return None

    def drawn(values: Floats) -> str:
        square = values[np.ix_(order, order)]
        np.fill_diagonal(square, np.nan)
        small = shrink(square, _ROWS, _ROWS)
        top = np.nanmax(small, initial=0.0)
        return heat_map(small / top if top > 0 else small)

    taken = confusion(diagnosis, diagnosis.rows(diagnosis.examined))
    np.fill_diagonal(taken, 0)
    return PairMaps(drawn(pairs.jaccard.astype(np.float64)), drawn(np.sqrt(taken)), int(taken.max()))


def _stability_chart(found: DiagnosisFigures) -> Markup | None:
    figures = found.stability
    if figures is None:
        return None
    ranges = figures.noise_ranges
    curves = [("arm-1", figures.right.stability)]
    if figures.wrong.images:
        curves.append(("arm-2", figures.wrong.stability))
    if figures.adversarial and figures.adversarial.images:
        curves.append(("arm-4", figures.adversarial.stability))
    # The ranges double or so from one to the next: they are set at even distances.
    places = range(len(ranges) + 1)
    return line_chart(
        [Line(style=style, points=list(zip(places, (1.0, *values), strict=True))) for style, values in curves],
        ticks=list(zip(places, ("0", *(f"{noise_range:g}" for noise_range in ranges)), strict=True)),
        x_label="noise range, in standard deviations of each layer",
        label="Share of noisy copies that keep the prediction, by noise range",
    )


@dataclass(frozen=True)
class LossChart:
    """One figure of every run by epoch."""

    title: str
    chart: Markup
    arms: tuple[str, ...]


_TITLES = {
    "loss": "Loss on the training images (cross-entropy)",
    "channel": "Channel constraint, as a share of its value at the start",
    "space": "Space constraint, as a share of its value at the start",
    "val_accuracy": "Accuracy on validation",
    "val_score": "The metric that chooses the epoch, on validation",
    "learning_rate": "Learning rate",
}


def history_charts(history: Sequence[HistoryRow]) -> list[LossChart]:
    """A chart of every column of `history.csv`, with a line for each run."""
    runs: dict[tuple[str, int], list[HistoryRow]] = {}
    for row in history:
        runs.setdefault((row.arm, row.seed), []).append(row)
    charts, drawn = [], list[object]()
    for column in dict.fromkeys(chain.from_iterable(row.figures for row in history)):
        lines = {
            (arm, seed): [(float(row.epoch), row.figures.get(column, float("nan"))) for row in rows]
            for (arm, seed), rows in runs.items()
        }
        lines = {run: points for run, points in lines.items() if any(y == y for _, y in points)}
        if not lines or lines in drawn:  # the metric that chooses may be the accuracy
            continue
        drawn.append(lines)
        epochs = sorted({x for points in lines.values() for x, _ in points})
        title = _TITLES.get(column, column.replace("_", " "))
        chart = line_chart(
            [
                Line(style=arm_style(arm), points=points, titles=[f"{arm}, seed {seed}: {y:.4g}" for _, y in points])
                for (arm, seed), points in lines.items()
            ],
            ticks=spread_ticks(epochs),
            x_label="epoch",
            label=title,
            share=column.startswith("val_"),
            whole=False,
        )
        charts.append(LossChart(title, chart, tuple(dict.fromkeys(arm for arm, _ in lines))))
    return charts
