"""Before a treatment's work: what its configuration leaves open, what can be refused, and the trial to go on with."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from modeldoctor.config.arms import ARMS
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import TrainingConfig, TreatConfig
from modeldoctor.config.treat_file import written_yaml
from modeldoctor.data import open_data
from modeldoctor.data.identity import changed, identify_data, stamps_of
from modeldoctor.data.outputs import in_network_classes
from modeldoctor.errors import DataError, ModelDoctorWarning, StoreError, UsageError
from modeldoctor.results import run_directory
from modeldoctor.results.outputs import check_outputs
from modeldoctor.results.run_directory import written_files
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.files import written_aside
from modeldoctor.runtime.reading import SETTINGS_MOST, content, is_there, plain_yaml
from modeldoctor.treatment.groups import with_groups
from modeldoctor.treatment.loggers import check_logger
from modeldoctor.treatment.optimisation import Optimisation
from modeldoctor.treatment.subsets import Splits, needs_masks, needs_predictions, split_subsets
from modeldoctor.zoo import Classifier
from modeldoctor.zoo.construction import construction_digest

UNSTATED = {
    "batch_size": 64, "optimizer": "sgd", "learning_rate": 0.003, "weight_decay": 5e-4, "momentum": 0.9,
    "label_smoothing": 0.0,
}  # fmt: skip
"""Training settings where neither the configuration nor the checkpoint states one."""
_EXPLAINED = 100
_CHANGE_NO_FIGURE = {"output", "workers", "device", "memory", "log", "budget", "expect_accuracy"}
_RECORDED = {"optimizer": "opt", "learning_rate": "lr", "label_smoothing": "smoothing"}


class Prepared(NamedTuple):
    """A resolved configuration and the images that it means."""

    config: TreatConfig
    splits: Splits


def prepare(config: TreatConfig, network: Classifier) -> Prepared:
    """Resolve a configuration and open its images: all that can be refused before a diagnosis is made.

    Raises:
        UsageError: the network came without a checkpoint.
        ConfigError: the optimizer cannot be made, or the package of `log` is not there.
        DataError: images, groups or annotations are missing.
    """
    if network.source is None:
        raise UsageError(
            "a network that came without a checkpoint",
            where="treat",
            expected="a file, in whose container the treated weights are written",
            hint="save its state_dict() and load that with load_model",
        )
    check_logger(config)
    config = resolved(config, network)
    Optimisation(torch.nn.Linear(1, 1), config.training, updates_per_epoch=1)
    opened = open_data(
        config.data.path, preprocessing=network.preprocessing, root=config.data.root, download=config.data.download,
        masks=config.data.masks,
    )  # fmt: skip
    matched, _ = in_network_classes(opened, network.class_names, network.num_classes, network.class_order)
    splits = with_groups(split_subsets(matched), config.data)
    if needs_masks(config) and not splits.train.has_mask.any():
        raise DataError(
            f"none of {len(splits.train.indices)} training images has a mask",
            where=str(config.data.masks),
            expected="masks of training images, in the images' folder structure",
            hint="`modeldoctor annotate` picks the images to annotate; or set space.weight to 0",
        )
    return Prepared(config, splits)


def resolved(config: TreatConfig, network: Classifier) -> TreatConfig:
    """The configuration with every training setting that it left open: the original training's, else `UNSTATED`."""
    recorded = network.training
    wanted = {name: value for name, value in config.training.model_dump().items() if value is not None}
    stated = {name: recorded[key] for name in UNSTATED if (key := _RECORDED.get(name, name)) in recorded}
    try:
        training = TrainingConfig(**{**UNSTATED, **stated, **wanted})
    except ValidationError:
        said = ", ".join(f"{name} {value!r}" for name, value in stated.items() if name not in wanted)
        warnings.warn(
            f"what the checkpoint says of its own training cannot be used here and is not: {said}",
            ModelDoctorWarning,
            stacklevel=3,
        )
        training = TrainingConfig(**{**UNSTATED, **wanted})
    return config.model_copy(update={"training": training})


def diagnosis_needed(config: TreatConfig) -> DiagnoseConfig:
    """What to diagnose so that a configuration can be treated: the constrained layers; some wrong images to report."""
    constrained = any(ARMS[arm].constrained for arm in config.arms)
    layers = {part.layers: None for part in (config.channel, config.space) if part.weight and constrained}
    return DiagnoseConfig(
        layers=",".join(layers) or DiagnoseConfig().layers,
        # Annotated and hard images are chosen by their predictions.
        scan="all" if needs_predictions(config) else "enough",
        max_explained=_EXPLAINED,
        propagate_masks=finds_masks(config),
        workers=config.workers,
        device=config.device,
        memory=config.memory,
    )


def finds_masks(config: TreatConfig) -> bool:
    """Whether masks are found for images without one: the diagnosis before the treatment then looks by them, too."""
    return bool(config.space.propagated_per_class) and needs_masks(config)


