"""What practitioners do about groups that a network fails, on its head alone: a linear layer on frozen pooled features.

Each method is a weighted logistic regression; they differ in which images they see, and how much each one counts.
What is chosen is chosen by the worst group of images that the head was not fitted on.

Shapes: S images, K features, N classes, G groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""Of squared weights; chosen between."""
FEW = 20
"""Of each class."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Images as the head sees them.

    Attributes:
        pooled: (S,K), the last maps averaged over their cells.
        labels: (S,) class indices.
        groups: (S,) group indices.
        logits: (S,N), of the network as it is.
    """

    pooled: Tensor
    labels: Tensor
    groups: Tensor
    logits: Tensor

    def at(self, rows: NDArray[np.int64]) -> Features:
        """Some of the images."""
        return Features(**{name: values[torch.from_numpy(rows)] for name, values in vars(self).items()})


Head = Callable[[Tensor], Tensor]
"""Pooled features (S,K) to logits (S,N)."""


def fit_head(images: Features, weights: Tensor, penalty: float) -> Head:
    """Minimise the weighted mean cross-entropy plus `penalty` times the sum of squared weights, by L-BFGS in float64.

    Args:
        images: with features of about unit scale.
        weights: (S,), not negative.
        penalty: of the weights, not of the bias.
    """
    layer = nn.Linear(images.pooled.shape[1], images.logits.shape[1], dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    pooled, share = images.pooled.double(), weights.double() / weights.sum()
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        each = nn.functional.cross_entropy(layer(pooled), images.labels, reduction="none")
        total = (share * each).sum() + penalty * layer.weight.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return _answers(layer)


def fit_worst_group(images: Features, penalty: float, *, steps: int = 500, rate: float = 0.05) -> Head:
    """GroupDRO (Sagawa et al., 2020): descend on groups weighted by exp(their losses so far); the average of the head.

    Full batches; the second half of the steps is averaged, which a convex-concave game needs to come to rest.
    """
    layer = nn.Linear(images.pooled.shape[1], images.logits.shape[1], dtype=torch.float64)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    average = torch.optim.swa_utils.AveragedModel(layer)
    optimiser = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9)
    pooled = images.pooled.double()
    member = nn.functional.one_hot(images.groups).double()
    member = member[:, member.sum(0) > 0]
    chances = torch.full((member.shape[1],), 1 / member.shape[1], dtype=torch.float64)
    for step in range(steps):
        optimiser.zero_grad()
        each = nn.functional.cross_entropy(layer(pooled), images.labels, reduction="none")
        losses = each @ member / member.sum(0)
        chances = torch.softmax(chances.log() + rate * losses.detach(), 0)
        total = (chances * losses).sum() + penalty * layer.weight.square().sum()
        total.backward()
        optimiser.step()
        if 2 * step >= steps:
            average.update_parameters(layer)
    return _answers(average.module)


def _answers(layer: nn.Module) -> Head:
    def answers(pooled: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(layer(pooled.double()))

    return answers


def worst_group(head: Head, images: Features) -> float:
    """The accuracy of the group that has the least."""
    right = head(images.pooled).argmax(1) == images.labels
    return min(float(right[images.groups == group].double().mean()) for group in images.groups.unique())


def refit(train: Features) -> Iterator[Head]:
    """The control: the same regression on the training images as they are."""
    yield from (fit_head(train, torch.ones(len(train.labels)), penalty) for penalty in _PENALTIES)


def dfr(fitted: Features, seed: int) -> Iterator[Head]:
    """Deep feature reweighting (Kirichenko et al., 2023): held-out images, as many of each group, ten draws averaged.

    The penalty is of squares, where the authors' is of absolute values.
    """
    rng = np.random.default_rng(seed)
    groups = fitted.groups.numpy()
    least = np.bincount(groups)[np.unique(groups)].min()
    draws = [
        np.concatenate(
            [rng.choice(np.flatnonzero(groups == group), least, replace=False) for group in np.unique(groups)]
        )
        for _ in range(10)
    ]
    for penalty in _PENALTIES:
        heads = [fit_head(fitted.at(rows), torch.ones(len(rows)), penalty) for rows in draws]
        yield _average(heads)


def dfr_of_few(fitted: Features, seed: int) -> Iterator[Head]:
    """DFR where a person has told the groups of `FEW` images of each class, drawn at random, and of no others."""
    rng, labels = np.random.default_rng([seed, 1]), fitted.labels.numpy()
    rows = [rng.choice(np.flatnonzero(labels == label), FEW, replace=False) for label in np.unique(labels)]
    yield from dfr(fitted.at(np.concatenate(rows)), seed)


def _average(heads: Sequence[Head]) -> Head:
    return lambda pooled: torch.stack([head(pooled) for head in heads]).mean(0)


def group_dro(fitted: Features, seed: int) -> Iterator[Head]:
    """GroupDRO on the same held-out images and their groups."""
    yield from (fit_worst_group(fitted, penalty) for penalty in _PENALTIES)


def afr(train: Features) -> Iterator[Head]:
    """Automatic feature reweighting (Qiu et al., 2023): weights exp(-γ p), p the label's probability.

    Classes weigh alike. On the training images, which the network has seen; the authors set a fifth of them aside.
    """
    chance = train.logits.double().softmax(1).gather(1, train.labels[:, None])[:, 0]
    per_class = torch.bincount(train.labels).double()[train.labels]
    for gamma in (0, 4, 8, 12, 16, 20):
        yield from (fit_head(train, torch.exp(-gamma * chance) / per_class, penalty) for penalty in _PENALTIES)


def jtt(train: Features) -> Iterator[Head]:
    """Just train twice (Liu et al., 2021): training images that the network gets wrong count more often."""
    wrong = train.logits.argmax(1) != train.labels
    for times in (5, 20, 50, 100):
        yield from (fit_head(train, 1 + (times - 1) * wrong.double(), penalty) for penalty in _PENALTIES)


FROM_TRAINING = {"head refitted": refit, "JTT": jtt, "AFR": afr}
"""Fitted on the classes of training images."""
FROM_GROUPS = {"DFR": dfr, "DFR, few groups": dfr_of_few, "GroupDRO": group_dro}
"""Fitted on the groups of half of validation's images, or of a few of them; the other half's choose."""


def choose(name: str, train: Features, val: Features, seeds: Sequence[int]) -> Iterator[Head]:
    """For each seed the candidate of a method that has the best worst group on the other half of validation."""
    of_training = list(FROM_TRAINING[name](train)) if name in FROM_TRAINING else []
    for seed in seeds:
        half = np.random.default_rng(seed).permutation(len(val.labels)) % 2 == 0
        fitted, choosing = (val.at(np.flatnonzero(rows)) for rows in (half, ~half))
        candidates = of_training or list(FROM_GROUPS[name](fitted, seed))
        yield max(candidates, key=partial(worst_group, images=choosing))
