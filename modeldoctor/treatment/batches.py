"""The order of images and their augmentation: a function of the arm, of seed and epoch alone.

Shapes: S images, B images per batch, C channels, H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import Augmentation, Batch, make_loader
from modeldoctor.errors import shortened
from modeldoctor.runtime.distributed import Team
from modeldoctor.treatment.subsets import Subset

_NAMED = 20
"""Of so many classes the annotated images are counted; of more, of those with the fewest."""

OWN, SWAPPED, REMOVED = range(3)
"""What an image of a batch is: itself, its object before another background, or its background without the object."""


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Augmented images and what belongs to them.

    Attributes:
        images: (B,C,H,W).
        labels: (B,).
        other_labels: (B,) of the image mixed in, and `share`: (B,) how much of the image is its own; 1 without mixup.
        masks: (B,H,W) bool, True on the object; False everywhere for an image without annotation.
        annotated: (B,) bool, whether the mask counts.
        trust: (B,) how much what rests on the mask counts: 1 for a person's, its measured quality for a found one.
        weight: (B,) of each image in the cross-entropy.
        version: (B,) `OWN`, `SWAPPED` or `REMOVED`.
        origin: (B,) the row of the image that this is a version of.
        keys: for each image what its noise depends on.
        whole: how many images the processes of a job have of this batch together.
    """

    images: Tensor
    labels: Tensor
    other_labels: Tensor
    share: Tensor
    masks: Tensor
    annotated: Tensor
    trust: Tensor
    weight: Tensor
    version: Tensor
    origin: Tensor
    keys: tuple[int, ...]
    whole: int

    def loss(self, logits: Tensor, label_smoothing: float) -> Tensor:
        """This process's part of the mean cross-entropy, from its logits (B,N)."""
        own, other = (
            F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
            for labels in (self.labels, self.other_labels)
        )
        return (self.weight * (self.share * own + (1 - self.share) * other)).sum() / self.whole

    def part(self, rows: slice) -> TrainingBatch:
        """Some of the images, of a batch whose images are all their own."""
        names = (field.name for field in fields(self) if field.name != "whole")
        part = replace(self, **{name: getattr(self, name)[rows] for name in names})
        return replace(part, origin=torch.arange(len(part.keys)))

    def to(self, device: torch.device) -> TrainingBatch:
        """The same on a device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, **moved)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Whole batches in one pass over the images; at least one."""
    return max(1, images // batch_size)


def epoch_order(
    indices: NDArray[np.int64],
    drawn: NDArray[np.int64],
    *,
    batch_size: int,
    share: float,
    seed: int,
    epoch: int,
    most_repeats: int | None = None,
    chances: NDArray[np.float64] | None = None,
) -> NDArray[np.int64]:
    """Image indices of one epoch: whole batches, each with its share of images that are drawn from some.

    Every other image comes at most once, or as often as its chance says; the drawn ones as often as the share asks for,
    where `most_repeats` allows it: else the share is smaller, and as equal in all batches as can be.

    Args:
        indices: (S,) of all training images; they fill the other places of the batches.
        drawn: indices of the images of the share; none makes the share 0.
        batch_size: B.
        share: of those images in each batch.
        seed, epoch: all that the order depends on.
        most_repeats: how often the share may hold one image, at most; None: as often as it takes.
        chances: (S,) in proportion to which `indices` come; None: each once.
    """
    rng = np.random.default_rng([seed, epoch])
    of_share = share_places(len(indices), len(drawn), batch_size=batch_size, share=share, most_repeats=most_repeats)
    constrained = int(of_share.sum())
    places = of_share.size - constrained
    free = rng.permutation(len(indices))
    if chances is not None:
        free = _systematic(free, chances, places, rng)
    order = np.resize(indices[free], places)
    if not constrained:
        return order
    rounds = -(-constrained // len(drawn))
    drawn = np.concatenate([rng.permutation(drawn) for _ in range(rounds)])[:constrained]
    whole = np.empty(of_share.shape, dtype=np.int64)
    whole[~of_share], whole[of_share] = order, drawn
    return whole.reshape(-1)


def share_places(
    images: int, drawn: int, *, batch_size: int, share: float, most_repeats: int | None = None
) -> NDArray[np.bool_]:
    """(batches,B) which places of an epoch's batches the share fills: the last ones, as many in each as can be.

    Args:
        images: training images.
        drawn: images of the share.
        batch_size, share, most_repeats: as in `epoch_order`.
    """
    batches = steps_per_epoch(images, batch_size)
    filled = batches * round(share * batch_size) if drawn else 0
    if most_repeats is not None:
        filled = min(filled, most_repeats * drawn)
    in_batch = np.diff(np.arange(batches + 1) * filled // batches)
    return np.asarray(np.arange(batch_size) >= batch_size - in_batch[:, None])


def annotation_note(train: Subset, config: TreatConfig) -> str:
    """How many annotated images each class has, and how often one will come; before any of them is looked at.

    Args:
        train: what is learned from.
        config: resolved.
    """
    space, size, names = config.space, config.training.batch_size, train.images.class_names
    assert size is not None
    counts = np.bincount(train.labels[train.has_mask], minlength=len(names))
    order = counts.argsort(kind="stable") if len(names) > _NAMED else range(len(names))
    used = int(np.minimum(counts, space.annotated_per_class).sum())
    batches = steps_per_epoch(len(train.indices), size)
    wanted = batches * round(space.annotated_share * size)
    drawn = min(wanted, space.most_repeats * used)
    said = (
        f"annotated training images by class: {shortened([f'{names[n]} {counts[n]}' for n in order], _NAMED)}; in use: "
        f"{used}, at most {space.annotated_per_class} per class; repeats of each per epoch: {drawn / max(used, 1):.2g}"
    )
    if drawn < wanted:
        said += (
            f", the most that space.most_repeats allows: they are {drawn / (batches * size):.1%} of each batch "
            f"instead of {space.annotated_share:.0%}"
        )
    return said


def _systematic(
    order: NDArray[np.int64], chances: NDArray[np.float64], number: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Systematic sampling: each image as often as its chance asks for, rounded up or down at random."""
    edges = np.cumsum(chances[order])
    marks = (rng.random() + np.arange(number)) / number * edges[-1]
    return np.asarray(rng.permutation(order[np.searchsorted(edges, marks, side="right").clip(max=len(order) - 1)]))


def training_batches(
    train: Subset,
    drawn: NDArray[np.int64],
    config: TreatConfig,
    *,
    seed: int,
    epoch: int,
    chances: NDArray[np.float64] | None = None,
    device: torch.device | None = None,
    team: Team | None = None,
) -> Iterator[TrainingBatch]:
    """One epoch of augmented batches on a device; masks move with their images.

    A batch of which fewer images can be read than there are processes is left out.

    Args:
        train: what is learned from.
        drawn: indices of the images that fill a share of each batch, in which their masks count.
        config: resolved.
        seed, epoch: all that order and augmentation depend on.
        chances: as in `epoch_order`.
        device: the CPU by default.
        team: the processes that share each batch.
    """
    training, team = config.training, team or Team()
    device = device or torch.device("cpu")
    size = training.batch_size
    assert size is not None
    order = epoch_order(
        train.indices, drawn, batch_size=size, share=config.space.annotated_share, seed=seed, epoch=epoch,
        most_repeats=config.space.most_repeats, chances=chances,
    )  # fmt: skip
    of_share = share_places(
        len(train.indices), len(drawn), batch_size=size, share=config.space.annotated_share,
        most_repeats=config.space.most_repeats,
    )  # fmt: skip
    draws, mixing = np.random.SeedSequence([seed, epoch, 1]).generate_state(2).tolist()
    seeds = np.random.SeedSequence(draws).generate_state(len(order))
    images = train.images.masked_at(drawn.tolist())
    augmentation = Augmentation(preprocessing=images.preprocessing, **training.augmentation.model_dump())

    def read(batches: slice, places: slice, workers: int | None) -> Iterator[TrainingBatch]:
        chosen, drawn = order.reshape(-1, size)[batches, places], seeds.reshape(-1, size)[batches, places]
        in_share = of_share[batches, places]
        loader = make_loader(
            images, chosen.ravel(), batch_size=chosen.shape[1], workers=workers, device=device,
            augmentation=augmentation, seeds=drawn.ravel(),
        )  # fmt: skip
        return map(partial(_with_masks, found=train.found_masks), loader, chosen, in_share)

    rng = np.random.default_rng(mixing)
    # What is mixed in may be another process's image; else each reads its own part alone.
    mine = slice(None) if training.mixup else team.shard(size)
    for number, batch in enumerate(read(slice(None), mine, config.workers)):
        if training.mixup:
            batch = _mixed(batch, training.mixup, rng).part(team.shard(len(batch.keys)))
        there = torch.tensor([len(batch.keys), len(batch.keys) == 0])
        whole, without = team.all_reduce(there.to(device)).tolist()
        if whole < team.world_size:
            continue
        if without:  # what can be read is dealt out anew
            (batch,) = read(slice(number, number + 1), slice(None), 0)
            batch = batch.part(team.shard(whole))
        yield replace(batch, whole=whole).to(device)


def _with_masks(
    batch: Batch, chosen: NDArray[np.int64], in_share: NDArray[np.bool_], found: Mapping[int, float]
) -> TrainingBatch:
    """A batch of chosen images (B,), of which some cannot be read; masks count in the places of the share."""
    keys = tuple(batch.indices.tolist())
    counts = in_share[np.isin(chosen, keys)]
    masked = zip(batch.masks or [None] * len(keys), counts, strict=True)
    of_images: Sequence[Tensor | None] = [mask if counting else None for mask, counting in masked]
    masks = torch.zeros(len(keys), *batch.images.shape[-2:], dtype=torch.bool)
    for place, mask in zip(masks, of_images, strict=True):
        if mask is not None:
            place.copy_(mask)
    own = torch.arange(len(keys))
    return TrainingBatch(
        images=batch.images,
        labels=batch.labels,
        other_labels=batch.labels,
        share=torch.ones(len(keys)),
        masks=masks,
        annotated=torch.tensor([mask is not None for mask in of_images], dtype=torch.bool),
        trust=torch.tensor([found.get(key, 1.0) for key in keys]),
        weight=torch.ones(len(keys)),
        version=torch.full_like(own, OWN),
        origin=own,
        keys=keys,
        whole=len(keys),
    )


def _mixed(batch: TrainingBatch, alpha: float, rng: np.random.Generator) -> TrainingBatch:
    """Mixup (Zhang et al., 2018) among the images that are not annotated, one share per batch."""
    free = torch.nonzero(~batch.annotated)[:, 0]
    if not alpha or not len(free):
        return batch
    share = torch.ones(len(batch.labels))
    share[free] = float(rng.beta(alpha, alpha))
    partner = torch.arange(len(batch.labels))
    partner[free] = free[torch.from_numpy(rng.permutation(len(free)))]
    own = share[:, None, None, None]
    images = own * batch.images + (1 - own) * batch.images[partner]
    return replace(batch, images=images, share=share, other_labels=batch.labels[partner])
