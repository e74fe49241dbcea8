#!/usr/bin/env python
r"""The exam of the verdicts: faults are planted on purpose, and the diagnosis has to name them.

Parts: faults of single images, planted side by side into one set (which verdict do they get, and who else gets it?);
one kernel of the features sabotaged; faults of the whole set or its preprocessing, with clean runs beside them; and, on
request, backgrounds that mislead, as the data has them. An object that is cut off or tiny has no verdict of its own:
the table shows which it gets.
Images are split by a seed into a development half, on which limits may be chosen, and a held-back half for the figures;
those beyond `--images` are for a figure on images that no choice has seen.

scripts/planted_faults.py resnet20.th cifar10 --split test
scripts/planted_faults.py resnet20.th cifar10 --split test --half held-back --others menagerie -o exam.json
scripts/planted_faults.py menagerie.pt menagerie --split test --parts backgrounds --masks menagerie/masks \
    --groups menagerie/metadata.csv
"""

from __future__ import annotations

import copy
import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from rich import print as show
from rich.table import Table
from torch import Tensor, nn

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
from modeldoctor.data import ImageSet, open_data
from modeldoctor.data.outputs import in_network_classes
from modeldoctor.data.pictures import PictureArray
from modeldoctor.data.transforms import fitted, picture_mode
from modeldoctor.diagnosis import diagnose
from modeldoctor.diagnosis.looks import find_views
from modeldoctor.results.diagnosis import Diagnosis, Verdict
from modeldoctor.zoo import Classifier, load_model

Pixels = NDArray[np.uint8]
"""(S,H,W,3) or (S,H,W), as the network's input, before it is normalised."""
RIGHT_VERDICT = {
    "label at random": Verdict.MISLABELLED,
    "label of an alike class": Verdict.MISLABELLED,
    "blur": Verdict.DAMAGED,
    "noise": Verdict.DAMAGED,
    "jpeg": Verdict.DAMAGED,
    "low contrast": Verdict.DAMAGED,
    "pixelation": Verdict.DAMAGED,
    "darkness": Verdict.DAMAGED,
    "no class": Verdict.UNFAMILIAR,
    "pattern": Verdict.UNFAMILIAR,
    "fgsm": Verdict.ISOLATED,
    "pgd": Verdict.ISOLATED,
}
ALSO_TRUE = {("cut off", None), ("tiny", None), ("no class", Verdict.MISLABELLED)}
"""Faults beside verdicts (None: any) that precision does not count: what has no verdict that is meant for it, and
images of no class, whose label is wrong, too (to Northcutt et al., 2021, a label error is another class or none)."""


SET_FINDINGS = ("preprocessing", "class-order", "duplicates", "inseparable")


class Half(StrEnum):
    """Which half of the images, or those beyond both."""

    DEVELOPMENT = "development"
    HELD_BACK = "held-back"
    UNSEEN = "unseen"


@dataclass(frozen=True)
class Images:
    """Pixels (S,H,W[,3]) and labels (S,)."""

    pixels: Pixels
    labels: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.int64]) -> Images:
        return Images(self.pixels[rows], self.labels[rows])

    def as_set(self, split: str, classifier: Classifier, preprocessing: Preprocessing | None = None) -> ImageSet:
        """As a split of a data set."""
        return ImageSet(
            split=split,
            class_names=classifier.class_names or tuple(str(number) for number in range(classifier.num_classes)),
            labels=self.labels,
            paths=[f"{split}/{row}" for row in range(len(self.labels))],
            pictures=PictureArray(self.pixels),
            preprocessing=preprocessing or classifier.preprocessing,
        )


