"""`diagnose` and `annotate`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from modeldoctor.cli import options
from modeldoctor.cli.options import diagnose_config, numbers
from modeldoctor.cli.terminal import note, note_agreement, out, show_parts, shown_progress
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.errors import UsageError, counted

if TYPE_CHECKING:
    from modeldoctor.diagnosis.annotate import AnnotationPlan
    from modeldoctor.results.diagnosis import Diagnosis
    from modeldoctor.zoo import Classifier

_DEFAULTS = DiagnoseConfig()


def diagnose(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(help="The checkpoint: a .pt, .pth, .ckpt or .safetensors file, a folder, or timm/NAME.TAG."),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="An image folder, a CSV of path and label, torchvision:NAME, or timm's names (wds/..., hfds/...); "
            "needed, here or in --config."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The diagnosis; a .json summary goes beside it.")
    ] = Path("diagnosis.h5"),
    arch: options.Arch = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="last, last:N, stages, all, or names and globs separated by commas.", show_default=_DEFAULTS.layers
        ),
    ] = None,
    list_layers: Annotated[
        bool, typer.Option("--list-layers", help="Print the layers with shapes and cost, and exit.")
    ] = False,
    noise_draws: Annotated[
        str,
        typer.Option(
            help="J of Eq. 4: a number, 0 for no noise, or auto: as few as --draws-precision allows.",
            rich_help_panel=options.MEASURED,
        ),
    ] = str(_DEFAULTS.noise_draws),
    draws_precision: Annotated[
        float,
        typer.Option(help="With auto: how much noise may widen the standard errors.", rich_help_panel=options.MEASURED),
    ] = _DEFAULTS.draws_precision,
    delta: Annotated[float, typer.Option(help="Noise range.", rich_help_panel=options.MEASURED)] = _DEFAULTS.delta,
    delta_unit: Annotated[
        str, typer.Option(help="std (of the layer's activation) or absolute.", rich_help_panel=options.MEASURED)
    ] = _DEFAULTS.delta_unit,
    samples_per_class: Annotated[
        int, typer.Option(help="T: images per class.", rich_help_panel=options.MEASURED)
    ] = _DEFAULTS.samples_per_class,
    samples_precision: Annotated[
        float | None,
        typer.Option(
            help="In its place: the relative standard error wanted of a class's kernels, e.g. 0.05.",
            rich_help_panel=options.MEASURED,
        ),
    ] = None,
    min_confidence: Annotated[
        float, typer.Option(help="Minimum softmax of an image that is used.", rich_help_panel=options.MEASURED)
    ] = _DEFAULTS.min_confidence,
    threshold: Annotated[
        float,
        typer.Option(
            help="v: minimum normalised correlation of a kernel that a class uses.", rich_help_panel=options.MEASURED
        ),
    ] = _DEFAULTS.threshold,
    noise_ranges: Annotated[
        str,
        typer.Option(
            help="Noise ranges at which stability is measured, ascending, in standard deviations.",
            rich_help_panel=options.MEASURED,
        ),
    ] = ",".join(map(str, _DEFAULTS.noise_ranges)),
    max_explained: Annotated[
        int, typer.Option(help="Wrong images to explain, at most.", rich_help_panel=options.MEASURED)
    ] = _DEFAULTS.max_explained,
    shown: Annotated[
        int, typer.Option(help="Wrong images to keep maps of, for the report.", rich_help_panel=options.MEASURED)
    ] = _DEFAULTS.shown,
    fgsm_epsilon: Annotated[
        float,
        typer.Option(
            help="FGSM's step for pixels in [0, 1]; 0 leaves adversarial images out.",
            rich_help_panel=options.MEASURED,
            show_default="2/255",
        ),
    ] = _DEFAULTS.fgsm_epsilon,
    scan: Annotated[
        str,
        typer.Option(
            help="enough: read --split until every class has its samples; all: read every image.",
            rich_help_panel=options.MEASURED,
        ),
    ] = _DEFAULTS.scan,
    split: Annotated[str | None, typer.Option(help="Split for the class correlation.", show_default="train")] = None,
    examine: Annotated[
        str | None, typer.Option(help="Split whose wrong images are explained.", show_default="val")
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Object masks: PNG, LabelMe, VOC or YOLO files in the images' folder structure, or a COCO JSON."
        ),
    ] = None,
    propagate_masks: Annotated[
        bool, typer.Option("--propagate-masks", help="Find masks for images without one from the given masks.")
    ] = _DEFAULTS.propagate_masks,
    root: options.Root = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch a checkpoint or data set that is named and not there.")
    ] = False,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    interpolation: options.Interpolation = None,
    crop_pct: options.CropPct = None,
    resize_mode: options.ResizeMode = None,
    class_order: options.ClassOrder = None,
    model_options: options.ModelOption = None,
    channels: options.Channels = None,
    num_classes: options.NumClasses = None,
    head: options.Head = None,
    trust_pickle: options.TrustPickle = False,
    seed: Annotated[
        int, typer.Option(help="Seed of samples and noise.", rich_help_panel=options.MACHINE)
    ] = _DEFAULTS.seed,
    batch_size: options.BatchSize = _DEFAULTS.batch_size,
    workers: options.Workers = None,
    device: options.Device = _DEFAULTS.device,
    memory: Annotated[
        str | None,
        typer.Option(
            help="What a process may take, such as 4GiB; default: a share of what is free.",
            rich_help_panel=options.MACHINE,
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32 or bfloat16.", rich_help_panel=options.MEASURED)
    ] = _DEFAULTS.precision,
    hooks: Annotated[
        bool,
        typer.Option(
            "--hooks", help="Run the whole network for every draw, for comparison.", rich_help_panel=options.MEASURED
        ),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the interrupted run of the same output.", rich_help_panel=options.MACHINE
        ),
    ] = False,
    expect_accuracy: options.ExpectAccuracy = None,
    json_only: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on stdout, and nothing else.")
    ] = False,
    config_file: options.ConfigFile = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Which kernels does each class depend on, and why are these images wrong?"""
    config = diagnose_config(
        layers=layers or ("all" if list_layers else _DEFAULTS.layers),
        noise_draws=noise_draws, draws_precision=draws_precision, scan=scan, delta=delta, delta_unit=delta_unit,
        samples_per_class=samples_per_class, samples_precision=samples_precision,
        min_confidence=min_confidence, threshold=threshold, max_explained=max_explained, shown=shown,
        fgsm_epsilon=fgsm_epsilon, split=split, examine=examine, seed=seed, batch_size=batch_size, workers=workers,
        propagate_masks=propagate_masks,
        device=device, hooks=hooks, memory=memory, precision=precision,
        noise_ranges=numbers(noise_ranges, "--noise-ranges"), expect_accuracy=expect_accuracy,
    )  # fmt: skip
    if data is None and not list_layers:
        raise UsageError("no data given", where="--data", expected="an image folder, a CSV or a data set's name")
    if output.suffix.lower() == ".json":
        raise UsageError(
            "the summary has this name", where=f"--output {output}", expected="a name such as diagnosis.h5"
        )
    from modeldoctor import diagnosis as diagnosing
    from modeldoctor.cli.render import render_layers
    from modeldoctor.results.expected import check_diagnosis

    network = _load(
        checkpoint, mean, std, model_options, arch=arch, num_classes=num_classes, channels=channels, head=head,
        input_size=input_size, interpolation=interpolation, crop_pct=crop_pct, resize_mode=resize_mode,
        class_order=class_order, download=download, trust_pickle=trust_pickle,
    )  # fmt: skip
    if list_layers:
        show_parts([render_layers(diagnosing.list_layers(network, config))])
        return
    with shown_progress() as progress:
        diagnosis = diagnosing.diagnose(
            network, str(data), config=config, root=root, download=download, masks=masks, output=output,
            resume=resume, progress=progress, team=context.obj,
        )  # fmt: skip
    if context.obj is None or context.obj.is_primary:
        show(diagnosis, output, json_only)
    check_diagnosis(diagnosis, expect_accuracy)
    note_agreement(expect_accuracy)


