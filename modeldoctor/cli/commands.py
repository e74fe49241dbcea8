"""The commands: each parses, calls one function and prints. `context.obj` is the team of a job of several processes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from modeldoctor.cli import diagnosing, options, texts
from modeldoctor.cli.options import numbers
from modeldoctor.cli.terminal import note, note_agreement, out, show_parts, shown_progress
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.errors import GateError, UsageError

if TYPE_CHECKING:
    from modeldoctor.runtime.distributed import Team

_FRAMED = 80
"""In a narrower terminal frames would cut off options' names: there the help is plain text."""

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False,
    rich_markup_mode="rich" if shutil.get_terminal_size().columns >= _FRAMED else None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


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


@app.command(short_help="Name the architecture of a checkpoint.")
def identify(
    checkpoint: Annotated[Path, typer.Argument(help="The checkpoint, as for diagnose.")],
    download: Annotated[bool, typer.Option("--download", help="Fetch a checkpoint that is named.")] = False,
    trust_pickle: options.TrustPickle = False,
    json_only: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Which architecture do these weights belong to?"""
    from modeldoctor.cli.render import render_identification
    from modeldoctor.zoo import identify_file

    found = identify_file(checkpoint, download=download, trust_pickle=trust_pickle)
    if json_only:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
        return
    show_parts(render_identification(found))


app.command(short_help="Why are images wrong? Which kernels count?")(diagnosing.diagnose)
app.command(short_help="Pick the images most worth an object mask.")(diagnosing.annotate)


@app.command(short_help="Fine-tune under constraints; did it help?")
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
    class_order: options.ClassOrder = None,
    model_options: options.ModelOption = None,
    expect_accuracy: options.ExpectAccuracy = None,
    root: options.Root = None,
    download: Annotated[bool | None, typer.Option("--download", help="As for diagnose.", show_default=False)] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="key.key=value, for any key of the configuration; repeatable.")
    ] = None,
    memory: Annotated[str | None, typer.Option(help="What one process may take for a step, e.g. 4GiB.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for the trial, e.g. 30m: weak remedies are stopped on validation.")
    ] = None,
    log: Annotated[str | None, typer.Option(help="tensorboard, mlflow or wandb: log every epoch there, too.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the interrupted trial.")] = False,
    require_improvement: Annotated[
        bool, typer.Option("--require-improvement", help="Exit with 4 unless the outcome is `improved`.")
    ] = False,
    trust_pickle: options.TrustPickle = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
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
        network__model_options=options.read_model_options(model_options), network__class_order=class_order,
        memory=memory, log=log, budget=budget, expect_accuracy=expect_accuracy,
    )  # fmt: skip
    from modeldoctor.cli.render import render_trial
    from modeldoctor.treatment.pipeline import load_and_treat

    with shown_progress() as progress:
        trial = load_and_treat(
            settings, trust_pickle=trust_pickle, resume=resume, progress=progress, say=note, team=context.obj
        )
    note_agreement(settings.expect_accuracy)
    show_parts(render_trial(trial))
    out.print(f"written: {escape(str(settings.output))}", highlight=False, soft_wrap=True)
    if require_improvement and trial.ruling.outcome != "improved":
        raise GateError(f"the outcome is {trial.ruling.outcome}", where="--require-improvement", expected="improved")


@app.command(
    short_help="One page, JSON, Markdown; gates for CI.",
    epilog="A FIGURE is accuracy, worst_class, worst_group, gain, gain_over_control, the share of a verdict (damaged, "
    "isolated, background, foreign_kernels, unfamiliar, mislabelled, resembles_class, unclear), broken, "
    "classes_without_samples, or the path of any number in report.json.",
)
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
    figures: options.Figures = None,
    github: options.Github = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """One page for people, JSON and Markdown for CI jobs; gates for their exit code."""
    from modeldoctor.report import add_to_summary, github_annotations, make_report, require

    made = make_report(
        path, later, output=output, formats=[part.strip() for part in formats.split(",")],
        fail_under=fail_under or [], fail_on=fail_on or [], junit=junit, figures=figures,
    )  # fmt: skip
    out.print(f"[bold]{made.report.verdict}[/]: {escape(made.report.headline)}", highlight=False)
    out.print(f"written: {', '.join(escape(str(file)) for file in made.files)}", highlight=False, soft_wrap=True)
    if github:
        sys.stdout.writelines(f"{line}\n" for line in github_annotations(made.report))
        add_to_summary(made.report)
    require(made.report.gates)


app.command("config", short_help="Print a configuration, each key explained.")(texts.print_config)
app.command()(texts.guide)


@app.command(short_help="The whole job on images that it draws.")
def demo(
    folder: Annotated[Path | None, typer.Argument(help="The folder to make.", show_default="modeldoctor-demo")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The same, as in other commands.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of images, training and trial.")] = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """The whole job on an image set made on the spot: backgrounds mislead a network; diagnose, treat, report."""
    from modeldoctor.cli.render import render_trial
    from modeldoctor.demo import run_demo

    if folder and output:
        raise UsageError(
            f"two folders: {folder} and -o {output}", where="modeldoctor demo", expected="one", hint="leave one out"
        )
    with shown_progress() as progress:
        result = run_demo(folder or output or Path("modeldoctor-demo"), seed=seed, progress=progress)
    diagnosing.show(result.diagnosis, result.output, json_only=False)
    show_parts(render_trial(result.trial))
    out.print(f"to read: {escape(str(result.report))}", highlight=False, soft_wrap=True)