def rows_of(half: Half, images: int, most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ascending indices of one half of `most` images at random, or of all beyond them."""
    order = rng.permutation(images)
    both = np.sort(order[:most])
    held_back = rng.permutation(len(both)) % 2 == 1
    if half is Half.UNSEEN:
        return np.sort(order[most:])
    return np.asarray(both[held_back == (half is Half.HELD_BACK)])


def read(images: ImageSet, rows: NDArray[np.int64]) -> Images:
    """Images, resized and cropped to the network's input."""
    mode = picture_mode(images.preprocessing)
    found = [np.asarray(fitted(images.pictures.read(int(row), mode), None, images.preprocessing)[0]) for row in rows]
    return Images(np.stack(found), images.labels[rows])


# -- single images -----------------------------------------------------------------------------------------------------


def damages(rng: np.random.Generator) -> dict[str, Callable[[Pixels], Pixels]]:
    """Of one image (H,W[,3]): what is done to it, after ImageNet-C (Hendrycks and Dietterich 2019)."""

    def jpeg(image: Pixels) -> Pixels:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=10)
        return np.asarray(Image.open(file))

    def pixelated(image: Pixels) -> Pixels:
        picture = Image.fromarray(image)
        small = picture.resize((picture.width * 3 // 8, picture.height * 3 // 8), Image.Resampling.BOX)
        return np.asarray(small.resize(picture.size, Image.Resampling.NEAREST))

    def faded(image: Pixels) -> Pixels:
        mean = image.mean(axis=(0, 1))
        return np.asarray(((image - mean) * 0.2 + mean).astype(np.uint8))

    radius = {True: 1.2, False: 3.0}
    return {
        "blur": lambda image: np.asarray(
            Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius[len(image) <= 64]))
        ),
        "noise": lambda image: (image + rng.normal(0, 30, image.shape)).clip(0, 255).astype(np.uint8),
        "jpeg": jpeg,
        "low contrast": faded,
        "pixelation": pixelated,
        "darkness": lambda image: (image * 0.15).astype(np.uint8),
    }


