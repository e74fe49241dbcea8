#!/usr/bin/env python
"""Write RESULTS.md and its figures from the JSON of the pieces: scripts/reproduce/write.py"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from pieces import PIECES
from store import kept

from modeldoctor.graph.layers import FEATURES

HERE = Path(__file__).parent
Found = Mapping[str, Mapping[str, Any]]

_HEAD = """# What reproduces, and what does not

Written by `scripts/reproduce/write.py` from `results/*.json`; no figure is typed by hand. A piece runs the tool's own
commands:

    scripts/reproduce/run.py                          which pieces there are
    scripts/reproduce/run.py menagerie-arms --data DATA

`DATA` holds `cifar10`, `cifar100` and `mnist` as `{train,test}/CLASS/*`, `tiny-imagenet-200` as published, `menagerie`,
`waterbirds`, `fashion-mnist` as torchvision lays it out, and `checkpoints`. Intervals are 95%, over
images and seeds. SVHN, STL-10 and mini-ImageNet were not to be had: the paper's rows on them are missing, as is every
row that is not below."""


def results(found: Found) -> str:
    """The page, a section for each piece that has run."""
    sections = {
        "cifar-resnets": _cifar_resnets,
        "discovery-1": _discovery,
        "cifar-channels": _trial,
        "table-1-others": _variation,
        "table-1-small": _variation,
        "table-1-boxes": _variation,
        "fashion-unannotated": _trial,
        "cifar-long-tailed": _trial,
        "cifar-channel-rules": _trial,
        "menagerie-arms": _trial,
        "menagerie-together": _trial,
        "menagerie-unannotated": _trial,
        "menagerie-methods": _heads,
        "figure-4": _by_class,
        "figure-5": _evidence,
        "table-2": _variation,
        "table-3": _variation,
        "figure-6": _variation,
        "noise-draws": _trials,
        "exam": _exam,
        "waterbirds-arms": _trial,
        "waterbirds-unannotated": _trial,
        "waterbirds-background-groups": _trial,
        "waterbirds-heads": _heads,
        "waterbirds-boxes": _methods,
    }
    parts = [_HEAD]
    for piece, write in sections.items():
        title = (PIECES[piece].__doc__ or "").splitlines()[0].rstrip(".")
        if piece in found:
            remark = [_REMARKS[piece], ""] if piece in _REMARKS else []
            figures = write(found[piece]["figures"])
            parts.append("\n".join([f"## {title}", "", *figures, "", *remark, _how(found[piece])]))
        else:
            parts.append(f"## {title}\n\nTo do.")
    return "\n\n".join(parts) + "\n"


_REMARKS = {
    "discovery-1": "The paper calls the correlations of one class's images almost identical. In front of the head they "
    "are much alike, and unlike another class's: behind the last convolution are pooling and a linear layer, whose "
    "derivative hardly depends on the image. In the first third of the four deep networks of others images are nearly "
    "as much like another class as like their own: there a class has no kernels of its own, and its profile says "
    "little. In between it shows in the size of the derivatives rather than in which kernels exceed the threshold. In "
    "the two small networks classes differ from the first layers on.",
    "cifar-channels": "With each batch's BatchNorm statistics every arm was harmed in an earlier run; the running ones "
    "now stay, as the batches' make the untouched network worse, and no arm loses. The constraint, and kernels drawn "
    "at random in its place, turn no more images than plain training. Seconds hold pauses and other work: they do not "
    "compare the arms.",
    "cifar-long-tailed": "The original's network is small and trained from scratch on these images, for 25 epochs; "
    "plain training for three more gains nothing. Refitting the head on classes that come equally often more than "
    "doubles the worst class and raises accuracy by 7 points over plain training; drawing classes equally often for "
    "the whole network does nearly as much. The channel constraint does what plain training does, and so do kernels "
    "drawn at random.",
    "cifar-channel-rules": "Two epochs, weight 0.3. Allowed are the paper's kernels (treat), those of them that are "
    "active on the class, too (a follow-up's rule), or all, so that Eq. 5's second term alone is left: none does "
    "better than as many kernels drawn at random, nor than plain training.",
    "exam": "Held-back halves of CIFAR-10's test images. Limits were chosen on ResNet-20's development half, and "
    "nothing on ResNet-56, where isolated is said of more images that are honestly wrong, and fewer wrong "
    "labels and images of no class are found. The fourth limit of background was chosen on Menagerie's "
    "val and 500 of its test images of both halves, none on Waterbirds' test. Run beside other work: the "
    "minutes are more than it takes.",
    "menagerie-arms": "Twenty masks per class fill half of each batch; masks for other images were asked for and not "
    "used: on these hard annotated images the found ones overlapped by 0.48, and 0.5 was wanted over all of them then. "
    "Swapped backgrounds and the space constraint raise the worst group beyond drawing the same images as often "
    "(hard-examples), and that beyond plain training; all three take some points from the images that the backgrounds "
    "help. Seconds are of two cores that other work shared: they do not compare the arms.",
    "table-2": "One seed, two epochs, one noise draw per step. "
    "The worst group gains beyond its control (the same images drawn as often) at "
    "every number of annotated images; three per class gain least, and from ten on more of them add nothing that one "
    "seed could show. Interrupted: the minutes are of the last two trials.",
    "table-3": "One seed, two epochs, no noise, and the network trained anew: not that of Table 2. The gain hardly "
    "depends on by how much the mask is grown; the paper finds 30 px best, and here none of these is better than "
    "another by more than one seed could show.",
    "noise-draws": "`treat` has one draw here, the other arms differ from it in nothing but their number. No number of "
    "draws is worse than another beyond what seeds differ by, at equal epochs and, two epochs with ten draws beside "
    "two with one, at about equal seconds; so none is the default. Run in parts: the minutes are without the trials, "
    "and the seconds of the first hold other work.",
    "fashion-unannotated": "One epoch, three seeds. Nothing is gained beyond plain training, and nothing lost: the two "
    "remedies that cost accuracy here, inferred-groups and last-layer, are passed over by validation. The original was "
    "trained for three epochs, so that every arm that trains the whole network gains half a point.",
    "figure-4": "The paper finds that worse classes gain more. So it is where classes are rare, and the best ones pay "
    "for it; where backgrounds mislead, a class's gain does not go with its accuracy.",
    "figure-5": "The paper's derivative maps, taken where the head pools by a mean, are the same at every position: "
    "the mean's derivative is, so that they say nothing of where the evidence lies. Times the map they do: evidence of "
    "confident right images lies on the object more than chance, that of wrong ones less so, as the paper says, and "
    "the treatment moves it onto the object, also where the prediction stays wrong; continued training, with hard "
    "images or without, does not.",
    "figure-6": "One seed, two epochs, one noise draw per step. "
    "At a single convolution, wherever it lies, the constraint does no better than "
    "its control, which draws the same images as often; at the maps that the head pools it does. The paper's gain "
    "grows with the depth of the layer; here nothing but the last place helps: a residual network's convolution is one "
    "branch, and the shortcut carries the background's evidence past it.",
    "waterbirds-boxes": "One seed, two epochs, a quarter of each batch of annotated images in all three. Swapping the "
    "backgrounds of forty birds is worth little beyond the same batches, and punishing input gradients outside of "
    "their boxes nothing; the space constraint on the same boxes (above) ends somewhat higher than both, and none "
    "comes near what group labels give a refitted head. Seconds hold a pause and other work: they do not "
    "compare the methods.",
    "menagerie-together": "Ten epochs, the default, in place of three, and the network trained anew; the found masks "
    "are used, 1,615 of them under the first seed, which overlap with a person's by 0.64 where that was held out. "
    "Constraint and swapped backgrounds together raise the images on other backgrounds by 16 points, and accuracy by "
    "13, over drawing the same images as often, and by 17 and 15 over plain training; images on their class's own "
    "background pay 7 of theirs, for they lose a cue that helped them. With many images to draw from, drawing them "
    "more often is worth little.",
    "menagerie-unannotated": "Five epochs. Every remedy raises the worst group over plain training, at the expense of "
    "images on their class's own background. Validation, which holds 156 images on other backgrounds, chose the "
    "refitted head; groups by whether the original is right would have gained three times as much.",
    "waterbirds-arms": "Without annotations, refitting the head alone helps the worst group most, and costs the mean. "
    "The space constraint helps it far beyond its own control, whose oversampling of hard images harms it; backgrounds "
    "swapped around forty boxes do not help. One seed, two epochs: the order of the first ones is not settled.",
    "waterbirds-unannotated": "Balancing each class by whether the original is right finds the groups that nobody "
    "labelled: the worst group gains without a mask or a group label in training, and accuracy over all images stays; "
    "validation's group labels choose the epoch. What it costs is the weighted mean, for the frequent groups give way. "
    "Refitting the head alone does as much on average and differs by tens of points between seeds.",
    "waterbirds-background-groups": "Three epochs; settings were chosen on validation. Forty boxes are worth 8 points "
    "here, as they tell images that their background misled from those that are wrong for another reason, at the same "
    "accuracy; the weighted mean pays more for it. DFR (below) reaches more by the groups of half of validation and, "
    "on average over three draws that differ much, by those of forty images; its weighted mean pays more still.",
    "waterbirds-heads": "The groups of half of validation's images, given to DFR, raise the worst group the most, "
    "above every arm of the trials above, which learn from no group label; the weighted mean pays for it, as "
    "these features hold little of the birds. Forty images whose groups are known, twenty of each class, give "
    "most of it on average (the other half's groups choose the penalty), and draws of them differ by 13 points. "
    "JTT's head ends near a coin's 50% in every group, and AFR's near it on average: a worst group alone does not "
    "tell help from that. The network has been fitted to the training images, which JTT and AFR reweigh, and "
    "AFR's authors set some aside. They report 72.6 for plain training, 90.4 for AFR and 92.9 for DFR, with a "
    "ResNet-50 from ImageNet at 224 px: no figures of this network.",
}
"""What follows from a piece's figures, in words."""


