"""Where the evidence lies, inside the object or outside, of the original and of every arm of a trial (Fig. 2b, 5).

Shapes: S images, A arms, P images that are shown, H x W positions of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.data import ImageSet, make_loader
from modeldoctor.graph import open_network, select_layers
from modeldoctor.graph.layers import FEATURES
from modeldoctor.method.maps import background_share, image_maps
from modeldoctor.method.noise import Noise
from modeldoctor.results.maps import TrialMaps
from modeldoctor.runtime.memory import BatchLimit
from modeldoctor.treatment.arm_state import load_state
from modeldoctor.zoo import Classifier

_BATCH, _CONFIDENT, _EDGE = 50, 0.9, 24
"""Images at once; the paper's bar of confidence; pixels of a drawn outline."""

Array = NDArray[np.float64]


def weights_of(run: Path, network: Classifier) -> dict[str, Mapping[str, Tensor]]:
    """The original's, and of every arm those of the first seed that validation chose."""
    original = {name: value.clone() for name, value in network.module.state_dict().items()}
    states = {
        path.stem.removesuffix("-0"): load_state(path, original) for path in sorted((run / "arms").glob("*-0.pt"))
    }
    return {"original": original} | {name: state.best or original for name, state in states.items()}


def measure(network: Classifier, images: ImageSet, weights: Mapping[str, Tensor]) -> dict[str, Array]:
    """Of each image with a mask, where its prediction's evidence lies in the maps that the head pools; no noise.

    Returns:
        `right` (0 or 1), `confidence`, and the shares outside the object of |∂y/∂m| (`derivative`), of |∂y/∂m · m|
        (`contribution`) and of a map that is the same everywhere (`area`), each (S,).
    """
    module = network.module.eval()
    module.load_state_dict(dict(weights))
    opened = open_network(module, network.example(torch.device("cpu")), FEATURES)
    layer = select_layers(opened.layers, FEATURES)[-1]
    rows: list[list[float]] = []
    for batch in make_loader(images, np.arange(len(images)), batch_size=_BATCH, workers=0):
        (cut,) = opened.cuts(batch.images, [layer])
        confidence, predicted = opened.logits(batch.images).softmax(1).max(1)
        noise, keys = Noise(seed=0, delta=0.0), batch.indices.tolist()
        maps = image_maps(cut, predicted, keys, noise=noise, draws=0, rows=BatchLimit(_BATCH))
        for row, mask in enumerate(batch.masks or []):
            if mask is not None:
                found = (maps.derivative[row], maps.contribution[row], torch.ones_like(maps.derivative[row]))
                right = float(predicted[row] == batch.labels[row])
                rows.append([right, float(confidence[row]), *(background_share(each, mask) for each in found)])
    columns = np.array(rows).reshape(-1, 5).T
    return dict(zip(("right", "confidence", "derivative", "contribution", "area"), columns, strict=True))


def by_confidence(found: Mapping[str, Array]) -> list[dict[str, Any]]:
    """Mean shares outside the object of right images, confident and not, and of wrong ones."""
    right, sure = found["right"] == 1, found["confidence"] > _CONFIDENT
    parts = {
        f"right, confidence above {_CONFIDENT}": right & sure,
        "right, less": right & ~sure,
        f"wrong, confidence above {_CONFIDENT}": ~right & sure,
        "wrong, less": ~right & ~sure,
    }
    return [{"images": name, "number": int(rows.sum()), **_means(found, rows)} for name, rows in parts.items()]


def _means(found: Mapping[str, Array], rows: NDArray[np.bool_]) -> dict[str, float]:
    with np.errstate(invalid="ignore"):
        return {name: float(found[name][rows].sum() / rows.sum()) for name in ("area", "derivative", "contribution")}


def figures(network: Classifier, images: ImageSet, run: Path, shown: TrialMaps) -> dict[str, Any]:
    """Shares outside the object, of the original by confidence and of every arm; and the maps of the images shown."""
    found = {arm: measure(network, images, weights) for arm, weights in weights_of(run, network).items()}
    original = found["original"]
    wrong = original["right"] == 0
    every = np.ones_like(wrong)
    outline = F.interpolate(torch.from_numpy(shown.outline)[:, None].float(), size=(_EDGE, _EDGE))[:, 0] > 0
    return {
        "images": len(wrong),
        "by_confidence": by_confidence(original),
        "arms": {
            arm: {"every": _means(of, every), "original_wrong": _means(of, wrong), "right": float(of["right"].mean())}
            for arm, of in found.items()
        },
        "shown": {
            "arms": list(shown.arms),
            "right": (shown.predicted == shown.label).tolist(),
            "contribution": shown.contribution.astype(float).tolist(),
            "outline": outline.int().tolist(),
        },
    }
