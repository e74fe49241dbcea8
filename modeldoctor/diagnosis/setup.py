"""What a diagnosis needs before its first pass: device, splits in the network's classes, the network cut, its state."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from modeldoctor.config.diagnose import CHANGE_NO_FIGURE, DiagnoseConfig
from modeldoctor.data import ImageSet
from modeldoctor.data.identity import Stamps, identify_data
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.chunks import Chunks, measure_costs, plan_chunks
from modeldoctor.diagnosis.kept import Expected, load_state
from modeldoctor.diagnosis.state import KeptChunks, RunState, fingerprint_of
from modeldoctor.errors import ModelDoctorWarning, UsageError, counted, shortened
from modeldoctor.graph import HookedNetwork, Layer, LayeredNetwork, open_network, refuse_unsteady
from modeldoctor.runtime.distributed import Team
from modeldoctor.runtime.memory import BatchLimit, default_budget
from modeldoctor.zoo import Classifier
from modeldoctor.zoo.construction import construction_of

_SEVERAL = 3
"""Masks, at least, that must look exchanged."""
_DEEP = 0.5
"""Depth up to which a network's deepest layer is said to be shallow."""


def splits_to_use(splits: Mapping[str, AnySet], config: DiagnoseConfig) -> tuple[AnySet, AnySet]:
    """The split for the class correlation and the split to examine; the test split only where it is asked for.

    Raises:
        UsageError: there is no split of that name.
    """

    def pick(asked: str | None, option: str, preferred: str, default: str) -> str:
        if asked is not None and asked not in splits:
            raise UsageError(f"there is no split {asked!r}", where=option, expected=f"one of {', '.join(splits)}")
        return asked or (preferred if preferred in splits else default)

    source = pick(config.split, "--split", "train", next(iter(splits)))
    examined = pick(config.examine, "--examine", "val", source)
    return splits[source], splits[examined]


def warn_of_familiar(splits: Mapping[str, AnySet], examined: AnySet, config: DiagnoseConfig) -> None:
    """Warn where, for want of a val split, images of the training, or of the first of several splits, are examined."""
    chosen = len(splits) == 1 or config.split is not None
    if config.examine is not None or "val" in splits or (chosen and examined.split != "train"):
        return
    others = sorted((split for split in splits if split != examined.split), key=lambda split: split == "test")
    said = (
        "the images that are examined are those of train, on which the network was likely trained, so that it makes"
        " few mistakes there and others than on new images"
        if examined.split == "train"
        else f"of {shortened(list(splits))}, the images of {examined.split} are examined"
    )
    warnings.warn(
        f"there is no val split: {said}; "
        + (
            f"pass --examine {shlex.quote(others[0])}"
            if others
            else "put images that it was not trained on into a folder val/"
        ),
        ModelDoctorWarning,
        stacklevel=3,
    )


def with_usable_masks(read: Sequence[AnySet], *, propagated: bool = False) -> list[AnySet]:
    """The splits, the examined one last, without the masks that cannot be used: they are counted, the first is named.

    Warns where the examined split, which the masks serve, has none, unless it gets some from other splits.
    """
    kept = []
    for images in read:
        if not isinstance(images, ImageSet) or images.masks is None:
            kept.append(images)
            continue
        usable, invalid, whole, framing = images.check_masks()
        kept.append(images.masked_at(usable))
        if invalid:
            first = invalid[0]
            warnings.warn(
                f"{images.split}: {counted(len(invalid), 'annotation')} cannot be used and "
                f"{'is' if len(invalid) == 1 else 'are'} left out, {len(usable)} can; first"
                f" {first.where}: {first.found}; next: {first.hint}",
                ModelDoctorWarning,
                stacklevel=3,
            )
        if whole:
            warnings.warn(
                f"{images.split}: {len(whole)} of {counted(len(usable), 'mask')} cover the whole image, so that "
                f"nothing in it is background; first {whole[0]}; check that they are 0 on the background",
                ModelDoctorWarning,
                stacklevel=3,
            )
        if len(framing) >= _SEVERAL and 2 * len(framing) > len(usable):
            warnings.warn(
                f"{images.split}: {len(framing)} of {counted(len(usable), 'mask')} hold all four corners of their"
                f" images, as if object and background were exchanged; first {framing[0]}; check that they are 0 on"
                " the background",
                ModelDoctorWarning,
                stacklevel=3,
            )
        if images is read[-1] and not usable and not propagated:
            warnings.warn(
                f"{images.split}: none of its {counted(len(images), 'image')} has a mask that can be used, so that "
                "nothing can be said of their backgrounds; masks of other splits do nothing here: "
                f"`modeldoctor annotate --split {images.split}` picks images to annotate, or choose the split that "
                "has masks with --examine, or let --propagate-masks find some",
                ModelDoctorWarning,
                stacklevel=3,
            )
    return kept


