"""Which images are worth annotating? Those that the network gets wrong with confidence, then those it doubts.

Shapes: S samples, N classes.
"""

from __future__ import annotations

import csv
import shlex
import shutil
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.data import ImageSet, choose_to_annotate, open_data
from modeldoctor.data.frames import STORED, upright
from modeldoctor.data.masks import PLAN_FILE
from modeldoctor.data.outputs import AnySet, in_network_classes, random_access
from modeldoctor.data.pictures import PictureFiles, picture_orientation
from modeldoctor.diagnosis.build import warn_of_predictions
from modeldoctor.diagnosis.chunks import Chunks
from modeldoctor.diagnosis.passes import Run, predict
from modeldoctor.diagnosis.setup import splits_to_use, take_apart
from modeldoctor.diagnosis.state import RunState
from modeldoctor.errors import DataError, ModelDoctorWarning, UsageError, counted, in_table, printable
from modeldoctor.graph import select_layers
from modeldoctor.results.expected import check_expected
from modeldoctor.runtime.files import check_writable, locked, written_aside
from modeldoctor.runtime.interrupts import graceful_stop
from modeldoctor.runtime.progress import Progress, silent
from modeldoctor.runtime.reading import exists
from modeldoctor.runtime.session import at_work, resolve_device
from modeldoctor.zoo import Classifier

LABELS_FILE = "labels.txt"
"""The classes' names, which LabelMe then offers for each shape."""
_COLUMNS = ("path", "class", "predicted", "confidence", "reason", "source")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One image to annotate.

    Attributes:
        path: of the copy, relative to the plan's folder.
        class_name, predicted: names of the true and the predicted class.
        confidence: softmax of the predicted class.
        reason: why it was chosen, in words.
        source: the image's own file; for an image that is no file, its path in the data.
    """

    path: str
    class_name: str
    predicted: str
    confidence: float
    reason: str
    source: str


@dataclass(frozen=True, kw_only=True)
class AnnotationPlan:
    """What was put into the folder.

    Attributes:
        output: the folder; its `annotate.csv` holds a row per choice.
        split: where the images are from.
        choices: class after class, the most worthwhile first.
        accuracy: share of the split's images that are right; NaN without any.
        annotated: images of the split that have a mask already and were left out.
        broken: paths and reasons of unreadable images.
    """

    output: Path
    split: str
    choices: tuple[Choice, ...]
    accuracy: float
    annotated: int
    broken: tuple[tuple[str, str], ...]

    @property
    def table(self) -> Path:
        """The CSV file."""
        return self.output / PLAN_FILE

    @property
    def labelme(self) -> str:
        """What to type to annotate the images: of LabelMe's releases before 6 the last two keep the files small and
        saved."""
        words = ["labelme", str(self.output), "--labels", str(self.output / LABELS_FILE), "--nodata", "--autosave"]
        return shlex.join(words)


def annotate(
    network: Classifier,
    data: str | Path | Mapping[str, AnySet],
    *,
    output: str | Path,
    per_class: int = 20,
    config: DiagnoseConfig | None = None,
    root: Path | None = None,
    download: bool = False,
    masks: Path | None = None,
    link: bool = False,
    progress: Progress | None = None,
) -> AnnotationPlan:
    """Put the images of each class that are most worth annotating into a folder, with a CSV that says why.

    The copies keep their paths relative to the data's root: LabelMe opens the folder as it is, and its files, saved
    beside the copies, fit the data as `masks=output`. Images that are no files, and those that viewers turn by EXIF,
    are written as PNG, upright.

    Args:
        network: from `load_model`; its module is moved to the device and otherwise left as it was.
        data: a folder, CSV or data set's name as in `open_data`, or the splits that it returned.
        output: the folder; new, empty, or made by an earlier call. Nothing in it is deleted.
        per_class: images per class; fewer where there are no more.
        config: its `split` (train by default), `expect_accuracy`, `batch_size`, `workers` and `device` count here.
        root, download, masks: as in `open_data`; images that have a mask already are left out.
        link: make symbolic links instead of copies.
        progress: called with (stage, done, total or None).

    Raises:
        DataError: the images cannot be used; they are a stream, or lie outside the data's root; each has a mask
            already; the accuracy is not the expected one.
        MaskError: the masks cannot be used.
        UsageError: `output` holds something else, lies within the data, or cannot be written; no such split.
        InterruptedRunError: Ctrl-C.
    """
    config, output = config or DiagnoseConfig(), Path(output)
    _check_request(data, root, output, per_class)
    if isinstance(data, str | Path):
        data = open_data(str(data), preprocessing=network.preprocessing, root=root, download=download, masks=masks)
    with locked(output):
        return _annotate(network, data, output, per_class, config, link, progress or silent)


def _annotate(
    network: Classifier,
    data: Mapping[str, AnySet],
    output: Path,
    per_class: int,
    config: DiagnoseConfig,
    link: bool,
    progress: Progress,
) -> AnnotationPlan:
    """See `annotate`; the output is this run's alone."""
    splits, classes = in_network_classes(data, network.class_names, network.num_classes, network.class_order)
    images = random_access(splits_to_use(splits, config)[0])
    annotated = _annotated(images)
    free = ~annotated & ~_twins(images, splits)
    if not free.any():
        raise DataError(
            f"nothing left to annotate: {annotated.sum()} of {counted(len(images), 'image')} of {images.split}"
            " have an annotation",
            where="--masks" if annotated.any() else f"the split {images.split}",
            expected="images without one",
            hint="give the masks to treat or diagnose as they are, or choose from another split (--split)",
        )
    images.masks = None
    run = _predicted(network, images, classes, config, progress)
    index, label, predicted, confidence = run.state.predictions[images.split].table()
    check_expected(int((label == predicted).sum()), len(label), images.split, config.expect_accuracy)
    rows = choose_to_annotate(
        label, predicted, confidence, free[index], per_class=per_class, num_classes=network.num_classes
    )
    names = [(classes[label[row]], classes[predicted[row]]) for row in rows]
    choices = [
        _choice(images, int(index[row]), *pair, float(confidence[row])) for row, pair in zip(rows, names, strict=True)
    ]
    _write_table(output / PLAN_FILE, choices)
    _write_labels(output / LABELS_FILE, classes)
    for done, (row, choice) in enumerate(zip(rows, choices, strict=True), start=1):
        _place(images, int(index[row]), output / choice.path, output, link)
        progress("copy", done, len(choices))
    return AnnotationPlan(
        output=output,
        split=images.split,
        choices=tuple(choices),
        accuracy=float((label == predicted).mean()) if len(label) else float("nan"),
        annotated=int(annotated.sum()),
        broken=tuple(run.state.predictions[images.split].broken),
    )


