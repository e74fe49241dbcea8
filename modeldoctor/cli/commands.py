"""The commands: each parses, calls one function and prints. `context.obj` is the team of a job of several processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from modeldoctor.cli import options, texts
from modeldoctor.cli.options import diagnose_config, numbers
from modeldoctor.cli.terminal import err, out, shown_progress
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.errors import GateError, UsageError

if TYPE_CHECKING:
    from modeldoctor.results.diagnosis import Diagnosis
    from modeldoctor.runtime.distributed import Team

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
_DEFAULTS = DiagnoseConfig()


@app.callback(invoke_without_command=True)
def _commands(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Find out why a trained image classifier is wrong."""
    if version:
        from modeldoctor.runtime.versions import own_version

        out.print(own_version(), highlight=False)
        raise typer.Exit
    team: Team | None = context.obj
    if team is not None and context.invoked_subcommand not in ("diagnose", "treat"):
        raise UsageError(
            f"{team.world_size} processes for {context.invoked_subcommand or 'nothing'}",
            where="torchrun",
            expected="diagnose or treat, which share their images among processes",
            hint="run this command without torchrun",
        )
    if context.invoked_subcommand is None:
        out.print(context.get_help())


@app.command()
def diagnose(
    context: typer.Context,
    checkpoint: Annotated[
        Path,
        typer.Argument(help="The checkpoint: a .pt, .pth, .ckpt or .safetensors file, a folder, or timm/NAME.TAG."),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="An image folder, a CSV of path and label, torchvision:NAME, or timm's names (wds/..., hfds/...)."
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
        str, typer.Option(help="J of Eq. 4: a number, 0 for no noise, or auto: as few as --draws-precision allows.")
    ] = str(_DEFAULTS.noise_draws),
    draws_precision: Annotated[
        float, typer.Option(help="With auto: how much noise may widen the standard errors.")
    ] = _DEFAULTS.draws_precision,
    delta: Annotated[float, typer.Option(help="Noise range.")] = _DEFAULTS.delta,
    delta_unit: Annotated[
        str, typer.Option(help="std (of the layer's activation) or absolute.")
    ] = _DEFAULTS.delta_unit,
    samples_per_class: Annotated[int, typer.Option(help="T: images per class.")] = _DEFAULTS.samples_per_class,
    min_confidence: Annotated[
        float, typer.Option(help="Minimum softmax of an image that is used.")
    ] = _DEFAULTS.min_confidence,
    threshold: Annotated[
        float, typer.Option(help="v: minimum normalised correlation of a kernel that a class uses.")
    ] = _DEFAULTS.threshold,
    max_explained: Annotated[int, typer.Option(help="Wrong images to explain, at most.")] = _DEFAULTS.max_explained,
    shown: Annotated[int, typer.Option(help="Wrong images to keep maps of, for the report.")] = _DEFAULTS.shown,
    fgsm_epsilon: Annotated[
        float, typer.Option(help="FGSM's step for pixels in [0, 1]; 0 leaves adversarial images out.")
    ] = _DEFAULTS.fgsm_epsilon,
    scan: Annotated[
        str, typer.Option(help="enough: read --split until every class has its samples; all: read every image.")
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
    model_options: options.ModelOption = None,
    channels: options.Channels = None,
    num_classes: options.NumClasses = None,
    head: options.Head = None,
    trust_pickle: options.TrustPickle = False,
    seed: Annotated[int, typer.Option(help="Seed of samples and noise.")] = _DEFAULTS.seed,
    batch_size: Annotated[int, typer.Option(help="Images at once; changes no figure.")] = _DEFAULTS.batch_size,
    workers: options.Workers = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = _DEFAULTS.device,
    memory: Annotated[
        str | None, typer.Option(help="What a process may take, such as 4GiB; default: a share of what is free.")
    ] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = _DEFAULTS.precision,
    hooks: Annotated[
        bool, typer.Option("--hooks", help="Run the whole network for every draw, for comparison.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run of the same output.")
    ] = False,
    expect_accuracy: Annotated[
        float | None, typer.Option(help="What your own evaluation gave, 0 to 1; exit with 3 where this differs.")
    ] = None,
    json_only: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on stdout, and nothing else.")
    ] = False,
) -> None:
    """Which kernels does each class depend on, and why are these images wrong?"""
    config = diagnose_config(
        layers=layers or ("all" if list_layers else _DEFAULTS.layers),
        noise_draws=noise_draws, draws_precision=draws_precision, scan=scan, delta=delta, delta_unit=delta_unit,
        samples_per_class=samples_per_class,
        min_confidence=min_confidence, threshold=threshold, max_explained=max_explained, shown=shown,
        fgsm_epsilon=fgsm_epsilon, split=split, examine=examine, seed=seed, batch_size=batch_size, workers=workers,
        device=device, hooks=hooks, memory=memory, precision=precision,
    )  # fmt: skip
    if data is None and not list_layers:
        raise UsageError("no data given", where="--data", expected="an image folder, a CSV or a data set's name")
    if output.suffix == ".json":
        raise UsageError(
            "the summary has this name", where=f"--output {output}", expected="a name such as diagnosis.h5"
        )
    from modeldoctor import diagnosis as diagnosing
    from modeldoctor.cli.render import render_layers
    from modeldoctor.results.expected import check_expected
    from modeldoctor.zoo import load_model

    network = load_model(
        checkpoint, arch=arch, num_classes=num_classes, channels=channels, head=head, input_size=input_size,
        mean=numbers(mean, "--mean"), std=numbers(std, "--std"), interpolation=interpolation, crop_pct=crop_pct,
        resize_mode=resize_mode, model_options=options.read_model_options(model_options), download=download,
        trust_pickle=trust_pickle,
    )  # fmt: skip
    for note in network.notes:
        err.print(f"[dim]note: {escape(note)}[/]", highlight=False)
    if list_layers:
        out.print(render_layers(diagnosing.list_layers(network, config)))
        return
    with shown_progress() as progress:
        diagnosis = diagnosing.diagnose(
            network, str(data), config=config, root=root, download=download, masks=masks, output=output,
            resume=resume, progress=progress, team=context.obj,
        )  # fmt: skip
    if context.obj is None or context.obj.is_primary:
        _show(diagnosis, output, json_only)
    if expect_accuracy is not None:
        check_expected(diagnosis, expect_accuracy)


