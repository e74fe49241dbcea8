"""Figures as files: each opens, shows the figures of the diagnosis, and takes no other file's place."""

from __future__ import annotations

import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from conftest import make_diagnosis
from matplotlib import pyplot
from PIL import Image
from stored_results import with_pictures, write_run

from modeldoctor.errors import UsageError
from modeldoctor.report import make_report
from modeldoctor.report.figures import _plot_classes, _plot_confusion, _plot_trial
from modeldoctor.results.hdf5 import write_diagnosis
from modeldoctor.results.trial import read_trial

mpl.use("Agg")


def test_every_figure_is_an_svg_and_a_png(tmp_path: Path) -> None:
    write_diagnosis(with_pictures(make_diagnosis()), tmp_path / "d.h5")
    made = make_report(tmp_path / "d.h5", figures=tmp_path / "figures", formats=["json"])
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    wanted = {"accuracy", "confusion", "kernels-stem.conv", "kernels-body.1_2", "wrong"}
    assert names == {f"{name}.{ending}" for name in wanted for ending in ("svg", "png")}
    assert {path.name for path in made.files} == names | {"report.json"}
    for path in (tmp_path / "figures").iterdir():
        if path.suffix == ".png":
            assert np.asarray(Image.open(path)).std() > 0
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
    make_report(tmp_path / "d.h5", figures=tmp_path / "figures", formats=["json"])  # again, in their place


def test_one_figure_is_open_at_a_time_however_many_layers_there_are(tmp_path: Path) -> None:
    write_diagnosis(make_diagnosis(), tmp_path / "d.h5")
    pyplot.close("all")
    with mpl.rc_context({"figure.max_open_warning": 1}), warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # matplotlib's own, of the second
        make_report(tmp_path / "d.h5", figures=tmp_path / "figures", formats=["json"])
    assert not pyplot.get_fignums()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    write_diagnosis(make_diagnosis(), tmp_path / "d.h5")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holiday\.png"):
        make_report(tmp_path / "d.h5", figures=tmp_path / "mine")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["d.h5", "holiday.png"]


def test_bars_and_cells_are_the_shares_of_the_diagnosis() -> None:
    axes = _plot_classes(make_diagnosis()).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.0, 1 / 3, 0.5]
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "cat 🐈 (3)"
    cells = np.asarray(_plot_confusion(make_diagnosis()).axes[0].images[0].get_array())
    np.testing.assert_allclose(cells, [[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0], [0, 1, 0]])


def test_a_trial_has_a_point_with_its_interval_for_each_arm_and_metric(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", gain=0.3)
    trial = read_trial(run / "trial.json")
    axes = _plot_trial(trial).axes[0]
    points = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert points == [[arm.metrics[metric].value for arm in trial.arms] for metric in trial.arms[0].metrics]
    assert [label.get_text() for label in axes.get_yticklabels()] == [arm.arm for arm in trial.arms]