def annotate(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint, as for diagnose.")],
    data: Annotated[str, typer.Option(help="An image folder, a CSV of path and label, torchvision:NAME or hfds/NAME.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to fill; new, or an earlier one.")],
    per_class: Annotated[int, typer.Option(help="Images per class.")] = 20,
    split: Annotated[str | None, typer.Option(help="Split to choose from.", show_default="train")] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks there are already; their images are left out.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Make symbolic links instead of copies.")] = False,
    arch: options.Arch = None,
    head: options.Head = None,
    num_classes: options.NumClasses = None,
    channels: options.Channels = None,
    input_size: options.InputSize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    interpolation: options.Interpolation = None,
    crop_pct: options.CropPct = None,
    resize_mode: options.ResizeMode = None,
    class_order: options.ClassOrder = None,
    model_options: options.ModelOption = None,
    root: options.Root = None,
    download: Annotated[bool, typer.Option("--download", help="As for diagnose.")] = False,
    trust_pickle: options.TrustPickle = False,
    batch_size: options.BatchSize = _DEFAULTS.batch_size,
    workers: options.Workers = None,
    device: options.Device = _DEFAULTS.device,
    expect_accuracy: options.ExpectAccuracy = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Put the images worth annotating into a folder: wrong with confidence first, then right with doubt."""
    config = diagnose_config(
        split=split, batch_size=batch_size, workers=workers, device=device, expect_accuracy=expect_accuracy
    )
    from modeldoctor.diagnosis import annotate as annotating
    from modeldoctor.results.expected import accuracy_doubt

    network = _load(
        checkpoint, mean, std, model_options, arch=arch, num_classes=num_classes, channels=channels, head=head,
        input_size=input_size, interpolation=interpolation, crop_pct=crop_pct, resize_mode=resize_mode,
        class_order=class_order, download=download, trust_pickle=trust_pickle,
    )  # fmt: skip
    with shown_progress() as progress:
        plan = annotating.annotate(
            network, data, output=output, per_class=per_class, config=config, root=root, download=download,
            masks=masks, link=link, progress=progress,
        )  # fmt: skip
    note_agreement(expect_accuracy)
    out.print(
        f"accuracy {plan.accuracy:.1%} on {escape(plan.split)}. "
        f"{escape(accuracy_doubt(network.notes, expect_accuracy))}",
        highlight=False,
    )
    out.print(
        f"{counted(len(plan.choices), 'image')} of {escape(plan.split)} in {escape(str(plan.output))}; "
        f"{escape(str(plan.table))} says why each was chosen. Outline the object in each, and leave out an "
        f"image that shows none:\n    {escape(plan.labelme)}\n{escape(_next_step(plan))}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _next_step(plan: AnnotationPlan) -> str:
    """Which command the annotations serve, and what the other one needs."""
    masks, needed = shlex.join(["--masks", str(plan.output)]), {"train": "treat", "val": "diagnose"}
    if plan.split not in needed:
        return f"Then give {masks} to treat or to diagnose --examine {plan.split}."
    other, split = ("diagnose", "val") if plan.split == "train" else ("treat", "train")
    return (
        f"Then give {masks} to {needed[plan.split]}. It does nothing for {other}, which needs masks of {split}: "
        f"annotate --split {split}."
    )


def _load(
    checkpoint: Path, mean: str | None, std: str | None, model_options: list[str] | None, **given: Any
) -> Classifier:
    """The network that the options name; what was assumed of it is said."""
    from modeldoctor.zoo import load_model

    network = load_model(
        checkpoint, mean=numbers(mean, "--mean"), std=numbers(std, "--std"),
        model_options=options.read_model_options(model_options), **given,
    )  # fmt: skip
    for text in network.notes:
        note(text)
    return network


def show(diagnosis: Diagnosis, output: Path, json_only: bool) -> None:
    """Print the summary and keep it beside the diagnosis."""
    from modeldoctor.cli.render import render_summary
    from modeldoctor.results.summary import summarise, write_summary
    from modeldoctor.results.tables import write_tables

    summary = summarise(diagnosis)
    written = [output, write_summary(summary, output), *write_tables(diagnosis, output)]
    if json_only:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
        return
    show_parts(render_summary(summary))
    out.print(f"written: {', '.join(escape(str(path)) for path in written)}", highlight=False, soft_wrap=True)
