"""The pieces of the evidence: each runs the tool's own commands in a folder and returns its figures.

Data lie in one folder, as the head of RESULTS.md says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import discovery
import evidence
from measures import diagnosis_figures, gain_by_class, trial_figures
from parts import part_of, tiny_imagenet
from place import FASHION, SCRIPTS, Place, fashion_network, menagerie_network
from practitioners import menagerie_methods, waterbirds_boxes, waterbirds_heads
from store import kept

from modeldoctor.config.treat import SpaceConfig
from modeldoctor.data import open_data
from modeldoctor.data.outputs import in_network_classes, random_access
from modeldoctor.results import run_directory
from modeldoctor.results.maps import read_maps
from modeldoctor.zoo import load_model


def discovery_1(place: Place) -> dict[str, Any]:
    """Fig. 2a and Discovery 1: six networks on four data sets, sparsity by depth, and images beside their class."""
    checkpoints = place.data / "checkpoints"
    networks: dict[str, tuple[Callable[[], Path], str]] = {
        "ResNet-20, CIFAR-10": (lambda: checkpoints / "cifar10-resnet20.th", "cifar10"),
        "ResNet-56, CIFAR-10": (lambda: checkpoints / "cifar10-resnet56.th", "cifar10"),
        "SqueezeNet, CIFAR-10": (lambda: checkpoints / "squeezenet1_0-cifar10.pth", "cifar10"),
        "SqueezeNet, Waterbirds": (lambda: checkpoints / "squeezenet1_0-waterbirds.pt", "waterbirds"),
        "test_resnet, Fashion-MNIST": (lambda: fashion_network(place), FASHION),
        "test_resnet, Menagerie": (lambda: menagerie_network(place), "menagerie"),
    }
    found = {}
    for name, (checkpoint, data) in networks.items():
        root = place.data / "fashion-mnist" if data == FASHION else None
        where = data if root else str(place.data / data)
        found[name] = place.once(f"discovery-1 {name}", partial(_discovery_of, checkpoint, where, root))
    return found


def _discovery_of(checkpoint: Callable[[], Path], data: str, root: Path | None) -> dict[str, Any]:
    network = load_model(checkpoint())
    splits = open_data(data, preprocessing=network.preprocessing, root=root)
    matched, _ = in_network_classes(splits, network.class_names, network.num_classes)
    return discovery.figures(network, random_access(matched["test"]))


def menagerie_arms(place: Place) -> dict[str, Any]:
    """Menagerie, 20 masks per class: which remedy mends the reliance on backgrounds?"""
    return _menagerie(place, "menagerie-arms", 3, "treat,swap-background,hard-examples,continue")


def menagerie_together(place: Place) -> dict[str, Any]:
    """Menagerie, 20 masks per class and found ones: the constraint and swapped backgrounds together."""
    return _menagerie(place, "menagerie-together", 10, "space-and-swap,hard-examples,continue")


_BY_CLASS = ("fashion-unannotated", "cifar-long-tailed", "menagerie-unannotated", "menagerie-together")


def figure_4(place: Place) -> dict[str, Any]:
    """Fig. 4: the gain of a class beside its accuracy, in the trials whose figures are kept."""
    found = kept()
    return {name: gain_by_class(found[name]["figures"]) for name in _BY_CLASS if name in found}


def figure_5(place: Place) -> dict[str, Any]:
    """Fig. 2b and 5 on Menagerie: where the evidence lies, before and after the treatment."""
    menagerie_together(place)
    run, data = place.work / "menagerie-together", place.data / "menagerie"
    network = load_model(menagerie_network(place))
    splits = open_data(data, preprocessing=network.preprocessing, masks=data / "masks")
    test = random_access(in_network_classes(splits, network.class_names, network.num_classes)[0]["test"])
    return evidence.figures(network, test, run, read_maps(run / run_directory.MAPS))


def _menagerie(place: Place, name: str, epochs: int, arms: str) -> dict[str, Any]:
    return _menagerie_trial(place, name, epochs, arms, "space.propagated_per_class=300")


def _menagerie_trial(
    place: Place, name: str, epochs: int, arms: str, *settings: str, script: str | None = None
) -> dict[str, Any]:
    """Annotated images fill half of each batch; what differs between trials is given."""
    data = place.data / "menagerie"
    return _trial(
        place, name, menagerie_network(place), arms, f"training.epochs={epochs}", "space.annotated_share=0.5",
        *settings, script=script, config=SCRIPTS.parent / "configs" / "menagerie.yaml", data=data, masks=data / "masks",
        groups=data / "metadata.csv",
    )  # fmt: skip


def _varied(place: Place, name: str, key: str, values: Sequence[object]) -> dict[str, Any]:
    """Short trials of the space constraint on Menagerie that differ in one setting, one seed and two epochs each.

    Args:
        name: of the piece and its runs; the trial at the usual value is the same for every piece.
        key: of the setting, under `space`.
        values: of it, in the order of the page.
    """
    found = {}
    for value in values:
        usual = value == getattr(SpaceConfig(), key)
        run, changed = ("menagerie-space", ()) if usual else (f"{name}-{value}", (f"space.{key}={value}",))
        arms = "treat,hard-examples,continue"
        found[str(value)] = _menagerie_trial(place, run, 2, arms, "seeds=[0]", *changed)
    return {"setting": f"space.{key}", "values": found}


def table_2(place: Place) -> dict[str, Any]:
    """Table 2 on Menagerie: how many annotated images per class does the space constraint want?"""
    return _varied(place, "table-2", "annotated_per_class", (3, 10, 20, 60))


def table_3(place: Place) -> dict[str, Any]:
    """Table 3 on Menagerie: by how many pixels (at 224) is the object grown?"""
    return _varied(place, "table-3", "expand_px", (0, 8, 20, 40))


_DEPTHS = ("layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2", "features")


def figure_6(place: Place) -> dict[str, Any]:
    """Fig. 6 on Menagerie: the gain by the depth of the constrained layer."""
    return _varied(place, "figure-6", "layers", _DEPTHS)


def noise_draws(place: Place) -> dict[str, Any]:
    """Menagerie: how many noise draws per step do the constraints want?"""
    found = {}
    for epochs, others in ((3, "draws-0,draws-2,draws-10"), (2, "draws-10")):
        found[f"{epochs} epochs"] = _menagerie_trial(
            place, f"noise-draws-{epochs}", epochs, f"treat,{others},hard-examples,continue", "noise_draws=1",
            script="reproduce/variants.py",
        )  # fmt: skip
    return {"trials": found}


def exam(place: Place) -> dict[str, Any]:
    """The exam of planted faults: what the verdicts find of them."""
    checkpoints, menagerie, waterbirds = (place.data / name for name in ("checkpoints", "menagerie", "waterbirds"))

    def examined(name: str, *words: object) -> dict[str, Any]:
        made = place.work / f"exam-{name}.json"
        place.script("planted_faults.py", *words, "--split", "test", "-o", made, made=made)
        found: dict[str, Any] = json.loads(made.read_text(encoding="utf-8"))
        return found

    planted = {
        f"ResNet-{depth}": examined(
            f"resnet{depth}", checkpoints / f"cifar10-resnet{depth}.th", place.data / "cifar10", "--half", "held-back",
            "--others", menagerie / "train", "--parts", "images,kernels",
        )
        for depth in (20, 56)
    }  # fmt: skip
    backgrounds = {
        "Menagerie": examined(
            "menagerie", menagerie_network(place), menagerie, "--parts", "backgrounds", "--masks", menagerie / "masks",
            "--groups", menagerie / "metadata.csv", "--images", 1000,
        ),
        "Waterbirds": examined(
            "waterbirds", checkpoints / "squeezenet1_0-waterbirds.pt", waterbirds, "--parts", "backgrounds",
            "--masks", waterbirds / "boxes.json", "--groups", waterbirds / "metadata.csv",
            "--misleading", "waterbird-on-land,landbird-on-water", "--images", 300,
        ),
    }  # fmt: skip
    return {"planted": planted, "backgrounds": backgrounds}


def waterbirds_arms(place: Place) -> dict[str, Any]:
    """Waterbirds, a SqueezeNet of others, boxes of 20 images per class: the worst group under each remedy."""
    arms = "treat,swap-background,hard-examples,balanced,last-layer,continue"
    return _waterbirds_trial(place, "waterbirds-arms", 2, 0.001, arms, "seeds=[0]", boxes_of=20)


def waterbirds_unannotated(place: Place) -> dict[str, Any]:
    """Waterbirds, the same SqueezeNet, no annotation at all: the worst group under remedies that need none."""
    arms = "inferred-groups,last-layer,balanced,continue"
    return _waterbirds_trial(place, "waterbirds-unannotated", 2, 0.01, arms)


def waterbirds_background_groups(place: Place) -> dict[str, Any]:
    """Waterbirds, the same SqueezeNet, boxes of 20 images per class: groups by what it makes of backgrounds."""
    arms = "background-groups,inferred-groups,continue"
    return _waterbirds_trial(place, "waterbirds-background-groups", 3, 0.005, arms, boxes_of=20)


def _waterbirds_trial(
    place: Place, name: str, epochs: int, rate: float, arms: str, *settings: str, boxes_of: int = 0
) -> dict[str, Any]:
    """By the worst group, in batches of 64; with the boxes of so many images per class."""
    data, given = place.data / "waterbirds", [f"space.annotated_per_class={boxes_of}"] if boxes_of else []
    return _trial(
        place, name, place.data / "checkpoints" / "squeezenet1_0-waterbirds.pt", arms, "metric=worst_group",
        f"training.epochs={epochs}", "training.batch_size=64", f"training.learning_rate={rate}", *settings, *given,
        data=data, masks=data / "boxes.json" if boxes_of else None, groups=data / "metadata.csv",
    )  # fmt: skip


def cifar_resnets(place: Place) -> dict[str, Any]:
    """CIFAR-10 ResNets of others, as they are: sparsity by depth (Fig. 2a), stability (Fig. 3)."""
    found = {}
    for name in ("resnet20", "resnet56"):
        checkpoint = place.data / "checkpoints" / f"cifar10-{name}.th"
        found[name] = diagnosis_figures(place.diagnosis(f"cifar10-{name}", checkpoint, "cifar10"))
    return found


def cifar_channels(place: Place) -> dict[str, Any]:
    """Table 1's channel constraint on CIFAR-10 for a ResNet-20 of others, beside its two controls."""
    network = place.data / "checkpoints" / "cifar10-resnet20.th"
    return _trial(place, "cifar-channels", network, _CHANNELS, *_SHORT, data=place.data / "cifar10")


