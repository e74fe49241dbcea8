"""Plain supervised training of a small classifier on images in memory: what the demo and the benchmarks start from.

Shapes: S images, B images per batch, C channels, H x W pixels, N classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import ImageSet, StreamSet, make_loader
from modeldoctor.runtime.progress import Progress


class Recipe(TypedDict):
    """The arguments of `fit_classifier` that a checkpoint records."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int


def load_all(image_set: ImageSet | StreamSet, workers: int = 0) -> tuple[Tensor, Tensor]:
    """Images (S,C,H,W) and labels (S,) of a split that fits in memory."""
    batches = [(batch.images, batch.labels) for batch in make_loader(image_set, batch_size=256, workers=workers)]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def fit_classifier(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    shift: int,
    flip: bool,
    progress: Progress | None = None,
) -> float:
    """Train with SGD (Nesterov, momentum 0.9), one epoch of warm-up and a cosine schedule; the network is changed.

    Args:
        network: on the device to train on; left in eval mode.
        images: (S,C,H,W), preprocessed.
        labels: (S,) int64.
        shift: random translation of up to so many pixels, edges repeated.
        flip: random horizontal flips.
        progress: told (stage, batches done, batches in all).

    Returns:
        The mean loss of the last epoch.
    """
    generator = torch.Generator().manual_seed(seed)
    device = next(network.parameters()).device
    optimizer = create_optimizer_v2(network, opt="sgd", lr=learning_rate, weight_decay=weight_decay, momentum=0.9)
    batches = max(1, len(images) // batch_size)
    schedule = CosineLRScheduler(
        optimizer, t_initial=epochs * batches, warmup_t=batches, warmup_lr_init=learning_rate / 10, t_in_epochs=False
    )
    network.train()
    loss_sum = 0.0
    for epoch in range(epochs):
        loss_sum = 0.0
        for step, chosen in enumerate(torch.randperm(len(images), generator=generator).split(batch_size)[:batches]):
            batch = augment(images[chosen], shift=shift, flip=flip, generator=generator).to(device)
            loss = F.cross_entropy(network(batch), labels[chosen].to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done = epoch * batches + step + 1
            schedule.step_update(done)
            loss_sum += float(loss.detach())
            if progress:
                progress("train", done, epochs * batches)
    network.eval()
    return loss_sum / batches


def augment(images: Tensor, *, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Translate and flip every image on its own.

    Args:
        images: (B,C,H,W).
        shift: up to so many pixels each way, edges repeated.
        flip: mirror half of them.
        generator: of the draws, on the CPU.

    Returns:
        New images (B,C,H,W).
    """
    number, _, height, width = images.shape
    padded = F.pad(images, (shift,) * 4, mode="replicate") if shift else images
    offsets = torch.randint(0, 2 * shift + 1, (2, number), generator=generator)
    rows = offsets[0][:, None] + torch.arange(height)
    columns = offsets[1][:, None] + torch.arange(width)
    if flip:
        mirrored = torch.rand(number, generator=generator) < 0.5
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    index = torch.arange(number)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def classifier_checkpoint(
    network: nn.Module,
    *,
    arch: str,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    recipe: Recipe,
    model_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What to `torch.save` so that `load_model` needs no options: the weights, and all that it takes to build and feed.

    Args:
        network: made by `timm.create_model(arch, num_classes, in_chans, **model_args)`, trained by `fit_classifier`.
        arch: timm's name for it.
        class_names: in the order of the logits.
        preprocessing: of the training images.
        recipe: how it was trained.
        model_args: further arguments that the network was made with.
    """
    return {
        "arch": f"timm/{arch}",
        "state_dict": {key: value.cpu() for key, value in network.state_dict().items()},
        "num_classes": len(class_names),
        "in_chans": preprocessing.input_size[0],
        "class_names": list(class_names),
        "preprocessing": preprocessing.model_dump(),
        "model_args": dict(model_args or {}),
        "args": {
            "opt": "sgd",
            "lr": recipe["learning_rate"],
            "weight_decay": recipe["weight_decay"],
            "epochs": recipe["epochs"],
            "seed": recipe["seed"],
            "batch_size": recipe["batch_size"],
            "sched": "cosine",
        },
    }
