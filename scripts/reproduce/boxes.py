"""What practitioners do with objects' boxes: backgrounds swapped in the pictures, or right for the right reasons.

The whole network is fine-tuned. A quarter of each batch is of annotated images; methods differ in what they do with
these. The epoch is chosen by the worst group of validation.

Shapes: B images of a batch, S images in all, C channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

SHARE = 0.25
"""Of each batch, from annotated images."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images in memory.

    Attributes:
        images: (S,C,H,W).
        labels: (S,) class indices.
        groups: (S,) group indices.
        masks: (S,H,W) bool, True on the object; of use only where `annotated`.
        annotated: indices of the images whose masks may be used.
    """

    images: Tensor
    labels: Tensor
    groups: Tensor
    masks: Tensor
    annotated: NDArray[np.int64]


Step = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]
"""The loss of a batch from the network, images (B,C,H,W), labels (B,), masks (B,H,W) and rows with a mask (B,) bool."""


def plain(network: nn.Module, images: Tensor, labels: Tensor, masks: Tensor, annotated: Tensor) -> Tensor:
    """The control: the same batches, and cross-entropy alone."""
    return nn.functional.cross_entropy(network(images), labels)


def swapped(network: nn.Module, images: Tensor, labels: Tensor, masks: Tensor, annotated: Tensor) -> Tensor:
    """Background swapping: each annotated object stands on another image of the batch, whatever its class."""
    others = torch.roll(images, int(annotated.sum()), 0)
    pasted = torch.where((masks & annotated[:, None, None])[:, None], images, others)
    return nn.functional.cross_entropy(network(torch.where(annotated[:, None, None, None], pasted, images)), labels)


class RightReasons:
    """Right for the right reasons (Ross et al., 2017): input gradients outside of the objects are punished.

    The sum over pixels of (∂ Σ_n log p_n / ∂x)² outside of the object, averaged over the annotated images, has the
    weight that makes it as large as the cross-entropy in the first batch (the authors: "similar in magnitude").
    """

    def __init__(self) -> None:
        self._weight: Tensor | None = None

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor, masks: Tensor, annotated: Tensor) -> Tensor:
        """The loss of a batch."""
        images = images.detach().requires_grad_()
        logits = network(images)
        loss = nn.functional.cross_entropy(logits, labels)
        (gradient,) = torch.autograd.grad(logits[annotated].log_softmax(1).sum(), images, create_graph=True)
        outside = gradient[annotated].square() * ~masks[annotated][:, None]
        penalty = outside.sum((1, 2, 3)).mean()
        if self._weight is None:
            self._weight = (loss / penalty.clamp_min(1e-12)).detach()
        return loss + self._weight * penalty


METHODS: dict[str, Callable[[], Step]] = {
    "continued": lambda: plain, "background swapping": lambda: swapped, "right reasons": RightReasons
}  # fmt: skip


def fine_tune(
    method: str,
    network: nn.Module,
    train: Pictures,
    val: Pictures,
    *,
    seed: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
) -> nn.Module:
    """A copy of the network, trained, as it was after the epoch whose worst group of validation was best.

    Dropout is off and normalisation keeps its statistics, in every method alike.
    """
    network, step = deepcopy(network).eval(), METHODS[method]()
    optimiser = torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9)
    best, chosen = worst_group(network, val), deepcopy(network.state_dict())
    for epoch in range(epochs):
        for rows, annotated in batches(train, batch_size, seed=seed, epoch=epoch):
            optimiser.zero_grad()
            step(network, train.images[rows], train.labels[rows], train.masks[rows], annotated).backward()
            optimiser.step()
        if (reached := worst_group(network, val)) > best:
            best, chosen = reached, deepcopy(network.state_dict())
    network.load_state_dict(chosen)
    return network


def batches(train: Pictures, batch_size: int, *, seed: int, epoch: int) -> list[tuple[Tensor, Tensor]]:
    """Rows (B,) of every batch of an epoch, and which of them are annotated: the first quarter."""
    rng = np.random.default_rng([seed, epoch])
    share = round(SHARE * batch_size)
    free = rng.permutation(len(train.labels))
    found = []
    for start in range(0, len(free) - (batch_size - share) + 1, batch_size - share):
        drawn = rng.choice(train.annotated, share, replace=share > len(train.annotated))
        rows = np.concatenate([drawn, free[start : start + batch_size - share]])
        found.append((torch.from_numpy(rows), torch.arange(batch_size) < share))
    return found


def answers(network: nn.Module, images: Tensor, batch_size: int = 64) -> Tensor:
    """Predicted classes (S,)."""
    with torch.no_grad():
        return torch.cat([network(part).argmax(1) for part in images.split(batch_size)])


def worst_group(network: nn.Module, pictures: Pictures) -> float:
    """The accuracy of the group that has the least."""
    right = answers(network, pictures.images) == pictures.labels
    return min(float(right[pictures.groups == group].double().mean()) for group in pictures.groups.unique())
