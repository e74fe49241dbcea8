"""What a treatment is to leave as it is: images that the original gets right by evidence on the object.

Shapes: B images, M of them kept near, N classes, K channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from modeldoctor.graph import Cut, logits_of
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution
from modeldoctor.method.constraints import background_cells, keep_term, space_constraint
from modeldoctor.treatment.background import MOSTLY
from modeldoctor.treatment.batches import OWN, TrainingBatch


class Keep:
    """`keep_term` on annotated images for which the original is right and less than half of its evidence is background.

    Args:
        network: the original, which is copied: the copy stays as it is.
        example: images (B,C,H,W), B >= 2, on its device.
        weight: of the term in the loss; as it is about 0 at the start, it has no other unit.
        expand_px: pixels of the input by which objects are grown.
    """

    def __init__(self, network: nn.Module, example: Tensor, *, weight: float, expand_px: int):
        self.weight, self._expand_px = weight, expand_px
        self._network = deepcopy(network).eval().requires_grad_(False)
        self._network.zero_grad(set_to_none=True)
        self._trainable = TrainableNetwork(self._network, example)

    def terms(
        self,
        logits: Tensor,
        evidence: Mapping[str, Tensor],
        batch: TrainingBatch,
        attributed: Callable[[Cut, Tensor, Sequence[int]], Tensor],
    ) -> dict[str, Tensor]:
        """By layer, this process's sum over the images of the term.

        Args:
            logits: (B,N) of the training pass.
            evidence: by layer (B,H,W), of the same pass.
            batch: on the network's device.
            attributed: of a cut, labels (M,) and the images' keys: attribution (M,K,H,W), as `evidence` was made.
        """
        rows = torch.nonzero(batch.annotated & (batch.version == OWN))[:, 0]
        if not len(rows):
            return {name: found.sum() * 0 for name, found in evidence.items()}
        images, labels, masks = batch.images[rows], batch.labels[rows], batch.masks[rows]
        keys = [batch.keys[row] for row in rows.tolist()]
        with torch.no_grad():
            before = logits_of(self._network, images).float()
        terms = {}
        layers = [layer for layer in self._trainable.layers if layer.name in evidence]
        for cut in self._trainable.eval_cuts(images, layers):
            maps, name = attributed(cut, labels, keys).detach(), cut.layer.name
            background = background_cells(masks, self._expand_px, (maps.shape[2], maps.shape[3]))
            outside = space_constraint(maps, background, Attribution.GRADIENT_X_ACTIVATION)
            kept = (before.argmax(1) == labels) & (outside < MOSTLY)
            values = keep_term(logits[rows].float(), before, evidence[name][rows], maps.sum(1))
            terms[name] = (values * batch.trust[rows])[kept].sum()
        return terms