@app.command()
def identify(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint, as for diagnose.")],
    download: Annotated[bool, typer.Option("--download", help="Fetch a checkpoint that is named.")] = False,
    trust_pickle: options.TrustPickle = False,
    json_only: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")] = False,
) -> None:
    """Which architecture do these weights belong to?"""
    from modeldoctor.cli.render import render_identification
    from modeldoctor.zoo import identify_file

    found = identify_file(checkpoint, download=download, trust_pickle=trust_pickle)
    if json_only:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    for part in render_identification(found):
        out.print(part, "")


@app.command()
def demo(
    output: Annotated[Path, typer.Argument(help="The folder to make.")] = Path("modeldoctor-demo"),
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
) -> None:
    """The whole job on an image set made on the spot: backgrounds mislead a network; diagnose, treat, report."""
    from modeldoctor.cli.render import render_trial
    from modeldoctor.demo import run_demo

    with shown_progress() as progress:
        result = run_demo(output, seed=seed, progress=progress)
    _show(result.diagnosis, result.output, json_only=False)
    for part in render_trial(result.trial):
        out.print(part, "")
    out.print(f"to read: {escape(str(result.report))}", highlight=False, soft_wrap=True)


@app.command()
def treat(
    context: typer.Context,
    checkpoint: Annotated[
        Path | None, typer.Argument(help="The checkpoint, as for diagnose; or --config has it.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file; `modeldoctor config` prints one with every key.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="An image folder, a CSV, or torchvision:NAME.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Object masks of training images; see `annotate`.")] = None,
    groups: Annotated[Path | None, typer.Option(help="A CSV of path and group, for worst-group accuracy.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The run directory.")] = None,
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
    model_options: options.ModelOption = None,
    root: options.Root = None,
    download: Annotated[bool | None, typer.Option("--download", help="As for diagnose.", show_default=False)] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key.key=value, for any key of the configuration; repeatable.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What one process may take for a step, e.g. 4GiB.")] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Write TensorBoard events, too.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted trial.")] = False,
    require_improvement: Annotated[
        bool, typer.Option("--require-improvement", help="Exit with 4 unless the verdict is `improved`.")
    ] = False,
    trust_pickle: options.TrustPickle = False,
) -> None:
    """Fine-tune under constraints made from a diagnosis, and prove that it helped.

    Without --masks and --config, the channel constraint alone: nothing says where the objects are.
    """
    settings = load_treat_config(
        config, changes or [], checkpoint=checkpoint, data__path=data, data__masks=masks, data__groups=groups,
        data__root=root, data__download=download, output=output, network__arch=arch, network__head=head,
        network__num_classes=num_classes, network__channels=channels, network__input_size=input_size,
        network__mean=numbers(mean, "--mean"), network__std=numbers(std, "--std"), network__crop_pct=crop_pct,
        network__interpolation=interpolation, network__resize_mode=resize_mode, network__download=download,
        network__model_options=options.read_model_options(model_options), memory=memory, tensorboard=tensorboard,
    )  # fmt: skip
    from modeldoctor.cli.render import render_trial
    from modeldoctor.treatment.pipeline import load_and_treat

    with shown_progress() as progress:
        trial = load_and_treat(settings, trust_pickle=trust_pickle, resume=resume, progress=progress, team=context.obj)
    for part in render_trial(trial):
        out.print(part, "")
    out.print(f"written: {escape(str(settings.output))}", highlight=False, soft_wrap=True)
    if require_improvement and trial.ruling.outcome != "improved":
        raise GateError(f"the verdict is {trial.ruling.outcome}", where="--require-improvement", expected="improved")