def _check_request(data: str | Path | Mapping[str, AnySet], root: Path | None, output: Path, per_class: int) -> None:
    if per_class < 1:
        raise UsageError(f"{per_class} images per class", where="--per-class", expected="at least 1")
    check_writable(output / PLAN_FILE)
    if output.is_dir() and any(output.iterdir()) and not _is_plan(output / PLAN_FILE):
        raise UsageError(
            "the folder is not empty",
            where=str(output),
            expected=f"a new or empty folder, or an earlier one with its {PLAN_FILE}",
            hint="choose another folder for the output",
        )
    if isinstance(data, str | Path) and Path(data).is_dir() and output.resolve().is_relative_to(Path(data).resolve()):
        raise UsageError(
            f"the output would lie within the images of {data}",
            where=str(output),
            expected="a folder elsewhere: here it would pass for a class",
            hint="choose another folder for the output",
        )
    read = [Path(given) for given in (data, root) if isinstance(given, str | Path) and exists(Path(given))]
    # A copy would replace the image that it is of, and a link to it lead to itself.
    if given := next((path for path in read if path.resolve().is_relative_to(output.resolve())), None):
        raise UsageError(
            f"the output holds what is read, {given}",
            where=str(output),
            expected="a folder elsewhere: images would be copied or linked onto themselves",
            hint="choose another folder for the output",
        )


def _is_plan(table: Path) -> bool:
    if not table.is_file():
        return False
    with table.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return next(csv.reader(stream), None) == list(_COLUMNS)


def _annotated(images: ImageSet) -> NDArray[np.bool_]:
    """(S,), whether an image has a mask."""
    masks = images.masks
    return np.array([masks is not None and masks.find(path) is not None for path in images.paths], dtype=np.bool_)


