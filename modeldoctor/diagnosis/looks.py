"""The pass that only looks: what one forward pass shows of an image, for comparisons between images.

Shapes: B images, S samples, C channels, F features, N classes, Q figures of quality.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.quality import image_quality
from modeldoctor.diagnosis.state import Looks
from modeldoctor.errors import GraphError
from modeldoctor.graph import logits_of

_SMALLER = 0.75
_ROUNDING = 1e-2
"""Of the largest logit: far above what another order of the same sums changes."""


class Views(NamedTuple):
    """Where an image is looked at: early, for how it looks, and in front of the head, for what is seen in it.

    Attributes:
        early: the `Linear` or `Conv2d` a third of the way through those that are called.
        head: the last one.
        linear: whether the head alone makes the logits: logits = features · weightᵀ + bias.
        memory_format: how images lie in memory: channels last halves a convnet's time, where its code allows it.
    """

    early: nn.Linear | nn.Conv2d
    head: nn.Linear | nn.Conv2d
    linear: bool
    memory_format: torch.memory_format

    @property
    def weight(self) -> NDArray[np.float32]:
        """(N,F) of a linear head."""
        return np.asarray(self.head.weight.detach().float().cpu().numpy())


def find_views(network: nn.Module, example: Tensor) -> Views | None:
    """The modules whose inputs are looked at; None where a forward pass calls no `Linear` and no `Conv2d`.

    Args:
        network: in eval mode.
        example: images (B,C,h,w).
    """
    called: list[tuple[nn.Linear | nn.Conv2d, Tensor]] = []
    # Windows of attention, and what makes a table of position biases, read something else than one row per image.
    by_image: list[nn.Linear | nn.Conv2d] = []

    def note(module: Any, args: Any, output: Any) -> None:
        called.append((module, output))
        if len(args[0]) == len(example):
            by_image.append(module)

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
    head, output = called[-1]
    linear = isinstance(head, nn.Linear) and output.shape == logits.shape and torch.equal(output, logits)
    return Views(
        by_image[len(by_image) // 3] if by_image else head, head, linear, _memory_format(network, example, logits)
    )


def _memory_format(network: nn.Module, example: Tensor, logits: Tensor) -> torch.memory_format:
    """Channels last, unless the network takes maps for one block of memory, as `view` and `as_strided` do."""
    try:
        with torch.no_grad():
            again = logits_of(network, example.contiguous(memory_format=torch.channels_last))
    except GraphError:
        return torch.contiguous_format
    same = torch.allclose(again, logits, rtol=0, atol=_ROUNDING * float(logits.abs().max()))
    return torch.channels_last if same else torch.contiguous_format


def look(
    run: Run, images: AnySet, chosen: NDArray[np.int64], views: Views | None, stage: str, *, altered: bool = False
) -> Looks:
    """Logits, features, quality and texture of images; what a resumed run has seen already is not seen again.

    Args:
        images: a split.
        chosen: ascending indices in it.
        views: of the features and the texture; without them the logits stand for both.
        stage: the name of the pass.
        altered: look at slightly altered copies, too, which take several times as long; else they have no logits.
    """
    parts = run.state.looks.setdefault(stage, [])
    begin = run.state.positions.get(stage, 0)
    for batch in run.batches(images, chosen[begin:], run.chunks.batch, masks=True):
        seen = None
        if len(batch.labels):
            pixels = batch.images.to(run.device)
            logits, texture, features = _with_inputs(run.module, views, pixels)
            of_copies = _altered_logits(run, pixels, images.preprocessing) if altered else logits[:, :0]
            covered = covered_by_objects(batch.masks, len(pixels)).to(pixels)
            quality = torch.cat([image_quality(pixels, images.preprocessing), covered[:, None]], dim=1)
            arrays = (part.float().cpu().numpy() for part in (logits, of_copies, features, quality, texture))
            seen = Looks(batch.indices.numpy(), batch.labels.numpy(), *arrays)
        parts += [part for part in run.team.all_gather(seen) if part is not None]
        begin += run.passed(images, batch)
        run.state.positions[stage] = begin
        run.after_batch(stage, begin, len(chosen))
    return Looks.join(parts)


def covered_by_objects(masks: Sequence[Tensor | None] | None, images: int) -> Tensor:
    """(B,), the share of each image that its object covers; NaN without a mask (h,w), True on the object."""
    shares = [math.nan if mask is None else float(mask.float().mean()) for mask in masks or [None] * images]
    return torch.tensor(shares)


def _with_inputs(network: nn.Module, views: Views | None, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B,N), the texture (B,2C) and the features (B,F)."""
    read: dict[str, Tensor] = {}

    def note_early(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        read.setdefault("early", _by_position(module, args[0]))

    def note_head(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        read["head"] = _by_position(module, args[0])

    noted = () if views is None else ((views.early, note_early), (views.head, note_head))
    images = images if views is None else images.contiguous(memory_format=views.memory_format)
    hooks = [module.register_forward_pre_hook(note) for module, note in noted]
    try:
        with torch.no_grad():
            logits = logits_of(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    if not read:
        return logits, logits, logits
    early = read["early"]
    return logits, torch.cat([early.mean(1), early.std(1, correction=0)], dim=1), read["head"].mean(1)


def _by_position(module: nn.Module, values: Tensor) -> Tensor:
    """(B,P,C) of what a convolution reads, (B,C,H,W), or a linear layer, (B,...,C)."""
    if isinstance(module, nn.Conv2d):
        return values.flatten(2).mT
    return values.unsqueeze(1) if values.ndim == 2 else values.flatten(1, -2)


def _altered_logits(run: Run, images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Mean logits (B,N) of the copies that a person takes for the same image."""
    copies = slight_alterations(images, preprocessing)
    return torch.stack([run.network.logits(copy).float() for copy in copies]).mean(0)


def slight_alterations(images: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """Copies (B,C,h,w) that a person takes for the same image, in the order of `altered.SLIGHT`.

    Made smaller and large again: what hardly moves a right image takes an adversarial one off its place (feature
    squeezing, Xu et al. 2018). Mirrored: an honest error often turns out otherwise then, an image with a wrong label
    stays what it shows. Where mirrors are no copies (digits), right images turn as well, and are what is compared
    with. More copies (a median filter, shifts, these mirrored) told planted faults apart no better than these two,
    noise on the pixels worse than any (`scripts/FIGURES.md`).

    Args:
        images: (B,C,h,w), preprocessed.
        preprocessing: how they were.
    """
    mean, std = (torch.tensor(part).to(images)[:, None, None] for part in (preprocessing.mean, preprocessing.std))
    small = interpolate(images, scale_factor=_SMALLER, mode="bilinear", antialias=True)
    again = interpolate(small, size=images.shape[2:], mode="bicubic", antialias=True)
    return again.clamp(-mean / std, (1 - mean) / std), images.flip(3)
