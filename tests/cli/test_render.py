"""What the terminal shows, as text, against the figures of the summary; markup in names stays text."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console, RenderableType
from stored_results import make_trial

from modeldoctor.cli.render import render_layers, render_summary, render_trial
from modeldoctor.graph import Layer
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.summary import summarise

Make = Callable[..., Diagnosis]


def shown(parts: Iterable[RenderableType], width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in parts:
        console.print(part, crop=False)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_the_figures_of_the_summary_are_shown(handmade: Make) -> None:
    text = shown(render_summary(summarise(handmade())))
    assert "timm/test_resnet: accuracy 33.3% on val (4 of 6 images wrong)" in text
    stem = next(line for line in text.splitlines() if "stem.conv" in line)
    assert stem.split() == ["stem.conv", "4", "4×2", "62.5%", "66.7%", "1"]
    assert "Why are images wrong? (4 explained)" in text
    assert any(line.split()[:2] == ["isolated", "2"] for line in text.splitlines())
    assert "without kernel 3: right, 62.5%" in " ".join(text.split())


def test_verdicts_without_an_image_are_left_out(handmade: Make) -> None:
    table = shown(render_summary(summarise(handmade()))).partition("Why are images wrong?")[2]
    assert "resembles-class" not in table
    assert "background" not in table


def test_without_wrong_images_there_is_nothing_to_explain(handmade: Make) -> None:
    text = shown(render_summary(summarise(handmade(misdiagnosed=(), limits=None, wrong_count=0))))
    assert "Why are images wrong?" not in text


def test_names_with_markup_are_shown_as_they_are(handmade: Make) -> None:
    names = ("[red]cat[/red]", "[/]", "[bold]")
    text = shown(render_summary(summarise(handmade(classes=names, arch="[blink]net"))))
    for name in (*names, "[blink]net"):
        assert name in text


def test_control_characters_and_markup_from_files_do_nothing(handmade: Make) -> None:
    found = handmade(classes=("\x1b[31mred", "bell\a", "two\nlines\u202egnp"), examined="val")
    splits = dataclasses.replace(found.samples, splits=("train", "[/b]"))
    summary = summarise(dataclasses.replace(found, samples=splits, examined="[/b]"))
    text = shown(render_summary(summary))
    assert "\x1b" not in text
    assert "\a" not in text
    assert "\\x1b[31mred" in text
    assert r"two\nlines\u202egnp" in text
    assert "Worst classes on [/b]" in text


def test_nothing_is_cut_off_in_a_narrow_terminal(handmade: Make) -> None:
    name = "a-class-with-a-very-long-name-" * 5
    text = shown(render_summary(summarise(handmade(classes=(name, "b", "c")))), width=60)
    first_words = (line.split()[0] for line in text.splitlines() if line.strip())
    assert name in "".join(word for word in first_words if word.strip("abcdefghijklmnopqrstuvwxyz-") == "")
    assert "…" not in text


def test_layers_are_listed_with_shape_and_cost() -> None:
    given: dict[str, Any] = {"kind": "conv", "channels": 64, "height": 7, "width": 9}
    layers = [
        Layer(name="a[0].conv", depth=0.25, macs_after=2_500_000, **given),
        Layer(name="b", depth=1.0, macs_after=0, **given),
    ]
    lines = shown([render_layers(layers)]).splitlines()
    assert any(line.split() == ["a[0].conv", "conv", "64", "7×9", "0.25", "2.5"] for line in lines)
    assert any(line.split() == ["b", "conv", "64", "7×9", "1.00", "all"] for line in lines)


def test_a_trial_of_many_arms_has_a_row_for_each() -> None:
    trial = make_trial(("a", "b"), 0.1)
    others = (dataclasses.replace(trial.arms[2], arm=f"another-remedy-{n}") for n in range(3))
    for arms in (trial.arms, (*trial.arms, *others)):
        text = shown(render_trial(dataclasses.replace(trial, arms=arms)), width=80)
        assert all(name in text for name in ("accuracy", "seconds", *(arm.arm for arm in arms)))


def test_no_name_is_broken_or_cut_off_in_a_narrow_terminal(handmade: Make) -> None:
    long = "val/a-class-with-a-long-name/an-image-with-a-name-of-its-own-that-is-long.png"
    found = handmade()
    paths = found.samples.path.astype(object)
    paths[5] = long.encode()
    summary = summarise(dataclasses.replace(found, samples=dataclasses.replace(found.samples, path=paths)))
    for width in (30, 60, 200):
        text = shown(render_summary(summary), width)
        assert long in text
        assert all(image["path"] in text for image in summary["telling"])
        assert "…" not in text
    layers = [
        Layer(name=f"backbone.stage{n}.block{n}.conv.depthwise", kind="conv", channels=1024, height=112, width=112,
              depth=0.5, macs_after=10**9)
        for n in range(3)
    ]  # fmt: skip
    for width in (40, 60, 100):
        text = shown([render_layers(layers)], width)
        assert all(layer.name in text for layer in layers)
        assert " ".join(text.split()).count("112×112") == 3
        assert text.count("1024") == 3
        assert "…" not in text
    lines = shown(render_trial(make_trial(("a", "b"), 0.2)), 40).splitlines()
    assert any(line.split()[:3] == ["treat", "2", "seeds"] for line in lines), lines