app.command()(texts.guide)
app.command("config")(texts.print_config)


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="A diagnosis, or a run directory at any stage.")],
    later: Annotated[Path | None, typer.Argument(help="A second diagnosis: what changed from the first?")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The folder to write to.", show_default="beside the results")
    ] = None,
    formats: Annotated[str, typer.Option("--format", help="html, json, md: some of them.")] = "html,json,md",
    fail_under: options.FailUnder = None,
    fail_on: options.FailOn = None,
    junit: options.Junit = None,
    github: options.Github = False,
) -> None:
    """One page for people, JSON and Markdown for CI jobs; gates for their exit code.

    A FIGURE is accuracy, worst_class, worst_group, gain, gain_over_control, isolated, background, resembles_class,
    foreign_kernels, unclear, broken, classes_without_samples, or the path of any number in report.json.
    """
    from modeldoctor.report import add_to_summary, github_annotations, make_report, require

    made = make_report(
        path, later, output=output, formats=[part.strip() for part in formats.split(",")],
        fail_under=fail_under or [], fail_on=fail_on or [], junit=junit,
    )  # fmt: skip
    out.print(f"[bold]{made.report.verdict}[/]: {escape(made.report.headline)}", highlight=False)
    out.print(f"written: {', '.join(escape(str(file)) for file in made.files)}", highlight=False, soft_wrap=True)
    if github:
        sys.stdout.writelines(f"{line}\n" for line in github_annotations(made.report))
        add_to_summary(made.report)
    require(made.report.gates)


@app.command()
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
    model_options: options.ModelOption = None,
    root: options.Root = None,
    download: Annotated[bool, typer.Option("--download", help="As for diagnose.")] = False,
    trust_pickle: options.TrustPickle = False,
    batch_size: Annotated[int, typer.Option(help="Images at once; changes no figure.")] = _DEFAULTS.batch_size,
    workers: options.Workers = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = _DEFAULTS.device,
) -> None:
    """Put the images worth annotating into a folder: wrong with confidence first, then right with doubt."""
    config = diagnose_config(split=split, batch_size=batch_size, workers=workers, device=device)
    from modeldoctor.diagnosis import annotate as annotating
    from modeldoctor.zoo import load_model

    network = load_model(
        checkpoint, arch=arch, num_classes=num_classes, channels=channels, head=head, input_size=input_size,
        mean=numbers(mean, "--mean"), std=numbers(std, "--std"), interpolation=interpolation, crop_pct=crop_pct,
        resize_mode=resize_mode, model_options=options.read_model_options(model_options), download=download,
        trust_pickle=trust_pickle,
    )  # fmt: skip
    with shown_progress() as progress:
        plan = annotating.annotate(
            network, data, output=output, per_class=per_class, config=config, root=root, download=download,
            masks=masks, link=link, progress=progress,
        )  # fmt: skip
    out.print(
        f"{len(plan.choices)} images of {escape(plan.split)} in {escape(str(plan.output))}; {escape(str(plan.table))} "
        f"says why. Annotate them with LabelMe, then give --masks {escape(str(plan.output))}.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _show(diagnosis: Diagnosis, output: Path, json_only: bool) -> None:
    """Print the summary and keep it beside the diagnosis."""
    from modeldoctor.cli.render import render_summary
    from modeldoctor.results.summary import summarise, write_summary
    from modeldoctor.results.tables import write_tables

    summary = summarise(diagnosis)
    written = [output, write_summary(summary, output), *write_tables(diagnosis, output)]
    if json_only:
        sys.stdout.write(json.dumps(summary, indent=2) + "\n")
        return
    for part in render_summary(summary):
        out.print(part, "")
    out.print(f"written: {', '.join(escape(str(path)) for path in written)}", highlight=False, soft_wrap=True)