_CHANNELS = "treat,shuffled-channels,continue"
_SHORT = ("training.epochs=1", "training.learning_rate=0.001", "training.batch_size=128", "seeds=[0]")


def menagerie_unannotated(place: Place) -> dict[str, Any]:
    """Menagerie, no annotation at all: the worst group under remedies that need none."""
    data = place.data / "menagerie"
    arms = "inferred-groups,hard-examples,last-layer,continue"
    return _trial(
        place, "menagerie-unannotated", menagerie_network(place), arms, "metric=worst_group", "training.epochs=5",
        "training.learning_rate=0.03", "training.batch_size=64", data=data, groups=data / "metadata.csv",
    )  # fmt: skip


def table_1_others(place: Place) -> dict[str, Any]:
    """Table 1's channel constraint on CIFAR-10 for deeper ResNets of others, with 5,000 training images."""
    folder = part_of(place, "cifar10", "cifar10-5000", [500] * 10)
    networks = {
        name: place.data / "checkpoints" / f"cifar10-{name}.th" for name in ("resnet32", "resnet44", "resnet56")
    }
    found = {
        name: _trial(place, f"table-1-{name}", network, _CHANNELS, *_SHORT, data=folder)
        for name, network in networks.items()
    }
    return {"setting": "network", "values": found}