def off_centre(rng: np.random.Generator) -> dict[str, Callable[[Pixels], Pixels]]:
    """Of one image (H,W[,3]): its object cut off or tiny, for images that an object fills; the border is carried on."""

    def cut_off(image: Pixels) -> Pixels:
        side, shift = image.shape[0], round(0.6 * image.shape[0])
        padded = np.pad(image, ((shift, shift), (0, 0), *[(0, 0)] * (image.ndim - 2)), mode="edge")
        return padded[:side] if rng.random() < 0.5 else padded[-side:]

    def tiny(image: Pixels) -> Pixels:
        height, width = image.shape[:2]
        small = np.asarray(Image.fromarray(image).resize((width * 3 // 8, height * 3 // 8), Image.Resampling.BOX))
        top, left = (
            int(rng.integers(whole - part + 1)) for whole, part in zip((height, width), small.shape, strict=False)
        )
        around = ((top, height - small.shape[0] - top), (left, width - small.shape[1] - left))
        return np.pad(small, (*around, *[(0, 0)] * (image.ndim - 2)), mode="edge")

    return {"cut off": cut_off, "tiny": tiny}


def patterns(number: int, like: Pixels, rng: np.random.Generator) -> Pixels:
    """Stripes of random direction, width and colours."""
    y, x = np.mgrid[: like.shape[1], : like.shape[2]]
    found = []
    for _ in range(number):
        wave = np.sin(x * rng.uniform(0.2, 2) + y * rng.uniform(0.2, 2))
        colour = wave[..., None] * rng.uniform(30, 120, 3) + rng.uniform(60, 190, 3)
        found.append(colour if like.ndim == 4 else colour.mean(-1))
    return np.stack(found).clip(0, 255).astype(np.uint8)


def adversarial(classifier: Classifier, images: Images, epsilon: float, steps: int) -> Pixels:
    """After the fast gradient sign method (one step) or projected gradient descent (Madry et al. 2018)."""
    network, used = classifier.module, classifier.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (used.mean, used.std))
    original = as_tensor(images.pixels)
    changed = original.clone()
    for _ in range(steps):
        changed.requires_grad_(True)
        loss = nn.functional.cross_entropy(network((changed - mean) / std), torch.from_numpy(images.labels))
        (slope,) = torch.autograd.grad(loss, changed)
        step = epsilon if steps == 1 else 2.5 * epsilon / steps
        changed = (changed.detach() + step * slope.sign()).clamp(original - epsilon, original + epsilon).clamp(0, 1)
    whole = (changed * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return whole if images.pixels.ndim == 4 else whole[..., 0]


def as_tensor(pixels: Pixels) -> Tensor:
    """(S,C,H,W) in [0, 1]."""
    array = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 255
    return array.permute(0, 3, 1, 2) if pixels.ndim == 4 else array[:, None]


def predictions(classifier: Classifier, pixels: Pixels) -> NDArray[np.int64]:
    """(S,) classes."""
    mean, std = (
        torch.tensor(part)[:, None, None] for part in (classifier.preprocessing.mean, classifier.preprocessing.std)
    )
    with torch.no_grad():
        parts = [
            classifier.module((as_tensor(part) - mean) / std).argmax(1)
            for part in np.array_split(pixels, max(1, len(pixels) // 100))
        ]
    return torch.cat(parts).numpy()


def plant(
    classifier: Classifier, images: Images, others: Pixels | None, share: float, rng: np.random.Generator
) -> tuple[Images, NDArray[np.str_]]:
    """Plant every fault of single images into a share of the set; "" says that an image is as it was."""
    pixels, labels = images.pixels.copy(), images.labels.copy()
    cause = np.full(len(labels), "", dtype="<U30")
    free = list(rng.permutation(len(labels)))

    def take(name: str, part: float = 1.0) -> NDArray[np.int64]:
        rows = np.array([free.pop() for _ in range(round(part * share * len(labels)))])
        cause[rows] = name
        return rows

    confusion = np.zeros((classifier.num_classes,) * 2)
    found = predictions(classifier, images.pixels)
    np.add.at(confusion, (images.labels, found), 1)
    np.fill_diagonal(confusion, 0)
    rows = take("label at random", 0.5)
    labels[rows] = (labels[rows] + rng.integers(1, classifier.num_classes, len(rows))) % classifier.num_classes
    rows = take("label of an alike class", 0.5)
    labels[rows] = confusion[labels[rows]].argmax(axis=1)
    for name, damage in damages(rng).items():
        rows = take(name, 0.3)
        pixels[rows] = np.stack([damage(image) for image in pixels[rows]])
    rows = take("pattern", 0.5)
    pixels[rows] = patterns(len(rows), pixels, rng)
    if others is not None:
        rows = take("no class", 0.5)
        pixels[rows] = others[rng.permutation(len(others))[: len(rows)]]
    for name, steps in (("fgsm", 1), ("pgd", 10)):
        rows = take(name, 0.5)
        pixels[rows] = adversarial(classifier, images[rows], 4 / 255, steps)
    for name, change in off_centre(rng).items():
        rows = take(name, 0.5)
        pixels[rows] = np.stack([change(image) for image in pixels[rows]])
    return Images(pixels, labels), cause


def examine(classifier: Classifier, train: Images, val: Images, config: DiagnoseConfig, **changes: Any) -> Diagnosis:
    """The diagnosis of these images."""
    splits = {"train": train.as_set("train", classifier), "val": val.as_set("val", classifier, **changes)}
    return diagnose(classifier, splits, config=config)


def exam_of_images(
    classifier: Classifier, train: Images, val: Images, others: Pixels | None, config: DiagnoseConfig, seed: int
) -> dict[str, Any]:
    """Recall of each fault, precision of each verdict, and the whole table of faults and verdicts."""
    rng = np.random.default_rng([seed, 1])
    before = predictions(classifier, val.pixels) == val.labels
    planted, cause = plant(classifier, val, others, 0.05, rng)
    found = examine(classifier, train, planted, config)
    first = np.flatnonzero(found.rows("val"))[0]
    table: dict[str, Counter[str]] = {}
    for image in found.misdiagnosed:
        row = image.sample - first
        # An image that was wrong before its fault was planted has two causes; what is wrong with it is not known.
        if cause[row] and not before[row]:
            continue
        table.setdefault(cause[row] or "none", Counter())[str(image.verdict)] += 1
    recall = {name: table[name][right] / table[name].total() for name, right in RIGHT_VERDICT.items() if name in table}
    verdicts: dict[str, dict[str, float]] = {}
    for verdict in sorted({*RIGHT_VERDICT.values()}):
        given = {name: row[verdict] for name, row in table.items() if row[verdict]}
        right = sum(count for name, count in given.items() if RIGHT_VERDICT.get(name) is verdict)
        counted = [count for name, count in given.items() if not {(name, None), (name, verdict)} & ALSO_TRUE]
        meant = sum(row.total() for name, row in table.items() if RIGHT_VERDICT.get(name) is verdict)
        verdicts[verdict] = {
            "recall": right / meant if meant else float("nan"),
            "precision": right / sum(counted) if counted else float("nan"),
            "precision, every fault counted": right / sum(given.values()) if given else float("nan"),
            "of natural errors": table.get("none", Counter())[verdict] / max(1, table.get("none", Counter()).total()),
        }
    return {"accuracy": found.accuracy, "recall": recall, "verdicts": verdicts,
            "table": {name: dict(row) for name, row in table.items()},
            "findings": [[finding.name, finding.wrong, finding.sentence] for finding in found.findings]}  # fmt: skip


# -- misleading backgrounds --------------------------------------------------------------------------------------------


def exam_of_backgrounds(
    classifier: Classifier, splits: Mapping[str, Any], split: str, groups: Path, misleading: set[str],
    config: DiagnoseConfig, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """How often is `background` said of wrong images on misleading backgrounds, in either half, and of others?

    Backgrounds are as they are in the data; `groups` says by path which mislead (its columns `path` and `group`). With
    the columns `class` and `background`, too, the images are told apart that are taken for a class whose images of
    other groups have this background: what else an image is taken for, its background need not have caused.
    """
    with groups.open(newline="", encoding="utf-8") as file:
        of_path = {row["path"]: row for row in csv.DictReader(file)}
    usual = {(row.get("class"), row.get("background")) for row in of_path.values() if row["group"] not in misleading}
    found = diagnose(classifier, {"train": splits["train"], split: splits[split]}, config=config)
    held_back = np.random.default_rng(seed).permutation(len(found.samples.path)) % 2 == 1
    result: dict[str, Any] = {"accuracy": found.accuracy}
    for half in (Half.DEVELOPMENT, Half.HELD_BACK):
        of_half = [i for i in found.misdiagnosed if held_back[i.sample] == (half is Half.HELD_BACK)]
        rows = [of_path[found.samples.path[image.sample].decode()] for image in of_half]
        meant = np.array([row["group"] in misleading for row in rows])
        said = np.array([image.verdict is Verdict.BACKGROUND for image in of_half])
        taken = meant & [
            "background" in row and (found.classes[image.predicted], row["background"]) in usual
            for image, row in zip(of_half, rows, strict=True)
        ]
        result[half] = {
            "wrong": len(of_half), "misled": int(meant.sum()), "said": int(said.sum()),
            "recall": float(said[meant].mean()), "precision": float(meant[said].mean()),
            "of others": _mean(said[~meant]),
            "verdicts of misled": dict(Counter(str(i.verdict) for i, m in zip(of_half, meant, strict=True) if m)),
        }  # fmt: skip
        if taken.any():
            result[half] |= {
                "taken for its background's class": int(taken.sum()),
                "recall of these": _mean(said[taken]),
            }
    return result


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")


# -- a kernel of the network -------------------------------------------------------------------------------------------


def sabotage(
    classifier: Classifier,
    module: nn.Module,
    weight: Tensor,
    val: Images,
    before: NDArray[np.bool_],
    rng: np.random.Generator,
) -> int:
    """Amplify one kernel's path to a class until a tenth of the right images are wrong; -1 if that does not do it."""
    kernel, target = int(rng.integers(weight.shape[1])), int(rng.integers(weight.shape[0]))
    usual, most = float(weight[target, kernel]), float(weight.abs().max())
    few = slice(0, 500)
    for factor in (2, 4, 8, 16):
        weight[target, kernel] = usual + factor * most
        now = predictions(replace(classifier, module=module), val.pixels[few]) == val.labels[few]
        if (before[few] & ~now).sum() >= 0.1 * before[few].sum():
            return kernel
    weight[target, kernel] = usual
    return -1


def exam_of_kernels(
    classifier: Classifier, train: Images, val: Images, config: DiagnoseConfig, seed: int, plantings: int
) -> list[dict[str, Any]]:
    """One kernel's path to a class amplified in the head: is that kernel named, and for which images?"""
    rng = np.random.default_rng([seed, 2])
    before = predictions(classifier, val.pixels) == val.labels
    results = []
    for number in range(plantings + 1):
        module, kernel = copy.deepcopy(classifier.module), -1
        views = find_views(module, torch.zeros(2, *classifier.preprocessing.input_size))
        if views is None or not views.linear:
            return []
        while number and kernel < 0:
            kernel = sabotage(classifier, module, views.head.weight.data, val, before, rng)
        sabotaged = replace(classifier, module=module)
        found = examine(sabotaged, train, val, config)
        first = np.flatnonzero(found.rows("val"))[0]
        rows = [(image, before[image.sample - first]) for image in found.misdiagnosed]
        accused = [
            bool(planted) and image.faulty_kernel == kernel for image, planted in rows if image.faulty_kernel >= 0
        ]
        caused = [image.faulty_kernel == kernel for image, planted in rows if planted]
        results.append({
            "kernel": kernel, "accuracy": found.accuracy,
            "named": [finding.sentence for finding in found.findings if finding.name == Verdict.FOREIGN_KERNELS],
            "recall": float(np.mean(caused)) if caused else float("nan"), "caused": len(caused),
            "precision": float(np.mean(accused)) if accused else float("nan"), "accused": len(accused),
        })  # fmt: skip
    return results


# -- the whole set -----------------------------------------------------------------------------------------------------


def coin_labels(images: Images, one: int, other: int, rng: np.random.Generator) -> Images:
    """Two classes that nobody can tell apart: of their images a coin says which label each has."""
    there = np.isin(images.labels, (one, other))
    return Images(images.pixels, np.where(there, rng.choice((one, other), len(there)), images.labels))


def among_them(images: Images, others: Images, number: int, rng: np.random.Generator) -> Images:
    """As many of the images are others."""
    pixels, labels = images.pixels.copy(), images.labels.copy()
    places, chosen = (rng.choice(len(part.labels), number, replace=False) for part in (images, others))
    pixels[places], labels[places] = others.pixels[chosen], others.labels[chosen]
    return Images(pixels, labels)


def exam_of_sets(
    classifier: Classifier, train: Images, val: Images, config: DiagnoseConfig, seed: int, plantings: int
) -> dict[str, list[str]]:
    """Faults of all images: the names of the findings of each planting, and of clean runs."""
    used = classifier.preprocessing
    rng = np.random.default_rng([seed, 3])
    other = {"mean": (0.5,) * len(used.mean), "std": (0.5,) * len(used.std)}
    if np.allclose(used.mean, 0.5, atol=0.1):
        other = {"mean": (0.0,) * len(used.mean), "std": (1.0,) * len(used.std)}
    order = rng.permutation(classifier.num_classes)
    faults: Mapping[str, Callable[[Images], tuple[Images, dict[str, Any]]]] = {
        "clean": lambda part: (part, {}),
        "mean and std": lambda part: (part, {"preprocessing": used.model_copy(update=other)}),
        "not normalised": lambda part: (
            part,
            {"preprocessing": used.model_copy(update={"mean": (0.0,) * len(used.mean), "std": (1.0,) * len(used.std)})},
        ),
        "BGR": lambda part: (
            Images(part.pixels[..., ::-1].copy() if part.pixels.ndim == 4 else part.pixels, part.labels),
            {},
        ),
        "input size": lambda part: (
            part,
            {
                "preprocessing": used.model_copy(
                    update={"input_size": (used.input_size[0], *(2 * side for side in used.input_size[1:]))}
                )
            },
        ),
        "class order": lambda part: (Images(part.pixels, order[part.labels]), {}),
        "training images": lambda part: (among_them(part, train, 20, rng), {}),
        "two classes alike": lambda part: (coin_labels(part, int(order[0]), int(order[1]), rng), {}),
    }
    found: dict[str, list[str]] = {}
    for name, fault in faults.items():
        for _ in range(plantings if name != "clean" else 4 * plantings):
            part = val[np.sort(rng.permutation(len(val.labels))[: len(val.labels) // 2])]
            planted, changes = fault(part)
            diagnosis = examine(classifier, train, planted, config, **changes)
            names = [f.name for f in diagnosis.findings if f.name in SET_FINDINGS]
            best = next((f.sentence.split(",")[0] for f in diagnosis.findings if f.name == "preprocessing"), "")
            found.setdefault(name, []).append(" ".join(names) + (f" ({best})" if best else ""))
    return found


def print_images(result: dict[str, Any], title: str) -> None:
    """The table of faults and verdicts."""
    names = sorted({verdict for row in result["table"].values() for verdict in row})
    table = Table(title=title)
    for head in ("planted", "wrong", "recall", *names):
        table.add_column(head)
    for name, row in result["table"].items():
        recall = result["recall"].get(name)
        table.add_row(
            name,
            str(sum(row.values())),
            "–" if name == "none" else "no verdict" if recall is None else f"{recall:.0%}",
            *(str(row.get(v, 0)) for v in names),
        )
    show(table)
    for verdict, figures in result["verdicts"].items():
        show(verdict, {name: f"{value:.1%}" for name, value in figures.items()})


def main(
    checkpoint: Path,
    data: str,
    split: Annotated[str, typer.Option(help="Split that faults are planted in.")] = "val",
    half: Annotated[Half, typer.Option(help="Of the images; `unseen`: those beyond --images.")] = Half.DEVELOPMENT,
    images: Annotated[
        int, typer.Option(help="At most, of both halves together; of `backgrounds` the wrong ones.")
    ] = 6000,
    others: Annotated[Path | None, typer.Option(help="A folder of images that are of no class.")] = None,
    plantings: Annotated[int, typer.Option(help="Of each fault of a kernel or of the whole set.")] = 5,
    parts: Annotated[str, typer.Option(help="Which parts; `backgrounds` is the fourth.")] = "images,kernels,sets",
    masks: Annotated[Path | None, typer.Option(help="Of the objects, for `backgrounds`.")] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV with path and group, for `backgrounds`.")] = None,
    misleading: Annotated[str, typer.Option(help="Groups whose background misleads.")] = "conflicting",
    seed: int = 0,
    output: Annotated[Path | None, typer.Option("-o")] = None,
) -> None:
    """Plant faults and examine what the diagnosis makes of them."""
    classifier = load_model(checkpoint)
    splits = open_data(data, preprocessing=classifier.preprocessing, masks=masks)
    splits, names = in_network_classes(splits, classifier.class_names, classifier.num_classes)
    classifier = replace(classifier, class_names=names)
    # Stability on noisy features, the dearest figure, decides no verdict: without draws the exam takes minutes.
    config = DiagnoseConfig(
        layers="last", batch_size=64, shown=0, fgsm_epsilon=0, max_explained=2000, seed=seed, noise_draws=0
    )
    if "backgrounds" in parts:
        if groups is None:
            raise typer.BadParameter("--groups says which images are on a misleading background")
        whole = config.model_copy(update={"examine": split, "max_explained": images})
        found_of = exam_of_backgrounds(classifier, splits, split, groups, {*misleading.split(",")}, whole, seed)
        show(found_of)
        if output:
            output.write_text(json.dumps(found_of, indent=1) + "\n")
        return
    rng = np.random.default_rng(seed)
    train = read(splits["train"], np.sort(rng.permutation(len(splits["train"]))[:4000]))  # type: ignore[arg-type]
    val = read(splits[split], rows_of(half, len(splits[split]), images, rng))  # type: ignore[arg-type]
    result: dict[str, Any] = {"half": half, "images": len(val.labels)}
    if "images" in parts:
        foreign = None
        if others:
            files = sorted(path for path in others.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
            mode = picture_mode(classifier.preprocessing)
            chosen = [files[row] for row in rng.permutation(len(files))[:500]]
            foreign = np.stack(
                [np.asarray(fitted(Image.open(p).convert(mode), None, classifier.preprocessing)[0]) for p in chosen]
            )
        result["images"] = exam_of_images(classifier, train, val, foreign, config, seed)
        print_images(result["images"], f"{checkpoint.name}, {half} half")
    if "kernels" in parts:
        result["kernels"] = exam_of_kernels(classifier, train, val, config, seed, plantings)
        for row in result["kernels"]:
            show(row)
    if "sets" in parts:
        result["sets"] = exam_of_sets(classifier, train, val, config, seed, plantings)
        for name, found in result["sets"].items():
            show(name, found)
    if output:
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
