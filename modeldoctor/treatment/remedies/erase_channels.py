"""`erase-channels`: channels that are more active where a class is wrong are silenced for it, and the head is refitted.

After NeuronTune (Zheng et al., 2024): a channel misleads where its median over a class's wrong images is above that
over its right ones.

Shapes: B images, S images measured, N classes, K channels, H x W positions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modeldoctor.data import make_loader
from modeldoctor.errors import UsageError
from modeldoctor.graph import select_layers
from modeldoctor.treatment.remedies import last_layer
from modeldoctor.treatment.remedies.remedy import Remedy, RunContext

_MOST_MEASURED = 20_000
_LEAST_WRONG = 5


def make(run: RunContext) -> Remedy:
    """`last-layer` with the head's weights of misleading channels set to 0, and kept there.

    Raises:
        UsageError: the head does not read the pooled channels by one weight (N,K).
    """
    (layer,) = select_layers(run.trainable.layers, "features")[-1:]
    classes = len(run.train.images.class_names)
    name = next(
        (
            name
            for name, weight in run.network.named_parameters()
            if any(weight is parameter for parameter in run.trainable.head_parameters())
            and tuple(weight.shape[:2]) == (classes, layer.channels)
            and weight[0, 0].numel() == 1
        ),
        None,
    )
    if name is None:
        raise UsageError(
            f"a head that does not read the {layer.channels} pooled channels by one linear layer",
            where="arms: erase-channels",
            expected="a linear layer from pooled maps to logits",
            hint="leave out erase-channels; last-layer takes any head",
        )
    misleading = misleading_channels(*_measured(run), classes)

    def silence(network: nn.Module) -> None:
        weight = network.get_parameter(name)
        with torch.no_grad():
            weight.masked_fill_(misleading.to(weight.device).view(*misleading.shape, *[1] * (weight.ndim - 2)), 0)

    return replace(last_layer.make(run), hold=silence)


def misleading_channels(
    features: NDArray[np.float32], labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> Tensor:
    """(N,K) bool: median over a class's wrong images above that over its right ones; none where either are too few.

    Args:
        features: (S,K), pooled maps.
        labels, predicted: (S,).
        classes: N.
    """
    found = np.zeros((classes, features.shape[1]), dtype=np.bool_)
    for label in range(classes):
        own, right = labels == label, predicted == label
        if min((own & right).sum(), (own & ~right).sum()) >= _LEAST_WRONG:
            found[label] = np.median(features[own & ~right], 0) > np.median(features[own & right], 0)
    return torch.from_numpy(found)


def _measured(run: RunContext) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Pooled maps, labels and the original's predictions of training images, drawn at random of very many."""
    train, size = run.train, run.config.training.batch_size
    assert size is not None
    chosen = train.indices
    if len(chosen) > _MOST_MEASURED:
        chosen = np.random.default_rng(run.seed).choice(chosen, _MOST_MEASURED, replace=False)
    layer = select_layers(run.trainable.layers, "features")[-1:]
    device = next(run.network.parameters()).device
    rows = []
    for batch in make_loader(
        train.images.masked_at(()), np.sort(chosen), batch_size=size, workers=run.config.workers, device=device
    ):
        if len(batch.labels):
            (cut,) = run.trainable.eval_cuts(batch.images.to(device), layer)
            logits = cut.head(cut.maps)
            pooled = cut.maps.mean((2, 3)).float()
            rows.append((pooled.cpu().numpy(), batch.labels.numpy(), logits.argmax(1).cpu().numpy()))
    features, labels, predicted = (np.concatenate(column) for column in zip(*rows, strict=True))
    return features, labels, predicted