def check_new(config: TreatConfig, resume: bool, *, diagnosed: bool = False) -> None:
    """Refuse to write over a trial, an input, or a file of somebody else.

    Args:
        config: of the treatment.
        resume: whether the trial in its output is to be continued.
        diagnosed: whether the diagnosis is given, so that none is written.

    Raises:
        UsageError: something of that kind is there.
    """
    _check_no_trial(config, resume)
    data, folder = config.data, config.output
    given = diagnosed or config.diagnosis is not None
    written = [
        path
        for path in written_files(folder, config.checkpoint.suffix)
        if not (given and path.name.startswith(run_directory.DIAGNOSIS))
    ]
    root = data.root if Path(data.path).is_file() else None
    check_outputs(written, (config.checkpoint, data.path, root, data.masks, data.groups))
    # The treated file's ending is that of the weights, which may be another than the checkpoint's name has.
    treated = (folder / run_directory.TREATED, *folder.glob(f"{run_directory.TREATED}.*"))
    left = next((path for path in (*written, *treated) if path.exists()), None)
    if left and not resume:
        raise UsageError(
            f"there is a file of another run: {left.name}",
            where=str(folder),
            expected="a new run directory",
            hint="choose another output",
        )


def _check_no_trial(config: TreatConfig, resume: bool) -> None:
    if not resume and is_there(config.output / run_directory.CONFIG):
        raise UsageError(
            "there is a trial already",
            where=str(config.output),
            expected="a new run directory",
            hint="--resume goes on with it; or choose another output",
        )


def begin(prepared: Prepared, network: Classifier, resume: bool) -> TreatConfig:
    """Write the resolved configuration, or check that the trial to resume had the same one and the same data.

    Returns:
        The configuration, with the rounds that were planned for the trial to resume.
    """
    config, splits = prepared.config, prepared.splits
    _check_no_trial(config, resume)
    path = config.output / run_directory.CONFIG
    if path.exists() and config.rounds is None:
        config = _with_rounds(config, _settings(_read_before(path)).get("rounds"))
    data = _identity(config, splits)
    construction = construction_digest(network)
    text = run_directory.identity_line(network.checkpoint_sha256) + run_directory.network_line(construction)
    text += run_directory.data_line(data) + written_yaml(config)
    if path.exists():
        _check_same(path, text, data)
    _write(path, text)
    return config


def _identity(config: TreatConfig, splits: Splits) -> dict[str, str]:
    sets = {id(part.images): part.images for part in (splits.train, splits.val, splits.test)}
    return identify_data([(images, stamps_of(images)) for images in sets.values()], (config.data.groups,))


def warn_of_changes(config: TreatConfig, splits: Splits) -> None:
    """Say what of the data was changed while the trial ran: parts of it were of other images or masks."""
    try:
        before = run_directory.data_in(_read_before(config.output / run_directory.CONFIG))
    except StoreError:  # gone meanwhile: the trial is worth more
        return
    if differing := changed(before, _identity(config, splits)):
        warnings.warn(
            f"the data was changed while the trial ran: {differing}; its figures are in part of the one, in part of "
            "the other. Run it again, in another output",
            ModelDoctorWarning,
            stacklevel=2,
        )


def record_rounds(config: TreatConfig) -> None:
    """Write the rounds that were planned into the configuration of a trial that has begun."""
    path = config.output / run_directory.CONFIG
    said = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#")]
    _write(path, "".join(said) + written_yaml(config))


def _write(path: Path, text: str) -> None:
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _with_rounds(config: TreatConfig, rounds: object) -> TreatConfig:
    try:
        return TreatConfig.model_validate(config.model_dump() | {"rounds": rounds})
    except ValidationError:  # somebody changed the file
        return config


def _read_before(path: Path) -> str:
    """The configuration of the trial to resume.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return content(path, SETTINGS_MOST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(
            f"the configuration of the interrupted trial cannot be read ({type(error).__name__})",
            where=str(path),
            expected="the file as `modeldoctor treat` wrote it",
            hint="choose another output",
        ) from error


def _check_same(path: Path, text: str, data: dict[str, str]) -> None:
    """Whether the trial to resume had this configuration and this data."""
    before = _read_before(path)
    if _what_counts(before) != _what_counts(text):
        raise StoreError(
            "the interrupted trial had other settings",
            where=str(path),
            expected="the same configuration and checkpoint",
            hint="resume with the old configuration, or choose another output",
        )
    if run_directory.network_in(before) not in (None, run_directory.network_in(text)):
        raise StoreError(
            "the network has other layers, or other code, than when the trial was interrupted",
            where=str(path),
            expected="the same code of --arch, or network.arch, and the same versions of the libraries",
            hint="put the code back as it was, or begin a trial in another output",
        )
    if differing := changed(run_directory.data_in(before), data):
        raise StoreError(
            f"the data has changed since the trial was interrupted: {differing}",
            where=str(path),
            expected="the same images, labels, masks and groups",
            hint="put the data back as it was, or begin a trial in another output",
        )


def _what_counts(text: str) -> tuple[str, dict[str, Any]]:
    """The checkpoint's line and the settings of a resolved configuration, without those that change no figure."""
    settings = _settings(text)
    return text.partition("\n")[0], {key: value for key, value in settings.items() if key not in _CHANGE_NO_FIGURE}


def _settings(text: str) -> dict[str, Any]:
    """The keys and values of a configuration; none if somebody changed the file."""
    try:
        settings = plain_yaml(text)
    except ValueError:
        settings = None
    return settings if isinstance(settings, dict) else {}


def check_team(config: TreatConfig, team: Team) -> None:
    """Refuse more processes than a batch has images.

    Raises:
        UsageError: there are more.
    """
    if (size := config.training.batch_size or 1) < team.world_size:
        raise UsageError(
            f"{team.world_size} processes for batches of {size} images",
            where="training.batch_size",
            expected="an image of every batch for each process",
            hint="larger batches or fewer processes",
        )
