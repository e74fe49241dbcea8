"""The pass that only looks: what one forward pass shows of an image, for comparisons between images.

Shapes: B images, S samples, C channels, F features, N classes, Q figures of quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.quality import image_quality
from modeldoctor.diagnosis.state import Looks
from modeldoctor.graph import logits_of
from modeldoctor.method.correlation import Noise

PIXEL_NOISE = 14 / 255
"""Range of the noise on pixels in [0, 1]: a standard deviation of 8/255."""
_SMALLER = 0.75


class Head(NamedTuple):
    """The classifier's last weighted module, and whether it alone makes the logits of its input.

    Attributes:
        module: a `Linear` or `Conv2d`.
        linear: logits = features · weightᵀ + bias.
    """

    module: nn.Linear | nn.Conv2d
    linear: bool

    @property
    def weight(self) -> NDArray[np.float32]:
        """(N,F) of a linear head."""
        return np.asarray(self.module.weight.detach().float().cpu().numpy())


def find_head(network: nn.Module, example: Tensor) -> Head | None:
    """The last `Linear` or `Conv2d` that a forward pass calls; None where none is called.

    Args:
        network: in eval mode.
        example: images (B,C,h,w).
    """
    called: list[tuple[nn.Linear | nn.Conv2d, Tensor]] = []

    def note(module: Any, _: Any, output: Any) -> None:
        called.append((module, output))

    hooks = [
        module.register_forward_hook(note) for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ]
    try:
        with torch.no_grad():
            logits = logits_of(network, example)
    finally:
        for hook in hooks:
            hook.remove()
    if not called:
        return None
    module, output = called[-1]
    linear = isinstance(module, nn.Linear) and output.shape == logits.shape and torch.equal(output, logits)
    return Head(module, linear)


def look(run: Run, images: AnySet, chosen: NDArray[np.int64], head: Head | None, stage: str) -> Looks:
    """Logits, features and quality of images; what a resumed run has seen already is not seen again.

    Args:
        images: a split.
        chosen: ascending indices in it.
        head: whose input the features are, averaged over positions; without one the logits stand for them.
        stage: the name of the pass.
    """
    parts = run.state.looks.setdefault(stage, [])
    begin = run.state.positions.get(stage, 0)
    for batch in run.batches(images, chosen[begin:], run.chunks.batch):
        seen = None
        if len(batch.labels):
            pixels = batch.images.to(run.device)
            logits, features = _with_features(run.module, head, pixels)
            altered = _altered_logits(run, pixels, images.preprocessing, batch.indices.tolist())
            quality = image_quality(pixels, images.preprocessing)
            arrays = (part.float().cpu().numpy() for part in (logits, altered, features, quality))
            seen = Looks(batch.indices.numpy(), batch.labels.numpy(), *arrays)
        parts += [part for part in run.team.all_gather(seen) if part is not None]
        begin += run.passed(images, batch)
        run.state.positions[stage] = begin
        run.after_batch(stage, begin, len(chosen))
    return Looks.join(parts)


def _with_features(network: nn.Module, head: Head | None, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B,N) and the head's input (B,F)."""
    inputs: list[Tensor] = []
    hook = head and head.module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        with torch.no_grad():
            logits = logits_of(network, images)
    finally:
        if hook:
            hook.remove()
    if not inputs:
        return logits, logits
    features = inputs[-1]
    if features.ndim == 4:
        features = features.mean((2, 3))
    return logits, features.flatten(1, -2).mean(1) if features.ndim == 3 else features


def _altered_logits(run: Run, images: Tensor, preprocessing: Preprocessing, keys: Sequence[int]) -> Tensor:
    """Mean logits (B,N) of three copies that a person takes for the same image.

    With noise on the pixels, through a median filter, and made smaller and large again: what hardly moves a right
    image takes an adversarial one off its place (feature squeezing, Xu et al. 2018).
    """
    mean, std = (torch.tensor(part).to(images)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
    pixels = images * std + mean
    noise = Noise(seed=run.config.seed, delta=PIXEL_NOISE, stream="pixels").draw("pixels", keys, range(1), images)
    small = interpolate(pixels, scale_factor=_SMALLER, mode="bilinear", antialias=True)
    copies = (
        pixels + noise,
        pad(pixels, (1, 1, 1, 1), mode="replicate").unfold(2, 3, 1).unfold(3, 3, 1).flatten(4).median(4).values,
        interpolate(small, size=pixels.shape[2:], mode="bicubic"),
    )
    with torch.no_grad():
        found = [logits_of(run.module, (copy.clamp(0, 1) - mean) / std).float() for copy in copies]
    return torch.stack(found).mean(0)
