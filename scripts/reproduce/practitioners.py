"""Pieces that do what practitioners do beside `treat`: heads refitted on frozen features, whole networks with masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import boxes
import numpy as np
import torch
from heads import FROM_GROUPS, FROM_TRAINING, Features, choose
from measures import Rows, method_figures
from place import Place, menagerie_network
from torch import Tensor, nn

from modeldoctor.config.treat import DataConfig
from modeldoctor.data import Batch, make_loader, open_data
from modeldoctor.data.outputs import in_network_classes
from modeldoctor.treatment.groups import with_groups
from modeldoctor.treatment.subsets import Splits, Subset, split_subsets
from modeldoctor.zoo import Classifier, load_model

Seen = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
"""Of a network and images, the maps that its head pools and the logits."""


def waterbirds_heads(place: Place) -> dict[str, Any]:
    """Waterbirds, the same SqueezeNet, what practitioners do about groups: its head refitted on frozen features."""
    network, splits = _waterbirds(place)
    rows = _refitted(network.module, splits, _squeezenet, (*FROM_TRAINING, *FROM_GROUPS))
    return method_figures(rows, splits.test.held_out)


def menagerie_methods(place: Place) -> dict[str, Any]:
    """Menagerie, the same network, what practitioners do: heads refitted, and 20 masks per class for all of it."""
    data = place.data / "menagerie"
    network, splits = _with_groups(menagerie_network(place), data, masks=data / "masks")
    rows = _refitted(network.module, splits, _timm, (*FROM_TRAINING, "DFR", "GroupDRO"))
    used = dict.fromkeys(boxes.METHODS, "masks of 200 images") | {"continued": "classes"}
    rows |= _fine_tuned(place, "menagerie-methods", network.module, splits, used, epochs=10, learning_rate=0.01)
    return method_figures(rows, splits.test.held_out)


def _squeezenet(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Its ReLU between classifier and pooling is not among the maps."""
    maps = module.get_submodule("features")(images)
    return maps, module.get_submodule("classifier")(maps).flatten(1)


def _timm(module: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    maps = module.forward_features(images)  # type: ignore[operator]
    return maps, module.forward_head(maps)  # type: ignore[operator]


def _refitted(module: nn.Module, splits: Splits, see: Seen, methods: Sequence[str]) -> Rows:
    """The original, and heads on its frozen features; answers of each of three halvings of validation's images."""
    train, val, test = (_pooled(module, part, see) for part in (splits.train, splits.val, splits.test))
    spread = train.pooled.std(0).clamp_min(1e-6)
    train, val, test = (
        replace(part, pooled=(part.pooled - train.pooled.mean(0)) / spread) for part in (train, val, test)
    )
    rows = {"original": (test.logits.argmax(1).numpy()[None], "", 0.0)}
    fitted_on = dict.fromkeys(FROM_TRAINING, "classes") | {"DFR, few groups": "groups of 40 images of validation"}
    for name in methods:
        start = time.monotonic()
        answers = [head(test.pooled).argmax(1).numpy() for head in choose(name, train, val, seeds=(0, 1, 2))]
        rows[name] = (np.stack(answers), fitted_on.get(name, "groups of half of validation"), time.monotonic() - start)
    return rows


def waterbirds_boxes(place: Place) -> dict[str, Any]:
    """Waterbirds, the same SqueezeNet, what practitioners do with boxes of 20 images per class: the whole network."""
    network, splits = _waterbirds(place, masks=place.data / "waterbirds" / "boxes.json")
    used = dict.fromkeys(boxes.METHODS, "boxes of 40 images") | {"continued": "classes"}
    rows = _fine_tuned(place, "waterbirds-boxes", network.module, splits, used, epochs=2, learning_rate=0.001)
    return method_figures(rows, splits.test.held_out)


def _fine_tuned(
    place: Place, piece: str, module: nn.Module, splits: Splits, used: Mapping[str, str], **training: Any
) -> Rows:
    """The original, and fine-tuned by each method, one seed, batches of 64; a piece goes on behind the last method."""
    train, val, test = (_pictures(part) for part in (splits.train, splits.val, splits.test))

    def run(name: str) -> dict[str, Any]:
        start = time.monotonic()
        trained = boxes.fine_tune(name, module, train, val, seed=0, batch_size=64, **training)
        return {"answers": boxes.answers(trained, test.images).tolist(), "seconds": time.monotonic() - start}

    rows: Rows = {"original": (boxes.answers(module.eval(), test.images).numpy()[None], "", 0.0)}
    for name in boxes.METHODS:
        found = place.once(f"{piece} {name} 0", partial(run, name))
        rows[name] = (np.array([found["answers"]]), used[name], found["seconds"])
    return rows


def _waterbirds(place: Place, masks: Path | None = None) -> tuple[Classifier, Splits]:
    """The SqueezeNet of others, and the splits with their groups."""
    checkpoint = place.data / "checkpoints" / "squeezenet1_0-waterbirds.pt"
    return _with_groups(checkpoint, place.data / "waterbirds", masks=masks)


def _with_groups(checkpoint: Path, data: Path, masks: Path | None) -> tuple[Classifier, Splits]:
    """A network, and the splits with the groups of `metadata.csv`."""
    network = load_model(checkpoint)
    opened = open_data(data, preprocessing=network.preprocessing, masks=masks)
    matched, _ = in_network_classes(opened, network.class_names, network.num_classes)
    return network, with_groups(split_subsets(matched), DataConfig(path=str(data), groups=data / "metadata.csv"))


def _whole_batches(part: Subset) -> Iterator[Batch]:
    """Batches of some images, each of which is there: labels and groups beside them are by their places."""
    for batch in make_loader(part.images, part.indices, batch_size=64, workers=0):
        if batch.broken:
            raise OSError(f"{part.images.paths[batch.broken[0].index]}: {batch.broken[0].reason}")
        yield batch


def _pictures(part: Subset) -> boxes.Pictures:
    """Images in memory; of the annotated ones 20 per class, drawn at random under a seed."""
    size = part.images.preprocessing.input_size[1:]
    images, labels, masks = [], [], []
    for batch in _whole_batches(part):
        images.append(batch.images)
        labels.append(batch.labels)
        found = batch.masks or [None] * len(batch.labels)
        masks += [torch.zeros(size, dtype=torch.bool) if mask is None else mask for mask in found]
    every, rng = torch.cat(labels), np.random.default_rng(0)
    has_mask = np.array([bool(mask.any()) for mask in masks])
    annotated = [
        rng.permutation(np.flatnonzero(has_mask & (every.numpy() == label)))[:20]
        for label in range(int(every.max()) + 1)
    ]
    return boxes.Pictures(
        images=torch.cat(images), labels=every, groups=torch.from_numpy(part.held_out.group_index()),
        masks=torch.stack(masks), annotated=np.sort(np.concatenate(annotated)),
    )  # fmt: skip


def _pooled(module: nn.Module, part: Subset, see: Seen) -> Features:
    """What a network's head sees of some images."""
    module.eval()
    pooled, logits, labels = [], [], []
    with torch.no_grad():
        for batch in _whole_batches(part):
            maps, answers = see(module, batch.images)
            pooled.append(maps.mean((2, 3)))
            logits.append(answers)
            labels.append(batch.labels)
    groups = torch.from_numpy(part.held_out.group_index())
    return Features(pooled=torch.cat(pooled), labels=torch.cat(labels), groups=groups, logits=torch.cat(logits))
