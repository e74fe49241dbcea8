"""What a person sees in the terminal, as Rich renderables made from the JSON summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table

from modeldoctor.cli.sheet import Sheet
from modeldoctor.errors import counted
from modeldoctor.graph import Layer
from modeldoctor.results.expected import accuracy_doubt, trial_doubt
from modeldoctor.results.trial import ArmResult, Trial
from modeldoctor.results.verdicts import evidence_of, meaning_of

_WORST, _STEPS = 5, 5
_MOST_COLUMNS = 4


def render_summary(summary: dict[str, Any]) -> Iterator[RenderableType]:
    """The summary of a diagnosis, part by part."""
    yield (
        f"[bold]{escape(summary['arch'])}[/]: accuracy [bold]{_percent(summary['accuracy'])}[/] on "
        f"{escape(summary['examined'])} ({summary['wrong']} of {counted(summary['images'], 'image')} wrong)"
    )
    if doubt := accuracy_doubt(summary["assumed"], summary["config"].get("expect_accuracy")):
        yield f"[dim]{escape(doubt)}[/]"
    yield from _partly_read(summary)
    yield _classes(summary)
    yield _layers(summary)
    if summary["explained"]:
        yield _verdicts(summary)
        yield _telling(summary)
    yield from _what_to_do(summary)


def render_trial(trial: Trial) -> Iterator[RenderableType]:
    """A trial's arms with their intervals, and the verdict; an arm is a row where columns would be too many."""
    names = [f"{arm.arm}\n[dim]{counted(len(arm.seeds), 'seed')}[/]" for arm in trial.arms]
    figures = [metric.replace("_", " ") for metric in trial.arms[0].metrics] + ["seconds", "annotations"]
    cells = [_trial_cells(arm) for arm in trial.arms]
    rows, columns = figures, names
    if len(names) > _MOST_COLUMNS:
        rows, columns = names, figures
    else:
        cells = [list(row) for row in zip(*cells, strict=True)]
    table = _table(f"Test split, {counted(trial.arms[0].images, 'image')}", "")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=columns is names)
    for row, values in zip(rows, cells, strict=True):
        table.add_row(row, *values)
    table.caption = (
        "mean over seeds, 95% interval over images and seeds; seconds of training and annotated images of a run"
    )
    table.caption_justify = "left"
    yield table
    yield f"[bold]{trial.ruling.outcome}[/]: {escape(trial.ruling.reason)}"
    yield from map(escape, trial.remarks)
    yield f"the treated checkpoint holds the weights of: {trial.handed_back}"
    if doubt := trial_doubt(trial):
        yield f"[dim]{escape(doubt)}[/]"


def _trial_cells(arm: ArmResult) -> list[str]:
    shares = [
        f"{_percent(found.value)}\n[dim]{100 * found.low:.1f}–{100 * found.high:.1f}[/]"
        for found in arm.metrics.values()
    ]
    seconds = "–" if isnan(arm.cost.seconds) else f"{arm.cost.seconds:.0f}"
    return [*shares, seconds, "–" if arm.cost.annotations is None else str(arm.cost.annotations)]


def render_identification(found: dict[str, Any]) -> Iterator[RenderableType]:
    """What network a file holds, and the candidates."""
    best = found["candidates"][0]
    fits = "all fit" if found["fits"] else "not all fit"
    yield f"[bold]{escape(found['arch'])}[/]: of {counted(found['tensors'], 'tensor')} in the file, {fits}"
    size, head = found["image_size"], found["head"]
    facts = [
        counted(found["num_classes"], "class", "classes")
        if found["num_classes"]
        else "no head of its own: the class count is unknown",
        f"a head of {', '.join(head['layers'])}: --head {head['option']} if these are its layers" if head else "",
        counted(found["channels"], "input channel") if found["channels"] else "",
        f"built for {size[0]}×{size[1]} px" if size else "",
        *(f"{name.replace('_', ' ')} {value}" for name, value in found["options"].items()),
        f"names carry the prefix {found['prefix']!r}" if found["prefix"] else "",
        f"the file itself says {found['stated']!r}" if found["stated"] else "",
    ]
    yield escape(", ".join(fact for fact in facts if fact))
    yield from (escape(note) for note in found["notes"])
    table = _table("Candidates", "architecture")
    table.add_column("parameters", justify="right")
    table.add_column("what differs", ratio=1, overflow="fold")
    for candidate in found["candidates"]:
        same = "" if candidate is best or not candidate["tied"] else f"same tensors as {best['arch']}"
        table.add_row(
            escape(candidate["arch"]),
            f"{candidate['found']}/{candidate['wanted']}",
            escape(same or _misfits(candidate)),
        )
    table.caption = "parameters: with the file's shapes, of those it needs beside the head; sizes left open"
    table.caption_justify = "left"
    yield table


