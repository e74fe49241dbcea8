"""The whole job without any data at hand: draw images, train a network that they mislead, diagnose, treat, report."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import timm
import torch

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
from modeldoctor.config.treat import DataConfig, Metric, TrainingConfig, TreatConfig
from modeldoctor.data import open_data
from modeldoctor.demo.drawing import ImageSetPlan, draw_image_set
from modeldoctor.demo.training import Recipe, classifier_checkpoint, fit_classifier, load_all
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import UsageError
from modeldoctor.report import make_report
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import Trial
from modeldoctor.runtime.files import noted, written_aside
from modeldoctor.runtime.progress import Progress
from modeldoctor.treatment import treat
from modeldoctor.zoo import load_model

__all__ = ["DemoPlan", "DemoResult", "prepare_demo", "run_demo"]

_MARKER = ".modeldoctor-demo"
_FILES = (
    "metadata.csv", "checkpoint.pt", "diagnosis.h5", "diagnosis.h5.partial", "diagnosis.json", "config.yaml",
    "history.csv", "maps.h5", "trial.json", "treated.pt", "report.html", "report.json", "report.md",
)  # fmt: skip
_ARCH = "test_resnet"


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """The size of a demo; the default takes a minute or two on two cores."""

    images: ImageSetPlan = field(default_factory=ImageSetPlan)
    input_edge: int = 72
    """Pixels: the network's last maps are 3x3."""
    epochs: int = 10
    treatment_epochs: int = 2


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What a demo leaves behind."""

    diagnosis: Diagnosis
    trial: Trial
    output: Path
    """The diagnosis as a file."""
    checkpoint: Path
    folder: Path
    """Holds all of it, and `data/`, `data-masks/` and `metadata.csv`: a run directory."""
    report: Path
    """The page on all of it."""


def run_demo(
    output: Path, *, seed: int = 0, plan: DemoPlan | None = None, progress: Progress | None = None
) -> DemoResult:
    """Draw images whose backgrounds mislead, train a small network on them, diagnose it, treat it, and report.

    Args:
        output: the folder to make: new, empty, or of an earlier demo, which is replaced.
        seed: of images, training, diagnosis and treatment.
        plan: how much of each.
        progress: called with (stage, done, total or None).

    Raises:
        UsageError: the folder holds something else, or cannot be written to.
        InterruptedRunError: Ctrl-C during diagnosis or treatment.
    """
    folder, plan = Path(output), plan or DemoPlan()
    checkpoint = prepare_demo(folder, seed=seed, plan=plan, progress=progress)
    network = load_model(checkpoint)
    diagnosis = diagnose(
        network,
        folder / "data",
        config=DiagnoseConfig(layers="last:3,features", scan="all", seed=seed),
        masks=folder / "data-masks",
        output=folder / "diagnosis.h5",
        progress=progress,
    )
    trial = treat(_treatment(folder, checkpoint, plan, seed), network, diagnosis, progress=progress)
    return DemoResult(
        diagnosis=diagnosis,
        trial=trial,
        output=folder / "diagnosis.h5",
        checkpoint=checkpoint,
        folder=folder,
        report=make_report(folder).files[0],
    )


def prepare_demo(
    output: Path, *, seed: int = 0, plan: DemoPlan | None = None, progress: Progress | None = None
) -> Path:
    """Draw the images, their masks and `metadata.csv`, train the network, and return its checkpoint; see `run_demo`."""
    folder, plan = Path(output), plan or DemoPlan()
    _clear(folder)
    draw_image_set(folder, plan.images, seed=seed, progress=progress)
    checkpoint = folder / "checkpoint.pt"
    _train(folder / "data", checkpoint, plan, seed, progress)
    return checkpoint


def _treatment(folder: Path, checkpoint: Path, plan: DemoPlan, seed: int) -> TreatConfig:
    return TreatConfig(
        checkpoint=checkpoint,
        data=DataConfig(path=str(folder / "data"), masks=folder / "data-masks", groups=folder / "metadata.csv"),
        diagnosis=folder / "diagnosis.h5",
        output=folder,
        training=TrainingConfig(epochs=plan.treatment_epochs),
        seeds=(seed,),
        metric=Metric.WORST_GROUP,
    )


def _clear(folder: Path) -> None:
    """Make the folder, or remove an earlier demo's files from it; the marker comes first, so a half demo has it too."""
    marker = folder / _MARKER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()) and not marker.is_file():
            raise UsageError(
                "the folder is not empty, and nothing in it is of an earlier demo",
                where=str(folder),
                expected="a new or empty folder, or an earlier demo, which is replaced",
                hint="name another folder: modeldoctor demo FOLDER",
            )
        marker.write_text("Made by `modeldoctor demo`, which replaces what is here when it is run again.\n")
        for tree in (folder / "data", folder / "data-masks", folder / "arms"):
            if tree.exists():
                shutil.rmtree(tree)
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(
            f"the folder cannot be made: {error.strerror or error}",
            where=str(error.filename or folder),
            expected="a folder that can be written to",
            hint="name another folder: modeldoctor demo FOLDER",
        ) from error


def _train(data: Path, checkpoint: Path, plan: DemoPlan, seed: int, progress: Progress | None) -> None:
    preprocessing = Preprocessing(input_size=(3, plan.input_edge, plan.input_edge), mean=(0.5,) * 3, std=(0.25,) * 3)
    train = open_data(str(data), preprocessing=preprocessing)["train"]
    images, labels = load_all(train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = timm.create_model(_ARCH, num_classes=len(train.class_names))
    recipe = Recipe(epochs=plan.epochs, batch_size=32, learning_rate=0.05, weight_decay=5e-4, seed=seed)
    fit_classifier(network, images, labels, **recipe, shift=4, flip=True, progress=progress)
    content = classifier_checkpoint(
        network, arch=_ARCH, class_names=train.class_names, preprocessing=preprocessing, recipe=recipe
    )
    with written_aside(checkpoint) as aside, noted(aside) as file:
        torch.save(content, file)