def _how(content: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"`{content['command']}`: {content['date']}, {content['machine']}, {content['minutes']} minutes; {versions}."


def _cifar_resnets(figures: Mapping[str, Any]) -> Iterator[str]:
    names = list(figures)
    yield "Fig. 2a (Discovery 1): share of (class, kernel) pairs with Â ≥ 0.2, by depth. ![](figures/fig2a.svg)"
    yield ""
    yield from _table(
        ("", *names),
        [
            ("test accuracy", *(_percent(figures[name]["accuracy"]) for name in names)),
            ("correlated, first convolution", *(_percent(figures[name]["layers"][0]["correlated"]) for name in names)),
            ("the most of any layer", *(_percent(max(_shares(figures[name]))) for name in names)),
            ("last convolution", *(_percent(_shares(figures[name])[-1]) for name in names)),
        ],
    )
    yield ""
    yield "The last convolution is the sparsest, as the paper says; in between most kernels serve most classes."
    yield ""
    yield (
        "Fig. 3 (Discovery 2): share of noise draws that keep the prediction, by noise range in standard deviations of "
        "each layer, and the area under the ROC curve of instability as a detector. ![](figures/fig3.svg)"
    )
    yield ""
    for name in names:
        ranges = [f"{value:g}" for value in figures[name]["noise_ranges"]]
        yield from _table((name, *(f"± {value}" for value in ranges)), list(_stability(figures[name])))
        yield ""
        yield (
            f"{name}: plain softmax confidence tells wrong images from right ones with an area of "
            f"{figures[name]['wrong_by_confidence']:.3f}."
        )
        yield ""
    yield (
        "Right images are here the confident ones that verdicts are measured against, which favours stability; of "
        "confidence they are all. Adversarial ones are those that FGSM turned (2/255). Discovery 2 holds as a "
        "tendency: wrong and adversarial images bear less noise, and a detector made of it has the areas above."
    )


_EXAMINED = ("recall", "precision", "precision, every fault counted")
_LIKENESS = ("pearson", "pearson_other", "jaccard", "jaccard_other")


def _discovery(figures: Mapping[str, Any]) -> Iterator[str]:
    yield (
        "Up to 20 right test images per class, Eq. 3 without noise, all layers. How much is a single image's |∂y/∂m| "
        "per kernel like the mean of the others of its class, and like another class's? ![](figures/discovery1.svg)"
    )
    yield ""
    yield from _table(
        ("network, layer", "Â ≥ 0.2", "correlation, own class", "another class", "Jaccard, own class", "another class"),
        [
            (f"{name}: {layer['name']}", _percent(layer["correlated"]), *(_two(layer[key]) for key in _LIKENESS))
            for name, of in figures.items()
            for layer in _first_middle_last(of["layers"])
        ],
    )


def _first_middle_last(layers: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """By depth, of the layers that are the network's own; `features` are read in front of its head."""
    own = sorted((layer for layer in layers if layer["name"] != FEATURES), key=lambda layer: float(layer["depth"]))
    return [own[0], own[len(own) // 2], own[-1]]


def _two(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _stability(figures: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    yield ("right images stay", *map(_percent, figures["right_stability"]))
    yield ("wrong images stay", *map(_percent, figures["wrong_stability"]))
    yield ("area, wrong", *(f"{area:.3f}" for area in figures["wrong_by_stability"]))
    if "adversarial" in figures:
        yield ("adversarial images stay", *map(_percent, figures["adversarial"]["stability"]))
        yield ("area, adversarial", *(f"{area:.3f}" for area in figures["adversarial"]["by_stability"]))


def _trial(figures: Mapping[str, Any]) -> Iterator[str]:
    metrics = list(figures["arms"][0]["metrics"])
    yield from _table(
        (f"{figures['images']} test images", *(name.replace("_", " ") for name in metrics), "seconds", "annotated"),
        [
            (
                f"{arm['arm']} ({arm['seeds']} seed{'s' * (arm['seeds'] > 1)})",
                *(_interval(arm["metrics"][name]) for name in metrics),
                _whole(arm["seconds"]),
                _whole(arm["annotations"]),
            )
            for arm in figures["arms"]
        ],
    )
    yield ""
    yield f"**{figures['outcome']}**: {figures['reason']}."


def _trials(figures: Mapping[str, Any]) -> Iterator[str]:
    """Several trials below each other."""
    for number, (title, trial) in enumerate(figures["trials"].items()):
        if number:
            yield ""
        yield f"{title[:1].upper()}{title[1:]}:"
        yield ""
        yield from _trial(trial)


def _variation(figures: Mapping[str, Any]) -> Iterator[str]:
    """One row for each value of a setting: accuracy and worst group of every arm, worst class where there are none."""
    trials = figures["values"]
    first = next(iter(trials.values()))["arms"]
    arms = [arm["arm"] for arm in first]
    metrics = ("accuracy", "worst_group" if "worst_group" in first[0]["metrics"] else "worst_class")
    yield from _table(
        (figures["setting"], *(f"{arm}: {metric.replace('_', ' ')}" for arm in arms for metric in metrics)),
        [
            (value, *(_interval(arm["metrics"][metric]) for arm in trial["arms"] for metric in metrics))
            for value, trial in trials.items()
        ],
    )


def _by_class(figures: Mapping[str, Any]) -> Iterator[str]:
    """One row for each trial: how the gains of its classes go with their accuracies."""
    yield "![](figures/fig4.svg)"
    yield ""
    yield from _table(
        ("trial, remedy", "classes' accuracies", "correlation with gain over original", "with gain over `continue`"),
        [
            (
                f"{name}, {of['remedy']}",
                f"{_percent(min(of['accuracy']))} to {_percent(max(of['accuracy']))}",
                *(f"{of[key]:.2f}" for key in ("correlation_gain", "correlation_over_continue")),
            )
            for name, of in figures.items()
        ],
    )


def _evidence(figures: Mapping[str, Any]) -> Iterator[str]:
    """Shares outside the object: of the original's predictions by confidence, and of every arm."""
    yield (
        "Share outside the object of the background's area, of |∂y/∂m| and of |∂y/∂m · m|, summed over the kernels of "
        "the maps that the head pools, of the prediction; without noise, mean over images."
    )
    yield ""
    yield from _table(
        ("original's predictions", "images", "area", "derivative", "derivative × map"),
        [(row["images"], str(row["number"]), *_outside(row)) for row in figures["by_confidence"]],
    )
    yield ""
    yield from _table(
        (f"{figures['images']} test images", "right", "derivative × map, all", "where the original is wrong"),
        [
            (arm, *map(_percent, (of["right"], of["every"]["contribution"], of["original_wrong"]["contribution"])))
            for arm, of in figures["arms"].items()
        ],
    )
    yield ""
    yield (
        "Validation images that the original gets wrong, |∂y/∂m · m| of each network's own prediction (white is most), "
        "the object's outline in red: ![](figures/fig5.svg)"
    )


def _outside(row: Mapping[str, Any]) -> Iterator[str]:
    return ("–" if row[key] is None else _percent(row[key]) for key in ("area", "derivative", "contribution"))


def _exam(figures: Mapping[str, Any]) -> Iterator[str]:
    """Recall and precision of every verdict, network by network; then kernels and backgrounds."""
    planted = figures["planted"]
    verdicts = next(iter(planted.values()))["images"]["verdicts"]
    yield "CIFAR-10, networks of others; faults of single images. Precision leaves out what the guide says it does."
    yield ""
    yield from _table(
        ("verdict", *(f"{name}: {figure}" for name in planted for figure in _EXAMINED)),
        [
            (
                verdict,
                *(
                    _percent(of["images"]["verdicts"][verdict][figure])
                    for of in planted.values()
                    for figure in _EXAMINED
                ),
            )
            for verdict in verdicts
        ],
    )
    yield ""
    for name, of in planted.items():
        faulty = [row for row in of["kernels"] if row["kernel"] >= 0]
        named = [f"kernel {row['kernel']} " in text for row in faulty for text in row["named"][:1]]
        recall, precision = ([row[figure] for row in faulty] for figure in ("recall", "precision"))
        clean = [row for row in of["kernels"] if row["kernel"] < 0]
        yield (
            f"{name}, one kernel's path to a class amplified: it is named first in {sum(named)} of {len(faulty)} "
            f"plantings, recall {_percent(min(recall))} to {_percent(max(recall))}, precision "
            f"{_percent(min(precision))} to {_percent(max(precision))}; in the network as it is "
            f"{len(clean[0]['named']) or 'none'} is named."
        )
        yield ""
    yield from _table(
        ("`background`, half of the wrong images", "misled", "recall", "precision"),
        [
            (f"{name}, {half}", str(of[half]["misled"]), _percent(of[half]["recall"]), _percent(of[half]["precision"]))
            for name, of in figures["backgrounds"].items()
            for half in ("development", "held-back")
        ],
    )


def _heads(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from _methods(figures)
    yield ""
    yield "Of refitted heads medians of three halvings of validation's images, and their lowest and highest."


def _methods(figures: Mapping[str, Any]) -> Iterator[str]:
    """One row for each method: the median over its runs, the lowest and the highest."""
    metrics = list(figures["methods"][0]["metrics"])
    yield from _table(
        (f"{figures['images']} test images", *(name.replace("_", " ") for name in metrics), "seconds", "fitted on"),
        [
            (
                found["method"],
                *(_range(found["metrics"][name]) for name in metrics),
                f"{found['seconds']:.1f}",
                found["labels"] or "–",
            )
            for found in figures["methods"]
        ],
    )


def _range(values: Sequence[float]) -> str:
    low, middle, high = (f"{100 * value:.2f}" for value in (min(values), median(values), max(values)))
    return middle if len(values) == 1 else f"{middle} ({low} to {high})"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (heads, ["---"] * len(heads), *rows):
        yield "| " + " | ".join(row) + " |"


def _shares(figures: Mapping[str, Any]) -> list[float]:
    return [float(layer["correlated"]) for layer in figures["layers"]]


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"


def _interval(figure: Sequence[float | None]) -> str:
    value, low, high = (None if part is None else 100 * part for part in figure)
    return f"{value:.2f}" + ("" if low is None else f" ({low:.2f} to {high:.2f})")


def _whole(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def draw(found: Found, folder: Path) -> None:
    """Figures as SVG, the same from the same JSON."""
    mpl.rcParams["svg.hashsalt"] = "modeldoctor"
    folder.mkdir(exist_ok=True)
    drawings = {
        "cifar-resnets": _draw_resnets,
        "discovery-1": _draw_discovery,
        "figure-4": _draw_gains,
        "figure-5": _draw_maps,
    }
    for piece, drawn in drawings.items():
        if piece in found:
            drawn(found[piece]["figures"], folder)


def _draw_discovery(figures: Mapping[str, Any], folder: Path) -> None:
    """Sparsity, and likeness of images to their own class (lines) and to another (dotted), by depth."""
    _, (left, right) = pyplot.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for number, (name, of) in enumerate(figures.items()):
        left.plot(*_by_depth(of["layers"], "correlated"), f"C{number}", marker=".", label=name)
        for key, line in (("pearson", "-"), ("pearson_other", ":")):
            right.plot(*_by_depth(of["layers"], key), f"C{number}{line}", marker=".")
    left.set(xlabel="depth of the layer (0 input, 1 output)", ylabel="share of kernels with Â ≥ 0.2", ylim=(0, 1))
    right.set(
        xlabel="depth of the layer (0 input, 1 output)",
        ylabel="correlation of an image with\nits own class; dotted: another",
        ylim=(-0.2, 1.02),
    )
    left.legend(fontsize=7)
    pyplot.savefig(folder / "discovery1.svg", metadata={"Date": None})


def _draw_gains(figures: Mapping[str, Any], folder: Path) -> None:
    """Fig. 4: a point for each class of each trial."""
    _, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, of in figures.items():
        axes.plot(of["accuracy"], of["over_continue"], "o", alpha=0.7, label=f"{name}, {of['remedy']}")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel="original's accuracy on the class", ylabel="gain over continued training")
    axes.legend(fontsize=7)
    pyplot.savefig(folder / "fig4.svg", metadata={"Date": None})


def _draw_maps(figures: Mapping[str, Any], folder: Path) -> None:
    """Fig. 5: images in rows, arms in columns; the outline of the object over each map."""
    shown = figures["shown"]
    images, arms = len(shown["outline"]), shown["arms"]
    _, grid = pyplot.subplots(
        images, len(arms), figsize=(1.6 * len(arms), 1.6 * images), squeeze=False, layout="constrained"
    )
    for number, arm in enumerate(arms):
        for row, axes in enumerate(grid[:, number]):
            edge = len(shown["outline"][row])
            axes.imshow(shown["contribution"][number][row], cmap="gray", extent=(0, edge, edge, 0))
            axes.contour(shown["outline"][row], levels=[0.5], colors="red", linewidths=1, extent=(0, edge, 0, edge))
            right = "right" if shown["right"][number][row] else "wrong"
            axes.set(xticks=(), yticks=(), title=f"{arm}: {right}")
            axes.title.set_fontsize(7)
    pyplot.savefig(folder / "fig5.svg", metadata={"Date": None})


def _by_depth(layers: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Depths, ascending, and the mean at each of them; of branches several layers lie at one depth."""
    found: dict[float, list[float]] = {}
    for layer in layers:
        if layer["name"] != FEATURES and layer[key] is not None:
            found.setdefault(float(layer["depth"]), []).append(float(layer[key]))
    depths = sorted(found)
    return depths, [fmean(found[depth]) for depth in depths]


def _draw_resnets(figures: Mapping[str, Any], folder: Path) -> None:
    """Fig. 2a and 3."""
    _, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for name, of in figures.items():
        axes.plot([layer["depth"] for layer in of["layers"]], _shares(of), marker=".", label=name)
    axes.set(xlabel="depth of the layer (0 input, 1 output)", ylabel="share of kernels with Â ≥ 0.2", ylim=(0, 1))
    axes.legend()
    pyplot.savefig(folder / "fig2a.svg", metadata={"Date": None})
    _, axes = pyplot.subplots(figsize=(6, 3.2), layout="constrained")
    for colour, (name, of) in zip(("C0", "C1"), figures.items(), strict=True):
        axes.plot(of["noise_ranges"], of["right_stability"], colour, marker=".", label=f"{name}, right images")
        axes.plot(of["noise_ranges"], of["wrong_stability"], colour + ":", marker=".", label=f"{name}, wrong images")
        if "adversarial" in of:
            said = f"{name}, adversarial images"
            axes.plot(of["noise_ranges"], of["adversarial"]["stability"], colour + "--", marker=".", label=said)
    axes.set(
        xscale="log", xlabel="noise range, standard deviations", ylabel="share of draws that keep it", ylim=(0, 1.02)
    )
    axes.legend(fontsize=7)
    pyplot.savefig(folder / "fig3.svg", metadata={"Date": None})


if __name__ == "__main__":
    found_so_far = kept()
    draw(found_so_far, HERE / "figures")
    (HERE / "RESULTS.md").write_text(results(found_so_far), encoding="utf-8")
