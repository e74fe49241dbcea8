"""The channel and space constraints, Eq. 5 and 6, and the keep term, as pure functions of what is attributed to maps.

Each gives one value per image; the caller averages over the images that it applies to, so that a weight means the same
at every batch size. All are differentiable in the maps and in the suffix's weights (double backward).

Shapes: B images, J noise draws, K channels, H x W positions, N classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modeldoctor.method.attribution import Attribution


def channel_constraint(of_label: Tensor, of_runner_up: Tensor, correlated: Tensor) -> Tensor:
    """Eq. 5 for each image: Σ_k 1[Â[n,k] < v] a_n,k + Σ_k a_s,k.

    Args:
        of_label: (B,K,H,W), attribution of the label's logit.
        of_runner_up: (B,K,H,W), of the best other class's.
        correlated: (B,K) bool, whether Â[n,k] >= v for the image's label n.

    Returns:
        (B,).
    """
    own = of_label.sum((2, 3))
    return torch.where(correlated, 0, own).sum(1) + of_runner_up.sum((1, 2, 3))


def space_constraint(of_label: Tensor, background: Tensor, attribution: Attribution) -> Tensor:
    """Eq. 6 for each image: Σ_k Σ_hw bg · attribution; as a share of its total for gradient × activation.

    Args:
        of_label: (B,K,H,W), attribution of the label's logit.
        background: (B,H,W), 1 where a cell is background, 0 on the object and its surroundings.
        attribution: the paper's sum for `gradient`, a share in [0,1] for `gradient_x_activation`.

    Returns:
        (B,).
    """
    evidence = of_label.sum(1)
    outside = (evidence * background).sum((1, 2))
    if attribution is Attribution.GRADIENT:
        return outside
    return outside / evidence.sum((1, 2)).clamp_min(torch.finfo(evidence.dtype).tiny)


def keep_term(logits: Tensor, logits_before: Tensor, evidence: Tensor, evidence_before: Tensor) -> Tensor:
    """How far each image is from what the original makes of it: KL(p⁰ ‖ p) + ½ Σ_hw |e/Σe - e⁰/Σe⁰|.

    p is the softmax of the logits, e the evidence for the label, summed over kernels; ⁰ marks the original's. The first
    part is at least 0, the second between 0 and 1; both are 0 where the network still answers as the original does.

    Args:
        logits, logits_before: (B,N).
        evidence, evidence_before: (B,H,W), at least 0.

    Returns:
        (B,).
    """
    before, after = logits_before.log_softmax(1), logits.log_softmax(1)
    moved = (_shares(evidence) - _shares(evidence_before)).abs().sum((1, 2)) / 2
    return (before.exp() * (before - after)).sum(1) + moved


def _shares(evidence: Tensor) -> Tensor:
    return evidence / evidence.sum((1, 2), keepdim=True).clamp_min(torch.finfo(evidence.dtype).tiny)


def runner_up(logits: Tensor, labels: Tensor) -> Tensor:
    """The best class other than the label, (B,) from logits (B,N) and labels (B,)."""
    return logits.detach().scatter(1, labels[:, None], -torch.inf).argmax(1)


def background_cells(masks: Tensor, expand_px: int, size: tuple[int, int]) -> Tensor:
    """Which cells of a feature map are background: those of which every pixel is, once the object is grown.

    Args:
        masks: (B,H0,W0) bool, True on the object, at the input's size.
        expand_px: pixels of the input by which the object grows in every direction (a square neighbourhood).
        size: (H,W) of the feature map.

    Returns:
        (B,H,W) float, 1 on background.
    """
    grown = masks[:, None].float()
    if expand_px:
        # A square neighbourhood is one of rows and one of columns.
        for kernel, padding in (((2 * expand_px + 1, 1), (expand_px, 0)), ((1, 2 * expand_px + 1), (0, expand_px))):
            grown = F.max_pool2d(grown, kernel, stride=1, padding=padding)
    return 1 - F.adaptive_max_pool2d(grown, size)[:, 0]