def take_apart(network: Classifier, config: DiagnoseConfig, device: torch.device) -> LayeredNetwork:
    """The network, at work on a device, cut at the layers of the configuration, or behind hooks."""
    module = network.module
    example = network.example(device)
    refuse_unsteady(module, example)
    if config.hooks:
        layered: LayeredNetwork = HookedNetwork(module, example)
    else:
        layered = open_network(module, example, config.layers, bfloat16=config.precision == "bfloat16")
    _warn_if_shallow(layered.layers)
    return layered


def _warn_if_shallow(layers: Sequence[Layer]) -> None:
    """Warn where the parts that decide are none that can be measured, as in a family whose blocks are not known."""
    deepest = max(layers, key=lambda layer: layer.depth, default=None)
    if deepest is not None and deepest.depth < _DEEP:
        warnings.warn(
            f"the deepest layer that can be measured, {deepest.name}, lies at {deepest.depth:.0%} of the network's"
            " depth: the blocks behind it hand on no feature maps that are known here, so that its kernels say little"
            " of what decides",
            ModelDoctorWarning,
            stacklevel=4,
        )


def open_chunks(
    layered: LayeredNetwork,
    layers: Sequence[Layer],
    example: Tensor,
    config: DiagnoseConfig,
    state: RunState,
    team: Team,
) -> Chunks:
    """What fits the memory at once, by measuring; a resumed run takes what the interrupted one had, if asked the same.

    Raises:
        MemoryLimitError: not even one image fits.
    """
    _, channels, height, width = example.shape
    asked = (config.images_at_once((channels, height, width)), config.memory)
    if state.chunks is None or (state.chunks.batch_asked, state.chunks.memory_asked) != asked:
        budget = config.memory or default_budget(example.device, team.local_world_size)
        planned = plan_chunks(*measure_costs(layered, layers, example), budget, asked[0], example.device)
        rows = {name: row.number for name, row in planned.rows.items()}
        state.chunks = team.broadcast(KeptChunks(*asked, planned.batch, rows))
    return Chunks(state.chunks.batch, {name: BatchLimit(number, name) for name, number in state.chunks.rows.items()})


def open_state(
    network: Classifier,
    config: DiagnoseConfig,
    used: Sequence[tuple[AnySet, Stamps]],
    layers: Sequence[Layer],
    output: Path | None,
    resume: bool,
) -> tuple[RunState, Path | None]:
    """A fresh state, or that of the interrupted run to resume, and where it is kept: beside the output.

    Args:
        used: the splits that are read, with their stamps.

    Raises:
        StoreError: the state to resume is damaged or of another run.
    """
    fingerprint = fingerprint_of(
        config.model_dump(exclude=CHANGE_NO_FIGURE),
        network.checkpoint_sha256,
        network.arch,
        [images.preprocessing.model_dump() for images, _ in used],
        construction_of(network),
    )
    data = identify_data(used)
    path = None if output is None else partial_of(output)
    if path is not None and resume and path.exists():
        expected = Expected(
            fingerprint=fingerprint,
            data=data,
            splits={images.split: len(images) if isinstance(images, ImageSet) else None for images, _ in used},
            classes=network.num_classes,
            channels={layer.name: layer.channels for layer in layers},
            ranges=len(config.noise_ranges),
        )
        return load_state(path, expected), path
    return RunState(fingerprint, data), path


def partial_of(output: Path) -> Path:
    """Where the state of an interrupted run is kept: beside the output."""
    return output.with_name(f"{output.name}.partial")


def command_line(
    network: Classifier, data: str | Path, config: DiagnoseConfig, output: Path | None, **paths: Path | None
) -> str:
    """What to type for the same diagnosis: every option that is not at its default; empty where there is none."""
    default = DiagnoseConfig()
    if network.source is None or network.arch.startswith("module/"):
        return ""
    options = {name: value for name, value in config if value != getattr(default, name)} | paths
    if "noise_ranges" in options:
        options["noise_ranges"] = ",".join(map(str, config.noise_ranges))
    options |= dict(network.options)
    words = [
        word
        for name, values in options.items()
        for value in (values if isinstance(values, list) else [values])
        if value is not None and value is not False
        for word in (f"--{name.replace('_', '-')}", *([] if value is True else [str(value)]))
    ]
    out = [] if output is None else ["-o", str(output)]
    return shlex.join(
        ["modeldoctor", "diagnose", str(network.source.path), "--arch", network.arch, "--data", str(data), *words, *out]
    )
