"""From a network and images to a diagnosis: which kernels does each class depend on, and why are images wrong?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
from modeldoctor.data import open_data
from modeldoctor.data.identity import stamps_of
from modeldoctor.data.outputs import AnySet, in_network_classes
from modeldoctor.diagnosis.alternatives import try_alternatives
from modeldoctor.diagnosis.attack import adversarial, attack
from modeldoctor.diagnosis.backgrounds import read_backgrounds
from modeldoctor.diagnosis.build import (
    build_diagnosis,
    choose_pilot,
    choose_samples,
    choose_to_examine,
    collect_samples,
    layer_diagnosis,
    make_probe,
    only_right,
    warn_of_altered,
    warn_of_predictions,
    warn_of_vanished,
)
from modeldoctor.diagnosis.compare import compare
from modeldoctor.diagnosis.draws import plan_draws
from modeldoctor.diagnosis.explain import Probe
from modeldoctor.diagnosis.found_masks import with_found_masks
from modeldoctor.diagnosis.passes import Run, correlate, examine, measure_scales, predict
from modeldoctor.diagnosis.samples import plan_samples
from modeldoctor.diagnosis.scan import scan
from modeldoctor.diagnosis.setup import (
    command_line,
    open_chunks,
    open_state,
    partial_of,
    splits_to_use,
    take_apart,
    warn_of_familiar,
    with_usable_masks,
)
from modeldoctor.diagnosis.show import show
from modeldoctor.graph import Layer, select_layers
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.hdf5 import write_diagnosis
from modeldoctor.results.outputs import check_ours, check_outputs
from modeldoctor.results.tables import tables_beside
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.files import check_writable, locked
from modeldoctor.runtime.interrupts import graceful_stop
from modeldoctor.runtime.progress import Progress, silent
from modeldoctor.runtime.session import at_work, recorded_warnings, resolve_device
from modeldoctor.zoo import Classifier, load_model

__all__ = ["diagnose", "list_layers"]


def diagnose(
    network: Classifier | nn.Module,
    data: str | Path | Mapping[str, AnySet],
    *,
    preprocessing: Preprocessing | None = None,
    config: DiagnoseConfig | None = None,
    root: Path | None = None,
    download: bool = False,
    masks: Path | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    team: Team | None = None,
) -> Diagnosis:
    """Measure the class correlations of a network (Eq. 2-4) and explain its wrong predictions.

    >>> from modeldoctor import DiagnoseConfig, diagnose, load_model
    >>> diagnosis = diagnose(load_model("ckpt.pt"), "photos/", config=DiagnoseConfig(layers="last"))
    >>> diagnosis["layer4.0.conv2"].correlation.shape  # (N,K)
    (4, 96)

    Args:
        network: from `load_model`, its module is moved to the device and otherwise left as it was; or a module, which
            is copied.
        data: a folder, CSV or data set's name as in `open_data`, or the splits that it returned.
        preprocessing: of a module; by default ImageNet's, at 224 px.
        config: what is measured, and how.
        root, download, masks: as in `open_data`.
        output: write the diagnosis here (HDF5); an interrupted run's state is kept beside it.
        resume: go on with the interrupted run whose state lies beside `output`.
        progress: called with (stage, done, total or None).
        team: the processes that share the images (`modeldoctor.runtime.distributed.job`); the first alone writes.

    Returns:
        The diagnosis, the same in every process; class correlations are NaN, with count 0, for a class without right,
        confident images.

    Raises:
        DataError: the images cannot be used.
        UsageError: a split or layer does not exist, or the output cannot be written.
        StoreError: the state to resume is of another run.
        MemoryLimitError: `config.memory` is too small for one image.
        JobError: another process of the team has ended.
        InterruptedRunError: Ctrl-C; what was done is kept beside `output`.
    """
    if not isinstance(network, Classifier):
        network = load_model(network, preprocessing=preprocessing)
    config, output = config or DiagnoseConfig(), None if output is None else Path(output)
    team = team or Team()
    if output is not None:
        check_writable(output)  # a folder has no summary beside it
        files = (network.source.path, network.source.weights_path) if network.source else ()
        folder = data if isinstance(data, str | Path) else None
        written = (output, output.with_suffix(".json"), *tables_beside(output), partial_of(output))
        check_outputs(written, (*files, folder, masks), inside=True)
        check_ours(output, ".h5")  # whatever its suffix: it may be the user's code, or names of classes
    device = resolve_device(config.device, team.local_rank)
    with (
        locked(output if team.is_primary else None),
        recorded_warnings() as said,
        graceful_stop(patient=team.world_size > 1) as stop,
        at_work(network.module, device),
    ):
        command = ""
        if isinstance(data, str | Path):
            command = command_line(network, data, config, output, root=root, masks=masks)
            data = open_data(str(data), preprocessing=network.preprocessing, root=root, download=download, masks=masks)
        splits, classes = in_network_classes(data, network.class_names, network.num_classes, network.class_order)
        source, examined = splits_to_use(splits, config)
        warn_of_familiar(splits, examined, config)
        layered = take_apart(network, config, device)
        layers = select_layers(layered.layers, config.layers)
        parts = [source] if source is examined else [source, examined]
        read = with_usable_masks(parts, propagated=config.propagate_masks)
        stamped = [(images, stamps_of(images)) for images in read]
        state, state_path = open_state(network, config, stamped, layers, output, resume)
        if not team.is_primary:
            state.correlations = {}  # the first process holds what was summed before
        if config.propagate_masks:
            read = with_found_masks(read, layered, config, device, progress or silent)
        run = Run(
            module=network.module,
            network=layered,
            layers=layers,
            config=config,
            classes=network.num_classes,
            device=device,
            state=state,
            state_path=state_path,
            progress=progress or silent,
            stop=stop,
            chunks=open_chunks(layered, layers, network.example(device), config, state, team),
            team=team,
        )
        found = _run_passes(run, network, classes, read)
        if team.is_primary:
            warn_of_altered(run, stamped)
        found = team.broadcast(replace(found, warnings=tuple(said), command=command) if found else None)
        assert found is not None
        if output is not None and team.is_primary:
            write_diagnosis(found, output)
        if state_path is not None and team.is_primary:
            state_path.unlink(missing_ok=True)
    return found


def list_layers(network: Classifier, config: DiagnoseConfig | None = None) -> tuple[Layer, ...]:
    """The selected layers of a network, in execution order, with shapes and cost; no image is read.

    >>> from modeldoctor import DiagnoseConfig, list_layers, load_model
    >>> for layer in list_layers(load_model("ckpt.pt"), DiagnoseConfig(layers="last")):
    ...     print(layer.name, layer.channels, layer.macs_after)
    layer4.0.conv2 96 384
    """
    config = config or DiagnoseConfig(layers="all")
    device = resolve_device(config.device)
    with at_work(network.module, device):
        # Nothing is measured here: of the cuts, which are many, one is checked.
        found = take_apart(network, config.model_copy(update={"layers": "last"}), device).layers
        return select_layers(found, config.layers)


def _run_passes(run: Run, network: Classifier, classes: tuple[str, ...], read: list[AnySet]) -> Diagnosis | None:
    """All passes; the first process has the diagnosis then."""
    source, examined = read[0], read[-1]
    scanned = source is not examined and run.config.scan == "enough"
    for images in reversed(read):  # the examined split first: its accuracy is what a person waits for
        if images is source and scanned:
            scan(run, images)
        else:
            predict(run, images)
    measure_scales(run, source)
    if run.config.samples_precision is not None:
        plan_samples(run, source, choose_pilot(run, source))
        if scanned:
            scan(run, source)
    for images in read:
        warn_of_predictions(run, images, classes)
    used = choose_samples(run, source, classes)
    plan_draws(run, source, used)
    correlate(run, source, used)
    layers = {layer.name: layer_diagnosis(run, layer) for layer in run.layers} if run.team.is_primary else {}
    samples, first_row = collect_samples(run, read, used)
    probe = replace(run.team.broadcast(cast(Probe, make_probe(run, layers) if layers else None)), rows=run.chunks.rows)
    row = first_row[examined.split]
    chosen = choose_to_examine(run, examined)
    begun = time.monotonic()
    backgrounds = read_backgrounds(run, examined, source)
    examine(run, examined, chosen, row, probe, backgrounds)
    compared = compare(run, network, classes, source, used, examined, chosen, row)
    explaining_s = time.monotonic() - begun
    try_alternatives(run, examined)
    if run.config.fgsm_epsilon and run.config.draws_per_image:
        attack(run, examined, only_right(run, examined, chosen), row, probe)
    found = build_diagnosis(run, network, classes, read, samples, probe, layers, compared, row) if layers else None
    explained = run.team.broadcast(found.misdiagnosed if found else ())
    shown, pictures, altered = show(run, examined, explained, row, probe, backgrounds)
    warn_of_vanished(run, read)
    if found is None:
        return None
    return replace(
        found, adversarial=adversarial(run), shown=shown, pictures=pictures, altered=altered, explaining_s=explaining_s
    )
