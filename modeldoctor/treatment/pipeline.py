"""What the commands do that takes more than one room: a treatment with the diagnosis that it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modeldoctor.config.treat import TreatConfig
from modeldoctor.diagnosis import diagnose
from modeldoctor.results import run_directory
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.expected import check_diagnosis
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.results.remarks import seen_images
from modeldoctor.results.trial import Trial
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.progress import Progress
from modeldoctor.treatment import treat
from modeldoctor.treatment.batches import annotation_note
from modeldoctor.treatment.loggers import check_logger
from modeldoctor.treatment.preparation import Prepared, check_new, diagnosis_needed, finds_masks, prepare
from modeldoctor.treatment.prescription import prescribed
from modeldoctor.treatment.subsets import needs_masks
from modeldoctor.zoo import Classifier, load_model


def load_and_treat(
    config: TreatConfig,
    *,
    trust_pickle: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
    team: Team | None = None,
) -> Trial:
    """Load the configuration's checkpoint, diagnose it unless that is done, and treat it.

    >>> from modeldoctor import TreatConfig, load_and_treat
    >>> training = {"epochs": 1, "batch_size": 16}
    >>> config = TreatConfig(
    ...     checkpoint="ckpt.pt", data={"path": "photos/"}, output="treated",
    ...     arms=["continue", "last-layer"], training=training,
    ... )
    >>> str(load_and_treat(config).ruling.outcome)
    'no-benefit'

    Args:
        config: all that is to be done.
        trust_pickle: let the checkpoint's pickle EXECUTE code; only for a trusted source.
        resume: go on with the interrupted trial in `config.output`, or with its interrupted diagnosis.
        progress: called with (stage, done, total or None).
        say: called with each assumption about the checkpoint, and with the annotations per class, before any work.
        team: the processes that share the work.

    Raises:
        ModelDoctorError: what `load_model`, `diagnose` and `treat` raise.
    """
    team = team or Team()
    check_logger(config)
    network = load_network(config, trust_pickle=trust_pickle)
    say = say or _keep_quiet
    for text in network.notes:
        say(text)
    check_new(config, resume)
    prepared = prepare(config, network)
    if parts := prepared.splits.split_off:
        say(seen_images(parts))
    if needs_masks(prepared.config):
        say(annotation_note(prepared.splits.train, prepared.config))
    team.barrier()  # nobody writes before all have looked
    diagnosis = _diagnosis(config, network, _serving_masks(prepared), resume, progress, team)
    check_diagnosis(diagnosis, config.expect_accuracy)
    settings, why = prescribed(prepared.config, diagnosis)
    if why:
        say(why)
    return treat(prepared._replace(config=settings), network, diagnosis, resume=resume, progress=progress, team=team)


def _keep_quiet(text: str) -> None:
    """Say nothing."""


def load_network(config: TreatConfig, *, trust_pickle: bool = False) -> Classifier:
    """The network that a configuration treats."""
    wanted = config.network
    return load_model(
        config.checkpoint, arch=wanted.arch, num_classes=wanted.num_classes, channels=wanted.channels,
        head=wanted.head, input_size=wanted.input_size, mean=wanted.mean, std=wanted.std,
        interpolation=wanted.interpolation, crop_pct=wanted.crop_pct, resize_mode=wanted.resize_mode,
        class_order=wanted.class_order,
        model_options=wanted.model_options,
        download=wanted.download, trust_pickle=trust_pickle,
    )  # fmt: skip


def _serving_masks(prepared: Prepared) -> Path | None:
    """The masks, where images that the diagnosis examines have some or are to get some from the training images'."""
    train, val = prepared.splits.train, prepared.splits.val
    serves = val.images is train.images or val.has_mask.any() or finds_masks(prepared.config)
    return prepared.config.data.masks if serves else None


def _diagnosis(
    config: TreatConfig,
    network: Classifier,
    masks: Path | None,
    resume: bool,
    progress: Progress | None,
    team: Team,
) -> Diagnosis:
    made = config.output / run_directory.DIAGNOSIS
    if config.diagnosis is not None or (resume and made.exists()):
        return read_diagnosis(config.diagnosis or made)
    return diagnose(
        network, config.data.path, config=diagnosis_needed(config), root=config.data.root,
        download=config.data.download, masks=masks, output=made, resume=resume, progress=progress,
        team=team,
    )  # fmt: skip