def render_layers(layers: Sequence[Layer]) -> Table:
    """`--list-layers`."""
    table = _table("Layers in execution order", "layer", "kind")
    for head in ("kernels", "map", "depth", "MMACs behind it"):
        table.add_column(head, justify="right")
    for layer in layers:
        size = f"{layer.height}×{layer.width}"
        cost = f"{layer.macs_after / 1e6:,.1f}" if layer.macs_after else "all"
        table.add_row(escape(layer.name), layer.kind, str(layer.channels), size, f"{layer.depth:.2f}", cost)
    return table


def _partly_read(summary: dict[str, Any]) -> Iterator[str]:
    """Which splits were not read to the end, so that nothing is claimed of what was not seen."""
    for name, split in summary["splits"].items():
        if split["unread"] != 0:
            held = f"{split['images'] + split['unread']:,}" if split["unread"] else "?"
            yield f"[dim]{escape(name)}: {split['images']:,} of {held} images were read, as many as were needed[/]"
    masks = [f"{split['masks']:,} of {name}" for name, split in summary["splits"].items() if split["masks"] is not None]
    if masks:
        yield f"[dim]images with a mask: {escape(', '.join(masks))}[/]"


def _classes(summary: dict[str, Any]) -> Table:
    by_name = {row["name"]: row for row in summary["classes"]}
    table = _table(f"Worst classes on {summary['examined']}", "class")
    for head in ("images", "accuracy"):
        table.add_column(head, justify="right")
    table.add_column("most frequent verdict")
    for name in summary["worst_classes"][:_WORST]:
        row = by_name[name]
        verdict, count = max(row["verdicts"].items(), key=lambda item: int(item[1]))
        table.add_row(
            escape(name), str(row["images"]), _percent(row["accuracy"]), f"{verdict} ({count})" if count else "–"
        )
    return table


def _layers(summary: dict[str, Any]) -> Table:
    threshold = summary["config"]["threshold"]
    table = _table("Which kernels do classes depend on?", "layer")
    for head in ("kernels", "map", f"Â ≥ {threshold:g}", "shared", "not measured"):
        table.add_column(head, justify="right")
    for layer in summary["layers"]:
        table.add_row(
            escape(layer["name"]),
            str(layer["channels"]),
            f"{layer['height']}×{layer['width']}",
            _percent(layer["correlated_share"]),
            _percent(layer["sharing"]),
            str(layer["classes_without_samples"]),
        )
    errors = [layer["relative_standard_error"] for layer in summary["layers"]]
    known = [error for error in errors if error is not None]
    table.caption = "shared: mean Jaccard index of two classes' kernels" + (
        f"; standard error of a class correlation: {_percent(min(known))} to {_percent(max(known))}" if known else ""
    )
    table.caption_justify = "left"
    return table


def _verdicts(summary: dict[str, Any]) -> Table:
    table = _table(f"Why are images wrong? ({summary['explained']} explained)", "verdict")
    table.add_column("images", justify="right")
    table.add_column("meaning")
    for verdict, count in sorted(summary["verdicts"].items(), key=lambda item: -int(item[1])):
        if count:
            table.add_row(verdict, str(count), meaning_of(verdict))
    stays = (summary["limits"] or {}).get("stays_without_object")
    if stays is not None:
        table.caption = f"of right, confident predictions {_percent(stays)} stay the same with the object removed"
        table.caption_justify = "left"
    return table


def _what_to_do(summary: dict[str, Any]) -> Iterator[RenderableType]:
    """The first five findings, each with its next step."""
    if not summary["findings"]:
        yield "nothing stands out of the network as a whole or of its data"
        return
    table = _table("What to do", "finding")
    table.add_column("found, and the next step", ratio=1, overflow="fold")
    for finding in summary["findings"][:_STEPS]:
        command = f": [bold]{escape(finding['command'])}[/]" if finding["command"] else ""
        table.add_row(finding["name"], f"{escape(finding['sentence'])}\n→ {escape(finding['action'])}{command}")
    yield table


def _telling(summary: dict[str, Any]) -> Table:
    table = _table("The most telling wrong images", "image")
    table.add_column("label", overflow="fold")
    table.add_column("taken for", overflow="fold")
    table.add_column("why: evidence", ratio=1, overflow="fold")
    for image in summary["telling"]:
        table.add_row(
            escape(image["path"]),
            escape(image["label"]),
            f"{escape(image['predicted'])} ({_percent(image['confidence'])})",
            f"[bold]{image['verdict']}[/]: {escape(evidence_of(image))}",
        )
    return table


def _misfits(candidate: dict[str, Any]) -> str:
    if not candidate["compared"]:
        return "–"
    groups = (("missing", "missing"), ("unexpected", "too many"), ("misshapen", "of another shape"))
    said = [
        f"{group['count']} {what} ({', '.join(group['first'])}{', ...' * (group['count'] > len(group['first']))})"
        for name, what in groups
        if (group := candidate[name])["count"]
    ]
    return "; ".join(said) or "nothing"


def _table(title: str, *texts: str) -> Table:
    """A table whose first columns hold names, which are never cut off or broken."""
    table = Sheet(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD)
    for number, text in enumerate(texts):
        table.add_column(text, overflow="fold", no_wrap=not number)
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
