"""Options that several commands share, and from their texts to values."""

from __future__ import annotations

import json
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from modeldoctor.cli.terminal import volume
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat_file import key_and_value, read_mapping, refuse_unfilled
from modeldoctor.errors import ConfigError, UsageError

NETWORK, MEASURED, MACHINE = "Network and preprocessing", "What is measured", "Machine"
"""Panels of the help."""

# How the network is built and fed: the same in every command that loads one.
Arch = Annotated[
    str | None,
    typer.Option(
        help="resnet50, torchvision/resnet50, or CODE.py:FUNCTION; default: as recorded in the file.",
        rich_help_panel=NETWORK,
    ),
]
Head = Annotated[
    str | None,
    typer.Option(
        help="Layers of a head that took the place of the network's own: Linear,ReLU,Linear.", rich_help_panel=NETWORK
    ),
]
NumClasses = Annotated[int | None, typer.Option(help="Classes of the network.", rich_help_panel=NETWORK)]
Channels = Annotated[int | None, typer.Option(help="Input channels.", rich_help_panel=NETWORK)]
InputSize = Annotated[
    int | None,
    typer.Option(help="Pixels; default: as recorded in the file, else the network's.", rich_help_panel=NETWORK),
]
Mean = Annotated[
    str | None, typer.Option(help="One value, or one per channel: 0.485,0.456,0.406.", rich_help_panel=NETWORK)
]
Std = Annotated[str | None, typer.Option(help="As --mean.", rich_help_panel=NETWORK)]
Interpolation = Annotated[
    str | None, typer.Option(help="nearest, bilinear or bicubic; default: as recorded.", rich_help_panel=NETWORK)
]
CropPct = Annotated[
    float | None,
    typer.Option(help="Crop size / resize size, as in timm: 224 px cut from 256 px is 0.875.", rich_help_panel=NETWORK),
]
ResizeMode = Annotated[
    str | None,
    typer.Option(
        help="shortest (edge, then cropped), squash (to the input's shape) or pad; default: as recorded.",
        rich_help_panel=NETWORK,
    ),
]
ClassOrder = Annotated[
    str | None,
    typer.Option(
        help="Order of the logits: text (as ImageFolder sorts: 0, 1, 10, 2), number, names (a,b,c), or a file of them.",
        rich_help_panel=NETWORK,
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-option",
        help="key=value: an argument of the network's constructor, such as output_stride=8; repeatable.",
        rich_help_panel=NETWORK,
    ),
]


def _set_volume(parameter: typer.CallbackParam, wanted: bool) -> None:
    setattr(volume, str(parameter.name), wanted)


Quiet = Annotated[
    bool,
    typer.Option(
        "-q", "--quiet", help="No progress and no notes; warnings and errors stay.", callback=_set_volume,
        is_eager=True, expose_value=False,
    ),
]  # fmt: skip
Verbose = Annotated[
    bool,
    typer.Option(
        "-v", "--verbose", help="Other libraries' warnings, too, and an error's traceback.", callback=_set_volume,
        is_eager=True, expose_value=False,
    ),
]  # fmt: skip


def _take_defaults(context: typer.Context, path: Path | None) -> None:
    """Let a YAML file's values take the place of the defaults, so that the command line takes precedence."""
    if path is None:
        return
    content = read_mapping(path, ("checkpoint", "arch", "data", "masks", "root", "class_order"))
    refuse_unfilled(content, str(path))
    names = [str(parameter.name) for parameter in context.command.params if parameter.name != "config_file"]
    for key in content:
        if key not in names:
            near = get_close_matches(str(key), names, n=1, cutoff=0.0)[0]
            raise ConfigError(f"there is no option {key!r} (nearest: {near})", where=str(path), hint="see --help")
    context.default_map = {key: _as_typed(key, value, path) for key, value in content.items() if value is not None}


def _as_typed(key: str, value: Any, path: Path) -> Any:
    """A YAML value as the command line would have it: a list with commas between, model options as `key=value`.

    Raises:
        ConfigError: a list holds what YAML takes for a truth value, such as the name `no`.
    """
    if key == "model_options":
        pairs = [f"{name}={json.dumps(held)}" for name, held in value.items()] if isinstance(value, dict) else value
        return [pairs] if isinstance(pairs, str) else pairs
    if not isinstance(value, list):
        return value
    if truths := [item for item in value if isinstance(item, bool)]:
        raise ConfigError(
            f"{truths[0]} among the values of {key}",
            where=str(path),
            expected="texts or numbers: YAML reads yes, no, on and off as true and false",
            hint='put them in quotes: "no"',
        )
    return ",".join(map(str, value))


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A YAML file of these options, such as noise_draws: 10; the command line takes precedence.",
        callback=_take_defaults, is_eager=True, expose_value=False,
    ),
]  # fmt: skip

TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="EXECUTE code from the file: only for files from a source you trust.",
        rich_help_panel=NETWORK,
    ),
]
ExpectAccuracy = Annotated[
    float | None, typer.Option(help="What your own evaluation gave, 0 to 1; exit with 3 where this differs.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Images at once; by default 16 of 224 px, more of smaller ones. Changes no figure.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...", rich_help_panel=MACHINE)]
Root = Annotated[Path | None, typer.Option(help="Where a named data set, or a CSV's images, lie.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that read images; by default up to 8 for a GPU. Changes no figure.", rich_help_panel=MACHINE
    ),
]


def diagnose_config(**options: Any) -> DiagnoseConfig:
    """The configuration that the options of a command give.

    Raises:
        UsageError: an option has an impossible value.
    """
    try:
        return DiagnoseConfig(**options)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(
            f"{first['input']!r}: {first['msg']}",
            where=option,
            expected="a share from 0 to 1, such as 0.787" if option == "--expect-accuracy" else None,
            hint="see --help",
        ) from error


def read_model_options(texts: list[str] | None) -> dict[str, Any] | None:
    """Arguments from `key=value`, whose values are YAML.

    Raises:
        UsageError: a text is something else.
    """
    try:
        found = dict(map(key_and_value, texts or ()))
        if wrong := [key for key in found if not key.isidentifier()]:
            raise ValueError(f"{wrong[0]!r} is no name of an argument")
    except ValueError as error:
        raise UsageError(
            str(error), where=f"--model-option {' '.join(texts or ())}", expected="key=value, such as output_stride=8"
        ) from error
    return found or None


def numbers(text: str | None, option: str) -> list[float] | None:
    """One number, or one per channel.

    Raises:
        UsageError: the text is no list of numbers.
    """
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"{text!r} is no list of numbers", where=option, expected="0.5 or 0.485,0.456,0.406"
        ) from error


# Of a report.
FailUnder = Annotated[
    list[str] | None, typer.Option(help="FIGURE=NUMBER: exit with 4 where it is less; may be given again.")
]
FailOn = Annotated[list[str] | None, typer.Option(help="FIGURE>NUMBER (or < >= <= == !=): exit with 4 where it holds.")]
Junit = Annotated[Path | None, typer.Option(help="Write the gates to this file as JUnit's test cases.")]
Figures = Annotated[Path | None, typer.Option(help="Write the figures to this folder, as SVG and PNG.")]
Github = Annotated[
    bool, typer.Option("--github", help="Print annotations for GitHub, and add the report to its step summary.")
]