def _twins(images: ImageSet, splits: Mapping[str, AnySet]) -> NDArray[np.bool_]:
    """(S,), whether an image would share its annotation with another, as 1.jpg and 1.png do; warns of them."""
    paths = (path for split in splits.values() if isinstance(split, ImageSet) for path in split.paths)
    stems = Counter(PurePosixPath(path).with_suffix("") for path in paths)
    twins = [path for path in images.paths if stems[PurePosixPath(path).with_suffix("")] > 1]
    if twins:
        warnings.warn(
            f"left out: {counted(len(twins), 'image')} with the name of another but for its ending, first {twins[0]}",
            ModelDoctorWarning,
            stacklevel=3,
        )
    alike = set(twins)
    return np.array([path in alike for path in images.paths], dtype=np.bool_)


def _predicted(
    network: Classifier, images: ImageSet, classes: tuple[str, ...], config: DiagnoseConfig, progress: Progress
) -> Run:
    """A run that has made its first pass over the images."""
    config = config.model_copy(update={"layers": "last"})
    device = resolve_device(config.device)
    with graceful_stop() as stop, at_work(network.module, device):
        layered = take_apart(network, config, device)
        run = Run(
            module=network.module,
            network=layered,
            layers=select_layers(layered.layers, config.layers),
            config=config,
            classes=network.num_classes,
            device=device,
            state=RunState(fingerprint=""),
            state_path=None,
            progress=progress,
            stop=stop,
            chunks=Chunks(config.images_at_once(images.preprocessing.input_size), {}),
        )
        predict(run, images)
    warn_of_predictions(run, images, classes)
    return run


def _choice(images: ImageSet, index: int, name: str, predicted: str, confidence: float) -> Choice:
    path = PurePosixPath(images.paths[index])
    if path.is_absolute() or ".." in path.parts:
        raise DataError(
            f"the image {path} lies outside the data's root",
            where=f"split {images.split}",
            expected="paths relative to the root, which annotations can mirror",
            hint="write relative paths into the table, and give the folder that they start from (--root)",
        )
    wrong = f"wrong: taken for {predicted} with confidence {confidence:.2f}"
    doubted = f"right, but among the least confident of its class: {confidence:.2f}"
    source = _source(images, index)
    return Choice(
        path=str(path if source and not _is_turned(source) else path.with_suffix(".png")),
        class_name=name,
        predicted=predicted,
        confidence=confidence,
        reason=doubted if name == predicted else wrong,
        source=str(source.resolve() if source else path),
    )


def _source(images: ImageSet, index: int) -> Path | None:
    """The image's file, if it has one of its own."""
    pictures = images.pictures
    return pictures.root / images.paths[index] if isinstance(pictures, PictureFiles) else None


def _is_turned(source: Path) -> bool:
    """Whether viewers turn the picture: some tools for annotation do so, others do not."""
    return picture_orientation(source) != STORED


def _write_table(table: Path, choices: list[Choice]) -> None:
    with written_aside(table) as aside, aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for choice in choices:
            confidence = f"{choice.confidence:.4f}"
            cells = [choice.path, choice.class_name, choice.predicted, confidence, choice.reason, choice.source]
            writer.writerow(map(in_table, cells))


def _write_labels(labels: Path, classes: tuple[str, ...]) -> None:
    """One name per line, as LabelMe reads it."""
    with written_aside(labels) as aside:
        aside.write_text("".join(f"{printable(name)}\n" for name in classes), encoding="utf-8", errors="replace")


def _place(images: ImageSet, index: int, target: Path, output: Path, link: bool) -> None:
    """Copy, link or draw one image, so that what a link there pointed to stays as it was."""
    if not target.parent.resolve().is_relative_to(output.resolve()):
        raise UsageError("a link leads out of the output", where=str(target.parent), hint="choose another folder")
    source = _source(images, index)
    with written_aside(target) as aside:
        if source is None or _is_turned(source):
            upright(images.pictures.read(index, "RGB"), images.pictures.orientation(index)).save(aside, "PNG")
        elif link:
            aside.unlink()
            aside.symlink_to(source.resolve())
        else:
            shutil.copyfile(source, aside)