_SMALL = ("test_resnet", "test_byobnet", "test_efficientnet")


def table_1_small(place: Place) -> dict[str, Any]:
    """Table 1's channel constraint, done small: three small networks on ten classes of two data sets."""
    parts = {name: (part_of(place, name, f"{name}-10", [500] * 10), 32) for name in ("mnist", "cifar100")}
    return _table_1(place, parts, "shuffled-channels")


def table_1_boxes(place: Place) -> dict[str, Any]:
    """Table 1's space constraint, done small: three small networks on ten classes of tiny-ImageNet with their boxes."""
    folder, masks = tiny_imagenet(place, "tiny-imagenet-10", [400] * 10)
    return _table_1(place, {"tiny-imagenet": (folder, 64)}, "hard-examples", masks)


def _table_1(
    place: Place, parts: Mapping[str, tuple[Path, int]], control: str, masks: Path | None = None
) -> dict[str, Any]:
    """Networks trained from scratch until plain training gains no more, and treated for two further epochs."""
    found = {}
    for name, (folder, size) in parts.items():
        for arch in _SMALL:
            run = f"table-1-{name}-{arch}"
            network = place.script(
                "train_classifier.py", "--data", folder, "--arch", arch, "--input-size", size, "--output-stride", 8,
                "--epochs", 30, "--batch-size", 64, "--workers", 0, "--no-flip", "--out", place.work / f"{run}.pt",
                made=place.work / f"{run}.pt",
            )  # fmt: skip
            found[f"{name}, {arch}"] = _trial(
                place, run, network, f"treat,{control},continue",
                "training.epochs=2", "training.learning_rate=0.01", "training.batch_size=64", "seeds=[0]",
                "training.augmentation.flip=false", data=folder, masks=masks,
            )  # fmt: skip
    return {"setting": "data, network", "values": found}


