"""Maps of a few validation images under every arm, for people to look at; nothing is chosen or measured by them.

Shapes: A arms, P images, h x w pixels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import make_loader
from modeldoctor.graph import open_network, select_layers
from modeldoctor.method.maps import background_share, image_maps, thumbnails
from modeldoctor.method.noise import Noise
from modeldoctor.results import run_directory
from modeldoctor.results.maps import TrialMaps, write_maps
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.treatment.arm import TrialContext, answered
from modeldoctor.treatment.arm_state import ArmState
from modeldoctor.treatment.subsets import Subset, look_at_mask
from modeldoctor.zoo import Classifier

SHOWN = 6
_ROWS = 64


def write_shown(
    network: Classifier, context: TrialContext, config: TreatConfig, runs: Mapping[str, Sequence[ArmState]]
) -> None:
    """Write `maps.h5` for every arm's run of the first seed, unless the original is right on every validation image."""
    weights = {"original": context.original} | {name: done[0].best or context.original for name, done in runs.items()}
    maps = show_arms(network, context.network, weights, context.splits.val, config, context.device)
    if maps is not None:
        write_maps(maps, config.output / run_directory.MAPS)


def choose_to_show(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], confidence: NDArray[np.float32], number: int = SHOWN
) -> NDArray[np.int64]:
    """Rows of wrong images, the most confident of each predicted-and-true pair of classes before any pair's second.

    Args:
        labels: (S,).
        predicted, confidence: (S,), the original's.
    """
    wrong = np.flatnonzero(predicted != labels)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    seen: dict[tuple[int, int], int] = {}
    turn = []
    for row in order.tolist():
        pair = (int(labels[row]), int(predicted[row]))
        turn.append(seen.get(pair, 0))
        seen[pair] = turn[-1] + 1
    return np.sort(order[np.argsort(turn, kind="stable")][:number])


def show_arms(
    network: Classifier,
    module: nn.Module,
    weights: Mapping[str, Mapping[str, Tensor]],
    part: Subset,
    config: TreatConfig,
    device: torch.device,
) -> TrialMaps | None:
    """Maps of wrong validation images, chosen by the original alone, under the weights of every arm.

    Args:
        network: what is treated.
        module: its module, in eval mode; it is left with the last arm's weights.
        weights: state dict of each arm under the first seed, `original` first.
        part: the validation images.
        config: which layer is mapped (the space constraint's, else the channel constraint's), and the noise.
        device: of the module.

    Returns:
        None where the original is right on every image that can be read.
    """
    layers = (config.space if config.space.weight else config.channel).layers
    module.load_state_dict(dict(weights["original"]))
    answers = list(answered(module, part, config, device))
    if not answers:
        return None
    indices, predictions, confident = (np.concatenate(column) for column in zip(*answers, strict=True))
    rows = choose_to_show(part.images.labels[indices], predictions, confident)
    if not len(rows):
        return None
    chosen = indices[rows]
    usable = [index for index in chosen.tolist() if look_at_mask(part.images, index)[0] is None]
    (batch,) = make_loader(part.images.masked_at(usable), chosen, batch_size=len(chosen), workers=0)
    images, keys = batch.images.to(device), batch.indices.tolist()
    masks: Sequence[Tensor | None] = batch.masks or [None] * len(keys)
    found: dict[str, list[NDArray[np.generic]]] = {}
    spread = 0.0
    layered = open_network(module, images if len(images) > 1 else images.repeat(2, 1, 1, 1), layers)
    layer = select_layers(layered.layers, layers)[-1]
    for arm in weights.values():
        module.load_state_dict(dict(arm))  # in place: what was opened shares the weights
        (cut,) = layered.cuts(images, [layer])
        spread = spread or float(cut.maps.std())
        confidence, predicted = layered.logits(images).softmax(1).max(1)
        noise = Noise(seed=config.seeds[0], delta=config.delta * spread, stream="shown")
        maps = image_maps(cut, predicted, keys, noise=noise, draws=config.noise_draws, rows=BatchLimit(_ROWS))
        shares = [
            background_share(contribution, mask) for contribution, mask in zip(maps.contribution, masks, strict=True)
        ]
        of_arm = {name: field.float().numpy() for name, field in maps._asdict().items()}
        of_arm |= {"predicted": predicted.cpu().numpy(), "confidence": confidence.cpu().numpy()}
        for key, value in {**of_arm, "background_share": np.array(shares)}.items():
            found.setdefault(key, []).append(value)
    pictures = thumbnails(batch.images, network.preprocessing.mean, network.preprocessing.std)
    return TrialMaps(
        layer=layer.name,
        split=part.images.split,
        seed=config.seeds[0],
        arms=tuple(weights),
        path=np.array([part.images.paths[key].encode(errors="surrogateescape") for key in keys], dtype=object),
        label=batch.labels.numpy(),
        thumbnail=pictures,
        outline=np.stack([_small(mask, pictures.shape[1:3]) for mask in masks]),
        **{key: np.stack(values) for key, values in found.items()},
    )


def _small(mask: Tensor | None, size: tuple[int, ...]) -> NDArray[np.bool_]:
    if mask is None:
        return np.zeros(size, dtype=np.bool_)
    shrunk = F.interpolate(mask[None, None].float(), size=size, mode="nearest")
    return np.asarray(shrunk[0, 0].numpy() > 0.5)
