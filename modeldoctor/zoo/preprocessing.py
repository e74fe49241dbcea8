"""How images become the network's input: what the user says, else the checkpoint, else the library, field by field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from torch import Tensor

from modeldoctor.checkpoint import CheckpointMetadata
from modeldoctor.checkpoint.metadata import CROP_MODES
from modeldoctor.config.diagnose import Interpolation, Preprocessing
from modeldoctor.errors import CheckpointError, UsageError, counted

_MEAN = re.compile(r"(.*\.|)(\w*_)?mean")
_CHANNELS = 16
FIELDS = ("input_size", "mean", "std", "interpolation", "crop_pct")
"""Those that every library states; of the resize mode most say nothing."""


def resolve_preprocessing(
    stated: Mapping[str, Any],
    recorded: CheckpointMetadata,
    defaults: Mapping[str, Any],
    *,
    channels: int,
    fixed_size: tuple[int, int] | None,
    path: Path,
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Merge the three sources field by field, fit them to `channels`, and say in notes what was assumed.

    Args:
        stated: the user's options, None where silent; `input_size` is (height, width).
        recorded: what the checkpoint says.
        defaults: the library's own; complete.
        channels: how many the network reads.
        fixed_size: height and width, where the network takes no other.
        path: the checkpoint, for messages.

    Raises:
        UsageError: the user's values contradict each other or the network.
        CheckpointError: the file's values do.
    """
    stated = {name: value for name, value in stated.items() if value is not None}
    known, notes = _understood(recorded)
    known, stated = _of_unit_pixels(known, notes), _of_unit_pixels(stated, notes)
    mode = recorded.resize_mode or CROP_MODES[defaults.get("crop_mode", "center")]
    if mode != "shortest" and "resize_mode" not in stated:
        notes.append(f"resize mode {mode}, as {'the file' if recorded.resize_mode else 'the library'} says")
    values = {"resize_mode": mode, **{name: defaults[name] for name in FIELDS}, **known, **stated}
    size = fixed_size or tuple(values["input_size"][-2:])
    assumed = [name for name in FIELDS if name not in known and name not in stated]
    for name in ("mean", "std"):
        if name not in stated or len(values[name]) == 1:
            values[name], how = _for_channels(tuple(values[name]), channels)
            notes += [f"{name}: {how}"] * bool(how)
    values["input_size"] = (channels, *size)
    if assumed:
        listed = ", ".join(f"{name} {_short(values[name])}" for name in assumed)
        notes.append(f"preprocessing that the checkpoint does not state, by the library's defaults: {listed}")
    try:
        return Preprocessing(**values), tuple(notes)
    except ValidationError as error:
        raise (UsageError if stated else CheckpointError)(
            f"the preprocessing does not fit the network: {'; '.join(each['msg'] for each in error.errors())}",
            where=str(path),
            expected=f"a size, and one mean and std for each of {channels} channel(s)",
            hint="check --input-size, --mean, --std, --interpolation, --crop-pct and --resize-mode",
        ) from error


def with_normaliser(recorded: CheckpointMetadata, beside: Mapping[str, Tensor]) -> tuple[CheckpointMetadata, list[str]]:
    """Take mean and std from the buffers of a layer that normalises the images, where the file says them nowhere else.

    Args:
        recorded: what the file says.
        beside: its tensors beside the network.
    """
    for name, mean in beside.items():
        words = _MEAN.fullmatch(name)
        std = beside.get(f"{words[1]}{words[2] or ''}std") if words else None
        if std is None or recorded.mean or recorded.std or not mean.numel() == std.numel() <= _CHANNELS:
            continue
        values = [tuple(round(float(v), 6) for v in tensor.flatten()) for tensor in (mean, std)]
        said = f"the images are normalised as by the file's {name}: mean {values[0]}, std {values[1]}"
        return replace(recorded, mean=values[0], std=values[1]), [said]
    return recorded, []


def _understood(recorded: CheckpointMetadata) -> tuple[dict[str, Any], list[str]]:
    known = {name: value for name in FIELDS if (value := getattr(recorded, name)) is not None}
    if known.get("interpolation") in (None, *get_args(Interpolation)):
        return known, []
    return known, [f"the checkpoint's interpolation {known.pop('interpolation')!r} is not supported: not used"]


def _of_unit_pixels(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The same with mean and std for pixels from 0 to 1; those for 0 to 255 show by a mean above 1, or a std above 2.

    Args:
        values: of one source, so that its mean and std are of one unit.
        notes: what was done is added.
    """
    pair = {name: values[name] for name in ("mean", "std") if values.get(name)}
    if not pair or (max(pair.get("mean", (0,))) <= 1 and min(pair.get("std", (1,))) <= 2):
        return dict(values)
    said = ", ".join(f"{name} {_short(tuple(given))}" for name, given in pair.items())
    if max(pair.get("mean", (0,))) > 255:
        notes.append(f"{said}: of a range beyond 8 bits, while images are read as 0 to 1: state both for that range")
        return dict(values)
    scaled = {name: tuple(round(float(value) / 255, 6) for value in given) for name, given in pair.items()}
    notes.append(f"{said}: taken for pixels from 0 to 255, and divided by 255")
    return {**values, **scaled}


def _for_channels(values: tuple[float, ...], channels: int) -> tuple[tuple[float, ...], str]:
    """One value per channel from another number of values, and what was done, "" if nothing."""
    if len(values) == channels:
        return values, ""
    if channels == 1:
        return (sum(values) / len(values),), f"the mean of {len(values)} values, for one input channel"
    repeated = tuple(values[i % len(values)] for i in range(channels))
    return repeated, f"{counted(len(values), 'value')} repeated over {counted(channels, 'input channel')}"


def _short(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) and isinstance(value[0], int) else f"{value}"