def long_tailed(place: Place) -> tuple[Path, Path]:
    """CIFAR-10 whose classes have 4,900 to 49 training images, and the same network as Menagerie's trained on them."""
    counts = [round(4900 * 100 ** (-number / 9)) for number in range(10)]
    folder, made = part_of(place, "cifar10", "cifar10-long-tailed", counts), place.work / "cifar10-long-tailed.pt"
    network = place.script(
        "train_classifier.py", "--data", folder, "--arch", "test_resnet", "--input-size", 32, "--output-stride", 8,
        "--epochs", 25, "--workers", 0, "--out", made, made=made,
    )  # fmt: skip
    return folder, network


def cifar_long_tailed(place: Place) -> dict[str, Any]:
    """CIFAR-10 with 4,900 to 49 training images per class: the worst class under remedies without masks."""
    folder, network = long_tailed(place)
    arms = "balanced,inferred-groups,last-layer,treat,shuffled-channels,continue"
    return _trial(
        place, "cifar-long-tailed", network, arms, "metric=worst_class", "training.epochs=3",
        "training.learning_rate=0.01", "training.batch_size=128", data=folder,
    )  # fmt: skip


def cifar_channel_rules(place: Place) -> dict[str, Any]:
    """The same images and network: which kernels should the channel constraint allow a class?"""
    folder, network = long_tailed(place)
    arms = "also-active,treat,second-term,shuffled-channels,continue"
    return _trial(
        place, "cifar-channel-rules", network, arms, "metric=worst_class", "training.epochs=2",
        "training.learning_rate=0.01", "training.batch_size=128", "channel.weight=0.3", data=folder,
        script="reproduce/variants.py",
    )  # fmt: skip


def fashion_unannotated(place: Place) -> dict[str, Any]:
    """Fashion-MNIST, nothing rare and nothing misleading: is a remedy without masks ever harmful?"""
    arms = "inferred-groups,last-layer,balanced,treat,shuffled-channels,continue"
    return _trial(
        place, "fashion-unannotated", fashion_network(place), arms, "training.epochs=1", "training.learning_rate=0.01",
        "training.batch_size=128", data=FASHION, root=place.data / "fashion-mnist",
    )  # fmt: skip


def _trial(
    place: Place, name: str, network: Path, arms: str, *settings: str, script: str | None = None, **options: object
) -> dict[str, Any]:
    """A trial with the tool's defaults but for some settings; options of the command by their names, None left out."""
    given = (word for option, value in options.items() if value is not None for word in (f"--{option}", value))
    changed = (word for setting in (f"arms=[{arms}]", *settings) for word in ("--set", setting))
    return trial_figures(place.trial(name, network, *given, *changed, script=script))


PIECES: dict[str, Callable[[Place], dict[str, Any]]] = {
    "discovery-1": discovery_1,
    "menagerie-arms": menagerie_arms,
    "menagerie-together": menagerie_together,
    "table-2": table_2,
    "table-3": table_3,
    "figure-4": figure_4,
    "figure-5": figure_5,
    "figure-6": figure_6,
    "noise-draws": noise_draws,
    "exam": exam,
    "waterbirds-arms": waterbirds_arms,
    "waterbirds-unannotated": waterbirds_unannotated,
    "waterbirds-background-groups": waterbirds_background_groups,
    "waterbirds-heads": waterbirds_heads,
    "waterbirds-boxes": waterbirds_boxes,
    "cifar-resnets": cifar_resnets,
    "cifar-channels": cifar_channels,
    "table-1-others": table_1_others,
    "table-1-small": table_1_small,
    "table-1-boxes": table_1_boxes,
    "cifar-long-tailed": cifar_long_tailed,
    "cifar-channel-rules": cifar_channel_rules,
    "menagerie-methods": menagerie_methods,
    "menagerie-unannotated": menagerie_unannotated,
    "fashion-unannotated": fashion_unannotated,
}
